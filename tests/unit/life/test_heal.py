"""Nodes that have ended are started again, by hand."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from anode import NODE
from fakehost import FakeSession
from life.living import a_request, a_site, crash, created, states
from repository import Repository

from vclust_py.errors import RequestError
from vclust_py.life import heal, stop
from vclust_py.phases import Inputs
from vclust_py.site import clusters
from vclust_py.site.describe import describe
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


def starts(session: FakeSession) -> int:
    return sum(host.calls["start"] for host in session.hosts.values())


def test_only_what_does_not_run_is_started_four_ways(session: FakeSession) -> None:
    cluster = created(session, a_request(nodes=3))
    crash(session, cluster, 1)
    name = cluster.nodes[1].name
    would = heal.run(session, Inputs("one", check=True))
    assert (would.change.before, starts(session)) == ({name: "failed"}, 3)
    assert states(session) == ["ready"] * 3
    done = heal.run(session, Inputs("one"))
    assert done.change == would.change
    assert (done.facts, done.warnings) == ({"started": [name], "not_ready": [], "moved": {}}, ())
    assert (starts(session), states(session)) == (4, ["ready"] * 3)
    for check in (False, True):
        again = heal.run(session, Inputs("one", check=check))
        assert (again.change.changed, again.facts["started"]) == (False, [])
    assert starts(session) == 4
    assert [row["detail"] for row in audited(session.store)][-1] == f"started again: {name}"
    assert [row["phase"] for row in describe(session.store)[0]["phases"]][-1] == "heal"


def test_a_disk_with_work_on_it_stays(session: FakeSession) -> None:
    cluster = created(session)
    folder = clusters.folder(session.store, cluster).name
    crash(session, cluster, 0, 1)
    disks = {name: dict(host.folders[folder]) for name, host in session.hosts.items()}
    heal.run(session, Inputs("one"))
    assert {name: host.folders[folder] for name, host in session.hosts.items()} == disks


def test_a_node_that_cannot_be_started_is_named(session: FakeSession) -> None:
    cluster = created(session)
    crash(session, cluster, 0, 1)
    for host in session.hosts.values():
        host.failing = {cluster.nodes[1].name}
    done = heal.run(session, Inputs("one"))
    assert done.facts["started"] == [cluster.nodes[0].name]
    assert done.facts["not_ready"] == [cluster.nodes[1].name]
    assert describe(session.store)[0]["state"] == "degraded"


def test_a_host_that_does_not_answer_is_left_alone(session: FakeSession) -> None:
    cluster = created(session)
    (here,) = (node for node in cluster.nodes if node.host == "a")
    crash(session, cluster, 0, 1)
    session.close()
    session.gone = {"b"}
    done = heal.run(session, Inputs("one"))
    assert done.facts["started"] == [here.name]
    (said,) = done.warnings
    assert said.startswith("b: no route: what is there stays as it is: one-0")
    assert sorted(states(session)) == ["ready", "ready"]  # of the other nobody knows


def test_what_cannot_be_healed(session: FakeSession) -> None:
    created(session)
    stop.run(session, Inputs("one"))
    with pytest.raises(RequestError, match=r"one: got the state stopped.*\n.*vclust start one"):
        heal.run(session, Inputs("one"))
    created(session, a_request("new"), last="place")
    with pytest.raises(RequestError, match=r"new: got the state placed.*\n.*takes it up"):
        heal.run(session, Inputs("new"))


def test_how_often_a_node_is_started_again() -> None:
    """At once, then later and later, four times; an hour without a crash makes it as new."""
    node, now, times = NODE, 1000.0, []
    for _ in range(4375):
        if heal.may_restart(node, now):
            times.append(now)
            node = replace(node, restarts=heal.restarts(node, now), restarted=now)
        now += 1.0
    assert times == [1000.0, 1030.0, 1150.0, 1750.0, 5350.0]
    assert node.restarts == 1
    node = replace(NODE, restarts=4, restarted=1750.0)
    assert [heal.given_up(node, now) for now in (1751.0, 5349.0, 5350.0)] == [True, True, False]
    assert heal.may_restart(node, 100.0)  # the clock was set back
    assert heal.restarts(node, 100.0) == 1
