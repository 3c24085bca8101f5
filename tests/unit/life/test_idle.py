"""Clusters that nobody uses."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from hypothesis import given
from hypothesis import strategies as st
from life.living import a_request, a_site, another, created, states
from repository import Repository

from vclust_py.life.idle import BUSY, Use, after
from vclust_py.life.keeper import Keeper
from vclust_py.run import CommandError
from vclust_py.site import clusters
from vclust_py.site.store import audited


def test_since_when_nothing_was_done() -> None:
    first = after(None, 0.0, {"u": 5.0})
    assert first == Use(0.0, {"u": 5.0})
    quiet = after(first, 100.0, {"u": 5.0 + 99 * BUSY})
    assert quiet.since == 0.0
    assert after(quiet, 200.0, {"u": quiet.seconds["u"]}).since == 0.0
    busy = after(quiet, 200.0, {"u": quiet.seconds["u"] + 101 * BUSY})
    assert busy.since is None
    assert after(busy, 300.0, busy.seconds).since == 200.0
    assert after(quiet, 200.0, {"u": 0.0, "v": 0.0}).since is None  # another node


@given(st.lists(st.tuples(st.floats(1, 100), st.floats(0, 0.2)), min_size=1, max_size=20))
def test_it_is_idle_since_the_last_time_it_worked(spans: list[tuple[float, float]]) -> None:
    use, now, used, since = after(None, 0.0, {"u": 0.0}), 0.0, 0.0, 0.0
    for length, load in spans:
        now, used = now + length, used + length * load
        before, use = use, after(use, now, {"u": used})
        # As it is reckoned there: a sum of rounded numbers may be on the other side of the limit.
        if used - before.seconds["u"] > BUSY * (now - before.measured):
            since = now
        assert use.since == (None if since == now else since)


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


class Nodes:
    """What nodes have open in /dev/pts."""

    def __init__(self) -> None:
        self.terminals = "ptmx\n"
        self.away = False

    def __call__(self, argv: list[str], **options: object) -> str:
        if self.away:
            raise CommandError(argv, "exit status 255", "")
        return self.terminals


@pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")
def test_one_that_nobody_uses_ends_as_a_lease_does(session: FakeSession) -> None:
    cluster = created(session, a_request(idle="1h"))
    created(session, a_request("two"))
    nodes = Nodes()

    def make() -> FakeSession:
        new = another(session)
        new.run = nodes  # type: ignore[method-assign]
        return new

    keeper = Keeper(make)

    def later(seconds: float) -> list[str]:
        keeper._uses = {
            number: replace(use, measured=use.measured - seconds, since=use.since and use.since - seconds)
            for number, use in keeper._uses.items()
        }
        return keeper.round(answer=10, work=60)

    assert later(0) == []
    assert later(1800) == []
    host = session.hosts[cluster.nodes[0].host]
    host.used[cluster.nodes[0].uuid] = 200.0
    assert later(1900) == []  # it has worked
    nodes.terminals = "0\nptmx\n"
    assert later(3700) == []  # somebody looks at the results
    nodes.terminals, nodes.away = "ptmx\n", True
    assert later(3700) == []
    nodes.away = False
    (line,) = later(3700)
    assert line.startswith("one: nobody has used it for ")
    assert states(session) == ["stopped", "stopped"]
    assert states(session, "two") == ["ready", "ready"]
    ended = clusters.get(session.store, "one").ended
    assert ended is not None
    assert abs(ended - time.time()) < 60
    assert later(10**6) == []
    assert audited(session.store)[-1]["action"] == "idle-end"
    # Brought back it begins anew.
    cluster = created(session, a_request(idle="1h"))
    assert (cluster.ends, cluster.ended) == (None, None)
    assert later(0) == []
    keeper.close()
    assert states(session) == ["ready", "ready"]
