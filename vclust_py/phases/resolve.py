"""Phase `resolve`: the request becomes the lock, its package closure."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from vclust_py import metapackages, timing
from vclust_py.apt import AptRoot
from vclust_py.cache import lookup, matching
from vclust_py.change import Change
from vclust_py.errors import RequestError, VclustError
from vclust_py.image import Report, base_key
from vclust_py.image.base import find_base
from vclust_py.image.store import missing
from vclust_py.lock import Lock
from vclust_py.metapackages import MetaPackage
from vclust_py.phases import Inputs, Result
from vclust_py.request import Request
from vclust_py.resolve import closure, complete, unknown_names
from vclust_py.site import learning
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session


def run(session: Session, inputs: Inputs) -> Result:
    """Find the packages of the request, and the VD caches that it could start from.

    Where there is no base image for them one is begun, for the phases to come.  Raises RequestError for names the index
    does not know and for packages that cannot be installed together.
    """
    request = inputs.asked
    with timing.trial(session.store, request, "resolve", check=inputs.check) as (cluster, report):
        bundles = _bundles(session, request, report)
        lock = find_lock(session, request, bundles, report, cluster=cluster, given=inputs.locked)
        if not inputs.check:
            session.make_ahead(session.site, lock)
    packages = sorted(matching.closure(lock))
    caches = {cache.digest: cache for cache in matching.matching(session, lock, request)}
    facts = {
        "lock": lock.digest,
        "packages": packages,
        "bytes": sum(package.size for package in lock.packages),
        "caches": [candidate.to_dict() for candidate in lookup.candidates(packages, caches)],
    }
    return Result(Change({}, {}), facts, _namesakes(request, session))


def _bundles(session: Session, request: Request, report: Report) -> tuple[MetaPackage, ...]:
    """The meta packages.  Raises RequestError for mistakes in them, together with names that no package has."""
    try:
        return metapackages.expand(request, session.site)
    except RequestError as error:
        asked = _asked(session, request, ())
        names = [*asked["names"], asked["kernel"]]
        where = {"suite": asked["suite"], "architecture": asked["architecture"]}
        unknown = unknown_names(names, **where, site=session.site, report=report)
        raise RequestError([*error.problems, *unknown]) from error


def _namesakes(request: Request, session: Session) -> tuple[str, ...]:
    """A word on each package that may be taken for a meta package: Debian's slurm is a monitor of networks."""
    software = request.software
    known = metapackages.names(session.site)
    return tuple(
        f"Packages: {name} is Debian's package of that name; the meta package is asked for by MetaPackages: {name}"
        for name in software.packages
        if name in known and name not in software.meta_packages
    )


def find_lock(
    session: Session,
    request: Request,
    bundles: Sequence[MetaPackage],
    report: Report,
    *,
    cluster: Cluster | None,
    given: Lock | None,
) -> Lock:
    """The lock of the request's cluster: the one `given`, or that of an interrupted creation, or a new one.

    Raises RequestError when the given lock is not one of this request, or the cluster holds another one already.
    """
    earlier = _of_interrupted(session, cluster)
    if given is None:
        return earlier or _resolve(session, request, bundles, report)
    _check_fit(given, _asked(session, request, bundles))
    if earlier is not None and earlier.digest != given.digest:
        raise RequestError(
            [f"lock: got {given.digest[:12]}, the cluster {request.name} has {earlier.digest[:12]} already"],
            f"destroy it first, `vclust destroy {request.name}`, or go on without a lock",
        )
    lock = earlier or complete(given, session.site, report)
    lock.save(session.site)
    return lock


def _of_interrupted(session: Session, cluster: Cluster | None) -> Lock | None:
    """The lock that an interrupted creation goes on with."""
    if cluster is None or not cluster.lock:
        return None
    lock = Lock.load(session.site, cluster.lock)
    if cluster.images:
        return lock
    # The archive may have moved on meanwhile: what is not here yet may be nowhere.
    whole = find_base(session.site, lock) and not missing(session.site, lock.packages)
    return lock if whole else None


def package_names(request: Request, bundles: Sequence[MetaPackage]) -> set[str]:
    """The packages that the request asks for, itself and by its meta packages."""
    return {*request.software.packages, *(name for bundle in bundles for name in bundle.packages)}


def _asked(session: Session, request: Request, bundles: Sequence[MetaPackage]) -> dict[str, Any]:
    """What the request leaves to be resolved: arguments of `closure`."""
    software, architecture = request.software, request.hardware.architecture
    return {
        "names": package_names(request, bundles),
        "suite": software.suite or session.site.default_suite,
        "architecture": architecture,
        "kernel": software.kernel or f"linux-image-cloud-{architecture}",
    }


def _check_fit(lock: Lock, asked: dict[str, Any]) -> None:
    problems = [
        f"lock: {name}: got '{getattr(lock, name)}', the request asks for '{asked[name]}'"
        for name in ("suite", "architecture", "kernel")
        if getattr(lock, name) != asked[name]
    ]
    for names, what in (
        (asked["names"] - set(lock.requested), "was made without"),
        (set(lock.requested) - asked["names"], "was made with, and the request is without,"),
    ):
        if names:
            problems.append(f"lock: {what} {', '.join(sorted(names))}")
    if problems:
        raise RequestError(problems, "a lock serves requests for the same packages only")


def _resolve(session: Session, request: Request, bundles: Sequence[MetaPackage], report: Report) -> Lock:
    """The lock of the request by apt, kept in the site; what was resolved before by the same index is looked up."""
    asked = _asked(session, request, bundles)
    AptRoot(session.site, asked["suite"], asked["architecture"]).note_use()
    key = _key(session, asked)
    known = learning.resolution(session.store, key) if key else None
    if known is not None:
        try:
            return Lock.load(session.site, known)
        except VclustError:  # its file has gone, or is damaged
            pass
    lock = closure(**asked, site=session.site, report=report)
    lock.save(session.site)
    # The index may have been fetched just now.
    key = _key(session, asked)
    if key and session.store.exists:  # looking at a plan makes no store
        learning.record_resolution(session.store, key, lock.digest)
    return lock


def _key(session: Session, asked: dict[str, Any]) -> str:
    """Digest of all that apt's answer depends on; empty while there is no index, or it must be fetched."""
    root = AptRoot(session.site, asked["suite"], asked["architecture"])
    index = root.state()
    if not index:
        return ""
    key = base_key(asked["suite"], asked["architecture"], asked["kernel"], session.site.base_packages)
    base = session.images.find("base", key)
    data = [
        sorted(asked["names"]),
        [asked[name] for name in ("suite", "architecture", "kernel")],
        index,
        key if base is None else base.manifest.digest,
    ]
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()
