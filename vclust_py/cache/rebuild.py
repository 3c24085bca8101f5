"""Recomputing the caches: learn from past requests which ones to keep, build these, let others go.

`rebuild` is a function of what is written down (past requests, images), so that a crash at any moment costs no more
than its time.  What takes long in it runs with the least priority there is.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from vclust_py.cache import Cache, priority, retention
from vclust_py.cache.past import Past, learnable, read_past
from vclust_py.cache.status import REBUILD_LOCK
from vclust_py.cache.stored import caches
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.image import Image, Report
from vclust_py.image.builder import cache_key, ensure_cache, missing_from
from vclust_py.image.store import fetch
from vclust_py.lock import Lock, Package
from vclust_py.site import learning
from vclust_py.site.session import Session
from vclust_py.text import DETAIL, LINE, plain

_TIMEOUT = 1.0
"""Seconds to wait for the lock: whoever only asks whether it is held has it for a moment."""
_NO_SPACE = "more than is left of the space"
_BATCH = 8
"""Packages fetched in one go: requests that fetch wait no longer than for these."""


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


def rebuild(session: Session, report: Report, *, check: bool = False) -> Rebuilt:
    """Choose caches by the site's policy, build what is missing, then let go what no longer has a place.

    Raises VclustError when another recomputation is at work.  A cache that cannot be built is named in the result;
    the others are built all the same.
    """
    with session.site.file_lock(REBUILD_LOCK, timeout=_TIMEOUT):
        if check:
            return _rebuild(session, report, check=True)
        with _recorded(session, report) as (number, tell):
            result = _rebuild(session, tell)
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
                "digests": [cache.digest for cache in caches(session) if cache.chosen],
            }
            learning.set_rebuild_facts(session.store, number, facts)
    return result


def fetch_packages(session: Session, report: Report) -> dict[str, str]:
    """Fetch the packages of which `rebuild` is going to build caches, so that it needs no network then.

    Returns why some were not fetched, by the cache's label.  Raises VclustError when a recomputation is at work.
    """
    failed = {}
    with session.site.file_lock(REBUILD_LOCK, timeout=_TIMEOUT):
        past = read_past(session, report)
        if _is_done(session, _inputs(session, past)):
            return {}
        before = _chosen(session)
        for target in _choose(session, past, report):
            if target.label not in before:
                try:
                    _fetch(session, target.lock, target.lock.packages, report)
                except VclustError as error:
                    failed[target.label] = str(error)
    return failed


@contextlib.contextmanager
def _recorded(session: Session, report: Report) -> Iterator[tuple[int, Report]]:
    """A row of `rebuilds` around the body; what is reported goes there as well."""
    number = learning.begin_rebuild(session.store)

    def tell(message: str, done: int, total: int) -> None:
        message = plain(message, LINE)
        report(message, done, total)
        learning.tell_rebuild(session.store, number, message, done, total)

    outcome = "done"
    try:
        yield number, tell
    except BaseException as error:
        failure = plain(f"failed: {error}", DETAIL, lines=True)
        outcome = failure if isinstance(error, Exception) else "interrupted"
        raise
    finally:
        with contextlib.suppress(VclustError):
            learning.end_rebuild(session.store, number, outcome)


def _rebuild(session: Session, report: Report, *, check: bool = False) -> Rebuilt:
    started = time.monotonic()
    report("reading the past requests", 0, 0)
    past = read_past(session, report)
    before = _chosen(session)
    removed = [] if check else retention.drop_damaged(session, report)
    inputs, failed = _inputs(session, past), dict[str, str]()
    if _is_done(session, inputs):
        built, after = [], before
    else:
        wanted = _choose(session, past, report)
        if check:
            built = [cache.label for cache in wanted if cache.label not in before]
            after = {cache.label: before.get(cache.label, 0) for cache in wanted}
            removed = sorted(before.keys() - after.keys())
        else:
            built = _build(session, wanted, failed, report)
            after = _chosen(session)
    if not check:
        removed += retention.trim_kinds(session, retention.DERIVED)
    return Rebuilt(
        policy=session.site.cache_policy,
        requests=len(past.requests),
        chosen=len(after),
        built=tuple(built),
        removed=tuple(removed),
        failed=failed,
        stored_bytes=sum(after.values()),
        space=session.site.cache_space,
        seconds=round(time.monotonic() - started, 3),
        change=Change({"caches": sorted(before)}, {"caches": sorted(after)}),
        inputs=inputs,
    )


def _chosen(session: Session) -> dict[str, int]:
    """Labels and file bytes of the chosen caches that are there."""
    return {
        label(cache.packages, cache.size, cache.base): cache.bytes
        for cache in caches(session)
        if cache.chosen
    }


def _inputs(session: Session, past: Past) -> str:
    """Digest of what a choice depends on: the same history at the same versions is not chosen for twice."""
    data = [
        [session.site.cache_policy, session.site.cache_space, session.site.cache_state],
        [[f"{package.name}={package.version}" for package in request] for request in past.requests],
        [[list(group), base.manifest.digest] for group, (base, _) in past.bases.items()],
    ]
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()


def _is_done(session: Session, inputs: str) -> bool:
    """Whether the last recomputation came to its end with these inputs, and what it chose is all there."""
    facts = learning.last_done_facts(session.store)
    stored = {cache.digest for cache in caches(session) if cache.chosen}
    return facts.get("inputs") == inputs and stored == set(facts["digests"])


@dataclass(frozen=True)
class _Wanted:
    """A chosen cache as it is built."""

    cache: Cache
    lock: Lock
    base: Image
    label: str


def _choose(session: Session, past: Past, report: Report) -> list[_Wanted]:
    """The caches that the site's policy wants, parents first."""
    from vclust_py.cache.policies import policy

    report(f"choosing caches for {len(past.requests)} requests", 0, 0)
    if not past.requests:
        return []
    with priority.lowest():
        history = learnable(session, past)
        chosen = policy(session.site.cache_policy).choose(history, session.site.cache_space, {})
    return [_wanted(past, cache) for cache in chosen]


def _wanted(past: Past, cache: Cache) -> _Wanted:
    grouped = [past.packages[name] for name in cache.packages]
    group = grouped[0][0]
    base, installed = past.bases[group]
    packages = tuple(sorted((package for _, package in grouped), key=lambda package: package.name))
    lock = Lock(*group, base=installed, packages=packages, requested=())
    names = [package.pinned for package in packages]
    return _Wanted(cache, lock, base, label(names, cache.size, base.manifest.digest))


def _build(session: Session, wanted: Sequence[_Wanted], failed: dict[str, str], report: Report) -> list[str]:
    """Build the wanted caches that are not there, parents first, and mark them all as the chosen ones.

    Returns those built; in `failed` stands why others were not.
    """
    built, made = [], dict[Cache, Image]()
    for number, target in enumerate(wanted):
        below = target.cache.parent
        while below is not None and below not in made:
            below = below.parent
        parent = target.base if below is None else made[below]

        def tell(message: str, done: int, total: int, number: int = number) -> None:
            report(f"cache {number + 1} of {len(wanted)}: {message}", number, len(wanted))

        tell(target.label, 0, 0)
        try:
            known = session.images.find("cache", cache_key(target.lock, parent, session.site.cache_state))
            image = known or _build_cache(session, target.lock, parent, tell)
        except VclustError as error:
            failed[target.label] = str(error)
            continue
        if known is None:
            built.append(target.label)
        if (
            image.manifest.bytes + sum(other.manifest.bytes for other in made.values())
            > session.site.cache_space
        ):
            failed[target.label] = f"takes {image.manifest.bytes >> 20} MB, {_NO_SPACE}"
        else:
            made[target.cache] = image
    learning.mark_chosen(session.store, {image.manifest.digest for image in made.values()})
    return built


def _build_cache(session: Session, lock: Lock, parent: Image, report: Report) -> Image:
    _fetch(session, lock, missing_from(lock, session.images, parent), report)
    with priority.lowest():
        return ensure_cache(session.site, lock, parent, session.site.cache_state, report)


def _fetch(session: Session, lock: Lock, packages: Sequence[Package], report: Report) -> None:
    """A few at a time and at full speed: requests may wait for the same file lock."""
    for start in range(0, len(packages), _BATCH):
        fetch(session.site, replace(lock, packages=tuple(packages[start : start + _BATCH])), report)
