"""What a site's VD caches are and did, as plain data for people and scripts."""

from typing import Any

from vclust_py.cache import past, status, stored
from vclust_py.cache.rebuild import Rebuilt
from vclust_py.cache.stored import Stored
from vclust_py.site.session import Session


def describe(session: Session, start: str = "", *, history: bool = False) -> dict[str, Any]:
    """The caches whose digest begins so, with the packages in them; all, and how many those are, without `start`.

    With `history` the past requests as well, in the form of a trace (`vclust_py.cache.traces`), and the packages of
    all caches.  Bytes and Unix times.
    """
    known = {cache.digest: cache for cache in stored.caches(session)}
    return {
        **({"history": _history(session)} if history else {}),
        "caches": [
            _cache(cache, known.get(cache.parent), packages=bool(start) or history)
            for cache in known.values()
            if cache.digest.startswith(start)
        ],
        "status": status.status(session) | {"due": status.due(session), "newer": _newer(session)},
        "usage": status.usage(session),
    }


def _newer(session: Session) -> list[str]:
    """Names of images that a newer version of vclust made: they are kept, and not used."""
    return sorted(refusal.path.stem for refusal in session.images.newer())


def _history(session: Session) -> dict[str, Any]:
    history = past.history(session)
    packages = []
    for number, (package, size) in enumerate(zip(history.packages, history.weights.tolist(), strict=True)):
        # Learning tells suites apart by what stands before a slash.
        name, _, version = package.rpartition("/")[2].partition("=")
        packages.append({"id": number, "name": name, "version": version, "installed_size": size})
    rows = [columns.tolist() for columns in history.distinct]
    return {
        "packages": packages,
        "requests": [{"closure": rows[number]} for number in history.sequence.tolist()],
    }


def _cache(cache: Stored, parent: Stored | None, *, packages: bool) -> dict[str, Any]:
    told = stored.to_dict(cache) | {"packages": len(cache.packages)}
    if packages:
        own = cache.packages - (parent.packages if parent else frozenset())
        told |= {"holds": sorted(cache.packages), "own": sorted(own)}
    return told


def failures(rebuilt: Rebuilt) -> str:
    """What a recomputation did when it could not build every cache."""
    lines = [f"{len(rebuilt.failed)} of {rebuilt.chosen} chosen caches could not be built:"]
    lines += [f"  {what}: {why}" for what, why in rebuilt.failed.items()]
    lines.append(f"built {len(rebuilt.built)}, dropped {len(rebuilt.removed)}")
    return "\n".join(lines)
