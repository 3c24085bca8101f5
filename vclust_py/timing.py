"""Start, end, bytes and outcome of every phase and node, in the site's state; and what past runs foretell."""

import contextlib
import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vclust_py import state
from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.request import Request
from vclust_py.site import Site
from vclust_py.state import Cluster
from vclust_py.text import DETAIL, LINE, plain

Report = Callable[[str, int, int], None]
"""Progress: message, done, total; a total of 0 means unknown."""

_PROGRESS_INTERVAL = 0.2  # seconds between two progress rows of one node: a display cannot use more
_MOST = 2**53
"""A count above this is nonsense that a guest or host said; SQLite and JSON bear it."""


_PROGRESS = (
    "INSERT INTO progress (cluster, phase, node, message, done, total, time) VALUES (?, ?, ?, ?, ?, ?, ?)"
)


class Recorder:
    """Records one run of one phase; made by `phase`.  Threads may share it."""

    def __init__(self, site: Site, cluster: Cluster, name: str) -> None:
        self._site, self._cluster, self._phase = site, cluster, name
        self._last: dict[str, float] = {}
        self._lock = threading.Lock()
        self.bytes = 0
        self.facts: dict[str, Any] = {}

    def report(self, message: str, done: int = 0, total: int = 0, *, node: str = "") -> None:
        """Progress for the live display; too frequent calls are dropped, the last of a count never is."""
        now = time.time()
        with self._lock:
            if now - self._last.get(node, 0) < _PROGRESS_INTERVAL and (total == 0 or done < total):
                return
            self._last[node] = now
            with state.connect(self._site) as connection:
                connection.execute(_PROGRESS, self._row(node, message, done, total, now))

    def report_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Progress of many nodes at once: `node`, `message`, `done`, `total` of each."""
        now = time.time()
        with state.connect(self._site) as connection, state.transaction(connection):
            connection.executemany(
                _PROGRESS,
                [self._row(row["node"], row["message"], row["done"], row["total"], now) for row in rows],
            )

    def _row(self, node: str, message: str, done: int, total: int, now: float) -> tuple[Any, ...]:
        """As it is stored: guests and hosts have a part in the message and the counts."""
        done, total = (min(max(count, 0), _MOST) for count in (done, total))
        return self._cluster.id, self._phase, node, plain(message, LINE), done, total, now

    def node(self, node: str, start: float, end: float, outcome: str = "done", count: int = 0) -> None:
        """One node's part in the phase: Unix times, bytes."""
        with state.connect(self._site) as connection:
            connection.execute(
                "INSERT INTO phases (cluster, phase, node, start, end, bytes, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self._cluster.id, self._phase, node, start, end, count, plain(outcome, DETAIL, lines=True)),
            )


@contextlib.contextmanager
def phase(site: Site, cluster: Cluster, name: str) -> Iterator[Recorder]:
    """Record the phase around the body, also when it fails; a failure is written to the cluster's row too."""
    with state.connect(site) as connection:
        # Whoever holds the cluster now is the only one at work: what was never ended was killed.
        connection.execute(
            "UPDATE phases SET end = start, outcome = 'killed' WHERE cluster = ? AND end IS NULL",
            (cluster.id,),
        )
        row = connection.execute(
            "INSERT INTO phases (cluster, phase, start) VALUES (?, ?, ?)", (cluster.id, name, time.time())
        ).lastrowid
    recorder, outcome = Recorder(site, cluster, name), "done"
    try:
        yield recorder
    except BaseException as error:
        failure = plain(f"failed: {error}", DETAIL, lines=True)
        outcome = failure if isinstance(error, Exception) else "interrupted"
        # On a full disk this may fail as well, and must not hide why.
        with contextlib.suppress(VclustError):
            _close(site, cluster, recorder, row, outcome, f"{name} {outcome}")
        raise
    _close(site, cluster, recorder, row, outcome, "")


def _close(
    site: Site, cluster: Cluster, recorder: Recorder, row: int | None, outcome: str, detail: str
) -> None:
    with state.connect(site) as connection, state.transaction(connection):
        connection.execute("UPDATE clusters SET detail = ? WHERE id = ?", (detail, cluster.id))
        connection.execute(
            "UPDATE phases SET end = ?, bytes = ?, outcome = ?, facts = ? WHERE id = ?",
            (time.time(), recorder.bytes, outcome, json.dumps(recorder.facts), row),
        )


@contextlib.contextmanager
def trial(
    site: Site, request: Request, name: str, *, check: bool = False
) -> Iterator[tuple[Cluster | None, Report]]:
    """Hold the request's cluster and record a phase that may yet find it unfit; the site then forgets it.

    Nothing is held in check mode, and nothing recorded for a cluster that was accepted before.
    """
    if check:
        yield state.find(site, request.name), _silent
        return
    with state.held(site, request.name) as cluster:
        if cluster.request.digest != request.digest:
            raise VclustError(
                f"{request.name}: another create of that name, with another request, came first"
            )
        if cluster.nodes:
            yield cluster, _silent
            return
        try:
            with phase(site, cluster, name) as recorder:
                yield cluster, recorder.report
        except (RequestError, CapacityError):
            state.forget(site, cluster)
            raise


def _silent(message: str, done: int = 0, total: int = 0) -> None:
    pass


@dataclass(frozen=True)
class Run:
    """A finished run of a phase."""

    seconds: float
    bytes: int
    facts: dict[str, Any]


def past(site: Site, name: str, **facts: Any) -> list[Run]:
    """The latest 20 finished runs of a phase with these facts."""
    if not site.database.exists():
        return []
    with state.connect(site) as connection:
        rows = connection.execute(
            "SELECT start, end, bytes, facts FROM phases"
            " WHERE phase = ? AND node = '' AND outcome = 'done' ORDER BY id DESC LIMIT 200",
            (name,),
        ).fetchall()
    runs = [Run(row["end"] - row["start"], row["bytes"], json.loads(row["facts"])) for row in rows]
    return [run for run in runs if facts.items() <= run.facts.items()][:20]


def median_rate(site: Site, name: str, step: str, **facts: Any) -> float | None:
    """Median bytes a second of a step, `unpack` or `configure`, in past runs of a phase; None when there are none.

    A run's facts name the step's seconds, and its bytes as `<step>_bytes`.
    """
    rates: list[float] = [
        run.facts[f"{step}_bytes"] / run.facts[step]
        for run in past(site, name, **facts)
        if run.facts.get(step) and run.facts.get(f"{step}_bytes")
    ]
    return float(statistics.median(rates)) if rates else None
