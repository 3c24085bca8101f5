"""Package store and package indices within their spaces: what no cluster needs goes, least recently used first."""

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vclust_py.apt import AptRoot, apt_roots
from vclust_py.errors import BusyError, VclustError
from vclust_py.image.store import files_of
from vclust_py.lock import Lock
from vclust_py.site import clusters, snapshots
from vclust_py.site.session import Session

_GRACE = 3600.0
"""Seconds that what was used stays: somebody may be building of it, for whom no lock is written down yet."""
_TIMEOUT = 1.0
"""Seconds to wait for who fetches packages, or an index: there is a next time."""


@dataclass(frozen=True)
class _Entry:
    """What goes as a whole: when it was used last (Unix time), and its bytes."""

    used: float
    bytes: int


def trim(session: Session) -> list[str]:
    """Take away what is too much for `package_space` and `index_space`; what that was, a line for each of both.

    Packages of the locks of live clusters and their snapshots stay, and so do the indices of their suites.
    """
    return [*_trim_packages(session), *_trim_indices(session)]


def _trim_packages(session: Session) -> list[str]:
    site = session.site
    with contextlib.suppress(BusyError), site.file_lock("packages", timeout=_TIMEOUT):
        stored = files_of(site)
        entries = {digest: _entry(paths) for digest, paths in stored.items()}
        # The locks last: who has just written one has fetched nothing yet, or just now.
        needed = {package.sha256 for lock in _locks(session) for package in lock.packages}
        gone = _too_much(entries, needed, site.package_space)
        for digest in gone:
            for path in stored[digest]:
                path.unlink(missing_ok=True)
        if gone:
            size = sum(entries[digest].bytes for digest in gone) >> 20
            return [f"{len(gone)} packages, {size} MB: least recently used beyond package_space"]
    return []


def _trim_indices(session: Session) -> list[str]:
    site, removed = session.site, []
    roots = {root.path.name: root for root in apt_roots(site)}
    entries = {name: _entry(root.path.rglob("*")) for name, root in roots.items()}
    needed = {AptRoot(site, lock.suite, lock.architecture).path.name for lock in _locks(session)}
    for name in _too_much(entries, needed, site.index_space):
        with contextlib.suppress(BusyError):
            roots[name].clear(timeout=_TIMEOUT)
            size = entries[name].bytes >> 20
            removed.append(f"the package index {name}, {size} MB: least recently used beyond index_space")
    return removed


def _entry(paths: Iterable[Path]) -> _Entry:
    used, size = 0.0, 0
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found = path.lstat()
            used, size = max(used, found.st_mtime), size + found.st_size
    return _Entry(used, size)


def _locks(session: Session) -> list[Lock]:
    """Those of live clusters and of their snapshots, where they are there."""
    live = clusters.live(session.store)
    digests = {cluster.lock for cluster in live if cluster.lock}
    digests |= {one.lock for cluster in live for one in snapshots.of(session.store, cluster)}
    found = []
    for digest in digests:
        with contextlib.suppress(VclustError):
            found.append(Lock.load(session.site, digest))
    return found


def _too_much(entries: Mapping[str, _Entry], needed: Collection[str], space: int) -> list[str]:
    """Names of those that are beyond the space, which those needed do not count for; least recently used first."""
    idle = {name: entry for name, entry in entries.items() if name not in needed}
    size, now, gone = sum(entry.bytes for entry in idle.values()), time.time(), []
    for name, entry in sorted(idle.items(), key=lambda item: (item[1].used, item[0])):
        if size <= space or entry.used > now - _GRACE:
            break
        gone.append(name)
        size -= entry.bytes
    return gone
