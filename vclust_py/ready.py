"""Phases `install` and `ready`: the nodes report on their consoles, then the cluster is proved from outside.

A node's console carries whole lines `vclust: …`: installer, progress, installed, ready, failed
(`vclust_py/image/guest`).  Logging in to every node from outside would cost an emulated node seconds of CPU; so
every node checks itself, and one login to the first node tries the way to all others.
"""

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from vclust_py import hypervisor, metapackages, state, timing
from vclust_py.access import ssh_options
from vclust_py.cache import manager
from vclust_py.create import FAN_OUT, Connect, demand, domain_name, drivers_of, facts
from vclust_py.errors import VclustError
from vclust_py.guest import proof
from vclust_py.hypervisor import Hypervisor
from vclust_py.image import Catalogue
from vclust_py.resolve import Lock
from vclust_py.run import run
from vclust_py.site import Site
from vclust_py.state import Change, Cluster, Node
from vclust_py.text import DETAIL, LINE, plain

_LINE = re.compile(rb"vclust: (installer|progress|took|installed|ready|failed)\b ?(.*)", re.DOTALL)
_LONGEST = 4096  # bytes of a console line that are kept until it ends
_OVERLAP = 64  # bytes read again at each look, to see that it is still the same console
_WORDS = 1 << 16  # bytes at the end of a console that may come into an error
_STEPS = ("unpack", "configure")
_TOLD_IN_FULL = 4
"""Failed nodes whose reasons are told in full; of more, the names."""
_POLL = 0.1  # seconds between two looks at the consoles
_POLL_FAR = 1.0  # where some are on other machines
_ALIVE = 5.0  # seconds between two looks at whether the silent nodes still run
_ORDER = ("started", "installer", "installed", "ready")


@dataclass
class _Watch:
    """What a node's console has said since its start."""

    node: Node
    console: Callable[[int], bytes]
    """What the console has said from a byte on, counted from its end where negative; not all at once."""
    start: float
    state: str
    position: int = 0
    detail: str = ""
    rest: bytes = field(default=b"", repr=False)
    """The end of what was read: a line that is not yet whole."""
    last: bytes = field(default=b"", repr=False)
    """The last bytes read, which the next look must find again."""
    took: dict[str, float] = field(default_factory=dict)
    """Seconds of the steps of installing: unpack, configure."""

    def read(self) -> list[tuple[str, str]]:
        """New lines of ours, as (word, rest of the line).  A host that does not answer fails the node."""
        try:
            new = self._new()
        except VclustError as error:
            self.fail(str(error))
            return []
        self.position += len(new)
        self.last = (self.last + new)[-_OVERLAP:]
        *lines, rest = (self.rest + new).split(b"\n")
        self.rest = _unfinished(rest)
        return [line for line in map(_ours, lines) if line]

    def _new(self) -> bytes:
        """What was said since the last look; all of it where a log that grew too long was put away for a new one."""
        begin = self.position - len(self.last)
        seen = self.console(begin)
        if seen.startswith(self.last):
            return seen[len(self.last) :]
        self.position, self.last, self.rest = 0, b"", b""
        return self.console(0)

    def fail(self, why: str) -> None:
        self.state, self.detail = "failed", plain(why, DETAIL, lines=True)

    def last_words(self) -> str:
        """The end of the console, for an error message."""
        try:
            lines = self.console(-_WORDS)[-_WORDS:].decode(errors="replace").splitlines()
        except VclustError as error:
            return f"its console cannot be read: {error}"
        shown = [plain(line.strip(), LINE) for line in lines if line.strip()][-5:]
        return "its console ended with:\n    " + "\n    ".join(shown) if shown else "its console said nothing"


def _unfinished(line: bytes) -> bytes:
    """What to keep of a line without an end: the beginning of ours, else the end of others'."""
    found = _LINE.search(line)
    return line[found.start() :][:_LONGEST] if found else line[-_LONGEST:]


def _ours(line: bytes) -> tuple[str, str] | None:
    """Word and rest of a line of ours, which may follow others' words on the same line."""
    # What a carriage return has overwritten nobody would see either.
    found = _LINE.search(line.rstrip(b"\r").rpartition(b"\r")[2])
    return (found[1].decode(), found[2].decode(errors="replace")) if found else None


def wait_installed(
    site: Site,
    name: str,
    *,
    check: bool = False,
    connect: Connect = hypervisor.connect,
) -> Change:
    """Wait until every node's installer has handed over to the installed system.

    Raises VclustError naming the nodes that failed, when fewer than the request's MinNodes are left.
    """
    with state.held(site, name) as cluster:
        change = _goal(cluster, "installed")
        if check or not change.changed:
            return change
        with _phase(site, cluster, "install", connect) as (record, drivers, errors):
            watches = _follow(site, cluster, "installed", drivers, errors, record)
            if "bundle" in cluster.images:  # what `place` foretells from
                bundle = Catalogue(site).get(cluster.images["bundle"])
                record.bytes = bundle.manifest.installed_size
                record.facts |= _steps(watches) | {
                    "unpack_bytes": record.bytes,
                    "configure_bytes": Lock.load(site, cluster.lock).installed_bytes,
                }
        return Change(change.before, _states(state.get(site, name)))


def prove(
    site: Site,
    name: str,
    *,
    check: bool = False,
    connect: Connect = hypervisor.connect,
) -> Change:
    """Wait for every node's own check, then log in as a user would, and run MPI across the nodes if there is one.

    Raises VclustError with what did not work.
    """
    with state.held(site, name) as cluster:
        change = _goal(cluster, "ready")
        if check or (not change.changed and cluster.state == "ready"):
            return change
        with _phase(site, cluster, "ready", connect) as (record, drivers, errors):
            _follow(site, cluster, "ready", drivers, errors, record)
            cluster = state.get(site, name)
            nodes = [node for node in cluster.nodes if node.state == "ready"]
            record.report("log in, try the way to every node")
            begun = time.time()
            record.facts |= _prove(site, cluster, nodes) | {"proof_seconds": time.time() - begun}
        lost = [node.name for node in cluster.nodes if node.state == "failed"]
        detail = f"without {', '.join(lost)}, which failed (MinNodes allows it)" if lost else ""
        state.update(site, cluster, state="ready", ready=time.time(), detail=detail)
        manager.start_if_due(site)
        return Change(change.before, _states(cluster))


def _states(cluster: Cluster) -> dict[str, str]:
    return {node.name: node.state for node in cluster.nodes}


def _goal(cluster: Cluster, goal: str) -> Change:
    before = _states(cluster)
    return Change(
        before, {node: goal if _rank(found) < _rank(goal) else found for node, found in before.items()}
    )


@contextlib.contextmanager
def _phase(
    site: Site, cluster: Cluster, phase: str, connect: Connect
) -> Iterator[tuple[timing.Recorder, dict[str, Hypervisor], dict[str, VclustError]]]:
    with (
        timing.phase(site, cluster, phase) as record,
        drivers_of(site, cluster, connect) as (drivers, errors),
    ):
        demand(cluster, errors)
        record.facts = facts(cluster, drivers)
        yield record, drivers, errors


def _rank(node_state: str) -> int:
    """How far a node has come; a failed node has come as far as it will."""
    return len(_ORDER) if node_state == "failed" else _ORDER.index(node_state) if node_state in _ORDER else -1


def _follow(
    site: Site,
    cluster: Cluster,
    goal: str,
    drivers: Mapping[str, Hypervisor],
    errors: Mapping[str, VclustError],
    record: timing.Recorder,
) -> list[_Watch]:
    """Read the consoles until every node has reached `goal` or failed; what was seen of those that had not yet.

    Raises VclustError when fewer than MinNodes nodes are left.
    """
    folder = state.folder(site, cluster).name
    watches = [
        _Watch(
            node,
            functools.partial(_unanswered, errors[node.host])
            if node.host in errors
            else functools.partial(drivers[node.host].console, folder, domain_name(cluster, node)),
            time.time(),
            node.state,
        )
        for node in cluster.nodes
        if _rank(node.state) < _rank(goal)
    ]
    with ThreadPoolExecutor(FAN_OUT) as pool:
        _wait(site, cluster, watches, goal, drivers, record, pool)
    failed = [watch for watch in watches if watch.state == "failed"]
    for watch in failed:
        # It is of no use any more, and may be busy doing nothing; its console stays.  Its host may be gone.
        if watch.node.host in drivers:
            with contextlib.suppress(VclustError):
                drivers[watch.node.host].remove(watch.node.uuid)
    left = sum(node.state != "failed" for node in state.get(site, cluster.name).nodes)
    if left < cluster.request.hardware.min_nodes:
        raise VclustError(
            _told(cluster, failed)
            or f"{cluster.name}: {left} of {len(cluster.nodes)} nodes work, MinNodes asks for"
            f" {cluster.request.hardware.min_nodes}",
            f"create again starts the failed nodes anew; `vclust destroy {cluster.name}` removes all",
        )
    return watches


def _told(cluster: Cluster, failed: Sequence[_Watch]) -> str:
    """Why nodes failed; the error has space for the reasons of a few and the names of many."""
    reasons = [f"{cluster.name}: {watch.node.name}: {watch.detail}" for watch in failed[:_TOLD_IN_FULL]]
    if others := [watch.node.name for watch in failed[_TOLD_IN_FULL:]]:
        reasons.insert(
            0, f"{cluster.name}: {len(failed)} nodes failed, the first as follows; also {', '.join(others)}"
        )
    return "\n".join(reasons)


def _steps(watches: Sequence[_Watch]) -> dict[str, float]:
    """Seconds of each step in the node that took longest for it."""
    steps = {step for watch in watches for step in watch.took}
    return {step: max(watch.took.get(step, 0.0) for watch in watches) for step in sorted(steps)}


def _unanswered(error: VclustError, position: int) -> bytes:
    raise error


def _wait(
    site: Site,
    cluster: Cluster,
    watches: Sequence[_Watch],
    goal: str,
    drivers: Mapping[str, Hypervisor],
    record: timing.Recorder,
    pool: ThreadPoolExecutor,
) -> None:
    waiting, deadline, looked = list(watches), time.monotonic() + site.ready_timeout, time.monotonic()
    poll = _POLL_FAR if any(watch.node.machine for watch in watches) else _POLL
    while waiting:
        for watch, lines in zip(waiting, pool.map(_Watch.read, waiting), strict=True):
            for word, rest in lines:
                _take(watch, word, rest, record)
        if time.monotonic() - looked > _ALIVE:
            _look(waiting, drivers)
            looked = time.monotonic()
        if time.monotonic() > deadline:
            for watch in waiting:
                watch.fail(f"no report after {site.ready_timeout} s; {watch.last_words()}")
        for watch in [watch for watch in waiting if _rank(watch.state) >= _rank(goal)]:
            waiting.remove(watch)
            state.set_node_state(site, cluster, watch.node.name, watch.state)
            record.node(watch.node.name, watch.start, time.time(), watch.detail or "done")
            if watch.state == "failed":
                record.report(f"failed: {watch.detail.splitlines()[0]}", node=watch.node.name)
            record.report(goal, len(watches) - len(waiting), len(watches))
        if waiting:
            time.sleep(poll)


def _take(watch: _Watch, word: str, rest: str, record: timing.Recorder) -> None:
    if word == "progress":
        found = re.fullmatch(r"(.+) ([0-9]{1,9})/([0-9]{1,9})", rest)
        if found:
            record.report(found[1], int(found[2]), int(found[3]), node=watch.node.name)
    elif word == "took":
        step, _, seconds = rest.partition(" ")
        # A node may say anything.
        if step in _STEPS and re.fullmatch(r"[0-9]{1,6}\.[0-9]{2}", seconds):
            watch.took[step] = float(seconds)
    elif word == "failed":
        watch.fail(rest)
    elif watch.state != "failed" and _rank(word) > _rank(watch.state):
        watch.state = word
        record.report(f"{word} {rest}", node=watch.node.name)


def _look(waiting: Sequence[_Watch], drivers: Mapping[str, Hypervisor]) -> None:
    """A node whose domain has gone will never report."""
    running: dict[str, set[str]] = {}
    for host in {watch.node.host for watch in waiting} & drivers.keys():
        with contextlib.suppress(VclustError):  # reading its consoles will tell
            running[host] = drivers[host].running()
    for watch in waiting:
        found = running.get(watch.node.host)
        if watch.state != "failed" and found is not None and watch.node.uuid not in found:
            watch.fail(f"its domain stopped; {watch.last_words()}")


def _prove(site: Site, cluster: Cluster, nodes: Sequence[Node]) -> dict[str, object]:
    """One login to the first node that tries everything; what it says must hold for every node."""
    names = [node.name for node in nodes]
    checks = [bundle for bundle in metapackages.expand(cluster.request, site) if bundle.check]
    output = _login(site, cluster, nodes[0], proof.script(names, checks), proof.timeout(names))
    return proof.judge(cluster.name, output, names, checks)


def _login(site: Site, cluster: Cluster, node: Node, script: str, timeout: float) -> str:
    described = state.describe(site, cluster.name)[0]
    user = described["ssh"]["user"]
    key = described["ssh"]["admin_key" if user == "root" else "key"]
    argv = ["ssh", "-F", "/dev/null", *ssh_options(described, {"name": node.name, "address": node.address})]
    argv += [
        "-o",
        "BatchMode=yes",
        "-o",
        "ConnectTimeout=60",
        "-o",
        proof.KEY_EXCHANGE,
        "-i",
        key,
        f"{user}@{node.name}",
        "sh",
        "-s",
    ]
    return run(argv, stdin=script, timeout=timeout, limit=proof.OUTPUT_LIMIT)
