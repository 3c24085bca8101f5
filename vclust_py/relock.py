"""The next lock of a cluster that runs: other packages are asked for, and what is there keeps its version; or the
packages come to the versions that the archives have now.
"""

import re
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vclust_py.apt import AptRoot
from vclust_py.errors import RequestError, VclustError
from vclust_py.image import Catalogue, Report
from vclust_py.image.base import find_base
from vclust_py.image.store import signed_copy
from vclust_py.lock import Lock, Package
from vclust_py.resolve import FRESH, check_names, install, later, upgrade
from vclust_py.run import CommandError, run
from vclust_py.site import Site

_REMOVED = re.compile(r"^Remv (\S+) ", re.MULTILINE)
# What nobody asks for goes, also where something recommends it: a closure has no recommended packages either.
_AUTOREMOVE = (
    "-o", "APT::AutoRemove::RecommendsImportant=false", "-o", "APT::AutoRemove::SuggestsImportant=false",
)  # fmt: skip


def relock(present: Lock, names: Iterable[str], site: Site, report: Report) -> Lock:
    """The lock of nodes with the lock `present`, once these packages, and no others, are asked for.

    New packages come as the index has them now; of those that are there only what they need is upgraded.  What nothing
    asks for any more goes.  Raises RequestError for unknown names, and where the new packages cannot be installed
    beside the old ones; VclustError where nobody knows a package of the old lock any more.
    """
    requested = sorted(set(names))
    added = [name for name in requested if name not in present.requested]
    if requested == sorted(present.requested):
        return present
    root = AptRoot(site, present.suite, present.architecture)
    with root.file_lock():
        root.ensure_index(report)
        check_names(root, added)
        status = root.path / "running.status"
        status.write_text(_status(root, site, present), encoding="utf-8")
        new = install(root, added, status, "--no-upgrade") if added else ()
        gone = _unused(root, present, requested, added, status)
    return replace(_with(present, new, gone), requested=tuple(requested))


@dataclass(frozen=True)
class Upgraded:
    """What an upgrade makes of a lock."""

    lock: Lock
    lacking: Mapping[str, tuple[str, bool]]
    """Packages that keep a version older than the archives': by name that one, and whether it is for security."""
    held: frozenset[str]
    """Names of packages that were to keep their versions."""
    kernel: str
    """The later kernel, `name=version`, that the archives have and nodes with this lock never boot; empty: none."""


def upgraded(present: Lock, site: Site, report: Report, *, security: bool = False) -> Upgraded:
    """The lock of nodes with the lock `present`, once their packages are upgraded; with `security` only those of which
    the archives have a version for security, and what these need.

    None goes: what could be upgraded only without another package keeps its version.  So does the kernel: nodes boot
    the one of their base image, whatever is on their disks.  Raises VclustError where nobody knows a package of the
    lock any more.
    """
    root = AptRoot(site, present.suite, present.architecture)
    installed = present.installed()
    kernels = [present.kernel, *sorted(name for name in installed if name.startswith("linux-image-"))]
    with root.file_lock():
        root.ensure_index(report, max_age=FRESH)
        offered = later(root, installed)
        held = frozenset(
            name
            for name in installed
            if name in kernels or (security and not offered.get(name, ("", False))[1])
        )
        new: tuple[Package, ...] = ()
        if offered.keys() - held:
            status = root.path / "running.status"
            status.write_text(_status(root, site, present, held), encoding="utf-8")
            new = upgrade(root, status)
    fresh = {package.name for package in new}
    kernel = next((f"{name}={offered[name][0]}" for name in kernels if name in offered), "")
    lacking = {name: version for name, version in offered.items() if name not in fresh}
    return Upgraded(_with(present, new), lacking, held, kernel)


def _with(lock: Lock, new: Iterable[Package], gone: Container[str] = frozenset()) -> Lock:
    """The lock with the packages `new`, those of the same names replaced, and without those that go."""
    packages = {package.name: package for package in (*lock.packages, *new)}
    kept = (package for name, package in sorted(packages.items()) if name not in gone)
    return replace(lock, packages=tuple(kept))


def _status(root: AptRoot, site: Site, lock: Lock, held: Container[str] = frozenset()) -> str:
    """A dpkg status file of nodes with the lock; `held` are packages on hold."""
    base = find_base(site, lock)
    if base is None:
        raise VclustError(f"the base image of the lock {lock.digest[:12]} is not there")
    newer = {package.name for package in lock.packages}
    records = [
        record
        for record in _records(Catalogue(site).status(base.base).read_text(encoding="utf-8"))
        if _field(record, "Package") not in newer
    ]
    for record in _described(root, site, lock):
        lines = [line for line in record.splitlines() if not line.startswith(("Status:", "Filename:"))]
        records.append("\n".join([lines[0], "Status: install ok installed", *lines[1:]]))
    return "\n\n".join(_on_hold(one) if _field(one, "Package") in held else one for one in records) + "\n"


def _on_hold(record: str) -> str:
    return re.sub(r"^Status: install ", "Status: hold ", record, flags=re.MULTILINE)


def _described(root: AptRoot, site: Site, lock: Lock) -> Iterator[str]:
    """The control records of the lock's packages: the index's, else the package store's."""
    wanted = {(package.name, package.version): package for package in lock.packages}
    if not wanted:
        return
    try:
        text = root.run("apt-cache", "show", "--", *(package.pinned for package in lock.packages))
    except CommandError as error:  # exit status 100 for one that the index has no more
        text = error.output
    for record in _records(text):
        if wanted.pop((_field(record, "Package"), _field(record, "Version")), None) is not None:
            yield record
    for package in wanted.values():
        path = signed_copy(site, package)
        if not path.is_file():
            raise VclustError(
                f"{package.identity}: neither the package index of {lock.suite} nor the package store has it any more"
            )
        yield run(["dpkg-deb", "--field", path]).strip()


def _records(text: str) -> list[str]:
    return [block.strip("\n") for block in re.split(r"\n\n+", text) if _field(block, "Package")]


def _field(record: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", record, re.MULTILINE)
    return found[1].strip() if found else ""


def _unused(root: AptRoot, present: Lock, requested: list[str], added: list[str], status: Path) -> set[str]:
    """Packages of the lock that nothing asks for any more."""
    if set(present.requested) <= set(requested):
        return set()
    held = {package.name: package for package in present.packages}
    # Those of the base are there by themselves.
    own = {package.name for package in present.base}
    automatic = root.path / "running.automatic"
    automatic.write_text(
        "".join(
            f"Package: {name}\nArchitecture: {package.architecture}\nAuto-Installed: 1\n\n"
            for name, package in held.items()
            if name not in requested and name not in own
        ),
        encoding="utf-8",
    )
    options = [*_AUTOREMOVE, "-o", f"Dir::State::extended_states={automatic}"]
    text = root.run(
        "apt-get", "-q", "-s", "install", "--auto-remove", "--no-upgrade", *options, "--", *added,
        status=status,
    )  # fmt: skip
    removed = set(_REMOVED.findall(text))
    if wrong := sorted(removed & (own | set(requested))):
        raise RequestError([f"{present.suite}: {wrong[0]}: would have to go for the others"])
    return removed & held.keys()
