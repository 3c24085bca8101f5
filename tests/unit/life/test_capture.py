"""What packages are in a cluster beyond its lock; a real node is in tests/system."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehost import FakeSession
from hypothesis import given, settings
from hypothesis import strategies as st
from life.living import a_request, a_site, created
from repository import Repository

from vclust_py import request as requests
from vclust_py.errors import RequestError, VclustError
from vclust_py.life import capture, stop
from vclust_py.life.capture import Installed, asked_for, parse
from vclust_py.lock import Lock
from vclust_py.phases import Inputs
from vclust_py.request.ini_form import written
from vclust_py.site import changes

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")
OUTPUT = """\
installed\tlibc6\t\t,
installed\tmpich\tmpi-impl (= 4), mpi\tlibc6 (>= 2.3), hwloc:any | numactl [amd64], mpi-common
installed\tnumactl\t\tlibc6
config-files\told\t\t,
manual\tmpich:amd64
manual\tlibc6
"""


def test_what_a_node_says() -> None:
    found = parse("n1", OUTPUT)
    assert set(found.depends) == {"libc6", "mpich", "numactl"}
    assert found.depends["mpich"] == (
        frozenset({"libc6"}),
        frozenset({"hwloc", "numactl"}),
        frozenset({"mpi-common"}),
    )
    assert found.provides == {"mpi-impl": {"mpich"}, "mpi": {"mpich"}}
    assert found.manual == {"mpich", "libc6"}
    with pytest.raises(VclustError, match="n1: got no packages"):
        parse("n1", "bash: dpkg-query: not found\n")
    with pytest.raises(VclustError, match=r"n1: got '\$\(x\)' as a package, expected the name of a Debian"):
        parse("n1", "installed\t$(x)\t\t,\n")


def test_the_fewest_names() -> None:
    found = parse("n1", OUTPUT)
    assert asked_for(found, {"libc6"}) == {"mpich"}
    assert asked_for(found, {"libc6", "mpich"}) == set()  # numactl comes with it
    assert asked_for(found, {"libc6", "mpich", "numactl"}) == set()


_NAMES = "abcdef"


@st.composite
def any_installed(draw: st.DrawFn) -> Installed:
    names = draw(st.sets(st.sampled_from(_NAMES)))
    choice = st.frozensets(st.sampled_from(f"{_NAMES}v"), min_size=1, max_size=2)
    depends = {name: tuple(draw(st.lists(choice, max_size=2))) for name in sorted(names)}
    provides = {"v": draw(st.frozensets(st.sampled_from(sorted(names)), min_size=1))} if names else {}
    return Installed(depends, provides, draw(st.frozensets(st.sampled_from(_NAMES))))


def _brings(installed: Installed, names: set[str]) -> set[str]:
    """All that comes with these, by a fixed point."""
    found = set(names)
    while True:
        choices = [choice for name in found for choice in installed.depends.get(name, ())]
        more = {
            name
            for name in installed.depends
            for choice in choices
            if name in choice or any(name in installed.provides.get(one, ()) for one in choice)
        }
        if more <= found:
            return found
        found |= more


@given(any_installed(), st.sets(st.sampled_from(_NAMES)))
@settings(max_examples=200, deadline=None)
def test_all_come_and_none_is_named_for_nothing(installed: Installed, known: set[str]) -> None:
    chosen = asked_for(installed, known)
    assert chosen <= installed.depends.keys() - known
    everything = installed.depends.keys() | known
    assert _brings(installed, chosen | known) | known >= everything
    for one in chosen:
        # Also not beside the known ones, and one of two that need each other will do.
        assert not _brings(installed, (chosen | known) - {one}) >= everything
    fewest = next(
        size
        for size in range(len(chosen) + 1)
        for names in itertools.combinations(sorted(installed.depends), size)
        if _brings(installed, set(names) | known) >= everything
    )
    assert len(chosen) == fewest


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


@as_root
def test_the_request_of_what_is_there(session: FakeSession) -> None:
    users = [
        {"name": "ann", "password_hash": "*"},
        {"name": "bob", "password_hash": "$6$abcdefgh$" + "x" * 86},
    ]
    cluster = created(session, a_request(users=users))
    named = a_request(users=users, packages=["hello", "full"])
    changes.change(session.store, cluster, named)
    base = Lock.load(session.site, cluster.lock).installed()
    lines = [f"installed\t{name}\t\t,\n" for name in sorted({*base, "hello"})]
    lines.append("installed\tmine\t\thello\n")
    session.run = lambda *_, **__: "".join(lines)  # type: ignore[method-assign]
    result = capture.run(session, Inputs("one"))
    assert not result.change.changed
    assert (result.facts["added"], result.facts["removed"]) == (["mine"], ["full"])
    assert result.facts["without_hash"] == ["bob"]
    (warning,) = result.warnings  # a user may have brought it from anywhere
    assert "'mine'" in warning
    text = written(result.facts["request"])
    assert "$6$" not in text
    again = requests.load(text, "one.ini")
    assert again.software.packages == ("hello", "mine")
    assert [user.name for user in again.software.users] == ["ann", "bob"]
    assert requests.to_mapping(again) == result.facts["request"]


@as_root
def test_nobody_to_ask(session: FakeSession) -> None:
    created(session)
    with FakeSession(session.site) as other:
        other.store.who = "bob"
        with pytest.raises(RequestError, match="one: belongs to root"):
            capture.run(other, Inputs("one"))
    stop.run(session, Inputs("one"))
    with pytest.raises(RequestError, match="one: got no node that is ready"):
        capture.run(session, Inputs("one"))
