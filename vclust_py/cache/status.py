"""When the caches were chosen last, whether that is due again, and what past requests started from."""

import json
from typing import Any

from vclust_py.errors import VclustError
from vclust_py.site import learning
from vclust_py.site.session import Session

REBUILD_LOCK = "caches"
"""Whoever recomputes holds this lock of the session.site."""


def due(session: Session) -> bool:
    """Whether enough requests have come since the last recomputation, or that one did not come to its end."""
    if session.site.cache_every == 0 or session.site.cache_policy == "none" or not session.store.exists:
        return False
    last = status(session)
    return bool(
        last["state"] in ("killed", "interrupted")
        or last["recorded"] - last["seen"] >= session.site.cache_every
    )


def next_choice(session: Session) -> int | None:
    """The request, counted from the site's first, after which caches are chosen by themselves; None: never."""
    if session.site.cache_every == 0 or session.site.cache_policy == "none":
        return None
    last = learning.last_rebuild(session.store) if session.store.exists else None
    return (0 if last is None else int(last["seen"])) + session.site.cache_every


def status(session: Session) -> dict[str, Any]:
    """The last recomputation and how many requests have been recorded; times are Unix times."""
    row, recorded = None, 0
    if session.store.exists:
        row, recorded = learning.last_rebuild(session.store), learning.count_requests(session.store)
    plain: dict[str, Any] = {
        "policy": session.site.cache_policy,
        "space": session.site.cache_space,
        "every": session.site.cache_every,
        "recorded": recorded,
    }
    if row is None:
        return {**plain, "state": "never", "seen": 0}
    outcome, detail = row["outcome"], ""
    if outcome == "running" and not is_rebuilding(session):
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


def is_rebuilding(session: Session) -> bool:
    """Whether a recomputation is at work."""
    try:
        with session.site.file_lock(REBUILD_LOCK, timeout=0):
            return False
    except VclustError:
        return True


def usage(session: Session) -> list[dict[str, Any]]:
    """What every past request started from, oldest first: cache digest (empty: the base), bytes saved of bytes."""
    if not session.store.exists:
        return []
    rows = learning.starts(session.store)
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
