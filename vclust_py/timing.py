"""Start, end, bytes and outcome of every phase and node, in the site's store; and what past runs let expect."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.request import Request
from vclust_py.site import clusters, records
from vclust_py.site.clusters import Cluster
from vclust_py.site.states import NodeState
from vclust_py.site.store import Store
from vclust_py.text import DETAIL, LINE, plain

Report = Callable[[str, int, int], None]
"""Progress: message, done, total; a total of 0 means unknown."""

_INTERVAL = (
    0.2  # seconds between two progress rows of one node, and between two writes: a display cannot use more
)
_MOST = 2**53
"""A count above this is nonsense that a guest or host said; SQLite and JSON bear it."""


class Recorder:
    """Records one run of one phase; made by `phase`.  Threads may share it.

    Rows are written in batches: what comes within an interval goes in one transaction.
    """

    def __init__(self, store: Store, cluster: Cluster, name: str) -> None:
        self._store, self._cluster, self._phase = store, cluster, name
        self._last: dict[str, tuple[float, str]] = {}
        self._mutex, self._writing = threading.Lock(), threading.Lock()
        self._progress: list[records.Row] = []
        self._nodes: list[records.Row] = []
        self._states: dict[str, NodeState] = {}
        self._timer: threading.Timer | None = None
        self._failure: VclustError | None = None
        self.bytes = 0
        self.facts: dict[str, Any] = {}

    def report(self, message: str, done: int = 0, total: int = 0, *, node: str = "") -> None:
        """Progress for the live display; too frequent calls are dropped, the last of a count never is.

        Nor is a new step of the phase itself, which may take long.  Of a node it is: guests may say anything.
        """
        now = time.time()
        with self._mutex:
            moment, before = self._last.get(node, (0.0, ""))
            step = not node and message != before
            if now - moment < _INTERVAL and not step and (total == 0 or done < total):
                return
            self._last[node] = now, message
            self._progress.append(self._row(node, message, done, total, now))
            self._later()

    def report_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Progress of many nodes at once: `node`, `message`, `done`, `total` of each."""
        now = time.time()
        with self._mutex:
            self._progress += [
                self._row(row["node"], row["message"], row["done"], row["total"], now) for row in rows
            ]
            self._later()

    def _row(self, node: str, message: str, done: int, total: int, now: float) -> records.Row:
        """As it is stored: guests and hosts have a part in the message and the counts."""
        done, total = (min(max(count, 0), _MOST) for count in (done, total))
        return self._cluster.id, self._phase, node, plain(message, LINE), done, total, now

    def node(
        self,
        node: str,
        start: float,
        end: float,
        outcome: str = "done",
        count: int = 0,
        *,
        state: NodeState | None = None,
    ) -> None:
        """One node's (or host's) part in the phase: Unix times, bytes; and the state the node is in now."""
        outcome = plain(outcome, DETAIL, lines=True)
        with self._mutex:
            self._nodes.append((self._cluster.id, self._phase, node, start, end, count, outcome))
            if state is not None:
                self._states[node] = state
            self._later()

    def _later(self) -> None:
        """Write what is waiting, an interval from now at the latest."""
        if self._failure is not None:
            raise self._failure
        if self._timer is None:
            self._timer = threading.Timer(_INTERVAL, self._in_time)
            self._timer.daemon = True
            self._timer.start()

    def _in_time(self) -> None:
        with contextlib.suppress(VclustError):  # the thread that does the work gets it
            self.flush()

    def flush(self) -> None:
        """Write all rows that are waiting.  Raises VclustError when that fails, or has failed in the background."""
        with self._writing:  # in the order in which they came
            if self._failure is not None:
                raise self._failure
            with self._mutex:
                if self._timer is not None:
                    self._timer.cancel()
                    self._timer = None
                progress, self._progress = self._progress, []
                nodes, self._nodes = self._nodes, []
                states, self._states = self._states, {}
            # Without the mutex: who reports may be in a transaction, which this one waits for.
            if progress or nodes:
                try:
                    with self._store.transaction():
                        records.add(self._store, progress, nodes)
                        if states:
                            clusters.observe_nodes(self._store, self._cluster, states)
                except VclustError as error:  # these rows are lost
                    self._failure = error
                    raise


@contextlib.contextmanager
def phase(store: Store, cluster: Cluster, name: str) -> Iterator[Recorder]:
    """Record the phase around the body, also when it fails; a failure is written to the cluster's row too."""
    row = records.begin(store, cluster.id, name)
    recorder, outcome = Recorder(store, cluster, name), "done"
    try:
        yield recorder
        recorder.flush()
    except BaseException as error:
        failure = plain(f"failed: {error}", DETAIL, lines=True)
        outcome = failure if isinstance(error, Exception) else "interrupted"
        # On a full disk this may fail as well, and must not hide why.
        with contextlib.suppress(VclustError):
            recorder.flush()
        with contextlib.suppress(VclustError):
            _close(store, cluster, recorder, row, outcome, f"{name} {outcome}")
        raise
    _close(store, cluster, recorder, row, outcome, "")


def _close(store: Store, cluster: Cluster, recorder: Recorder, row: int, outcome: str, detail: str) -> None:
    with store.transaction():
        clusters.update(store, cluster, detail=detail)
        records.end(store, row, recorder.bytes, outcome, recorder.facts)


@contextlib.contextmanager
def trial(
    store: Store, request: Request, name: str, *, check: bool = False
) -> Iterator[tuple[Cluster | None, Report]]:
    """Lock the request's cluster and record a phase that may yet find it unfit; the site then forgets it.

    Nothing is locked in check mode, and nothing recorded for a cluster that was accepted before.
    """
    if check:
        yield clusters.find(store, request.name), _silent
        return
    with clusters.locked(store, request.name) as cluster:
        if cluster.request.digest != request.digest:
            raise VclustError(
                f"{request.name}: another create of that name, with another request, came first"
            )
        if cluster.nodes:
            yield cluster, _silent
            return
        try:
            with phase(store, cluster, name) as recorder:
                yield cluster, recorder.report
        except (RequestError, CapacityError):
            clusters.forget(store, cluster)
            raise


def _silent(message: str, done: int = 0, total: int = 0) -> None:
    pass


@dataclass(frozen=True)
class Run:
    """A finished run of a phase."""

    seconds: float
    facts: dict[str, Any]
    """What its duration depends on; `bytes` of the phase and `installed_bytes` of the cluster's packages among them."""


def past(store: Store, name: str) -> list[Run]:
    """The latest 200 finished runs of a phase, newest first."""
    return [Run(seconds, facts) for _, seconds, facts in records.past(store, name)]
