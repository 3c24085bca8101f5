"""Everything that the caches read from and write to the site's state, one small function for each statement.

All of them take an open connection (`vclust_py.state.connect`); what belongs together the caller does in one
transaction.  Times are Unix times.
"""

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any

Row = sqlite3.Row


# Uses of images ---------------------------------------------------------------------------------------------------


def uses(connection: sqlite3.Connection) -> dict[str, Row]:
    """By digest: when the image was `used` last, how often (`count`), and whether it is a `chosen` cache."""
    return {row["digest"]: row for row in connection.execute("SELECT * FROM uses")}


def note_use(connection: sqlite3.Connection, digests: Iterable[str]) -> None:
    """Note that these images have been used now: the least recently used go first."""
    connection.executemany(
        "INSERT INTO uses (digest, used, count) VALUES (?, ?, 1)"
        " ON CONFLICT (digest) DO UPDATE SET used = excluded.used, count = count + 1",
        [(digest, time.time()) for digest in digests],
    )


def mark_chosen(connection: sqlite3.Connection, digests: Collection[str]) -> None:
    """These caches are the chosen ones, and no others."""
    connection.execute("UPDATE uses SET chosen = 0")
    connection.executemany(
        "INSERT INTO uses (digest, chosen) VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET chosen = 1",
        [(digest,) for digest in sorted(digests)],
    )


def forget_uses(connection: sqlite3.Connection, digests: Iterable[str]) -> None:
    connection.executemany("DELETE FROM uses WHERE digest = ?", [(digest,) for digest in digests])


# Clusters ---------------------------------------------------------------------------------------------------------


def set_cache(connection: sqlite3.Connection, cluster: int, savings: Mapping[str, Any]) -> None:
    connection.execute("UPDATE clusters SET cache = ? WHERE id = ?", (json.dumps(savings), cluster))


def set_images(connection: sqlite3.Connection, cluster: int, images: Mapping[str, str]) -> None:
    connection.execute("UPDATE clusters SET images = ? WHERE id = ?", (json.dumps(images), cluster))


# Past requests ----------------------------------------------------------------------------------------------------


def past_requests(connection: sqlite3.Connection) -> list[Row]:
    """Suite, architecture, kernel, and packages (names, a blank between them) of each, oldest first."""
    return connection.execute(
        "SELECT suite, architecture, kernel, packages FROM history ORDER BY time, cluster"
    ).fetchall()


def count_requests(connection: sqlite3.Connection) -> int:
    count: int = connection.execute("SELECT count(*) FROM history").fetchone()[0]
    return count


def starts(connection: sqlite3.Connection) -> list[Row]:
    """Time, bytes, and the cluster's name and cache (JSON) of each past request, oldest first."""
    return connection.execute(
        "SELECT history.time, history.bytes, clusters.name, clusters.cache FROM history"
        " JOIN clusters ON clusters.id = history.cluster ORDER BY history.time, history.cluster"
    ).fetchall()


# Recomputations ---------------------------------------------------------------------------------------------------


def begin_rebuild(connection: sqlite3.Connection) -> int | None:
    """The number of a recomputation that begins now; one without an end was killed."""
    connection.execute("UPDATE rebuilds SET end = start, outcome = 'killed' WHERE end IS NULL")
    return connection.execute(
        "INSERT INTO rebuilds (start, seen) SELECT ?, count(*) FROM history", (time.time(),)
    ).lastrowid


def tell_rebuild(
    connection: sqlite3.Connection, number: int | None, message: str, done: int, total: int
) -> None:
    connection.execute(
        "UPDATE rebuilds SET message = ?, done = ?, total = ? WHERE id = ?", (message, done, total, number)
    )


def end_rebuild(connection: sqlite3.Connection, number: int | None, outcome: str) -> None:
    connection.execute(
        "UPDATE rebuilds SET end = ?, outcome = ? WHERE id = ?", (time.time(), outcome, number)
    )


def set_rebuild_facts(connection: sqlite3.Connection, number: int | None, facts: Mapping[str, Any]) -> None:
    connection.execute("UPDATE rebuilds SET facts = ? WHERE id = ?", (json.dumps(facts), number))


def last_rebuild(connection: sqlite3.Connection) -> Row | None:
    row: Row | None = connection.execute("SELECT * FROM rebuilds ORDER BY id DESC LIMIT 1").fetchone()
    return row


def last_done_facts(connection: sqlite3.Connection) -> dict[str, Any]:
    """What the last recomputation that came to its end wrote down; empty: there was none."""
    row = connection.execute(
        "SELECT facts FROM rebuilds WHERE outcome = 'done' ORDER BY id DESC LIMIT 1"
    ).fetchone()
    facts: dict[str, Any] = json.loads(row["facts"]) if row else {}
    return facts
