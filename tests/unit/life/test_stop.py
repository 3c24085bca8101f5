"""Clusters stopped on purpose, and started again."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import a_request, a_site, created, states
from repository import Repository

from vclust_py.errors import RequestError, VclustError
from vclust_py.life import stop
from vclust_py.phases import Inputs, phase
from vclust_py.site import clusters
from vclust_py.site.describe import describe
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


def running(session: FakeSession) -> list[int]:
    return [len(host.domains) for host in session.hosts.values()]


def test_stopped_and_started_again_on_the_same_disks(session: FakeSession) -> None:
    cluster = created(session)
    folder = clusters.folder(session.store, cluster).name
    disks = {name: dict(host.folders[folder]) for name, host in session.hosts.items()}
    inputs = Inputs("one")
    would = stop.run(session, Inputs("one", check=True))
    assert running(session) == [1, 1]
    done = stop.run(session, inputs)
    assert done.change == would.change
    assert (done.change.before, done.change.after) == ({"state": "ready"}, {"state": "stopped"})
    assert running(session) == [0, 0]
    assert states(session) == ["stopped", "stopped"]
    assert describe(session.store)[0]["state"] == "stopped"
    assert session.fake_networks.segments == {}
    assert {name: host.folders[folder] for name, host in session.hosts.items()} == disks
    assert not stop.run(session, inputs).change.changed
    assert not stop.run(session, Inputs("one", check=True)).change.changed

    for word in ("create", "install", "ready"):
        phase(word)(session, inputs)
    assert running(session) == [1, 1]
    assert describe(session.store)[0]["state"] == "ready"
    assert {name: host.folders[folder] for name, host in session.hosts.items()} == disks
    assert session.fake_networks.segments == {cluster.segment: cluster.network}
    assert [row["action"] for row in audited(session.store)] == ["create", "stop"]


def test_create_with_its_request_starts_it_too(session: FakeSession) -> None:
    created(session)
    stop.run(session, Inputs("one"))
    assert created(session).state == "ready"
    assert running(session) == [1, 1]


def test_who_does_not_end_is_ended(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = created(session)
    monkeypatch.setattr(stop, "_SHUTDOWN", 0.2)
    monkeypatch.setattr(stop, "_POLL", 0.01)
    for host in session.hosts.values():
        host.stubborn = {node.uuid for node in cluster.nodes}
    stop.run(session, Inputs("one"))
    assert running(session) == [0, 0]


def test_a_host_that_does_not_answer(session: FakeSession) -> None:
    created(session)
    session.close()
    session.gone = {"b"}
    with pytest.raises(VclustError, match=r"^b: no route\n.*vclust stop one"):
        stop.run(session, Inputs("one"))
    assert running(session) == [0, 1]
    assert sorted(states(session)) == ["ready", "stopped"]
    assert clusters.get(session.store, "one").state == "ready"
    session.gone = set()
    stop.run(session, Inputs("one"))
    assert running(session) == [0, 0]
    assert states(session) == ["stopped", "stopped"]


def test_what_was_never_started_and_what_is_not_there(session: FakeSession) -> None:
    created(session, last="place")
    with pytest.raises(RequestError, match="one: got the state placed, expected a cluster whose nodes"):
        stop.run(session, Inputs("one"))
    with pytest.raises(RequestError, match="two: no such cluster"):
        stop.run(session, Inputs("two"))


def test_somebody_else_may_not(session: FakeSession) -> None:
    created(session)
    with FakeSession(session.site) as other:
        other.hosts = session.hosts
        other.store.who = "bob"
        with pytest.raises(RequestError, match="one: belongs to root"):
            stop.run(other, Inputs("one"))
        with pytest.raises(RequestError, match="one: belongs to root"):
            phase("create")(other, Inputs("one"))
    assert running(session) == [1, 1]


def test_destroyed_while_it_is_stopped(session: FakeSession) -> None:
    created(session, a_request(lease="8h"))
    stop.run(session, Inputs("one"))
    phase("destroy")(session, Inputs("one"))
    assert clusters.live(session.store) == []
    assert not any(files for host in session.hosts.values() for files in host.folders.values())
