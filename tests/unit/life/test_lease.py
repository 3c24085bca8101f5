"""When a lease ends, and what is due before and after that."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakehost import FakeSession
from hypothesis import given
from hypothesis import strategies as st
from life.living import a_request, a_site, created
from repository import Repository

from vclust_py.errors import CapacityError, RequestError
from vclust_py.life import lease, stop
from vclust_py.life.lease import Due
from vclust_py.phases import Inputs, create
from vclust_py.quotas import Quota
from vclust_py.site import Site, clusters
from vclust_py.site.states import ClusterState
from vclust_py.site.store import audited

root = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")
SITE = Site(lease_grace=1000, lease_warnings=(600, 60))


def a_cluster(**values: object) -> Any:
    return SimpleNamespace(
        **{"ends": None, "ended": None, "warned": None, "state": ClusterState.READY, **values}
    )


@pytest.mark.parametrize(
    ("values", "now", "due"),
    [
        ({}, 1e9, Due()),
        ({"ends": 5000.0}, 4399.0, Due()),
        ({"ends": 5000.0}, 4400.0, Due("warn", 600)),
        ({"ends": 5000.0, "warned": 600}, 4400.0, Due()),
        ({"ends": 5000.0, "warned": 600}, 4940.0, Due("warn", 60)),
        # Nobody looked for a while: one warning, the last.
        ({"ends": 5000.0}, 4950.0, Due("warn", 60)),
        ({"ends": 5000.0, "warned": 60}, 4999.0, Due()),
        # A lease of 5 min is never warned of with 10 min to go.
        ({"ends": 5000.0, "warned": 300.0}, 4701.0, Due()),
        ({"ends": 5000.0, "state": ClusterState.STOPPED}, 4950.0, Due()),
        ({"ends": 5000.0}, 5000.0, Due("end")),
        ({"ends": 5000.0, "state": ClusterState.STOPPED}, 9000.0, Due("end")),
        # The site manager was off: the grace time is as long as for others.
        ({"ends": 5000.0, "ended": 9000.0, "state": ClusterState.STOPPED}, 9999.0, Due()),
        ({"ends": 5000.0, "ended": 9000.0, "state": ClusterState.STOPPED}, 10000.0, Due("remove")),
        # The clock was set back by hours.
        ({"ends": 5000.0, "ended": 9000.0}, 100.0, Due()),
        ({"ends": 5000.0, "warned": 60}, 100.0, Due()),
    ],
)
def test_what_is_due(values: dict[str, object], now: float, due: Due) -> None:
    assert lease.due(SITE, a_cluster(**values), now) == due


@given(st.integers(60, 5000), st.lists(st.integers(0, 8000), min_size=1, max_size=30))
def test_whenever_it_is_looked_at(length: int, moments: list[int]) -> None:
    """Warnings come in order, each once and none after the end; it ends once, is removed once and not too early."""
    cluster = a_cluster(ends=float(length), warned=float(length))
    events: list[tuple[str, int]] = []
    for now in sorted(moments):
        due = lease.due(SITE, cluster, now)
        if due.what:
            events.append((due.what, now))
        if due.what == "warn":
            cluster.warned = due.left
            assert now >= length - due.left
        elif due.what == "end":
            cluster.ended = float(now)
            cluster.state = ClusterState.STOPPED
        elif due.what == "remove":
            break
    names = [name for name, _ in events]
    assert names == ["warn"] * names.count("warn") + ["end"] * names.count("end") + ["remove"] * names.count(
        "remove"
    )
    assert names.count("warn") <= sum(one < length for one in SITE.lease_warnings)
    assert names.count("end") <= 1
    assert ("end" in names) == (max(moments) >= length)
    for name, now in events:
        if name == "remove":
            assert now >= dict(events)["end"] + 1000


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


@root
def test_it_counts_from_ready_and_goes_on_while_stopped(session: FakeSession) -> None:
    created(session, a_request(lease="8h"), last="install")
    assert clusters.get(session.store, "one").ends is None
    before = time.time()
    cluster = created(session, a_request(lease="8h"))
    assert cluster.ends is not None
    assert before + 8 * 3600 <= cluster.ends <= time.time() + 8 * 3600
    stop.run(session, Inputs("one"))
    assert created(session, a_request(lease="8h")).ends == cluster.ends
    # It ended meanwhile: what brings the cluster back begins another one.
    stop.run(session, Inputs("one"))
    clusters.update(session.store, cluster, ends=5.0, ended=time.time() - 60)
    again = created(session, a_request(lease="8h"))
    assert (again.ended, again.warned) == (None, 8 * 3600)
    assert again.ends is not None
    assert again.ends >= cluster.ends
    assert created(session, a_request("two")).ends is None


@root
def test_renewed_four_ways(session: FakeSession) -> None:
    cluster = created(session, a_request(lease="1h"))
    would = lease.renew(session, Inputs("one", check=True), 4 * 3600)
    assert would.change.changed
    assert clusters.get(session.store, "one") == cluster
    done = lease.renew(session, Inputs("one"), 4 * 3600)
    assert done.change.changed
    ends = clusters.get(session.store, "one").ends
    assert ends == done.facts["ends"]
    assert time.time() + 3.9 * 3600 < done.facts["ends"] <= time.time() + 4 * 3600
    for check in (False, True):  # never shorter
        shorter = lease.renew(session, Inputs("one", check=check), 60)
        assert (shorter.change.changed, shorter.facts["ends"]) == (False, ends)
    assert [(row["action"], row["detail"]) for row in audited(session.store)][-1] == ("renew", "4h")


@root
def test_a_lease_that_has_ended_is_renewed(session: FakeSession) -> None:
    cluster = created(session, a_request(lease="1h"))
    stop.run(session, Inputs("one"))
    clusters.update(session.store, cluster, ends=5.0, ended=time.time() - 60)
    assert lease.renew(session, Inputs("one"), 600).facts["state"] == "stopped"
    renewed = clusters.get(session.store, "one")
    assert (renewed.ended, lease.due(session.site, renewed, time.time())) == (None, Due())


@root
def test_what_is_due_to_be_removed_is_not_brought_back(session: FakeSession) -> None:
    """Some of its disks may be gone already."""
    cluster = created(session, a_request(lease="1h"))
    stop.run(session, Inputs("one"))
    long_ago = time.time() - session.site.lease_grace - 60
    clusters.update(session.store, cluster, ends=5.0, ended=long_ago)
    for bring_back in (
        lambda: lease.renew(session, Inputs("one"), 600),
        lambda: create.run(session, Inputs("one")),
    ):
        with pytest.raises(RequestError, match="and so has the time for which its disks were kept"):
            bring_back()
    there = clusters.get(session.store, "one")
    assert (there.state, lease.due(session.site, there, time.time()).what) == ("stopped", "remove")


@root
def test_who_is_bringing_it_back_has_the_grace_time_anew(session: FakeSession) -> None:
    cluster = created(session, a_request(lease="1h"))
    stop.run(session, Inputs("one"))
    clusters.update(session.store, cluster, ends=5.0, ended=time.time() - session.site.lease_grace + 60)
    create.run(session, Inputs("one"))
    there = clusters.get(session.store, "one")
    assert (there.state, lease.due(session.site, there, time.time()).what) == ("created", "")
    # Who did that did not come to the end: it is shut down once more, and kept for as long.
    later = time.time() + session.site.lease_grace
    assert lease.due(session.site, there, later).what == "end"


@root
def test_what_cannot_be_renewed(session: FakeSession) -> None:
    created(session, a_request("none"))
    with pytest.raises(RequestError, match="none: Lease: has none: nothing ends it") as caught:
        lease.renew(session, Inputs("none"), 600)
    assert "vclust apply REQUEST" in str(caught.value)
    created(session, a_request("new", lease="1h"), last="place")
    with pytest.raises(RequestError, match="new: Lease: was not ready yet"):
        lease.renew(session, Inputs("new"), 600)
    with pytest.raises(RequestError, match="no such cluster"):
        lease.renew(session, Inputs("nothing"), 600)


@root
def test_within_the_limits_of_the_site(session: FakeSession) -> None:
    created(session, a_request(lease="1h"))
    session.store.execute("UPDATE clusters SET owner = 'alice'")
    session.site = replace(session.site, user_quota=Quota(nodes=1, lease=7200))
    with pytest.raises(CapacityError, match="got a lease of 3h, expected 2h at most"):
        lease.renew(session, Inputs("one"), 3 * 3600)
    assert lease.renew(session, Inputs("one"), 7200).change.changed
