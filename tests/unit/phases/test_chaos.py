"""Two controllers on one site, at random and at once, with hosts that only keep books: at the end they fit together.

What they do follows from a seed, when it happens from threads.  Environment variables: VCLUST_CHAOS_SECONDS (default 5;
hours are fine) and VCLUST_CHAOS_SEED, which a failure names.
"""

import os
import random
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cache.cachesite import make_base
from fakehost import FakeHost, FakeSession
from repository import KERNEL, Repository

from vclust_py import request as requests
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Capacity, Domain, Host
from vclust_py.phases import Inputs, phase
from vclust_py.site import Site, clusters
from vclust_py.site.store import Store, Values

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

SECONDS = float(os.environ.get("VCLUST_CHAOS_SECONDS", "5"))
SEED = os.environ.get("VCLUST_CHAOS_SEED", "11")
NAMES = ("one", "two", "three", "four")
NODE = 512 * 10**6
MEMORY = 3 * NODE + NODE // 2
"""Of a host: both together have enough for two of the four clusters."""
AFTER_REQUEST = ("place", "image", "create", "install", "ready")
HOSTS = (Host("a"), Host("b"))


class Killed(BaseException):
    """In place of a signal."""


class FaultyHost(FakeHost):
    """Refuses, or ends whoever asks, now and then; answers nothing while it is off."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name, self.off, self.quiet = name, False, False
        self.random = random.Random(f"{SEED}:{name}")  # noqa: S311
        self.mutex = threading.RLock()

    def fault(self) -> None:
        if self.off:
            raise VclustError(f"{self.name}: no route")
        if not self.quiet and self.random.random() < 0.02:
            raise random.choice((Killed(), VclustError(f"{self.name}: refused")))  # noqa: S311

    def capacity(self) -> Capacity:
        with self.mutex:
            resident = {uuid: domain.memory for uuid, domain in self.domains.items()}
        free = MEMORY - sum(resident.values())
        return replace(super().capacity(), memory=MEMORY, memory_free=free, resident=resident)

    def running(self) -> set[str]:
        with self.mutex:
            self.fault()
            return set(self.domains)

    def start(self, domain: Domain) -> bool:
        with self.mutex:
            self.fault()
            done = super().start(domain)
            self.fault()
            return done

    def remove(self, uuid: str) -> bool:
        with self.mutex:
            self.fault()
            done = super().remove(uuid)
            self.fault()
            return done

    def remove_segment(self, name: str) -> None:
        self.fault()
        super().remove_segment(name)


class SlowStore(Store):
    """What was read is old by the time that something is done about it."""

    def rows(self, statement: str, values: Values = ()) -> list[sqlite3.Row]:
        found = super().rows(statement, values)
        time.sleep(random.uniform(0, 0.003))  # noqa: S311
        return found


class FaultySession(FakeSession):
    def __init__(self, site: Site, hosts: dict[str, FaultyHost], networks: Any) -> None:
        super().__init__(site)
        self.store = SlowStore(site)
        self.hosts = hosts  # type: ignore[assignment]
        self.networks = self.fake_networks = networks

    def _fake_connect(self, site: Site, host: Any) -> Any:
        self.hosts[host.name].fault()  # type: ignore[attr-defined]
        return self.hosts[host.name]


class World:
    """A site, its hosts, and what its controllers share."""

    def __init__(self, site: Site, lock: str) -> None:
        self.site, self.lock = site, lock
        self.hosts = {host.name: FaultyHost(host.name) for host in HOSTS}
        self.networks = FakeSession(site).fake_networks

    def session(self) -> FaultySession:
        return FaultySession(self.site, self.hosts, self.networks)


def a_request(name: str) -> requests.Request:
    hardware = {"number_of_nodes": 3, "ram": f"{NODE}B", "disk": "4GB"}
    software = {"name": name, "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/24"}
    return requests.from_mapping({"hardware": hardware, "software": software}, "test")


def create(world: World, chance: random.Random, name: str) -> None:
    with world.session() as session:
        for word in ("request", *AFTER_REQUEST):
            inputs = Inputs(name, request=a_request(name), lock=world.lock, hosts=HOSTS)
            phase(word)(session, inputs)
            if chance.random() < 0.1:
                raise Killed


def destroy(world: World, chance: random.Random, name: str) -> None:
    with world.session() as session:
        phase("destroy")(session, Inputs(name))


def forget(world: World, chance: random.Random, name: str) -> None:
    """Destroy, without a host that does not answer."""
    with world.session() as session:
        cluster = clusters.find(session.store, name)
        hosts = {node.host for node in cluster.nodes} if cluster else set()
        phase("destroy")(session, Inputs(name, forget=frozenset(hosts)))


def switch(world: World, chance: random.Random, name: str) -> None:
    host = world.hosts[chance.choice(sorted(world.hosts))]
    host.off = not host.off and chance.random() < 0.5


DEEDS: dict[Callable[[World, random.Random, str], None], int] = {create: 6, destroy: 4, forget: 2, switch: 2}
"""What is done how often."""


class Controller(threading.Thread):
    def __init__(self, world: World, number: int, deadline: float) -> None:
        super().__init__(name=f"controller {number}")
        self.world, self.deadline = world, deadline
        self.random = random.Random(f"{SEED}:{number}")  # noqa: S311
        self.done: list[str] = []
        self.failures: list[str] = []
        self.ready = 0

    def run(self) -> None:
        while time.monotonic() < self.deadline and not self.failures:
            deed = self.random.choices(list(DEEDS), list(DEEDS.values()))[0]
            name = self.random.choice(NAMES)
            self.done.append(f"{deed.__name__} {name}")
            try:
                deed(self.world, self.random, name)
                self.ready += deed is create
            except (VclustError, Killed) as error:
                self.done[-1] += f" ({str(error).splitlines()[0] if str(error) else 'killed'})"
            except BaseException as error:
                self.failures.append(f"{self.done[-1]}: {error!r}")
            self.failures += overbooked(self.world.site)


def overbooked(site: Site) -> list[str]:
    """Nodes that the store has given to a host beyond its memory, whatever is half done."""
    with FakeSession(site) as session:
        placed = clusters.placed(session.store)
    return [f"{host}: overbooked" for host, nodes in placed.items() if len(nodes) > 3]


@pytest.fixture
def world(toy: Repository, tmp_path: Path) -> World:
    site = toy.site(tmp_path / "site", cache_every=0)
    make_base(site)
    with FakeSession(site) as session:
        phase("request")(session, Inputs("one", request=a_request("one")))
        lock = phase("resolve")(session, Inputs("one", request=a_request("one"))).facts["lock"]
        phase("destroy")(session, Inputs("one"))
    return World(site, lock)


def test_two_controllers_at_once(world: World) -> None:
    controllers = [Controller(world, number, time.monotonic() + SECONDS) for number in (1, 2)]
    for controller in controllers:
        controller.start()
    for controller in controllers:
        controller.join()
    told = "\n".join(f"{one.name}: {', '.join(one.done[-60:])}" for one in controllers)
    told = f"VCLUST_CHAOS_SEED={SEED}\n{told}"
    assert [line for one in controllers for line in one.failures] == [], told
    assert sum(one.ready for one in controllers) > 0, told

    for host in world.hosts.values():
        host.off, host.quiet = False, True
    calm = random.Random(0)  # noqa: S311
    with world.session() as session:
        for name in clusters.names(session.store):
            destroy(world, calm, name)
        # What was written off goes with the next create that asks these hosts.
        for word in ("request", *AFTER_REQUEST):
            phase(word)(session, Inputs("one", request=a_request("one"), lock=world.lock, hosts=HOSTS))
        uuids = {node.uuid for node in clusters.get(session.store, "one").nodes}
        assert {uuid for host in world.hosts.values() for uuid in host.domains} == uuids, told
        assert len(world.networks.segments) == 1, told
        destroy(world, calm, "one")
        assert clusters.leftovers(session.store) == []
        assert session.store.rows("SELECT * FROM nodes") == []
        assert session.store.rows("SELECT network FROM clusters WHERE network IS NOT NULL") == []
    assert [host.domains for host in world.hosts.values()] == [{}, {}], told
    assert [files for host in world.hosts.values() for files in host.folders.values() if files] == [], told
    assert [host.segments for host in world.hosts.values()] == [{}, {}], told
    assert world.networks.segments == {}, told
    assert list(world.site.clusters.iterdir()) == [], told
    assert list((world.site.root / "held").glob("cluster-*")) == [], told
