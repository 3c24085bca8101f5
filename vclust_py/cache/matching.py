"""Which VD caches a package closure could start from, and what that saves."""

from collections.abc import Mapping
from typing import Any

from vclust_py import metapackages
from vclust_py.cache.stored import Stored, caches
from vclust_py.image import manifest
from vclust_py.image.base import find_base
from vclust_py.lock import Lock
from vclust_py.request import Request
from vclust_py.site.session import Session


def matching(session: Session, lock: Lock, request: Request) -> list[Stored]:
    """The caches that the lock may start from: those over its base image, with the very .debs it names."""
    base = find_base(session.site, lock)
    if base is None:
        return []
    answers = any(meta.debconf for meta in metapackages.expand(request, session.site))
    known = {cache.digest: cache for cache in caches(session)}
    return [
        cache
        for cache in known.values()
        if cache.base == base.base.manifest.digest
        and _same_debs(lock, cache, known)
        # Answers come too late for what is configured already.
        and not (answers and cache.state == "configured")
    ]


def _same_debs(lock: Lock, cache: Stored, known: Mapping[str, Stored]) -> bool:
    """Whether what the cache shares with the lock are the same .debs: versions alone do not tell, nor does apt."""
    packages = {package.pinned: package for package in lock.packages}
    below: Stored | None = cache
    while below is not None:
        parent = known.get(below.parent)
        own = below.packages - (parent.packages if parent else frozenset())
        if own <= packages.keys():
            locked = manifest.records(packages[name] for name in own)
            if manifest.contents(locked) != below.contents:
                return False
        below = parent
    return True


def closure(lock: Lock) -> frozenset[str]:
    """The lock's packages beyond the base as caches name them."""
    return frozenset(package.pinned for package in lock.packages)


def savings(lock: Lock, cache: Stored | None) -> dict[str, Any]:
    """What starting from the cache saves, in installed bytes; phase `place` estimates the seconds."""
    if cache is None:
        return {}
    return {
        "digest": cache.digest,
        "packages": len(cache.packages),
        "bytes": cache.size,
        "of": lock.installed_bytes,
        "seconds": None,
    }
