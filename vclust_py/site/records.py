"""Rows of timings and progress (`vclust_py.timing`)."""

import json
import time
from collections.abc import Sequence
from typing import Any

from vclust_py.site.store import Store

Row = tuple[Any, ...]


def begin(store: Store, cluster: int, phase: str) -> int:
    """Note that a phase of a cluster begins now; the number of its row."""
    with store.transaction():
        # Whoever has the cluster's file lock now is the only one at work: what was never ended was killed.
        store.execute(
            "UPDATE phases SET end = start, outcome = 'killed' WHERE cluster = ? AND end IS NULL", (cluster,)
        )
        return store.insert(
            "INSERT INTO phases (cluster, phase, start) VALUES (?, ?, ?)", (cluster, phase, time.time())
        )


def end(store: Store, row: int, count: int, outcome: str, facts: dict[str, Any]) -> None:
    """Note that the phase of that row ends now; `count` are bytes."""
    store.execute(
        "UPDATE phases SET end = ?, bytes = ?, outcome = ?, facts = ? WHERE id = ?",
        (time.time(), count, outcome, json.dumps(facts), row),
    )


def add(store: Store, progress: Sequence[Row], nodes: Sequence[Row]) -> None:
    """Write rows of progress (cluster, phase, node, message, done, total, time) and of nodes' parts in a phase
    (cluster, phase, node, start, end, bytes, outcome), in one transaction.
    """
    with store.transaction():
        store.executemany(
            "INSERT INTO progress (cluster, phase, node, message, done, total, time) VALUES (?, ?, ?, ?, ?, ?, ?)",
            progress,
        )
        store.executemany(
            "INSERT INTO phases (cluster, phase, node, start, end, bytes, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)",
            nodes,
        )


def progress(store: Store, name: str, after: int = 0) -> list[dict[str, Any]]:
    """Progress rows of the live cluster `name` with an id above `after`, oldest first; for live displays."""
    if not store.exists:
        return []
    rows = store.rows(
        "SELECT progress.* FROM progress JOIN clusters ON clusters.id = progress.cluster"
        " WHERE name = ? AND destroyed IS NULL AND progress.id > ? ORDER BY progress.id",
        (name, after),
    )
    return [dict(row) for row in rows]


def phases(store: Store, cluster: int) -> list[dict[str, Any]]:
    """All phases and nodes' parts in them, oldest first; what has not ended has taken until now."""
    rows = store.rows(
        "SELECT phase, node, start, end, bytes, outcome FROM phases WHERE cluster = ? ORDER BY id", (cluster,)
    )
    return [dict(row) | {"seconds": (row["end"] or time.time()) - row["start"]} for row in rows]


def past(store: Store, phase: str) -> list[tuple[float, int, dict[str, Any]]]:
    """Seconds, bytes and facts of the latest 200 finished runs of a phase, newest first."""
    if not store.exists:
        return []
    rows = store.rows(
        "SELECT start, end, bytes, facts FROM phases"
        " WHERE phase = ? AND node = '' AND outcome = 'done' ORDER BY id DESC LIMIT 200",
        (phase,),
    )
    return [(row["end"] - row["start"], row["bytes"], json.loads(row["facts"])) for row in rows]
