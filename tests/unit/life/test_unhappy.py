"""What comes in between: repair, leases, hosts, clocks and other people, while a cluster changes."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, Told, a_request, a_site, another, crash, created, states
from repository import Repository

from vclust_py.errors import BusyError
from vclust_py.life import apply, restart, teach
from vclust_py.life import heal as heal_module
from vclust_py.life.keeper import Keeper
from vclust_py.phases import Inputs, phase
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

GRACE, HOUR = 1000, 3600
INPUTS = Inputs("one", hosts=HOSTS)


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    site = toy.site(tmp_path / "site", cache_every=0)
    with a_site(toy, replace(site, lease_grace=GRACE, lease_warnings=())) as session:
        yield session


@pytest.fixture
def told(session: FakeSession) -> Told:
    return Told(session)


@pytest.fixture
def keeper(session: FakeSession, told: Told) -> Iterator[Keeper]:
    """One whose nodes are told as those of `session` are."""

    def make() -> FakeSession:
        new = another(session)
        new.run = told  # type: ignore[assignment]
        return new

    made = Keeper(make, HOSTS)
    yield made
    made.close()


def rounds(keeper: Keeper, number: int = 1) -> list[str]:
    return [line for _ in range(number) for line in keeper.round(answer=10, work=60)]


def the_rest(session: FakeSession, *words: str) -> None:
    for word in words or ("image", "create", "teach", "install", "ready"):
        (teach.run if word == "teach" else phase(word))(session, INPUTS)


def found(session: FakeSession) -> Cluster:
    return clusters.get(session.store, "one")


def running(session: FakeSession) -> list[str]:
    return sorted(
        domain.name.partition(".")[0] for host in session.hosts.values() for domain in host.domains.values()
    )


def test_a_resize_while_the_keeper_repairs(session: FakeSession, told: Told, keeper: Keeper) -> None:
    """The node boots; a node more comes before it is ready."""
    cluster = created(session)
    crash(session, cluster, 1)
    down = session.hosts[cluster.nodes[1].host]
    down.mute = {"one-02"}
    rounds(keeper, 2)
    assert states(session) == ["ready", "started"]
    apply.run(session, INPUTS, number=3)
    rounds(keeper)  # in between
    the_rest(session, "image", "create", "teach")
    assert [node.generation for node in found(session).nodes] == [2, 1, 2]
    down.mute = set()
    the_rest(session, "install", "ready")
    assert states(session) == ["ready"] * 3
    assert rounds(keeper, 2) == []
    assert sorted(told.nodes) == [("one-01", 2), ("one-02", 2)]
    assert running(session) == ["one-01", "one-02", "one-03"]


def test_a_resize_that_takes_the_node_under_repair(session: FakeSession, told: Told, keeper: Keeper) -> None:
    cluster = created(session, a_request(nodes=3))
    crash(session, cluster, 2)
    session.hosts[cluster.nodes[2].host].mute = {"one-03"}
    rounds(keeper, 2)
    assert states(session) == ["ready", "ready", "started"]
    apply.run(session, INPUTS, number=2)
    the_rest(session)
    assert rounds(keeper, 3) == []
    assert (states(session), running(session)) == (["ready"] * 2, ["one-01", "one-02"])


def test_repair_at_the_very_moment_of_a_resize(session: FakeSession, told: Told, keeper: Keeper) -> None:
    """One waits for the other, whoever comes first: no node is started twice, none is forgotten."""
    cluster = created(session)
    crash(session, cluster, 1)
    host, inside, go_on = session.hosts[cluster.nodes[1].host], threading.Event(), threading.Event()
    start, started = host.start, list[str]()

    def slow(domain: object) -> bool:
        inside.set()
        assert go_on.wait(30)
        started.append(getattr(domain, "name", "").partition(".")[0])
        return start(domain)  # type: ignore[arg-type]

    host.start = slow  # type: ignore[method-assign, assignment]
    repair = threading.Thread(target=rounds, args=(keeper,))
    repair.start()
    assert inside.wait(30)
    with another(session) as other:
        errors = list[BaseException]()

        def resize() -> None:
            try:
                apply.run(other, INPUTS, number=3)
            except BaseException as error:
                errors.append(error)

        change = threading.Thread(target=resize)
        change.start()
        change.join(0.3)
        assert change.is_alive()  # it waits
        assert len(found(session).nodes) == 2
        go_on.set()
        repair.join(60)
        change.join(60)
        assert errors == []
    host.start = start  # type: ignore[method-assign]
    the_rest(session)
    assert (states(session), started) == (["ready"] * 3, ["one-02"])
    assert running(session) == ["one-01", "one-02", "one-03"]


def test_who_works_on_it_for_long_is_named(
    session: FakeSession, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (apply, restart, teach, heal_module):
        monkeypatch.setattr(module, "_LOCK_TIMEOUT", 0.05)
    created(session)
    with another(session) as other, clusters.locked(session.store, "one"):
        for work in (
            lambda: apply.run(other, INPUTS, number=3),
            lambda: restart.run(other, INPUTS),
            lambda: teach.run(other, INPUTS),
            lambda: heal_module.run(other, INPUTS),
        ):
            with pytest.raises(BusyError):
                work()
    assert len(found(session).nodes) == 2


def test_a_lease_that_ends_while_nodes_are_restarted(
    session: FakeSession, told: Told, keeper: Keeper
) -> None:
    """The keeper comes by while a node is down; the lease ends when all run again."""
    created(session, a_request(lease="1h"))
    apply.run(
        session,
        replace(INPUTS, request=a_request(lease="1h", hardware={"cpus": 2})),
        restarts=True,
    )
    session.store.execute("UPDATE clusters SET ends = 5")
    said = list[str]()
    for host in session.hosts.values():
        start = host.start
        host.start = lambda domain, start=start: (said.extend(rounds(keeper)), start(domain))[1]  # type: ignore[method-assign, misc]
    assert len(restart.run(session, INPUTS).facts["restarted"]) == 2
    assert (said, states(session)) == ([], ["ready", "ready"])
    assert rounds(keeper) == ["one: its lease has ended, it is stopped"]
    assert (states(session), running(session)) == (["stopped", "stopped"], [])


def test_a_site_manager_that_was_off_when_a_lease_and_its_grace_time_ended(
    session: FakeSession, told: Told, keeper: Keeper
) -> None:
    """The grace time counts from the shutdown: nothing is lost for having been off."""
    created(session, a_request(lease="1h"))
    session.store.execute("UPDATE clusters SET ends = ?, ready = 5", (time.time() - 100 * GRACE,))
    assert rounds(keeper) == ["one: its lease has ended, it is stopped"]
    assert rounds(keeper, 3) == []
    (told_now,) = describe(session.store)
    assert told_now["state"] == "stopped"
    assert any("one-01.qcow2" in files for host in session.hosts.values() for files in host.folders.values())
    the_rest(session, "create", "install", "ready")
    assert states(session) == ["ready", "ready"]
    assert rounds(keeper) == []


def test_packages_are_added_while_a_node_is_down(session: FakeSession, told: Told, keeper: Keeper) -> None:
    """It catches up when it is back, by the keeper alone; what came meanwhile too."""
    cluster = created(session, a_request(packages=["hello"], install="each"))
    crash(session, cluster, 1)
    heal_off = session.hosts[cluster.nodes[1].host]
    heal_off.mute = {"one-02"}
    rounds(keeper, 2)
    assert states(session) == ["ready", "started"]
    for packages in (["hello", "full"], ["full"]):
        request = a_request(packages=packages, install="each")
        apply.run(session, replace(INPUTS, request=request))
        assert teach.run(session, INPUTS).facts == {"told": ["one-01"], "late": []}
    assert told.packages == [["debconf", "remove", "full_all.deb"], ["debconf", "remove"]]
    heal_off.mute = set()
    assert rounds(keeper) == ["one: ready again: one-02"]
    assert told.nodes[-1] == ("one-02", 3)
    assert told.packages[2:] == [["debconf", "remove", "full_all.deb"]]
    assert [node.generation for node in found(session).nodes] == [3, 3]
    assert rounds(keeper, 2) == []


def test_a_clock_that_is_set_back_by_hours(
    session: FakeSession, told: Told, keeper: Keeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was seen is of the future then: nodes that end are seen and started all the same, leases only get longer."""
    cluster = created(session, a_request(lease="1h"))
    crash(session, cluster, 0)
    assert "one: started again: one-01" in rounds(keeper)
    rounds(keeper)
    assert states(session) == ["ready", "ready"]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 5 * HOUR)
    assert rounds(keeper, 2) == []
    assert [one["state"] for one in describe(session.store)] == ["ready"]
    crash(session, cluster, 0, 1)
    said = rounds(keeper, 2)
    assert "one: started again: one-01, one-02" in said
    rounds(keeper, 2)
    assert (states(session), running(session)) == (["ready", "ready"], ["one-01", "one-02"])
    apply.run(session, INPUTS, number=3)
    the_rest(session)
    assert (states(session), len(told.nodes)) == (["ready"] * 3, 2)
    assert rounds(keeper, 2) == []
    # It goes right again, and the lease is over by now.
    monkeypatch.setattr(time, "time", lambda: real() + HOUR)
    assert rounds(keeper) == ["one: its lease has ended, it is stopped"]
    monkeypatch.setattr(time, "time", lambda: real() - 5 * HOUR)
    assert rounds(keeper, 2) == []
    assert found(session).state == "stopped"
