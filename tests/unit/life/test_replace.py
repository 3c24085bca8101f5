"""Nodes whose host is dead, made anew on another one: by hand, and by the keeper once it has switched the host off."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, a_request, a_site, another, created, states
from repository import Repository

from vclust_py.errors import CapacityError, RequestError
from vclust_py.life import heal
from vclust_py.life.keeper import Keeper
from vclust_py.nodes import overlay, seed_disk
from vclust_py.phases import Inputs, phase
from vclust_py.run import CommandError
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

LOST = Inputs("one", hosts=HOSTS, forget=frozenset({"b"}))


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


def found(session: FakeSession) -> Cluster:
    return clusters.get(session.store, "one")


def away(session: FakeSession) -> None:
    session.close()
    session.gone.add("b")


def test_made_anew_elsewhere_four_ways(session: FakeSession) -> None:
    cluster = created(session)
    (lost,) = (node for node in cluster.nodes if node.host == "b")
    folder = clusters.folder(session.store, cluster)
    seed = (folder / seed_disk(lost.name)).read_bytes()
    away(session)
    would = heal.run(session, replace(LOST, check=True))
    assert would.facts["moved"] == {lost.name: "a"}
    assert found(session) == cluster
    done = heal.run(session, LOST)
    assert done.change == would.change
    assert done.facts == {"started": [lost.name], "not_ready": [], "moved": {lost.name: "a"}}
    (new,) = (node for node in found(session).nodes if node.name == lost.name)
    assert (new.host, new.state, new.address, new.mac) == ("a", "ready", lost.address, lost.mac)
    assert new.uuid != lost.uuid
    assert (folder / seed_disk(lost.name)).read_bytes() != seed
    assert describe(session.store)[0]["state"] == "ready"
    assert [node.uuid for node in found(session).leaving] == [lost.uuid]
    for check in (False, True):
        again = heal.run(session, replace(LOST, check=check))
        assert (again.change.changed, again.facts["moved"]) == (False, {})
    assert [row["action"] for row in audited(session.store)][-2:] == ["replace", "heal"]


def test_a_host_that_comes_back_loses_what_is_there_and_nothing_else(session: FakeSession) -> None:
    cluster = created(session, a_request(nodes=4))
    away(session)
    heal.run(session, LOST)
    there = session.hosts["b"]
    assert len(there.domains) == 2  # it was not off after all
    session.gone.clear()
    keeper = Keeper(lambda: another(session), HOSTS)
    keeper.round(answer=10, work=60)
    keeper.close()
    assert (there.domains, there.segments) == ({}, {})
    assert not any(there.folders.values())
    assert (found(session).leaving, states(session)) == ((), ["ready"] * 4)
    assert len(session.hosts["a"].domains) == 4
    disks = session.hosts["a"].folders[clusters.folder(session.store, cluster).name]
    assert {overlay(node.name) for node in cluster.nodes} <= disks.keys()
    phase("destroy")(session, Inputs("one"))
    assert session.store.rows("SELECT * FROM nodes") == []


def test_who_may_not_be_given_up(session: FakeSession) -> None:
    before = created(session)
    with pytest.raises(RequestError, match="b: got an answer, expected a host that is off"):
        heal.run(session, LOST)
    away(session)
    with pytest.raises(CapacityError):
        heal.run(session, replace(LOST, hosts=()))
    session.store.execute("UPDATE clusters SET owner = 'alice'")
    with another(session) as other:
        other.store.who = "alice"
        with pytest.raises(RequestError, match="only administrators"):
            heal.run(other, LOST)
    assert found(session).nodes == before.nodes


class Power:
    """The site's program that switches hosts off; every login does as well."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.works = False

    def __call__(self, argv: list[str], *, stdin: str = "", **options: object) -> str:
        if argv[0] == "/fence":
            self.calls.append(argv[1])
            if not self.works:
                raise CommandError(argv, "exit status 1", "no such outlet")
        return ""


def test_the_keeper_switches_a_host_off_first(session: FakeSession) -> None:
    cluster = created(session, a_request(heal="replace"))
    created(session, a_request("two", heal="restart"))
    power = Power()

    def make() -> FakeSession:
        new = another(session)
        new.site = replace(new.site, fence=Path("/fence"), fence_after=100)
        new.run = power  # type: ignore[method-assign]
        return new

    keeper = Keeper(make, HOSTS)

    def go() -> list[str]:
        return keeper.round(answer=10, work=60)

    assert go() == []
    session.gone.add("b")
    keeper._session.close()  # its connections break
    (lost,) = (node for node in cluster.nodes if node.host == "b")
    assert (go(), power.calls) == ([], [])  # it may come back at once
    keeper._silent["b"] -= 200
    (line,) = go()
    assert line.startswith("host b: is not surely off: /fence: exit status 1")
    assert (go(), power.calls) == ([], ["b"])  # not again and again
    assert found(session).nodes == cluster.nodes
    keeper._tries.clear()
    power.works = True
    assert go() == ["b: is switched off: it has not answered for too long"]
    assert go() == [f"one: b is dead, other places: {lost.name} on a"]
    assert go() == [f"one: started again: {lost.name}"]
    go()
    go()
    assert states(session) == ["ready", "ready"]
    assert {node.host for node in found(session).nodes} == {"a"}
    two = clusters.get(session.store, "two")
    assert sorted(node.host for node in two.nodes) == ["a", "b"]
    assert [row["detail"] for row in audited(session.store) if row["action"] == "fence"] == ["b"]
    # It is repaired: the nodes of others there go on, what was replaced goes.
    session.gone.clear()
    session.hosts["b"].domains.clear()
    for _ in range(4):
        go()
    keeper.close()
    assert states(session, "two") == ["ready", "ready"]
    assert found(session).leaving == ()
    assert power.calls == ["b", "b"]


def test_when_all_are_silent_it_is_this_machine_that_is_cut_off(session: FakeSession) -> None:
    created(session, a_request(heal="replace"))
    power = Power()

    def make() -> FakeSession:
        new = another(session)
        new.site = replace(new.site, fence=Path("/fence"), fence_after=100)
        new.run = power  # type: ignore[method-assign]
        return new

    session.gone |= {"a", "b"}
    keeper = Keeper(make, HOSTS)
    for _ in range(3):
        keeper.round(answer=10, work=60)
        keeper._silent = dict.fromkeys(keeper._silent, -100000.0)
    keeper.close()
    assert (len(keeper._silent), power.calls) == (2, [])


def test_without_a_way_to_switch_it_off_nothing_is_made_twice(session: FakeSession) -> None:
    created(session, a_request(heal="replace"))
    session.gone.add("b")
    keeper = Keeper(lambda: another(session), HOSTS)
    keeper.round(answer=10, work=60)
    keeper._silent = dict.fromkeys(keeper._silent, -100000.0)
    for _ in range(3):
        assert keeper.round(answer=10, work=60) == []
    keeper.close()
    assert sorted(node.host for node in found(session).nodes) == ["a", "b"]
    assert describe(session.store)[0]["state"] == "degraded"
