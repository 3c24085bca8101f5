"""Base images renewed: a new one is made where the archives have security updates for what the newest one holds.

Requests that come then take it, as it is the newest of its key; caches and layers are made over it as they are needed.
Clusters that are there stand on the old one, which stays as long as they do (`vclust_py.cache.retention`).
"""

import time
from collections.abc import Iterator
from dataclasses import replace

from vclust_py.cache import priority
from vclust_py.cache.retention import made_at
from vclust_py.cache.stored import caches
from vclust_py.errors import VclustError
from vclust_py.image import Image, Report, base_key
from vclust_py.image.base import ensure_base
from vclust_py.image.store import fetch
from vclust_py.lock import Lock
from vclust_py.resolve import base_updates
from vclust_py.site import learning
from vclust_py.site.session import Session

_UNUSED = 30 * 86400.0
"""Seconds after which a base image that nobody has used is renewed no more: the next one who asks for it waits."""
_LOOKED = "renewed"
"""A file of the site: its time is that of the last look."""


def is_due(session: Session) -> bool:
    """Whether the archives are to be asked again: the last time, or the newest base image, is too old."""
    return any(True for _ in _due(session))


def fetch_packages(session: Session, report: Report) -> list[str]:
    """Fetch the packages of base images that `renew` is going to make, so that it needs no network; what could not be
    fetched, a line for each.
    """
    failed = []
    for base, kernel in list(_due(session)):
        try:
            lock, security = _updates(session, base, kernel, report)
            if security:
                fetch(session.site, replace(lock, packages=lock.base), report)
        except VclustError as error:
            failed.append(f"not fetched: {_name(base)}: {error}")
    return failed


def renew(session: Session, report: Report) -> list[str]:
    """Make the base images that are due and lack security updates; what was done, a line for each.

    One that cannot be made is told, and tried again the next time; the old one serves on.
    """
    site, done, failed = session.site, list[str](), False
    for base, kernel in list(_due(session)):
        try:
            lock, security = _updates(session, base, kernel, report)
            if security:
                with priority.lowest():
                    made = ensure_base(site, lock, report).base
                # Whoever was first: used as much as the one in whose place it is.
                learning.note_use(session.store, [made.manifest.digest])
                done.append(f"renewed the {_name(base)}, for {', '.join(security)}")
        except VclustError as error:
            failed = True
            done.append(f"not renewed: {_name(base)}: {error}")
    if not failed:
        (site.root / _LOOKED).touch()
    return done


def _name(base: Image) -> str:
    return f"base image of {base.manifest.suite} for {base.manifest.architecture}"


def _updates(session: Session, base: Image, kernel: str, report: Report) -> tuple[Lock, list[str]]:
    """As `base_updates`: the lock of a base image in its place, and what it lacks for security."""
    manifest = base.manifest
    return base_updates(
        dict(pinned.split("=", 1) for pinned in manifest.pinned),
        suite=manifest.suite,
        architecture=manifest.architecture,
        kernel=kernel,
        site=session.site,
        report=report,
    )


def left_behind(session: Session) -> bool:
    """Whether chosen VD caches stand on a base image that no request takes any more."""
    images = {image.manifest.digest: image for image in session.images.images()}
    for digest in {cache.base for cache in caches(session) if cache.chosen}:
        newest = session.images.find("base", images[digest].manifest.key)
        if newest is not None and newest.manifest.digest != digest:
            return True
    return False


def _due(session: Session) -> Iterator[tuple[Image, str]]:
    """The newest base image of each key of today that is used, with its kernel's package; those too old alone."""
    site, now = session.site, time.time()
    if site.base_renewal == 0 or not session.store.exists:
        return
    looked = site.root / _LOOKED
    last = looked.stat().st_mtime if looked.exists() else 0.0
    newest = {
        image.manifest.key: image
        for image in session.images.images()  # oldest first
        if image.manifest.kind == "base"
    }
    uses = learning.uses(session.store) if newest else {}
    for key, base in newest.items():
        manifest, kernel = base.manifest, key.split(" ")[2]
        if key != base_key(manifest.suite, manifest.architecture, kernel, site.base_packages):
            continue  # of an earlier version, or of other settings
        made = made_at(base)
        used = max(made, uses[manifest.digest]["used"] if manifest.digest in uses else 0.0)
        # A clock that was set back makes nothing older.
        if now - max(made, last) >= site.base_renewal and now - used < _UNUSED:
            yield base, kernel
