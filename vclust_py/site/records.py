"""Rows of timings and progress (`vclust_py.timing`), and of what was fitted to them (`vclust_py.estimate`)."""

import json
import time
from collections.abc import Mapping, Sequence
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


def step(store: Store, name: str, phase: str, ended_within: float) -> dict[str, Any] | None:
    """The last run of a phase of the live cluster `name`, if it works or ended no more than those seconds ago.

    `message`, `done` and `total` are its last progress as a whole, `parts` how many nodes (or hosts) have done theirs,
    `nodes` how many the cluster has.
    """
    row = store.row(
        "SELECT run.id, run.cluster, run.start FROM phases AS run JOIN clusters ON clusters.id = run.cluster"
        " WHERE name = ? AND destroyed IS NULL AND phase = ? AND node = '' AND coalesce(end, ?) >= ?"
        " ORDER BY run.id DESC LIMIT 1",
        (name, phase, time.time(), time.time() - ended_within),
    )
    if row is None:
        return None
    last = store.row(
        "SELECT message, done, total FROM progress WHERE cluster = ? AND phase = ? AND node = '' AND time >= ?"
        " ORDER BY id DESC LIMIT 1",
        (row["cluster"], phase, row["start"]),
    )
    counts = store.row(
        "SELECT (SELECT count(DISTINCT node) FROM phases"
        "  WHERE cluster = :cluster AND phase = :phase AND node <> '' AND id > :run) AS parts,"
        " (SELECT count(*) FROM nodes WHERE cluster = :cluster) AS nodes",
        {"cluster": row["cluster"], "phase": phase, "run": row["id"]},
    )
    return {"message": "", "done": 0, "total": 0} | dict(last or {}) | dict(counts or {})


def phases(store: Store, cluster: int) -> list[dict[str, Any]]:
    """All phases and nodes' parts in them, oldest first; what has not ended has taken until now."""
    rows = store.rows(
        "SELECT phase, node, start, end, bytes, outcome FROM phases WHERE cluster = ? ORDER BY id", (cluster,)
    )
    return [dict(row) | {"seconds": (row["end"] or time.time()) - row["start"]} for row in rows]


def starts(store: Store, cluster: int) -> dict[str, str]:
    """By node the outcome of its last start (`vclust_py.starts`)."""
    rows = store.rows(
        "SELECT node, outcome FROM phases WHERE cluster = ? AND phase IN ('create', 'heal') AND node <> ''"
        " ORDER BY id",
        (cluster,),
    )
    return {row["node"]: row["outcome"] for row in rows}


def past(store: Store, phase: str, limit: int = 200) -> list[tuple[int, float, dict[str, Any]]]:
    """Row, seconds and facts of the latest finished runs of a phase, newest first.

    Clusters with clones say nothing of what booting takes, and are left out.  Facts have the phase's `bytes` and, of
    clusters that were placed, the `installed_bytes` of their packages as well.
    """
    if not store.exists:
        return []
    rows = store.rows(
        "SELECT phases.id, start, end, phases.bytes, facts, history.bytes AS installed FROM phases"
        " LEFT JOIN history ON history.cluster = phases.cluster"
        " WHERE phase = ? AND node = '' AND outcome = 'done' AND (phase NOT IN ('create', 'install', 'ready')"
        " OR NOT EXISTS (SELECT 1 FROM phases AS started WHERE started.cluster = phases.cluster"
        " AND started.phase = 'create' AND json_extract(started.facts, '$.forked') > 0))"
        " ORDER BY phases.id DESC LIMIT ?",
        (phase, limit),
    )
    found = []
    for row in rows:
        facts = {"bytes": row["bytes"], "installed_bytes": row["installed"]} | json.loads(row["facts"])
        facts = {name: value for name, value in facts.items() if value is not None}
        found.append((row["id"], row["end"] - row["start"], facts))
    return found


def installed_seconds(store: Store, nodes: int, strategy: str, accelerator: str) -> dict[str, list[float]]:
    """By outcome of their start (`vclust_py.starts`) the seconds that nodes have taken from there until they were
    installed, in clusters of so many nodes of that strategy and accelerator; the latest 200 nodes.
    """
    rows = store.rows(
        "SELECT begun.outcome, min(done.end) - begun.start AS seconds FROM phases AS begun"
        " JOIN phases AS run ON run.cluster = begun.cluster AND run.phase = 'create' AND run.node = ''"
        " AND run.outcome = 'done' AND run.id < begun.id"
        " JOIN phases AS done ON done.cluster = begun.cluster AND done.node = begun.node AND done.phase = 'install'"
        " AND done.outcome = 'done' AND done.id > begun.id"
        " WHERE begun.phase = 'create' AND begun.node <> '' AND json_extract(run.facts, '$.nodes') = ?"
        " AND json_extract(run.facts, '$.strategy') = ? AND json_extract(run.facts, '$.accelerator') = ?"
        " GROUP BY begun.id ORDER BY begun.id DESC LIMIT 200",
        (nodes, strategy, accelerator),
    )
    found: dict[str, list[float]] = {}
    for row in rows:
        found.setdefault(row["outcome"], []).append(row["seconds"])
    return found


def done_seconds(store: Store) -> list[tuple[str, float]]:
    """Phase and seconds of every run that came to its end, of clusters that are gone too."""
    if not store.exists:
        return []
    rows = store.rows(
        "SELECT phase, end - start AS seconds FROM phases WHERE node = '' AND outcome = 'done' ORDER BY id"
    )
    return [(row["phase"], row["seconds"]) for row in rows]


def failures(store: Store) -> list[tuple[str, bool, str]]:
    """Phase, whether it was a node's or host's part, and outcome, of every run and part that failed."""
    if not store.exists:
        return []
    rows = store.rows(
        "SELECT phase, node <> '' AS part, outcome FROM phases"
        " WHERE outcome <> 'running' AND outcome NOT LIKE 'done%' ORDER BY id"
    )
    return [(row["phase"], bool(row["part"]), row["outcome"]) for row in rows]


def received(store: Store, phase: str) -> tuple[int, float]:
    """Bytes, and seconds together, of all parts of hosts in the phase."""
    if not store.exists:
        return 0, 0.0
    (row,) = store.rows(
        "SELECT coalesce(sum(bytes), 0) AS bytes, coalesce(sum(end - start), 0.0) AS seconds FROM phases"
        " WHERE phase = ? AND node <> '' AND end IS NOT NULL",
        (phase,),
    )
    return row["bytes"], row["seconds"]


# Time models ------------------------------------------------------------------------------------------------------


def time_models(store: Store) -> dict[str, Any]:
    """What was fitted to past runs last (`vclust_py.estimate.Model`, as plain data), by kind of run."""
    row = store.row("SELECT models FROM time_models") if store.exists else None
    models: dict[str, Any] = json.loads(row["models"]) if row else {}
    return models


def set_time_models(store: Store, models: Mapping[str, Any], until: int) -> None:
    """Replace what was fitted; `until` is the last row of `phases` that was looked at."""
    with store.transaction():
        store.execute("DELETE FROM time_models")
        store.execute(
            "INSERT INTO time_models (until, fitted, models) VALUES (?, ?, ?)",
            (until, time.time(), json.dumps(models)),
        )


def runs_since_fit(store: Store) -> int:
    """How many creations have come to their end since models were fitted last."""
    if not store.exists:
        return 0
    ((count,),) = store.rows(
        "SELECT count(*) FROM phases WHERE phase = 'ready' AND node = '' AND outcome = 'done'"
        " AND id > (SELECT coalesce(max(until), 0) FROM time_models)"
    )
    return int(count)
