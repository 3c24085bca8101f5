"""Lives of clusters at random, on hosts that only keep books: at the end all is as the requests say.

Created, applied, upgraded, crashed, stopped and started, renewed, expired, destroyed; hosts that go away and come back;
archives that move on; whoever is at work is ended in the middle.  Environment variables: VCLUST_LIVES_SEED, which a
failure names; VCLUST_LIVES_STEPS (default 500; thousands are fine).
"""

import contextlib
import itertools
import os
import random
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.deeds import Deeds
from life.living import a_request, a_site, another
from repository import Repository
from test_chaos import FaultyHost, Killed

from vclust_py.errors import CapacityError, VclustError
from vclust_py.hypervisor import Host
from vclust_py.life import apply, heal, lease, restart, stop, teach, upgrade
from vclust_py.life.keeper import Keeper
from vclust_py.lock import Lock
from vclust_py.nodes import overlay
from vclust_py.phases import ORDER, Inputs, phase
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Cluster

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

NAMES = ("one", "two", "three")
GRACE = 1000
HOSTS = (Host("a"), Host("b"), Host("c"))


class LivesHost(FaultyHost):
    """Ends only who can be ended: threads cannot."""

    def fault(self) -> None:
        try:
            super().fault()
        except Killed:
            if threading.current_thread() is threading.main_thread():
                raise
            raise VclustError(f"{self.name}: refused") from None


class Lives(Deeds):
    def __init__(self, session: FakeSession, toy: Repository) -> None:
        super().__init__("VCLUST_LIVES", seed="7", steps=500)
        self.session, self.toy = session, toy
        self.hosts = {host.name: LivesHost(host.name) for host in HOSTS}
        session.hosts = self.hosts  # type: ignore[assignment]
        self.marks = itertools.count(1000)
        self.work: dict[tuple[int, str], int] = {}
        """By number of the cluster and UUID of the node what a user has left on its disk."""
        self.unchanged: list[str] = []
        """What was not as a request said when it was applied."""
        self.given_up: set[int] = set()
        self.keeper = Keeper(self.make, HOSTS)

    def make(self) -> FakeSession:
        new = another(self.session)
        new._connect = self.connect
        new.site = replace(new.site, lease_grace=GRACE, lease_warnings=(), fence=Path("/fence"))
        new.run = self.log_in
        new.talk = self.session.talk
        return new

    def connect(self, site: Site, host: Host) -> LivesHost:
        self.hosts[host.name].fault()
        return self.hosts[host.name]

    def log_in(self, argv: list[str], *, stdin: str = "", **options: object) -> str:
        """Nodes are told only where they run, and may be out of reach; a host that is off can be switched off."""
        if argv[0] == "/fence":
            host = self.hosts[argv[1]]
            if not host.off:
                raise VclustError("fence: it is on")
            host.domains.clear()
            return ""
        found = re.search(r"^generation=(\d+)$", stdin, re.MULTILINE)
        assert found is not None
        node = argv[-3].removeprefix("root@")
        runs = any(
            domain.name.startswith(f"{node}.") and not host.off
            for host in self.hosts.values()
            for domain in host.domains.values()
        )
        if not runs or self.random.random() < 0.05:
            raise VclustError(f"ssh: {node}: no route")
        return f"vclust: generation {found[1]}\n"

    # What people do ------------------------------------------------------------------------------------------------

    def create(self, name: str) -> None:
        with self.make() as session:
            present = clusters.find(session.store, name)
            request = (
                present.request
                if present
                else a_request(name, self.random.randint(1, 3), lease="8h", install="each", **self.heals())
            )
            lock = ""
            for word in ORDER:
                if word != "distribute":
                    result = phase(word)(session, Inputs(name, request=request, lock=lock, hosts=HOSTS))
                    lock = result.facts["lock"] if word == "resolve" else lock
                    self.perhaps_killed()

    def heals(self) -> dict[str, str]:
        return {"heal": "replace"} if self.random.random() < 0.5 else {}

    def apply(self, name: str) -> None:
        with self.make() as session:
            number = self.random.randint(1, 4)
            request = apply.resized(clusters.get(session.store, name).request, number)
            if self.random.random() < 0.3:
                packages = ("hello",) * self.random.randint(0, 1) + ("full",)
                request = replace(request, software=replace(request.software, packages=packages))
            if self.random.random() < 0.6:
                cpus, disk = self.random.randint(1, 3), request.hardware.disk + self.random.randint(0, 1)
                request = replace(request, hardware=replace(request.hardware, cpus=cpus, disk=disk))
            apply.run(session, Inputs(name, request=request, hosts=HOSTS), restarts=True)
            self.do_the_rest(session, name)
            self.unchanged += self.wrong_machines(clusters.get(session.store, name))

    def do_the_rest(self, session: FakeSession, name: str) -> None:
        """What a playbook does once it is written down what should be."""
        restart.run(session, Inputs(name))
        for word in ("image", "create", "teach", "install", "ready"):
            self.perhaps_killed()
            (teach.run if word == "teach" else phase(word))(session, Inputs(name))

    def upgrade(self, name: str) -> None:
        with self.make() as session:
            upgrade.run(session, Inputs(name))
            self.perhaps_killed()
            teach.run(session, Inputs(name), in_turn=self.random.random() < 0.5)

    def start(self, name: str) -> None:
        with self.make() as session:
            for word in ("create", "install", "ready"):
                phase(word)(session, Inputs(name))
                self.perhaps_killed()

    def stop(self, name: str) -> None:
        with self.make() as session:
            stop.run(session, Inputs(name))

    def heal(self, name: str) -> None:
        with self.make() as session:
            heal.run(session, Inputs(name))

    def renew(self, name: str) -> None:
        with self.make() as session:
            lease.renew(session, Inputs(name), 9 * 3600)

    def destroy(self, name: str) -> None:
        with self.make() as session:
            if (cluster := clusters.find(session.store, name)) is not None:
                # Whatever comes of it, the work may be gone.
                self.given_up.add(cluster.id)
            phase("destroy")(session, Inputs(name))

    # What happens --------------------------------------------------------------------------------------------------

    def crash(self, name: str) -> None:
        domains = [(host, uuid) for host in self.hosts.values() for uuid in host.domains]
        if domains:
            host, uuid = self.random.choice(sorted(domains, key=lambda one: one[1]))
            host.domains.pop(uuid)

    def switch(self, name: str) -> None:
        host = self.hosts[self.random.choice(sorted(self.hosts))]
        host.off = not host.off and self.random.random() < 0.5
        if not host.off and self.random.random() < 0.5:
            host.domains.clear()  # it was restarted

    def lose(self, name: str) -> None:
        """A host goes off and stays so for long."""
        host = self.hosts[self.random.choice(sorted(self.hosts))]
        host.off = True
        for _ in range(5):
            self.pass_by("")
            self.keep("")

    def move_on(self, name: str) -> None:
        """The archives have a later version of something."""
        package = self.random.choice(("core", "libgreet", "full"))
        self.toy.add(package, str(next(self.marks)))
        self.toy.publish()
        (self.session.site.apt / "toy-amd64/fetched").unlink(missing_ok=True)

    def expire(self, name: str) -> None:
        self.session.store.execute(
            "UPDATE clusters SET ends = 5 WHERE name = ? AND ends IS NOT NULL", (name,)
        )

    def pass_by(self, name: str) -> None:
        """The grace time of a cluster that has ended, and the time in which a node is not started again."""
        store = self.session.store
        store.execute("UPDATE clusters SET ended = ended - ? WHERE name = ?", (GRACE, name))
        store.execute("UPDATE observed_nodes SET restarted = restarted - 4000")
        self.keeper._silent = {host: since - 4000 for host, since in self.keeper._silent.items()}
        self.keeper._tries.clear()

    def keep(self, name: str) -> None:
        self.keeper.round(answer=10, work=60)

    def perhaps_killed(self) -> None:
        if self.random.random() < 0.05:
            raise Killed

    def step(self) -> None:
        deeds = (
            *[self.create] * 4, *[self.apply] * 4, *[self.keep] * 8, *[self.crash] * 3,
            self.stop, self.start, self.heal, self.renew, self.destroy, *[self.switch] * 3, self.lose,
            self.expire, self.pass_by, *[self.upgrade] * 2, self.move_on,
        )  # fmt: skip
        deed, name = self.choose(deeds, lambda _: NAMES)
        try:
            deed(name)
        except (VclustError, Killed) as error:
            self.came_of_it(str(error).splitlines()[0] if str(error) else "killed")
        self.leave_work()

    # What must be so -----------------------------------------------------------------------------------------------

    def leave_work(self) -> None:
        """Each node that is ready gets something on its disk, which must be there as long as the node is."""
        known = set()
        for cluster in clusters.live(self.session.store):
            folder = clusters.folder(self.session.store, cluster).name
            for node in cluster.nodes:
                known.add((cluster.id, node.uuid))
                disks = self.hosts[node.host].folders.get(folder, {})
                if cluster.id in self.given_up:
                    self.work.pop((cluster.id, node.uuid), None)
                elif cluster.ready and node.state == "ready" and (cluster.id, node.uuid) not in self.work:
                    disks[overlay(node.name)] = self.work[cluster.id, node.uuid] = next(self.marks)
        self.work = {key: mark for key, mark in self.work.items() if key in known}

    def wrong_machines(self, cluster: Cluster) -> list[str]:
        """Nodes that run with other CPUs, memory or disk than the request says."""
        wanted, told = cluster.request.hardware, []
        for node in cluster.nodes:
            host = self.hosts[node.host]
            machine = host.machine(node.uuid)
            if machine not in (None, (wanted.cpus, wanted.ram)):
                told.append(f"{node.name}: runs with {machine}")
            disks = host.virtual_sizes[clusters.folder(self.session.store, cluster).name]
            if disks[overlay(node.name)] != wanted.disk:
                told.append(f"{node.name}: has a disk of {disks[overlay(node.name)]}")
        return told

    def wrong(self) -> list[str]:
        """What the hosts have that the store does not say, and the other way round."""
        found = clusters.live(self.session.store)
        told = []
        for host in self.hosts.values():
            expected = {
                node.uuid for one in found for node in one.nodes if node.host == host.name and runs(one)
            }
            told += [f"{host.name}: runs {uuid}" for uuid in host.domains.keys() - expected]
            told += [f"{host.name}: lacks {uuid}" for uuid in expected - host.domains.keys()]
            folders = {clusters.folder(self.session.store, one).name: one for one in found}
            for folder, files in host.folders.items():
                nodes = folders[folder].nodes if folder in folders else ()
                names = {overlay(node.name) for node in nodes if node.host == host.name}
                disks = {name for name in files if name.endswith(".qcow2") or folder not in folders}
                told += [f"{host.name}: {folder} has {name}" for name in disks - names]
        networks = {one.segment: one.network for one in found if runs(one)}
        if self.session.fake_networks.segments != networks:
            states = {one.segment: f"{one.name} {one.state}" for one in found}
            told.append(f"networks {self.session.fake_networks.segments}, expected {networks} of {states}")
        for cluster in found:
            folder = clusters.folder(self.session.store, cluster).name
            for node in cluster.nodes:
                mark = self.work.get((cluster.id, node.uuid))
                if mark is not None and self.hosts[node.host].folders[folder].get(overlay(node.name)) != mark:
                    told.append(f"{node.name}: lost the work on its disk")
            if runs(cluster):
                told += self.wrong_machines(cluster)
                told += [f"{node.name}: {node.state}" for node in cluster.nodes if node.state != "ready"]
                told += [
                    f"{node.name}: was not told"
                    for node in cluster.nodes
                    if node.generation != cluster.generation
                ]
                lock = Lock.load(self.session.site, cluster.lock)
                if lock.requested != tuple(sorted(cluster.request.software.packages)):
                    told.append(f"{cluster.name}: has the lock of {lock.requested}")
                if len(cluster.nodes) != cluster.request.hardware.number_of_nodes:
                    told.append(f"{cluster.name}: has {len(cluster.nodes)} nodes")
        return told


def runs(cluster: Cluster) -> bool:
    return cluster.state == "ready"


def test_lives_at_random(toy: Repository, tmp_path: Path) -> None:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        lives = Lives(session, toy)
        for _ in range(lives.steps):
            lives.step()
        told = lives.told()
        for host in lives.hosts.values():
            host.off, host.quiet = False, True
        # All hosts are back: what was left half done is done, by whoever would do it.
        lives.random = random.Random(1)  # noqa: S311
        calm = lives.random
        calm.random = lambda: 1.0  # type: ignore[method-assign]
        for cluster in clusters.live(session.store):
            if cluster.state == "stopped" and cluster.id in lives.given_up:
                lives.destroy(cluster.name)  # which did not come to its end
            elif cluster.state not in ("ready", "stopped"):
                with contextlib.suppress(CapacityError):  # which the site forgets
                    lives.create(cluster.name)
        for cluster in clusters.live(session.store):
            if cluster.state == "ready":
                with lives.make() as own:
                    apply.run(
                        own,
                        Inputs(cluster.name, hosts=HOSTS),
                        number=cluster.request.hardware.number_of_nodes,
                        restarts=True,
                    )
                    lives.do_the_rest(own, cluster.name)
        for _ in range(6):
            lives.pass_by("")
            lives.keeper.round(answer=10, work=60)
        lives.keeper.close()
        assert (lives.wrong(), lives.unchanged) == ([], []), told
        assert sum("killed" not in one and "(" not in one for one in lives.done) > lives.steps / 3, told
        for name in clusters.names(session.store):
            lives.destroy(name)
        assert [host.domains for host in lives.hosts.values()] == [{}] * len(HOSTS), told
        assert session.store.rows("SELECT * FROM nodes") == [], told
        assert session.fake_networks.segments == {}, told
        assert not any(files for host in lives.hosts.values() for files in host.folders.values()), told
