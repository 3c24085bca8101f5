"""What nodes report on their consoles, and following it until all have come as far as they should.

A node's console carries whole lines `vclust: …`: installer, progress, installed, ready, failed
(`vclust_py/image/guest`).
"""

import contextlib
import functools
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from vclust_py import timing
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Hypervisor
from vclust_py.nodes import domain_name
from vclust_py.site import clusters, kept_logs
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session, fan_out
from vclust_py.site.states import NodeState
from vclust_py.text import DETAIL, LINE, plain

_LINE = re.compile(rb"vclust: (installer|progress|took|installed|ready|failed)\b ?(.*)", re.DOTALL)
_LONGEST = 4096  # bytes of a console line that are kept until it ends
_OVERLAP = 64  # bytes read again at each look, to see that it is still the same console
_WORDS = 1 << 16  # bytes at the end of a console that may come into an error
_STEPS = ("unpack", "configure")
_TOLD_IN_FULL = 4
"""Failed nodes whose reasons are told in full; of more, the names."""
_ORDER = list(NodeState)
_POLL = 0.1  # seconds between two looks at the consoles
_POLL_FAR = 1.0  # at most, where some are on other machines
_LOOK_FAR = 0.25  # for each of these: a look costs its host, and the last few are looked at more often
_ALIVE = 5.0  # seconds between two looks at whether the silent nodes still run


class Meanwhile(Protocol):
    """What is done while nodes are waited for."""

    def saw(self, node: str, state: NodeState) -> None:
        """Of each node after each look."""

    def work(self, seconds: float) -> None:
        """In place of waiting so long."""


@dataclass
class Watch:
    """What a node's console has said since its start."""

    node: Node
    console: Callable[[int], bytes]
    """What the console has said from a byte on, counted from its end where negative; not all at once."""
    start: float
    state: NodeState
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

    def begin(self) -> None:
        """The node has been started anew, with an empty console."""
        self.state, self.start, self.detail = NodeState.STARTED, time.time(), ""
        self.position, self.last, self.rest = 0, b"", b""

    def fail(self, why: str) -> None:
        self.state, self.detail = NodeState.FAILED, plain(why, DETAIL, lines=True)

    def transcript(self) -> str:
        """Why it failed, and the end of its console, which has the log of an installation step that failed."""
        try:
            text = self.console(-_WORDS)[-_WORDS:].decode(errors="replace").replace("\r\n", "\n")
        except VclustError as error:
            text = f"its console cannot be read: {error}"
        return f"{self.node.name} on {self.node.host} has failed: {self.detail}\n\n{text.strip()}"

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


def expected(cluster: Cluster, goal: NodeState) -> Change:
    """The nodes' states as they are, and as they will be once all have come to `goal` that still may."""
    return Change(
        {node.name: str(node.state) for node in cluster.nodes},
        {node.name: str(max(node.state, goal, key=_rank)) for node in cluster.nodes},
    )


def reached(change: Change, cluster: Cluster) -> Change:
    """The change as it has come."""
    return Change(change.before, {node.name: str(node.state) for node in cluster.nodes})


def _rank(state: NodeState) -> int:
    """How far a node has come; a failed node, the last of all states, has come as far as it will."""
    return _ORDER.index(state)


def follow(
    session: Session,
    cluster: Cluster,
    goal: NodeState,
    drivers: Mapping[str, Hypervisor],
    errors: Mapping[str, VclustError],
    record: timing.Recorder,
    *,
    least: int | None = None,
    timeouts: Mapping[str, float] = MappingProxyType({}),
    instead: Callable[[Watch], bool] = lambda _: False,
    meanwhile: Meanwhile | None = None,
) -> list[Watch]:
    """Read the consoles until every node has reached `goal` or failed; what was seen of those that had not yet.

    `timeouts` are the seconds that some nodes have, by their names, where that is not the site's `ready_timeout`.
    `instead` is asked of each node that fails whether it has started it anew: then that is waited for, too.
    `meanwhile` works between two looks.  Raises VclustError when fewer than `least` nodes are left; default: the
    request's MinNodes.
    """
    least = cluster.request.hardware.min_nodes if least is None else least
    folder = clusters.folder(session.store, cluster).name
    watches = [
        Watch(
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
    with ThreadPoolExecutor(fan_out(len(drivers) or 1)) as pool:
        most = {
            watch.node.name: timeouts.get(watch.node.name, session.site.ready_timeout) for watch in watches
        }
        _wait(most, session.site.ready_timeout, watches, goal, drivers, record, pool, instead, meanwhile)
    record.flush()
    failed = [watch for watch in watches if watch.state is NodeState.FAILED]
    for watch in failed:
        # It is of no use any more, and may be busy doing nothing; its console stays.  Its host may be gone.
        if watch.node.host in drivers:
            with contextlib.suppress(VclustError):
                drivers[watch.node.host].remove(watch.node.uuid)
    logs = _keep(session, cluster, failed)
    lost = {watch.node.name for watch in failed}
    lost |= {node.name for node in cluster.nodes if node.state is NodeState.FAILED}
    left = len(cluster.nodes) - len(lost)
    if left < least:
        raise VclustError(
            _told(cluster, failed)
            or f"{cluster.name}: {left} of {len(cluster.nodes)} nodes work, MinNodes asks for {least}",
            f"{logs}create again starts the failed nodes anew; `vclust destroy {cluster.name}` removes all",
        )
    return watches


def _keep(session: Session, cluster: Cluster, failed: Sequence[Watch]) -> str:
    """Keep logs of failed nodes, which for an error are where they are."""
    paths = list[str]()
    for watch in failed[: kept_logs.MOST_LOGS]:
        path = kept_logs.keep(session.store, cluster, watch.node.name, watch.transcript())
        paths += [str(path)] if path else []
    more = f" and {len(paths) - _TOLD_IN_FULL} more there" if len(paths) > _TOLD_IN_FULL else ""
    return f"the end of the console: {', '.join(paths[:_TOLD_IN_FULL])}{more}; " if paths else ""


def _told(cluster: Cluster, failed: Sequence[Watch]) -> str:
    """Why nodes failed; the error has space for the reasons of a few and the names of many."""
    reasons = [f"{cluster.name}: {watch.node.name}: {watch.detail}" for watch in failed[:_TOLD_IN_FULL]]
    if others := [watch.node.name for watch in failed[_TOLD_IN_FULL:]]:
        reasons.insert(
            0, f"{cluster.name}: {len(failed)} nodes failed, the first as follows; also {', '.join(others)}"
        )
    return "\n".join(reasons)


def steps(watches: Sequence[Watch]) -> dict[str, float]:
    """Seconds of each step in the node that took longest for it."""
    names = {step for watch in watches for step in watch.took}
    return {step: max(watch.took.get(step, 0.0) for watch in watches) for step in sorted(names)}


def _unanswered(error: VclustError, position: int) -> bytes:
    raise error


def _wait(
    timeouts: Mapping[str, float],
    timeout_anew: float,
    watches: Sequence[Watch],
    goal: NodeState,
    drivers: Mapping[str, Hypervisor],
    record: timing.Recorder,
    pool: ThreadPoolExecutor,
    instead: Callable[[Watch], bool],
    meanwhile: Meanwhile | None,
) -> None:
    waiting, looked = list(watches), time.monotonic()
    limits = {name: (seconds, looked + seconds) for name, seconds in timeouts.items()}
    while waiting:
        begun = time.monotonic()
        for watch, lines in zip(waiting, pool.map(Watch.read, waiting), strict=True):
            for word, rest in lines:
                take(watch, word, rest, record)
            if meanwhile is not None:
                meanwhile.saw(watch.node.name, watch.state)
        if time.monotonic() - looked > _ALIVE:
            _look(waiting, drivers)
            looked = time.monotonic()
        for watch in waiting:
            timeout, deadline = limits[watch.node.name]
            if time.monotonic() > deadline:
                watch.fail(f"no report after {timeout:g} s; {watch.last_words()}")
            if watch.state is NodeState.FAILED and instead(watch):
                watch.begin()
                limits[watch.node.name] = timeout_anew, time.monotonic() + timeout_anew
        done = [watch for watch in waiting if _rank(watch.state) >= _rank(goal)]
        waiting = [watch for watch in waiting if _rank(watch.state) < _rank(goal)]
        for watch in done:
            outcome = watch.detail or "done"
            record.node(watch.node.name, watch.start, time.time(), outcome, state=watch.state)
            if watch.state is NodeState.FAILED:
                record.report(f"failed: {watch.detail.splitlines()[0]}", node=watch.node.name)
        if done:
            record.report(goal, len(watches) - len(waiting), len(watches))
        if waiting:
            # Thousands of consoles take longer than the pause: half of the time is for those who report.
            far = sum(watch.node.machine is not None for watch in waiting)
            poll = max(_POLL, min(_LOOK_FAR * far, _POLL_FAR))
            pause = max(poll, min(time.monotonic() - begun, _ALIVE))
            (time.sleep if meanwhile is None else meanwhile.work)(pause)


def take(watch: Watch, word: str, rest: str, record: timing.Recorder | None = None) -> None:
    """Judge a line that a node has said; with `record` its progress is written down."""
    if word == "progress":
        found = re.fullmatch(r"(.+) ([0-9]{1,9})/([0-9]{1,9})", rest)
        if found and record is not None:
            record.report(found[1], int(found[2]), int(found[3]), node=watch.node.name)
    elif word == "took":
        step, _, seconds = rest.partition(" ")
        # A node may say anything.
        if step in _STEPS and re.fullmatch(r"[0-9]{1,6}\.[0-9]{2}", seconds):
            watch.took[step] = float(seconds)
    elif word == "failed":
        watch.fail(rest)
    elif watch.state is not NodeState.FAILED and _rank(NodeState(word)) > _rank(watch.state):
        watch.state = NodeState(word)
        if record is not None:
            record.report(f"{word} {rest}", node=watch.node.name)


def _look(waiting: Sequence[Watch], drivers: Mapping[str, Hypervisor]) -> None:
    """A node whose domain has gone will never report."""
    running: dict[str, set[str]] = {}
    for host in {watch.node.host for watch in waiting} & drivers.keys():
        with contextlib.suppress(VclustError):  # reading its consoles will tell
            running[host] = drivers[host].running()
    for watch in waiting:
        found = running.get(watch.node.host)
        if watch.state is not NodeState.FAILED and found is not None and watch.node.uuid not in found:
            watch.fail(f"its domain stopped; {watch.last_words()}")
