"""Phase `cache`: which VD cache a cluster starts from, written down so that it stays.

A reservation is one transaction of the site's state with the check that the cache is still there; whoever takes images
away (`vclust_py.cache.retention`) looks for reservations in a transaction as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vclust_py import metapackages, state, timing
from vclust_py.cache import lookup, records
from vclust_py.cache.stored import Stored, caches
from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, manifest
from vclust_py.image.base import find_base
from vclust_py.request import Request
from vclust_py.resolve import Lock
from vclust_py.site import Site
from vclust_py.state import Change


@dataclass(frozen=True)
class Reservation:
    change: Change
    cache: dict[str, Any]
    """As in `Cluster.cache`."""
    verdicts: list[dict[str, Any]]
    """What the request thinks of every cache it could look at: `vclust_py.cache.lookup.Verdict` as plain data."""


def matching(site: Site, lock: Lock, request: Request) -> list[Stored]:
    """The caches that the lock may start from: those over its base image, with the very .debs it names."""
    base = find_base(site, lock)
    if base is None:
        return []
    answers = any(meta.debconf for meta in metapackages.expand(request, site))
    known = {cache.digest: cache for cache in caches(site)}
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


def reserve(site: Site, request: Request, lock: Lock, digest: str, *, check: bool = False) -> Reservation:
    """Write down that the request's cluster starts from the cache `digest`; empty: from the base.

    A cache that went away meanwhile, or does not fit, is replaced by the best one that is there.  A cluster that is
    placed keeps what it has.
    """
    with timing.trial(site, request, "cache", check=check) as (cluster, _):
        known = matching(site, lock, request)
        if cluster is not None and cluster.nodes:
            verdicts = [_plain(verdict) for verdict in lookup.explain(closure(lock), known)]
            return Reservation(
                Change({"cache": cluster.cache}, {"cache": cluster.cache}), cluster.cache, verdicts
            )
        fits = {cache.digest: cache for cache in known if cache.packages <= closure(lock)}
        best = fits.get(digest) or lookup.find(closure(lock), known)
        before = cluster.cache if cluster is not None else {}
        if not check and cluster is not None:
            with state.connect(site) as connection, state.transaction(connection):
                while best is not None and not _is_there(site, best):
                    known.remove(best)
                    best = lookup.find(closure(lock), known)
                records.set_cache(connection, cluster.id, savings(lock, best))
    saved = savings(lock, best)
    verdicts = [_plain(verdict) for verdict in lookup.explain(closure(lock), known)]
    return Reservation(Change({"cache": before}, {"cache": saved}), saved, verdicts)


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


def _is_there(site: Site, cache: Stored) -> bool:
    view = Catalogue(site).look()
    try:
        view.chain(view.get(cache.digest))
    except VclustError:
        return False
    return True


def _plain(verdict: lookup.Verdict) -> dict[str, Any]:
    cache = verdict.cache
    digest = cache.digest if isinstance(cache, Stored) else ""
    return {
        "digest": digest,
        "chosen": verdict.chosen,
        "foreign": list(verdict.foreign),
        "other_version": list(verdict.other_version),
        "saves": verdict.saves,
        "reason": verdict.reason,
    }
