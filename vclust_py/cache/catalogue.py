"""The VD caches that a site has, and phase `cache`: which of them a cluster starts from.

A claim is one transaction of the site's state with the check that the cache is still there; whoever takes images away
(`vclust_py.cache.manager`) looks for claims in a transaction as well.
"""

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vclust_py import metapackages, state, timing
from vclust_py.cache import lookup
from vclust_py.errors import VclustError
from vclust_py.image import RETIRED, Catalogue, Image
from vclust_py.image.base import find_base
from vclust_py.image.builder import contents
from vclust_py.request import Request
from vclust_py.resolve import Lock
from vclust_py.site import Site
from vclust_py.state import Change, Cluster


@dataclass(frozen=True, eq=False)
class Stored:
    """A VD cache that is there.  Sizes in bytes, `used` in Unix time (0: never)."""

    digest: str
    packages: frozenset[str]
    """All in it, those of the caches below included, each `name=version`."""
    size: int
    """Installed bytes of all in it."""
    bytes: int
    """Of its own file."""
    parent: str
    """Digest of the cache it stands on; empty: the base."""
    base: str
    """Digest of its base image."""
    contents: str
    """Digest of the .deb files that it has beyond its parent (`vclust_py.image.builder.contents`)."""
    suite: str
    architecture: str
    state: str
    """`unpacked` or `configured`."""
    depth: int
    used: float
    uses: int
    chosen: bool
    """By the last recomputation; others stay until their space is needed."""
    clusters: tuple[str, ...]
    """Live clusters that stand on it."""


@dataclass(frozen=True)
class Claim:
    change: Change
    cache: dict[str, Any]
    """As in `Cluster.cache`."""
    verdicts: list[dict[str, Any]]
    """What the request thinks of every cache offered: `vclust_py.cache.lookup.Verdict` as plain data."""


def caches(site: Site) -> list[Stored]:
    """All valid VD caches that a cluster may start from, oldest first."""
    catalogue = Catalogue(site)
    images = {image.manifest.digest: image for image in catalogue.images()}
    if not any(image.manifest.kind == "cache" for image in images.values()):
        return []
    with state.connect(site) as connection:
        uses = {row["digest"]: row for row in connection.execute("SELECT * FROM uses")}
    standing = users(images, state.clusters(site))
    found: dict[str, Stored] = {}

    def add(image: Image) -> Stored | None:
        manifest = image.manifest
        if manifest.digest in found:
            return found[manifest.digest]
        below = images.get(manifest.backing or "")
        parent = add(below) if below is not None and below.manifest.kind == "cache" else None
        if below is None or (below.manifest.kind == "cache") != (parent is not None):
            return None
        row = uses.get(manifest.digest)
        suite, _, architecture = image.path.name.removeprefix("cache-").rpartition("-")[0].rpartition("-")
        found[manifest.digest] = Stored(
            digest=manifest.digest,
            packages=frozenset(manifest.packages) | (parent.packages if parent else frozenset()),
            size=manifest.installed_size + (parent.size if parent else 0),
            bytes=manifest.bytes,
            parent=parent.digest if parent else "",
            base=parent.base if parent else below.manifest.digest,
            contents=manifest.contents,
            suite=suite,
            architecture=architecture,
            state=manifest.state,
            depth=parent.depth + 1 if parent else 1,
            used=row["used"] if row else 0.0,
            uses=row["count"] if row else 0,
            chosen=bool(row and row["chosen"]),
            clusters=tuple(sorted(standing.get(manifest.digest, ()))),
        )
        return found[manifest.digest]

    for image in images.values():
        if image.manifest.kind == "cache":
            add(image)
    return [cache for cache in found.values() if not _retired(images, cache.digest)]


def _retired(images: Mapping[str, Image], digest: str) -> bool:
    """Whether the cache, or one that it stands on, has been retired."""
    below: str | None = digest
    while below:
        if images[below].manifest.key == RETIRED:
            return True
        below = images[below].manifest.backing
    return False


def users(images: Mapping[str, Image], clusters: list[Cluster]) -> dict[str, set[str]]:
    """Names of the live clusters that stand on each image, or have claimed it; by digest."""
    found: dict[str, set[str]] = {}
    for cluster in clusters:
        for digest in {*cluster.images.values(), cluster.cache.get("digest", "")}:
            below: str | None = digest
            while below:
                found.setdefault(below, set()).add(cluster.name)
                image = images.get(below)
                below = image.manifest.backing if image else None
    return found


def offered(site: Site, lock: Lock, request: Request) -> list[Stored]:
    """The caches that the lock may start from: those over the base image that it is beyond."""
    base = find_base(site, lock)
    if base is None:
        return []
    answers = any(meta.debconf for meta in metapackages.expand(request, site))
    known = {cache.digest: cache for cache in caches(site)}
    return [
        cache
        for cache in known.values()
        if cache.base == base.base.manifest.digest
        and _same(lock, cache, known)
        # Answers come too late for what is configured already.
        and not (answers and cache.state == "configured")
    ]


def _same(lock: Lock, cache: Stored, known: Mapping[str, Stored]) -> bool:
    """Whether what the cache shares with the lock are the same .debs: versions alone do not tell, nor does apt."""
    packages = {package.pinned: package for package in lock.packages}
    below: Stored | None = cache
    while below is not None:
        parent = known.get(below.parent)
        own = below.packages - (parent.packages if parent else frozenset())
        if own <= packages.keys() and contents([packages[name] for name in own]) != below.contents:
            return False
        below = parent
    return True


def closure(lock: Lock) -> frozenset[str]:
    """The lock's packages beyond the base as caches name them."""
    return frozenset(package.pinned for package in lock.packages)


def to_dict(cache: Stored) -> dict[str, Any]:
    """Plain data, for Ansible."""
    return asdict(cache) | {"packages": sorted(cache.packages), "clusters": list(cache.clusters)}


def claim(site: Site, request: Request, lock: Lock, digest: str, *, check: bool = False) -> Claim:
    """Phase `cache`: write down that the request's cluster starts from the cache `digest`; empty: from the base.

    A cache that went away meanwhile, or does not fit, is replaced by the best one that is there.  A cluster that is
    placed keeps what it has.
    """
    with timing.trial(site, request, "cache", check=check) as (cluster, _):
        known = offered(site, lock, request)
        if cluster is not None and cluster.nodes:
            verdicts = [_plain(verdict) for verdict in lookup.explain(closure(lock), known)]
            return Claim(Change({"cache": cluster.cache}, {"cache": cluster.cache}), cluster.cache, verdicts)
        fits = {cache.digest: cache for cache in known if cache.packages <= closure(lock)}
        best = fits.get(digest) or lookup.find(closure(lock), known)
        before = cluster.cache if cluster is not None else {}
        if not check and cluster is not None:
            with state.connect(site) as connection, state.transaction(connection):
                while best is not None and not _there(site, best):
                    known.remove(best)
                    best = lookup.find(closure(lock), known)
                connection.execute(
                    "UPDATE clusters SET cache = ? WHERE id = ?", (json.dumps(spared(lock, best)), cluster.id)
                )
    spares = spared(lock, best)
    verdicts = [_plain(verdict) for verdict in lookup.explain(closure(lock), known)]
    return Claim(Change({"cache": before}, {"cache": spares}), spares, verdicts)


def spared(lock: Lock, cache: Stored | None) -> dict[str, Any]:
    """What starting from the cache spares, installed bytes; phase `place` foretells the seconds."""
    if cache is None:
        return {}
    return {
        "digest": cache.digest,
        "packages": len(cache.packages),
        "bytes": cache.size,
        "of": lock.installed_bytes,
        "seconds": None,
    }


def hold(site: Site, cluster: Cluster, images: Mapping[str, str]) -> bool:
    """Write down the cluster's images (role: digest), if all of them are there still; whether that is so."""
    catalogue = Catalogue(site)
    with state.connect(site) as connection, state.transaction(connection):
        try:
            chains = [catalogue.chain(catalogue.get(digest)) for digest in images.values()]
        except VclustError:
            return False
        connection.execute("UPDATE clusters SET images = ? WHERE id = ?", (json.dumps(images), cluster.id))
        used(connection, sorted({image.manifest.digest for chain in chains for image in chain}))
    return True


def _there(site: Site, cache: Stored) -> bool:
    try:
        Catalogue(site).chain(Catalogue(site).get(cache.digest))
    except VclustError:
        return False
    return True


def used(connection: sqlite3.Connection, digests: list[str]) -> None:
    """Note that these images have been used now: the least recently used go first."""
    connection.executemany(
        "INSERT INTO uses (digest, used, count) VALUES (?, ?, 1)"
        " ON CONFLICT (digest) DO UPDATE SET used = excluded.used, count = count + 1",
        [(digest, time.time()) for digest in digests],
    )


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
