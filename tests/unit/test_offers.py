"""Which site takes a request, and what is said when none does."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from repository import KERNEL, Repository
from test_placement import a_capacity

from vclust_py import request as requests
from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.hypervisor import Host
from vclust_py.lock import Lock
from vclust_py.offers import Offer, choose, offer
from vclust_py.phases import Inputs, phase
from vclust_py.site import clusters
from vclust_py.site.session import Session


def able(site: str, *seconds: float, unknown: tuple[str, ...] = ()) -> Offer:
    estimate = {"seconds": dict(enumerate(seconds)), "unknown": unknown}
    return Offer(site, f"m-{site}", estimate=estimate)


FULL = Offer("full", "m-full", error="only 1 of 2 nodes fit:\n  h1: has 3 MB left", exit_code=3)
WRONG = Offer("wrong", "m-wrong", error="gc: no such package", exit_code=2)
BROKEN = Offer("broken", "m-broken", error="no hosts answer", exit_code=4)
AWAY = Offer("away", "m-away", error="no route", exit_code=4, answered=False)
HAS = Offer("has", "m-has", present="ready")


def test_the_one_that_can_be_ready_first() -> None:
    offers = (
        able("slow", 10, 21),
        FULL,
        able("quick", 10, 14),
        WRONG,
        able("new", 1, unknown=("image",)),
        AWAY,
    )
    choice = choose("x", offers)
    assert (choice.site, choice.manager) == ("quick", "m-quick")
    assert choice.reason == (
        "ready first by the sites' own estimates: quick 24 s, slow 31 s, full has no space, wrong cannot,"
        " new has no past runs of image, away does not answer"
    )
    assert choice.warnings == ("away: does not answer: no route",)


def test_of_equals_the_first_of_the_inventory() -> None:
    assert choose("x", [able("b", 5), able("a", 5)]).site == "b"
    first = choose("x", [able("b", unknown=("image",)), able("a", unknown=("image",))])
    assert first.site == "b"
    assert first.reason.startswith("no site knows how long it takes: ")


def test_a_cluster_that_is_there_goes_on_there() -> None:
    choice = choose("x", [able("quick", 1), HAS, AWAY])
    assert (choice.site, choice.reason) == ("has", "has has a cluster of that name")
    assert choice.warnings
    with pytest.raises(RequestError, match="x: there is one in has and has"):
        choose("x", [HAS, HAS])


@pytest.mark.parametrize(
    ("offers", "error", "lines"),
    [
        (
            (WRONG, FULL, AWAY),
            CapacityError,
            ["no site has space", "wrong: gc", "full: only 1", "away: does"],
        ),
        ((WRONG, AWAY), RequestError, ["no site can make it", "wrong: gc: no such", "away: does not answer"]),
        ((BROKEN, AWAY), VclustError, ["no site can make it", "broken: no hosts", "away: does not answer"]),
    ],
)
def test_what_each_lacks_is_said_when_none_takes_it(
    offers: tuple[Offer, ...], error: type[VclustError], lines: list[str]
) -> None:
    for order in permutations(offers):
        with pytest.raises(error) as caught:
            choose("x", order)
        assert caught.value.exit_code == error.exit_code
        assert all(line in str(caught.value) for line in lines)


ANSWERS = st.lists(
    st.one_of(
        st.sampled_from([FULL, WRONG, BROKEN, AWAY]),
        st.builds(
            able,
            st.just("able"),
            st.floats(0, 99),
            unknown=st.sampled_from([(), ("image",), ("image", "ready")]),
        ),
    ),
    min_size=1,
    max_size=6,
)


@given(ANSWERS)
def test_sites_that_cannot_never_decide(offers: list[Offer]) -> None:
    """The twin: leave them out, and sort."""
    left = [one for one in offers if one.estimate]
    if not left:
        with pytest.raises(VclustError):
            choose("x", offers)
        return
    alone = choose("x", left)
    numbered = [Offer(f"s{number}", f"m{number}", estimate=one.estimate) for number, one in enumerate(left)]
    ranked = sorted(numbered, key=lambda one: (len(one.estimate["unknown"]), one.seconds, int(one.site[1:])))
    assert choose("x", numbered).site == ranked[0].site
    assert choose("x", offers).manager == alone.manager


# What a site answers ----------------------------------------------------------------------------------------------


class Books:
    def __init__(self, capacity: Any) -> None:
        self._capacity = capacity

    def capacity(self) -> Any:
        return self._capacity

    def close(self) -> None:
        pass


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[Session]:
    site = toy.site(tmp_path / "site")
    with Session(site, connect=lambda site, host: Books(a_capacity())) as session:  # type: ignore[arg-type]
        yield session


def inputs(nodes: int, *packages: str) -> Inputs:
    software = {"name": "x", "suite": "toy", "kernel": KERNEL, "packages": list(packages)}
    hardware = {"number_of_nodes": nodes, "ram": "1GB"}
    request = requests.from_mapping({"hardware": hardware, "software": software}, "test")
    return Inputs("x", request=request, hosts=(Host("a"),))


def test_a_site_offers_without_a_trace_in_its_books(session: Session) -> None:
    result = offer(session, inputs(2))
    assert result.facts["offer"] == {
        "present": "",
        "estimate": {
            "seconds": {},
            "unknown": ("image", "create", "install", "ready"),
            "errors": {},
            "medians": (),
        },
    }
    assert not result.change.changed
    assert clusters.live(session.store) == []
    with pytest.raises(CapacityError, match="of 200 nodes fit"):
        offer(session, inputs(200))
    with pytest.raises(RequestError, match="nonsense"):
        offer(session, inputs(1, "nonsense"))


def test_a_site_says_that_it_has_the_name(session: Session) -> None:
    """Whatever the request of that cluster was."""
    clusters.register(session.store, inputs(1).asked, reason="because")
    assert offer(session, inputs(200)).facts == {"offer": {"present": "requested", "estimate": {}}}
    assert clusters.get(session.store, "x").reason == "because"


def test_every_site_has_its_own_packages(toy: Repository, tmp_path: Path) -> None:
    """Two sites in one process, each with its mirror; what one found is nothing to the other."""
    other = Repository(tmp_path / "mirror", toy.keys)
    shutil.copytree(toy.path, other.path)
    other.add("hello", "2:1.6-1", Depends="libgreet (>= 1)")
    (other.path / "pool/hello_1.5-1_all.deb").unlink()
    other.publish()
    other.write_sources()
    found = {}
    for name, repository in (("north", toy), ("south", other), ("again", toy)):
        with Session(repository.site(tmp_path / name)) as session:
            clusters.register(session.store, inputs(1, "hello").asked)
            found[name] = phase("resolve")(session, inputs(1, "hello")).facts
    assert {name: facts["packages"][0] for name, facts in found.items()} == {
        "north": "hello=2:1.5-1",
        "south": "hello=2:1.6-1",
        "again": "hello=2:1.5-1",
    }
    # A lock that is handed on is taken as it is, or not at all: the other mirror has no such version.
    north, south = toy.site(tmp_path / "north"), other.site(tmp_path / "south")
    lock = Lock.load(north, found["north"]["lock"])
    with pytest.raises(VclustError, match=lock.digest[:12]):
        Lock.load(south, lock.digest)
    with Session(south) as session, pytest.raises(VclustError, match="hello"):
        offer(session, replace(inputs(1, "hello"), name="y", locked=lock))
