"""A site's past requests as learning sees them: today's versions of what they asked for, and what storing it takes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vclust_py import resolve
from vclust_py.image import Image, Report, base_key
from vclust_py.lock import Package
from vclust_py.site import learning
from vclust_py.site.session import Session

if TYPE_CHECKING:
    from vclust_py.cache.history import History

_GROWTH = 1.4
"""Bytes in a cache's file for each byte of its packages' .debs, until caches of the site tell."""

Group = tuple[str, str, str]
"""Suite, architecture and kernel: requests of one group are beyond the same base image."""


@dataclass(frozen=True)
class LearntPackage:
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
class Past:
    """A site's past requests at the versions that its package index offers now."""

    requests: list[list[LearntPackage]]
    packages: dict[str, tuple[Group, Package]]
    """By learning's `name=version`."""
    bases: dict[Group, tuple[Image, tuple[Package, ...]]]
    """Base image and its packages."""


def read_past(session: Session, report: Report) -> Past:
    """Packages that the index no longer offers are left out, and so are groups without a base image."""
    rows = learning.past_requests(session.store)
    asked: dict[Group, list[list[str]]] = {}
    for suite, architecture, kernel, packages in rows:
        asked.setdefault((suite, architecture, kernel), []).append(packages.split())
    past = Past([], {}, {})
    for number, (group, requests) in enumerate(asked.items()):
        suite, architecture, kernel = group
        base = session.images.find("base", base_key(suite, architecture, kernel, session.site.base_packages))
        if base is None:
            report(f"{suite} for {architecture}: no base image, {len(requests)} requests left out", 0, 0)
            continue
        past.bases[group] = base, resolve.installed(session.images.status(base))
        names = {name for request in requests for name in request}
        learnt = {
            package.name: LearntPackage(f"{number}/{package.name}", package)
            for package in resolve.current(
                names, suite=suite, architecture=architecture, site=session.site, report=report
            )
        }
        for package in learnt.values():
            past.packages[f"{package.name}={package.version}"] = group, package.package
        past.requests.extend([learnt[name] for name in request if name in learnt] for request in requests)
    return past


def learnable(session: Session, past: Past) -> "History":
    from vclust_py.cache.history import History

    growth = _growth(session, past)
    return History(past.requests, stored=lambda package: int(package.package.size * growth))


def _growth(session: Session, past: Past) -> float:
    """Bytes stored for each byte of .deb, as the site's caches have it: like packages take alike."""
    sizes = {package.pinned: package.size for _, package in past.packages.values()}
    stored = fetched = 0
    for image in session.images.images():
        alike = image.manifest.kind == "cache" and image.manifest.state == session.site.cache_state
        if alike and sizes.keys() >= set(image.manifest.pinned):
            stored += image.manifest.bytes
            fetched += sum(sizes[package] for package in image.manifest.pinned)
    # In steps: the choice must not change with each cache that is built.
    return round(stored / fetched, 1) if fetched else _GROWTH


def history(session: Session) -> "History":
    """The past requests as learning sees them.  Raises VclustError when the package index cannot be had."""
    return learnable(session, read_past(session, lambda message, done, total: None))
