"""The keeper: one process on the site manager that keeps its clusters as they should be.

Each few seconds it asks the hosts what runs there and writes that down, starts nodes again that have ended, brings
networks back that a restart of the machine has taken, and ends clusters whose lease is over.  It waits for nothing: a
host that hangs, a cluster that somebody works on, and nodes that take their time to boot are for the next round.

The roll-out has systemd run `python -m vclust_py.life.keeper`, with JSON on standard input: the site's settings
(`site`) and `hosts`.
"""

import contextlib
import json
import math
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path

from vclust_py import repair, timing
from vclust_py.errors import BusyError, VclustError
from vclust_py.guest import console as console_
from vclust_py.hypervisor import Host
from vclust_py.life import heal, hook, lease, message, replace, stop, teach
from vclust_py.life.apply import remove_leaving
from vclust_py.life.idle import Use, after, is_deserted
from vclust_py.life.look import NEVER, Questions, told
from vclust_py.nodes import domain_name
from vclust_py.phases import Inputs, destroy, image
from vclust_py.phases.create import serve_homes
from vclust_py.quotas import ROOT
from vclust_py.site import Site, changes, clusters, hosts
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.condition import Sighting
from vclust_py.site.session import Session
from vclust_py.site.states import SHOULD_RUN, ClusterState, NodeState
from vclust_py.site.store import audit
from vclust_py.site.users import User
from vclust_py.text import age

PERIOD = 5.0
"""Seconds from one round to the next."""
_ANSWER = 3.0
"""Seconds of a round in which hosts may answer."""
_HUNG = 20.0
"""Seconds after which a host that is still being asked counts as one that does not answer."""
LOCK = "keeper"
_ASKED = (*SHOULD_RUN, NodeState.PLACED, NodeState.FAILED)
"""States of nodes whose hosts are asked what runs there."""
_MEASURE = 60.0
"""Seconds from one look at what clusters do to the next."""
_FENCE = 120.0
"""Seconds that it may take to switch a host off."""
_AT_ONCE = 8
"""Clusters that something is done with side by side."""


class Keeper:
    """`make` gives a new session; one is kept for looking, and what changes something has one of its own."""

    def __init__(self, make: Callable[[], Session], hosts: Sequence[Host] = ()) -> None:
        """`hosts` are those of the site, to which nodes can go whose own is dead."""
        self._make, self._hosts = make, tuple(hosts)
        self._off: set[str] = set()
        """Hosts that are surely off."""
        self._silent: dict[str, float] = {}
        """Hosts that do not answer, and since when that is known (monotonic): clocks may be set."""
        self._tries: dict[str, float] = {}
        """When it was last tried to switch a host off (monotonic)."""
        self._uses: dict[int, Use] = {}
        """Of clusters that end when nobody uses them, by their numbers."""
        self._session = make()
        self._questions = Questions(self._running)
        self._pool = ThreadPoolExecutor(_AT_ONCE)
        self._jobs: dict[str, Future[None]] = {}
        """Clusters that something is being done with."""
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._last: dict[str, str] = {}
        """What was last said to be wrong with a cluster: each round finds it again."""

    def round(self, *, answer: float = _ANSWER, work: float = 0.0) -> list[str]:
        """Look once, and begin what is due; what was done since the last round, and what is newly wrong, a line each.

        Hosts may take `answer` seconds to tell; `work` seconds are waited for what was begun.
        """
        store = self._session.store
        if store.exists:
            known = self._look(answer)
            live = clusters.live(store)
            self._fence(live, known)
            self._measure(live)
            for cluster in live:
                if cluster.name not in self._jobs and not self._is_well(cluster, known):
                    self._jobs[cluster.name] = self._pool.submit(self._keep, cluster.name, known)
            wait(self._jobs.values(), work)
            for name, job in [(name, job) for name, job in self._jobs.items() if job.done()]:
                del self._jobs[name]
                self._judge(name, job)
        return self._said()

    def _said(self) -> list[str]:
        lines = []
        while not self._lines.empty():
            lines.append(self._lines.get())
        return lines

    def _judge(self, name: str, job: Future[None]) -> None:
        try:
            job.result()
            self._last.pop(name, None)
        except Exception as error:  # nothing that is wrong with one cluster ends the keeping of the others
            text = str(error) if isinstance(error, VclustError) else repr(error)
            if self._last.get(name) != text:
                self._last[name] = text
                self._lines.put(f"{name}: {text}")

    def close(self) -> list[str]:
        """End what was begun; what was done, a line each."""
        self._pool.shutdown()
        self._session.close()
        for name, job in self._jobs.items():
            self._judge(name, job)
        return self._said()

    def _running(self, host: Host) -> set[str]:
        drivers, errors = self._session.drivers([host])
        if host.name in errors:
            raise errors[host.name]
        return drivers[host.name].running()

    def _look(self, within: float) -> dict[str, Sighting]:
        """What hosts tell now, by name; those still being asked are left out until they count as hung."""
        store = self._session.store
        known = hosts.sightings(store)
        self._questions.put(hosts.with_nodes(store, _ASKED, leaving=True))
        seen = {
            host: told(known, host, sighting) for host, sighting in self._questions.answers(within).items()
        }
        for host, since in self._questions.waiting.items():
            if time.monotonic() - since > _HUNG:
                before = known.get(host, NEVER).time
                seen[host] = Sighting(before, error=f"{host}: no answer for {_HUNG:g} s")
        hosts.record_sightings(store, seen)
        return seen

    # Hosts that are dead -------------------------------------------------------------------------------------------

    def _fence(self, live: Sequence[Cluster], known: Mapping[str, Sighting]) -> None:
        """Begin to switch off hosts that have not answered for long, where that helps a cluster.

        Not while more hosts are silent than answer: then it is rather this machine that is cut off.
        """
        now = time.monotonic()
        answering = {host for host, sighting in known.items() if not sighting.error}
        self._off -= answering
        self._silent = {
            host: self._silent.get(host, now) for host in (known.keys() | self._silent.keys()) - answering
        }
        site = self._session.site
        if site.fence is None or len(self._silent) > len(answering):
            return
        wanted = {
            node.host
            for one in live
            if _replaces(one) and one.state is ClusterState.READY
            for node in one.nodes
        }
        for host in (wanted & self._silent.keys()) - self._off:
            job, tried = f"host {host}", max(self._silent[host], self._tries.get(host, -math.inf))
            if job not in self._jobs and now - tried > site.fence_after:
                self._tries[host] = now
                self._jobs[job] = self._pool.submit(self._switch_off, host, site.fence)

    def _switch_off(self, host: str, program: Path) -> None:
        with self._make() as session:
            try:
                session.run([str(program), host], timeout=_FENCE)
            except VclustError as error:
                raise VclustError(f"is not surely off: {error}") from error
            audit(session.store, "fence", "", host)
        self._off.add(host)
        self._lines.put(f"{host}: is switched off: it has not answered for too long")

    # Clusters that nobody uses -------------------------------------------------------------------------------------

    def _measure(self, live: Sequence[Cluster]) -> None:
        """Begin to look, once a minute, what clusters do that end when nobody uses them."""
        now = time.monotonic()
        kept = {one.id: one for one in live if one.request.software.idle and one.state is ClusterState.READY}
        self._uses = {number: use for number, use in self._uses.items() if number in kept}
        for number, cluster in kept.items():
            use = self._uses.get(number)
            if cluster.name not in self._jobs and (use is None or now - use.measured >= _MEASURE):
                self._jobs[cluster.name] = self._pool.submit(self._use, cluster)

    def _use(self, cluster: Cluster) -> None:
        """What the cluster has done; it ends where that was nothing for long enough."""
        drivers, errors = self._session.drivers(
            Host(node.host, node.uri, node.guest) for node in cluster.nodes
        )
        found = {
            uuid: used for driver in drivers.values() for uuid, used in driver.processor_seconds().items()
        }
        now, idle = time.monotonic(), cluster.request.software.idle or 0
        if errors or any(node.uuid not in found for node in cluster.nodes):
            self._uses.pop(cluster.id, None)
            return
        used = {node.uuid: found[node.uuid] for node in cluster.nodes}
        use = self._uses[cluster.id] = after(self._uses.get(cluster.id), now, used)
        if use.since is None or now - use.since < idle:
            return
        with contextlib.suppress(BusyError), self._make() as session:
            if not is_deserted(session, cluster):
                self._uses[cluster.id] = Use(now, used)
                return
            with clusters.locked(session.store, cluster.name, timeout=0.0) as locked:
                if locked.state is ClusterState.READY:
                    ended = time.time()
                    stop.stop(session, locked, ends=min(locked.ends or ended, ended), ended=ended)
                    audit(session.store, "idle-end", locked.name)
                    text = f"nobody has used it for {age(now - use.since)}, it is stopped"
                    removed = ended + session.site.lease_grace
                    self._note(session, locked, "idle-ended", text, removed=removed)

    # One cluster --------------------------------------------------------------------------------------------------

    def _keep(self, name: str, known: Mapping[str, Sighting]) -> None:
        """Do what is due with one cluster, unless somebody works on it."""
        what, waiting = "", False
        with contextlib.suppress(BusyError):
            with clusters.locked(self._session.store, name, timeout=0.0) as cluster, self._make() as session:
                if _gone(cluster, known):
                    remove_leaving(session, cluster)
                due = lease.due(session.site, cluster, time.time())
                what = due.what
                if what in ("end", "warn"):
                    self._lease(session, cluster, due)
                elif not what and cluster.state is ClusterState.READY:
                    try:
                        waiting = self._heal(session, cluster, known)
                    finally:  # one has nothing to do with the other
                        try:
                            waiting |= self._replace(session, clusters.get(session.store, name))
                        finally:
                            self._serve_homes(session, cluster)
            if waiting:
                with self._make() as session:
                    heal.bring_images(session, name, self._hosts)
            if what == "remove":
                self._remove(name)

    def _is_well(self, cluster: Cluster, known: Mapping[str, Sighting]) -> bool:
        if lease.due(self._session.site, cluster, time.time()).what or _gone(cluster, known):
            return False
        if cluster.state is not ClusterState.READY:
            return True
        settled = all(node.state is NodeState.READY for node in cluster.nodes)
        settled &= not (_replaces(cluster) and replace.lost_nodes(cluster, self._off))
        settled &= repair.has_homes(self._session, cluster)
        return settled and self._session.networks.is_whole(cluster.segment) and not _down(cluster, known)

    def _note(self, session: Session, cluster: Cluster, event: str, text: str, **facts: object) -> None:
        self._lines.put(f"{cluster.name}: {text}")
        hook.tell(session.run, session.site, event, cluster, **facts)

    # Its lease ----------------------------------------------------------------------------------------------------

    def _lease(self, session: Session, cluster: Cluster, due: lease.Due) -> None:
        store = session.store
        if due.what == "warn":
            # Before it is said: who cannot be told must not be told again and again.
            clusters.update(store, cluster, warned=due.left)
            left = max(int((cluster.ends or 0) - time.time()), 0)
            text = f"the lease of {cluster.name} ends in {left // 60} min; vclust renew prolongs it"
            message.say(session, cluster, f"vclust: {text}")
            self._note(session, cluster, "lease-warning", text, left=left)
            return
        removed = time.time() + session.site.lease_grace
        if cluster.state is ClusterState.STOPPED:
            clusters.update(store, cluster, ended=time.time())
        else:
            stop.stop(session, cluster, ended=time.time())
        audit(store, "lease-end", cluster.name)
        self._note(session, cluster, "lease-ended", "its lease has ended, it is stopped", removed=removed)

    def _remove(self, name: str) -> None:
        """Without the cluster's file lock, which this takes itself; a renewal that came first is left alone."""
        with self._make() as session:
            cluster = clusters.get(session.store, name)
            if lease.due(session.site, cluster, time.time()).what != "remove":
                return
            destroy.run(session, Inputs(name))
            self._note(session, cluster, "lease-removed", "the time after its lease is over, it is removed")

    # Its nodes ----------------------------------------------------------------------------------------------------

    def _heal(self, session: Session, cluster: Cluster, known: Mapping[str, Sighting]) -> bool:
        """Whether new nodes wait for images; the next round starts them."""
        if not session.networks.is_whole(cluster.segment):
            closed = repair.repair(session, cluster).closed
            closed += session.networks.admit(session.store)
            audit(session.store, "repair", cluster.name, "its network")
            self._note(session, cluster, "network-repaired", "its network is made again")
            for line in closed:
                self._lines.put(f"{cluster.name}: {line}")
            cluster = clusters.get(session.store, cluster.name)
        self._follow(session, cluster, known)
        heal.note_started(session.store, cluster, {host: one.running or () for host, one in known.items()})
        now = time.time()
        down = _down(cluster, known)
        crashed = [node.name for node in down if node.state in SHOULD_RUN]
        if crashed:
            clusters.observe_nodes(session.store, cluster, dict.fromkeys(crashed, NodeState.FAILED))
            self._note(
                session, cluster, "node-failed", f"does not run any more: {', '.join(crashed)}", nodes=crashed
            )
        if cluster.request.software.heal == "off":
            return False
        if hopeless := [node.name for node in down if node.name in crashed and heal.given_up(node, now)]:
            text = f"left as they are, crashed too often (vclust heal {cluster.name}): {', '.join(hopeless)}"
            self._note(session, cluster, "node-given-up", text, nodes=hopeless)
        may = [node for node in down if heal.may_restart(node, now)]
        new = [node for node in may if node.state is NodeState.PLACED]
        waiting = bool(new) and image.is_outdated(session, cluster)
        self._restart(session, cluster, [node for node in may if not waiting or node not in new], now)
        return waiting

    def _serve_homes(self, session: Session, cluster: Cluster) -> None:
        """Its nodes wait for the homes meanwhile."""
        if not repair.has_homes(session, cluster) and serve_homes(session, cluster):
            audit(session.store, "repair", cluster.name, "its homes")
            self._note(session, cluster, "homes-served", "its homes are served again")

    def _replace(self, session: Session, cluster: Cluster) -> bool:
        """Other places for nodes on hosts that are off; the next round starts them, once they have images."""
        lost = self._off & {node.host for node in cluster.nodes}
        if not (_replaces(cluster) and lost):
            return False
        moved = replace.give_places(session, cluster, lost, self._hosts)
        names = {node.name: node.host for node in moved}
        text = f"{', '.join(sorted(lost))} is dead, other places: {', '.join(f'{a} on {b}' for a, b in names.items())}"
        self._note(session, cluster, "node-replaced", text, nodes=list(names))
        return bool(moved)

    def _restart(self, session: Session, cluster: Cluster, nodes: Sequence[Node], now: float) -> None:
        drivers, _ = session.drivers(Host(node.host, node.uri, node.guest) for node in nodes)
        nodes = [node for node in nodes if node.host in drivers]
        if not nodes:
            return
        names = [node.name for node in nodes]
        counts = {node.name: heal.restarts(node, now) for node in nodes}
        changes.count_restarts(session.store, cluster, counts)
        with timing.phase(session.store, cluster, "heal") as record:
            heal.restart(session, cluster, nodes, drivers, record)
        self._note(session, cluster, "node-restarted", f"started again: {', '.join(names)}", nodes=names)

    def _follow(self, session: Session, cluster: Cluster, known: Mapping[str, Sighting]) -> None:
        """What nodes that were started again have said since; who says nothing for too long has failed."""
        coming = [
            node
            for node in cluster.nodes
            if node.state in _COMING and node.host in known and not known[node.host].error
        ]
        drivers, _ = session.drivers(Host(node.host, node.uri, node.guest) for node in coming)
        states: dict[str, NodeState] = {}
        for node in coming:
            if node.host not in drivers:
                continue
            driver, folder = drivers[node.host], clusters.folder(session.store, cluster).name
            state = _said(node, partial(driver.console, folder, domain_name(cluster, node)))
            if state is not NodeState.READY and time.time() - node.seen > session.site.ready_timeout:
                state = NodeState.FAILED
            if state is NodeState.FAILED:
                driver.remove(node.uuid)
            if state in (NodeState.READY, NodeState.FAILED):
                states[node.name] = state
        clusters.observe_nodes(session.store, cluster, states)
        ready = [name for name, state in states.items() if state is NodeState.READY]
        if not ready:
            return
        self._lines.put(f"{cluster.name}: ready again: {', '.join(ready)}")
        # What it was not told while it did not run.
        cluster = clusters.get(session.store, cluster.name)
        if behind := [node for node in teach.late(cluster) if node.name in ready]:
            for name, error in teach.teach(session, cluster, behind).items():
                self._lines.put(f"{cluster.name}: {name}: {error}")


def _replaces(cluster: Cluster) -> bool:
    return cluster.request.software.heal == "replace"


_COMING = (NodeState.STARTED, NodeState.INSTALLER, NodeState.INSTALLED)


def _down(cluster: Cluster, known: Mapping[str, Sighting]) -> list[Node]:
    """Nodes that should run and do not, on hosts that have told just now; not those started after they did."""
    running = {host: one.running for host, one in known.items() if one.running is not None}
    now = time.time()  # what was seen later than now was seen before the clock was set back
    return [
        node
        for node in heal.not_running(cluster, running)
        if _idle(node) or not known[node.host].time < node.seen <= now
    ]


def _gone(cluster: Cluster, known: Mapping[str, Sighting]) -> list[Node]:
    """Nodes that it is not to have any more, on hosts that answer."""
    return [node for node in cluster.leaving if node.host in known and not known[node.host].error]


def _idle(node: Node) -> bool:
    return node.state in (NodeState.PLACED, NodeState.FAILED)


def _said(node: Node, console: Callable[[int], bytes]) -> NodeState:
    """What a node's console has reported since its start; a console has at most 1 MiB at once."""
    watch = console_.Watch(node, console, node.seen, node.state)
    while lines := watch.read():
        for word, rest in lines:
            console_.take(watch, word, rest)
    return watch.state


def main() -> None:
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())  # after the round: nothing is left half done
    try:
        given = json.load(sys.stdin)
        site = Site.from_mapping(given.get("site") or {})
        known = [Host.from_mapping(host) for host in given.get("hosts") or ()]

        def make() -> Session:
            session = Session(site)
            session.store.user = User(ROOT, administrator=True, via="keeper")
            return session

        with site.file_lock(LOCK, timeout=0.0):
            keeper = Keeper(make, known)
            while not ended.is_set():
                for line in keeper.round():
                    print(line, flush=True)
                ended.wait(PERIOD)
            for line in keeper.close():
                print(line, flush=True)
    except (ValueError, AttributeError, VclustError) as error:
        sys.exit(f"vclust: {error}")


if __name__ == "__main__":
    main()
