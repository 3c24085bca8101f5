"""Rows of what a site has learnt: past requests, what was resolved before, uses of images, choices of caches.

Every function takes the store; what belongs together the caller does in one transaction.  Times are Unix times.
"""

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from vclust_py.lock import Lock
from vclust_py.site.store import Store

_RESOLUTIONS = 1000
"""So many are kept."""

Row = sqlite3.Row


# Uses of images ---------------------------------------------------------------------------------------------------


def uses(store: Store) -> dict[str, Row]:
    """By digest: when the image was `used` last, how often (`count`), and whether it is a `chosen` cache."""
    return {row["digest"]: row for row in store.rows("SELECT * FROM uses")}


def note_use(store: Store, digests: Iterable[str]) -> None:
    """Note that these images have been used now: the least recently used go first."""
    store.executemany(
        "INSERT INTO uses (digest, used, count) VALUES (?, ?, 1)"
        " ON CONFLICT (digest) DO UPDATE SET used = excluded.used, count = count + 1",
        [(digest, time.time()) for digest in digests],
    )


def mark_chosen(store: Store, digests: Collection[str]) -> None:
    """These caches are the chosen ones, and no others."""
    with store.transaction():
        store.execute("UPDATE uses SET chosen = 0")
        store.executemany(
            "INSERT INTO uses (digest, chosen) VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET chosen = 1",
            [(digest,) for digest in sorted(digests)],
        )


def forget_uses(store: Store, digests: Iterable[str]) -> None:
    store.executemany("DELETE FROM uses WHERE digest = ?", [(digest,) for digest in digests])


# Past requests ----------------------------------------------------------------------------------------------------


def remember(store: Store, cluster: int, lock: Lock) -> None:
    """Note which packages a cluster takes beyond the base, for learning; once for each cluster."""
    names = " ".join(package.name for package in lock.packages)
    store.execute(
        "INSERT OR IGNORE INTO history (cluster, time, suite, architecture, kernel, packages, bytes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (cluster, time.time(), lock.suite, lock.architecture, lock.kernel, names, lock.installed_bytes),
    )


def past_requests(store: Store) -> list[Row]:
    """Suite, architecture, kernel, and packages (names, a blank between them) of each, oldest first."""
    return store.rows("SELECT suite, architecture, kernel, packages FROM history ORDER BY time, cluster")


def count_requests(store: Store) -> int:
    ((count,),) = store.rows("SELECT count(*) FROM history")
    return int(count)


def starts(store: Store) -> list[Row]:
    """Time, bytes, and the cluster's name and cache (JSON) of each past request, oldest first."""
    return store.rows(
        "SELECT history.time, history.bytes, clusters.name, clusters.cache FROM history"
        " JOIN clusters ON clusters.id = history.cluster ORDER BY history.time, history.cluster"
    )


# Recomputations ---------------------------------------------------------------------------------------------------


def begin_rebuild(store: Store) -> int:
    """The number of a recomputation that begins now; one without an end was killed."""
    with store.transaction():
        store.execute("UPDATE rebuilds SET end = start, outcome = 'killed' WHERE end IS NULL")
        return store.insert(
            "INSERT INTO rebuilds (start, seen) SELECT ?, count(*) FROM history", (time.time(),)
        )


def tell_rebuild(store: Store, number: int, message: str, done: int, total: int) -> None:
    store.execute(
        "UPDATE rebuilds SET message = ?, done = ?, total = ? WHERE id = ?", (message, done, total, number)
    )


def end_rebuild(store: Store, number: int, outcome: str) -> None:
    store.execute("UPDATE rebuilds SET end = ?, outcome = ? WHERE id = ?", (time.time(), outcome, number))


def set_rebuild_facts(store: Store, number: int, facts: Mapping[str, Any]) -> None:
    store.execute("UPDATE rebuilds SET facts = ? WHERE id = ?", (json.dumps(facts), number))


def last_rebuild(store: Store) -> Row | None:
    return store.row("SELECT * FROM rebuilds ORDER BY id DESC LIMIT 1")


def last_done_facts(store: Store) -> dict[str, Any]:
    """What the last recomputation that came to its end wrote down; empty: there was none."""
    row = store.row("SELECT facts FROM rebuilds WHERE outcome = 'done' ORDER BY id DESC LIMIT 1")
    facts: dict[str, Any] = json.loads(row["facts"]) if row else {}
    return facts


# Resolutions ------------------------------------------------------------------------------------------------------


def resolution(store: Store, key: str) -> str | None:
    """Digest of the lock that was found for this key."""
    if not store.exists:
        return None
    row = store.row("SELECT lock FROM resolutions WHERE key = ?", (key,))
    return None if row is None else str(row["lock"])


def record_resolution(store: Store, key: str, lock: str) -> None:
    """Note the digest of the lock that was found for this key; the oldest are forgotten."""
    with store.transaction():
        store.execute("INSERT OR REPLACE INTO resolutions VALUES (?, ?, ?)", (key, lock, time.time()))
        store.execute(
            "DELETE FROM resolutions WHERE key NOT IN (SELECT key FROM resolutions ORDER BY used DESC LIMIT ?)",
            (_RESOLUTIONS,),
        )
