"""When the caches were chosen last, whether that is due again, and what past requests started from."""

import json
from typing import Any

from vclust_py import state
from vclust_py.cache import records
from vclust_py.errors import VclustError
from vclust_py.site import Site

REBUILD_LOCK = "caches"
"""Whoever recomputes holds this lock of the site."""


def due(site: Site) -> bool:
    """Whether enough requests have come since the last recomputation, or that one did not come to its end."""
    if site.cache_every == 0 or site.cache_policy == "none" or not site.database.exists():
        return False
    last = status(site)
    return bool(
        last["state"] in ("killed", "interrupted") or last["recorded"] - last["seen"] >= site.cache_every
    )


def status(site: Site) -> dict[str, Any]:
    """The last recomputation and how many requests have been recorded; times are Unix times."""
    row, recorded = None, 0
    if site.database.exists():
        with state.connect(site) as connection:
            row, recorded = records.last_rebuild(connection), records.count_requests(connection)
    plain: dict[str, Any] = {
        "policy": site.cache_policy,
        "space": site.cache_space,
        "every": site.cache_every,
        "recorded": recorded,
    }
    if row is None:
        return {**plain, "state": "never", "seen": 0}
    outcome, detail = row["outcome"], ""
    if outcome == "running" and not is_rebuilding(site):
        outcome = "killed"
    if outcome.startswith("failed: "):
        outcome, _, detail = outcome.partition(": ")
    return {
        **plain,
        "state": outcome,
        "detail": detail,
        "seen": row["seen"],
        "started": row["start"],
        "ended": row["end"],
        "message": row["message"],
        "done": row["done"],
        "total": row["total"],
        "result": json.loads(row["facts"]),
    }


def is_rebuilding(site: Site) -> bool:
    """Whether a recomputation is at work."""
    try:
        with site.hold(REBUILD_LOCK, patience=0):
            return False
    except VclustError:
        return True


def usage(site: Site) -> list[dict[str, Any]]:
    """What every past request started from, oldest first: cache digest (empty: the base), bytes saved of bytes."""
    if not site.database.exists():
        return []
    with state.connect(site) as connection:
        rows = records.starts(connection)
    starts = []
    for row in rows:
        cache = json.loads(row["cache"])
        starts.append(
            {
                "time": row["time"],
                "name": row["name"],
                "cache": cache.get("digest", ""),
                "bytes": cache.get("bytes", 0),
                "of": row["bytes"],
            }
        )
    return starts
