"""The cache manager: learns from past requests which VD caches to keep, builds them, keeps them in their space.

`rebuild` is a function of what is written down (past requests, images), so that a crash at any moment costs no more
than its time.  What takes long in it runs with the least priority there is.  In the background it is
`python -m vclust_py.cache.manager`, the site's settings on standard input.
"""

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclust_py import resolve, state
from vclust_py.cache import Cache
from vclust_py.cache.catalogue import caches, users
from vclust_py.errors import VclustError
from vclust_py.image import RETIRED, Catalogue, Image, Report, base_key, file_digest
from vclust_py.image.base import RECIPE
from vclust_py.image.builder import beyond, cache_key, ensure_cache, is_packed_with_zstd
from vclust_py.image.store import fetch
from vclust_py.resolve import Lock, Package
from vclust_py.run import keep_interruptions
from vclust_py.site import PROJECT, Site
from vclust_py.state import Change
from vclust_py.text import DETAIL, LINE, plain

if TYPE_CHECKING:
    from vclust_py.cache.history import History

_log = logging.getLogger(__name__)

_LOCK = "caches"
_PATIENCE = 1.0
"""Seconds to wait for the lock: whoever only asks whether it is held has it for a moment."""
_GRACE = 60.0
"""Seconds that an image stays for the cluster it was made for, which may not have written it down yet."""
_GROWTH = 1.4
"""Bytes in a cache's file for each byte of its packages' .debs, until caches of the site tell."""
_NO_SPACE = "more than is left of the space"
_BATCH = 8
"""Packages fetched in one go: requests that fetch wait no longer than for these."""
_DERIVED = ("cache", "layer", "bundle")
"""Kinds of images that can be made again at any time."""

Group = tuple[str, str, str]
"""Suite, architecture and kernel: requests of one group are beyond the same base image."""


@dataclass(frozen=True)
class Rebuilt:
    """What a recomputation chose and did.  Sizes in bytes; caches as `label` tells them."""

    policy: str
    requests: int
    chosen: int
    built: tuple[str, ...]
    removed: tuple[str, ...]
    """Files that were taken away, and why; in check mode chosen caches that would be chosen no more."""
    failed: dict[str, str]
    stored_bytes: int
    space: int
    seconds: float
    change: Change
    inputs: str
    """Digest of all that the choice depends on."""


def label(packages: Collection[str], size: int, base: str) -> str:
    """A set of packages in a few words; the digest tells sets of the same size, or over another base, apart."""
    digest = hashlib.sha256("\n".join([base, *sorted(packages)]).encode()).hexdigest()
    return f"{len(packages)} packages, {size / 1e6:.0f} MB ({digest[:8]})"


def rebuild(site: Site, report: Report, *, check: bool = False) -> Rebuilt:
    """Choose caches by the site's policy, build what is missing, then let go what no longer has a place.

    Raises VclustError when another recomputation is at work.  A cache that cannot be built is named in the result;
    the others are built all the same.
    """
    with site.hold(_LOCK, patience=_PATIENCE):
        if check:
            return _rebuild(site, report, check=True)
        with _recorded(site, report) as (row, tell):
            result = _rebuild(site, tell)
            facts = {
                "policy": result.policy,
                "requests": result.requests,
                "chosen": result.chosen,
                "built": len(result.built),
                "removed": len(result.removed),
                "failed": result.failed,
                "stored_bytes": result.stored_bytes,
                "space": result.space,
                "seconds": result.seconds,
                # What failed for another reason than space may do better the next time.
                "inputs": result.inputs
                if all(why.endswith(_NO_SPACE) for why in result.failed.values())
                else "",
                "digests": [cache.digest for cache in caches(site) if cache.chosen],
            }
            with state.connect(site) as connection:
                connection.execute("UPDATE rebuilds SET facts = ? WHERE id = ?", (json.dumps(facts), row))
    return result


@contextlib.contextmanager
def _recorded(site: Site, report: Report) -> Iterator[tuple[int | None, Report]]:
    """A row of `rebuilds` around the body; what is reported goes there as well."""
    with state.connect(site) as connection, state.transaction(connection):
        connection.execute("UPDATE rebuilds SET end = start, outcome = 'killed' WHERE end IS NULL")
        row = connection.execute(
            "INSERT INTO rebuilds (start, seen) SELECT ?, count(*) FROM history", (time.time(),)
        ).lastrowid

    def tell(message: str, done: int, total: int) -> None:
        message = plain(message, LINE)
        report(message, done, total)
        with state.connect(site) as connection:
            connection.execute(
                "UPDATE rebuilds SET message = ?, done = ?, total = ? WHERE id = ?",
                (message, done, total, row),
            )

    outcome = "done"
    try:
        yield row, tell
    except BaseException as error:
        failure = plain(f"failed: {error}", DETAIL, lines=True)
        outcome = failure if isinstance(error, Exception) else "interrupted"
        raise
    finally:
        with contextlib.suppress(VclustError), state.connect(site) as connection:
            connection.execute(
                "UPDATE rebuilds SET end = ?, outcome = ? WHERE id = ?", (time.time(), outcome, row)
            )


def _rebuild(site: Site, report: Report, *, check: bool = False) -> Rebuilt:
    from vclust_py.cache.policies import policy

    started = time.monotonic()
    report("reading the past requests", 0, 0)
    past = _past(site, report)
    before = _chosen(site)
    removed = [] if check else _drop_damaged(site, report)
    inputs, failed = _inputs(site, past), dict[str, str]()
    if _settled(site, inputs):
        built, after = [], before
    else:
        report(f"choosing caches for {len(past.requests)} requests", 0, 0)
        chosen: tuple[Cache, ...] = ()
        if past.requests:
            with _yielding():
                chosen = policy(site.cache_policy).choose(_learnable(site, past), site.cache_space, {})
        wanted = [_wanted(past, cache) for cache in chosen]
        if check:
            built = [one.label for one in wanted if one.label not in before]
            after = {one.label: before.get(one.label, 0) for one in wanted}
            removed = sorted(before.keys() - after.keys())
        else:
            built = _build(site, wanted, failed, report)
            after = _chosen(site)
    if not check:
        removed += _trim(site, _DERIVED)
    return Rebuilt(
        policy=site.cache_policy,
        requests=len(past.requests),
        chosen=len(after),
        built=tuple(built),
        removed=tuple(removed),
        failed=failed,
        stored_bytes=sum(after.values()),
        space=site.cache_space,
        seconds=round(time.monotonic() - started, 3),
        change=Change({"caches": sorted(before)}, {"caches": sorted(after)}),
        inputs=inputs,
    )


def _chosen(site: Site) -> dict[str, int]:
    """Labels and file bytes of the chosen caches that are there."""
    return {
        label(cache.packages, cache.size, cache.base): cache.bytes for cache in caches(site) if cache.chosen
    }


def _inputs(site: Site, past: "_Past") -> str:
    """Digest of what a choice depends on: the same history at the same versions is not chosen for twice."""
    data = [
        [site.cache_policy, site.cache_space, site.cache_state],
        [[f"{one.name}={one.version}" for one in request] for request in past.requests],
        [[list(group), base.manifest.digest] for group, (base, _) in past.bases.items()],
    ]
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def _settled(site: Site, inputs: str) -> bool:
    """Whether the last recomputation came to its end with these inputs, and what it chose is all there."""
    with state.connect(site) as connection:
        row = connection.execute(
            "SELECT facts FROM rebuilds WHERE outcome = 'done' ORDER BY id DESC LIMIT 1"
        ).fetchone()
    facts = json.loads(row["facts"]) if row else {}
    there = {cache.digest for cache in caches(site) if cache.chosen}
    return facts.get("inputs") == inputs and there == set(facts["digests"])


@dataclass(frozen=True)
class _Learnt:
    """A package as learning sees it: each group has its own."""

    name: str
    package: Package

    @property
    def version(self) -> str:
        return self.package.version

    @property
    def installed_size(self) -> int:
        return self.package.installed_size


@dataclass(frozen=True)
class _Past:
    """A site's past requests at the versions that its package index offers now."""

    requests: list[list[_Learnt]]
    packages: dict[str, tuple[Group, Package]]
    """By learning's `name=version`."""
    bases: dict[Group, tuple[Image, tuple[Package, ...]]]
    """Base image and its packages."""


def _past(site: Site, report: Report) -> _Past:
    """Packages that the index no longer offers are left out, and so are groups without a base image."""
    with state.connect(site) as connection:
        rows = connection.execute(
            "SELECT suite, architecture, kernel, packages FROM history ORDER BY time, cluster"
        ).fetchall()
    asked: dict[Group, list[list[str]]] = {}
    for suite, architecture, kernel, packages in rows:
        asked.setdefault((suite, architecture, kernel), []).append(packages.split())
    past = _Past([], {}, {})
    for number, (group, requests) in enumerate(asked.items()):
        suite, architecture, kernel = group
        found = Catalogue(site).find("base", base_key(suite, architecture, kernel, RECIPE))
        if found is None:
            report(f"{suite} for {architecture}: no base image, {len(requests)} requests left out", 0, 0)
            continue
        past.bases[group] = found, resolve.installed(Catalogue(site).status(found))
        names = {name for request in requests for name in request}
        learnt = {
            package.name: _Learnt(f"{number}/{package.name}", package)
            for package in resolve.current(
                names, suite=suite, architecture=architecture, site=site, report=report
            )
        }
        for one in learnt.values():
            past.packages[f"{one.name}={one.version}"] = group, one.package
        past.requests.extend([learnt[name] for name in request if name in learnt] for request in requests)
    return past


def _learnable(site: Site, past: _Past) -> "History":
    from vclust_py.cache.history import History

    growth = _growth(site, past)
    return History(past.requests, stored=lambda one: int(one.package.size * growth))


def _growth(site: Site, past: _Past) -> float:
    """Bytes stored for each byte of .deb, as the site's caches have it: like packages take alike."""
    sizes = {package.pinned: package.size for _, package in past.packages.values()}
    stored = fetched = 0
    for image in Catalogue(site).images():
        alike = image.manifest.kind == "cache" and image.manifest.state == site.cache_state
        if alike and sizes.keys() >= set(image.manifest.packages):
            stored += image.manifest.bytes
            fetched += sum(sizes[package] for package in image.manifest.packages)
    # In steps: the choice must not change with each cache that is built.
    return round(stored / fetched, 1) if fetched else _GROWTH


@dataclass(frozen=True)
class _Wanted:
    """A chosen cache as it is built."""

    cache: Cache
    lock: Lock
    base: Image
    label: str


def _wanted(past: _Past, cache: Cache) -> _Wanted:
    found = [past.packages[name] for name in cache.packages]
    group = found[0][0]
    base, installed = past.bases[group]
    packages = tuple(sorted((package for _, package in found), key=lambda package: package.name))
    lock = Lock(*group, base=installed, packages=packages, requested=())
    names = [package.pinned for package in packages]
    return _Wanted(cache, lock, base, label(names, cache.size, base.manifest.digest))


def _build(site: Site, wanted: Sequence[_Wanted], failed: dict[str, str], report: Report) -> list[str]:
    """Build the wanted caches that are not there, parents first, and mark them all as the chosen ones.

    Returns those built; in `failed` stands why others were not.
    """
    built, made = [], dict[Cache, Image]()
    for number, one in enumerate(wanted):
        below = one.cache.parent
        while below is not None and below not in made:
            below = below.parent
        onto = one.base if below is None else made[below]

        def tell(message: str, done: int, total: int, number: int = number) -> None:
            report(f"cache {number + 1} of {len(wanted)}: {message}", number, len(wanted))

        tell(one.label, 0, 0)
        try:
            known = Catalogue(site).find("cache", cache_key(one.lock, onto, site.cache_state))
            image = known or _built(site, one.lock, onto, tell)
        except VclustError as error:
            failed[one.label] = str(error)
            continue
        if known is None:
            built.append(one.label)
        if image.manifest.bytes + sum(other.manifest.bytes for other in made.values()) > site.cache_space:
            failed[one.label] = f"takes {image.manifest.bytes >> 20} MB, {_NO_SPACE}"
        else:
            made[one.cache] = image
    _mark(site, {image.manifest.digest for image in made.values()})
    return built


def _built(site: Site, lock: Lock, onto: Image, report: Report) -> Image:
    """Packages first, a few at a time and at full speed: requests may wait for the same lock."""
    own = beyond(lock, Catalogue(site), onto)
    for start in range(0, len(own), _BATCH):
        fetch(site, replace(lock, packages=own[start : start + _BATCH]), report)
    with _yielding():
        return ensure_cache(site, lock, onto, site.cache_state, report)


@contextlib.contextmanager
def _yielding() -> Iterator[None]:
    """Users' requests come first, on CPUs and disks alike: SCHED_IDLE is both (ioprio_set(2)); children inherit it.

    Each session is a group of its own to the scheduler, whatever the priorities inside (sched(7), autogroup).
    """
    alone = os.getsid(0) == os.getpid()

    def be(policy: int, group: str) -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, policy, os.sched_param(0))
            if alone:
                Path("/proc/self/autogroup").write_text(group, encoding="ascii")

    be(os.SCHED_IDLE, "19")
    try:
        yield
    finally:
        be(os.SCHED_OTHER, "0")


def _drop_damaged(site: Site, report: Report) -> list[str]:
    """Read every cache once.  What is not as its manifest says goes; if a cluster stands on it, once that has gone."""
    catalogue = Catalogue(site)
    said = catalogue.clean()
    images = {image.manifest.digest: image for image in catalogue.images()}
    standing = users(images, state.clusters(site))
    for number, (digest, image) in enumerate(images.items()):
        if image.manifest.kind != "cache":
            continue
        report("checking the caches", number, len(images))
        why = _damage(image)
        if why and digest in standing and image.manifest.key != RETIRED:
            catalogue.retire(image)
            why += f"; create these clusters anew: {', '.join(sorted(standing[digest]))}"
        elif why and digest not in standing:
            catalogue.remove(image)
        if why:
            said.append(f"{image.path.name}: {why}")
    return said


def _damage(image: Image) -> str:
    """What is wrong with the image's file; empty: nothing."""
    try:
        if is_packed_with_zstd(image.path):
            return "it is packed with zstd, which not every host can read"
        if file_digest(image.path) == image.manifest.digest:
            return ""
    except FileNotFoundError:  # somebody has taken it away meanwhile
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "its content is not what its manifest says"


def _mark(site: Site, chosen: Collection[str]) -> None:
    with state.connect(site) as connection, state.transaction(connection):
        connection.execute("UPDATE uses SET chosen = 0")
        connection.executemany(
            "INSERT INTO uses (digest, chosen) VALUES (?, 1) ON CONFLICT (digest) DO UPDATE SET chosen = 1",
            [(digest,) for digest in sorted(chosen)],
        )


def trim(site: Site) -> list[str]:
    """Take away what is too much for the site's spaces, least recently used first; why, a line for each.

    What a live cluster stands on stays, and so does what another image stands on; and caches, while a recomputation
    builds some over others.
    """
    return _trim(site, tuple(kind for kind in _DERIVED if kind != "cache") if _at_work(site) else _DERIVED)


def _trim(site: Site, kinds: Collection[str]) -> list[str]:
    catalogue, said = Catalogue(site), []
    with state.connect(site) as connection, state.transaction(connection):
        # Whoever takes up an image does so in a transaction as well, after a look whether it is there.
        images = {image.manifest.digest: image for image in catalogue.images()}
        idle = images.keys() - users(images, state.clusters(site)).keys()
        last = _last_used(connection, images.values())
        chosen = {row["digest"] for row in connection.execute("SELECT digest FROM uses WHERE chosen")}
        chosen &= {digest for digest in images if images[digest].manifest.kind == "cache"}
        now = time.time()
        for group, space, name in (
            (idle - chosen, site.layer_space, "layer_space"),
            (chosen, site.cache_space, "cache_space"),
        ):
            group = {digest for digest in group if images[digest].manifest.kind in kinds}
            taken = sum(images[digest].manifest.bytes for digest in group)
            while taken > space:
                backing = {image.manifest.backing for image in images.values()}
                free = [one for one in group & idle - backing if last[one] < now - _GRACE]
                if not free:
                    break
                oldest = images.pop(min(free, key=lambda digest: last[digest]))
                group.discard(oldest.manifest.digest)
                taken -= oldest.manifest.bytes
                catalogue.remove(oldest)
                said.append(f"{oldest.path.name}: least recently used beyond {name}, {space >> 20} MB")
        gone = [
            (row["digest"],)
            for row in connection.execute("SELECT digest FROM uses")
            if row["digest"] not in images
        ]
        connection.executemany("DELETE FROM uses WHERE digest = ?", gone)
    return said


def _last_used(connection: sqlite3.Connection, images: Collection[Image]) -> dict[str, float]:
    """Unix time of each image's last use; at the least that of its making."""
    used = {row["digest"]: row["used"] for row in connection.execute("SELECT digest, used FROM uses")}
    last = {}
    for image in images:
        made = 0.0
        with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
            made = image.path.stat().st_mtime
        last[image.manifest.digest] = max(used.get(image.manifest.digest, 0.0), made)
    return last


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
            row = connection.execute("SELECT * FROM rebuilds ORDER BY id DESC LIMIT 1").fetchone()
            recorded = connection.execute("SELECT count(*) FROM history").fetchone()[0]
    plain: dict[str, Any] = {
        "policy": site.cache_policy,
        "space": site.cache_space,
        "every": site.cache_every,
        "recorded": recorded,
    }
    if row is None:
        return {**plain, "state": "never", "seen": 0}
    outcome, detail = row["outcome"], ""
    if outcome == "running" and not _at_work(site):
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


def _at_work(site: Site) -> bool:
    try:
        with site.hold(_LOCK, patience=0):
            return False
    except VclustError:
        return True


def history(site: Site) -> "History":
    """The past requests as learning sees them.  Raises VclustError when the package index cannot be had."""
    return _learnable(site, _past(site, lambda message, done, total: None))


def usage(site: Site) -> list[dict[str, Any]]:
    """What every past request started from, oldest first: cache digest (empty: the base), bytes spared of bytes."""
    if not site.database.exists():
        return []
    with state.connect(site) as connection:
        rows = connection.execute(
            "SELECT history.time, history.bytes, clusters.name, clusters.cache FROM history"
            " JOIN clusters ON clusters.id = history.cluster ORDER BY history.time, history.cluster"
        ).fetchall()
    found = []
    for row in rows:
        cache = json.loads(row["cache"])
        found.append(
            {
                "time": row["time"],
                "name": row["name"],
                "cache": cache.get("digest", ""),
                "bytes": cache.get("bytes", 0),
                "of": row["bytes"],
            }
        )
    return found


def start_if_due(site: Site) -> bool:
    """Start a recomputation that goes on when this process has ended; whether one was started."""
    try:
        return due(site) and _start(site)
    except (OSError, VclustError) as error:  # whose cluster is ready shall not hear of it
        _log.warning("the caches are not learnt anew: %s", error)
        return False


def _start(site: Site) -> bool:
    with open(site.root / "caches.log", "wb") as log, tempfile.TemporaryFile("w+") as settings:
        # Not as arguments, which anybody may read: the proxy's address may hold a password.
        json.dump(site.to_mapping(), settings)
        settings.seek(0)
        subprocess.Popen(
            [sys.executable, "-m", "vclust_py.cache.manager"],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=settings,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return True


def main() -> None:
    """The recomputation in the background: the site's settings, JSON, come on standard input."""
    site = Site.from_mapping(json.load(sys.stdin))
    keep_interruptions()
    try:
        rebuild(site, lambda message, done, total: print(message, flush=True))
    except VclustError as error:
        sys.exit(f"vclust: {error}")


if __name__ == "__main__":
    main()
