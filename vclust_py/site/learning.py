"""Rows of what a site has learnt: past requests, what was resolved before."""

import time

from vclust_py.lock import Lock
from vclust_py.site.store import Store

_RESOLUTIONS = 1000
"""So many are kept."""


def remember(store: Store, cluster: int, lock: Lock) -> None:
    """Note which packages a cluster takes beyond the base, for learning; once for each cluster."""
    names = " ".join(package.name for package in lock.packages)
    store.execute(
        "INSERT OR IGNORE INTO history (cluster, time, suite, architecture, kernel, packages, bytes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (cluster, time.time(), lock.suite, lock.architecture, lock.kernel, names, lock.installed_bytes),
    )


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
