"""Hosts asked what runs there, by whoever must not wait for them."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from life.living import a_request, a_site, created
from repository import Repository

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.life.look import FRESH, STALE, ask, look
from vclust_py.site import clusters
from vclust_py.site.condition import Sighting
from vclust_py.site.describe import describe
from vclust_py.site.hosts import record_sightings, sightings
from vclust_py.site.states import NodeState
from vclust_py.site.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def store(toy: Repository, tmp_path: Path) -> Iterator[Store]:
    """Clusters `one`, on host a, and `two`, on host b."""
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        for name in ("one", "two"):
            created(session, a_request(name))
            host, number = "a" if name == "one" else "b", clusters.get(session.store, name).id
            session.store.execute("UPDATE nodes SET host = ? WHERE cluster = ?", (host, number))
        session.store.execute("DELETE FROM observed_hosts")
        yield session.store


def uuids(store: Store, name: str) -> set[str]:
    return {node.uuid for node in clusters.get(store, name).nodes}


def test_only_hosts_with_nodes_that_should_run_are_asked_and_each_once(store: Store) -> None:
    asked: list[str] = []

    def answer(host: Host) -> set[str]:
        asked.append(host.name)
        return uuids(Store(store.site), "one" if host.name == "a" else "two")

    before = list(sqlite3.connect(store.site.database).iterdump())
    told = look(store, within=10, ask=answer)
    assert sorted(asked) == ["a", "b"]
    assert [one["state"] for one in describe(store, None, told)] == ["ready", "ready"]
    look(store, "one", within=10, ask=answer)
    assert asked[2:] == ["a"]
    assert list(sqlite3.connect(store.site.database).iterdump()) == before
    two = clusters.get(store, "two")
    clusters.observe_nodes(store, two, {node.name: NodeState.FAILED for node in two.nodes})
    look(store, within=10, ask=answer)
    assert asked[3:] == ["a"]
    assert look(store, within=0, ask=answer) == {}
    assert asked[4:] == []


def test_what_was_told_just_before_is_not_asked_again(store: Store) -> None:
    def refuse(host: Host) -> set[str]:
        raise VclustError(f"{host.name}: no route")

    now = time.time()
    record_sightings(store, {"a": Sighting(now - FRESH / 2), "b": Sighting(now - FRESH * 2)})
    told = look(store, within=10, ask=refuse)
    assert told["a"] == Sighting(now - FRESH / 2)
    assert told["b"] == Sighting(now - FRESH * 2, error="b: no route")
    # A clock that was set back: what is of the future is not fresh.
    record_sightings(store, {"a": Sighting(now + 3600)})
    assert look(store, "one", within=10, ask=refuse)["a"].error == "a: no route"


def test_a_host_that_hangs_is_not_waited_for(store: Store) -> None:
    free = threading.Event()

    def hang(host: Host) -> set[str]:
        if host.name == "a":
            free.wait(60)
        return uuids(Store(store.site), "two")

    now = time.time()
    record_sightings(store, {"a": Sighting(now - STALE / 2)})
    told = look(store, within=0.5, ask=hang)
    assert told["a"] == Sighting(now - STALE / 2)
    assert [one["state"] for one in describe(store, None, told)] == ["ready", "ready"]
    store.execute("UPDATE observed_nodes SET seen = seen - 1000")
    record_sightings(store, {"a": Sighting(now - STALE * 2)})
    told = look(store, within=0.5, ask=hang)
    free.set()
    one, two = describe(store, None, told)
    assert (one["state"], one["seen"], two["state"]) == ("unknown", now - STALE * 2, "ready")


def test_a_host_that_is_away_keeps_the_time_of_its_last_word(store: Store) -> None:
    record_sightings(store, {"a": Sighting(5.0)})
    record_sightings(store, {"a": Sighting(0.0, error="no route"), "b": Sighting(0.0, error="off")})
    assert sightings(store) == {"a": Sighting(5.0, error="no route"), "b": Sighting(0.0, error="off")}
    assert [one["state"] for one in describe(store)] == ["unknown", "unknown"]
    record_sightings(store, {"a": Sighting(6.0)})
    assert sightings(store)["a"] == Sighting(6.0)


def test_a_real_libvirt_is_asked() -> None:
    assert len(ask(Host("h", "test:///default"))) == 1
    with pytest.raises(VclustError, match=r"^h: libvirt: "):
        ask(Host("h", "qemu+tls://nowhere.invalid/system"))
