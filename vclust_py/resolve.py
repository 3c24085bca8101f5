"""A set of package names becomes its closure with versions, sizes and digests, by real apt.

apt works in a private root (`vclust_py.apt`) whose dpkg status is that of the base image, so that the
closure is just what the base lacks.
"""

import difflib
import re
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vclust_py.apt import AptRoot
from vclust_py.apt import sources as sources
from vclust_py.errors import RequestError
from vclust_py.image import Catalogue, Report, base_key
from vclust_py.image.base import BASE_PACKAGES, find_base
from vclust_py.image.store import control, signed_copy
from vclust_py.lock import NAME, Lock, Package
from vclust_py.run import CommandError, run
from vclust_py.site import Site

FRESH = 600.0
"""Seconds that the package index may be old where the point is what the archives have today."""
_URI_LINE = re.compile(r"'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})")


def closure(
    names: Iterable[str], *, suite: str, architecture: str, kernel: str, site: Site, report: Report
) -> Lock:
    """What installing `names` over the base image takes."""
    requested = sorted(set(names))
    site.make_directories()
    root = AptRoot(site, suite, architecture)
    with root.file_lock():
        root.ensure_index(report)
        check_names(root, [*requested, kernel])
        check_names(root, site.base_packages, "vclust_site: base_packages: ")
        key = base_key(suite, architecture, kernel, site.base_packages)
        image = Catalogue(site).find("base", key)
        if image is not None:
            status = Catalogue(site).status(image)
            base = installed(status)
        else:
            status, base = _future_base(root, [*BASE_PACKAGES, *site.base_packages, kernel])
        packages = install(root, requested, status) if requested else ()
    return Lock(suite, architecture, kernel, base, packages, tuple(requested))


def unknown_names(
    names: Iterable[str], *, suite: str, architecture: str, site: Site, report: Report
) -> list[str]:
    """A problem for each of these names that is no package's."""
    site.make_directories()
    root = AptRoot(site, suite, architecture)
    with root.file_lock():
        root.ensure_index(report)
        try:
            check_names(root, sorted(set(names)))
        except RequestError as error:
            return error.problems
    return []


def current(
    names: Iterable[str], *, suite: str, architecture: str, site: Site, report: Report
) -> tuple[Package, ...]:
    """The packages of these names as the index offers them now; names it no longer knows are left out."""
    root, wanted = AptRoot(site, suite, architecture), set(names)
    if not wanted:
        return ()
    with root.file_lock():
        root.ensure_index(report)
    # Reading all these takes seconds, and requests must not wait: an index that is fetched meanwhile is an error here.
    text = root.run("apt-cache", "policy", "--", *sorted(wanted))
    offered = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (?!\(none\))(\S+)$", text, re.MULTILINE)
    words = [f"{name}={version}" for name, version in offered if name in wanted]
    if not words:
        return ()
    return _downloads(root, words)


def newer(
    packages: Mapping[str, str], *, suite: str, architecture: str, site: Site, report: Report
) -> dict[str, bool]:
    """Those of these packages, versions by their names, that the index has in a later one; whether for security."""
    root = AptRoot(site, suite, architecture)
    with root.file_lock():
        root.ensure_index(report)
    return {name: security for name, (_, security) in later(root, packages).items()}


def base_updates(
    packages: Mapping[str, str], *, suite: str, architecture: str, kernel: str, site: Site, report: Report
) -> tuple[Lock, list[str]]:
    """Which packages of a base image, versions by their names, the archives have in a later version for security; and
    the lock of a base image that is made now.
    """
    root = AptRoot(site, suite, architecture)
    with root.file_lock():
        root.ensure_index(report, max_age=FRESH)
        security = sorted(name for name, (_, for_security) in later(root, packages).items() if for_security)
        _, base = _future_base(root, [*BASE_PACKAGES, *site.base_packages, kernel])
    return Lock(suite, architecture, kernel, base, (), ()), security


def later(root: AptRoot, packages: Mapping[str, str]) -> dict[str, tuple[str, bool]]:
    """Those of these packages, versions by their names, that the index has in a later version: that version, and
    whether it is for security.
    """
    text = root.run("apt-cache", "policy", "--", *sorted(packages)) if packages else ""
    return {
        name: (version, security)
        for name, (version, security) in candidates(text).items()
        if name in packages and version != packages[name] and _is_later(version, packages[name])
    }


def candidates(text: str) -> dict[str, tuple[str, bool]]:
    """What apt-cache(8) policy says: by name the version that apt would install, and whether an archive for security
    updates has it.
    """
    found = {}
    for name, block in re.findall(r"^(\S+):\n((?: .*\n?)+)", text, re.MULTILINE):
        match = re.search(r"^  Candidate: (?!\(none\))(\S+)$", block, re.MULTILINE)
        if match is not None:
            table = re.search(
                rf"^ (?:   |\*\*\*) {re.escape(match[1])} -?\d+\n((?:        .*\n?)*)", block, re.MULTILINE
            )
            # Debian's is called bookworm-security.
            found[name] = (match[1], table is not None and "-security/" in table[1])
    return found


def _is_later(version: str, than: str) -> bool:
    try:
        run(["dpkg", "--compare-versions", version, "gt", than])
    except CommandError:
        return False
    return True


def complete(lock: Lock, site: Site, report: Report) -> Lock:
    """A lock that came from outside, with nothing taken from it but which packages there are: the rest is known here.

    Names, versions and digests are the lock's; sizes, files and where they come from are those of the signed index or,
    for what the archive no longer has, of the package store.  Raises RequestError for packages that neither knows by
    that name, version and digest, and for a base that is neither there nor in the index.
    """
    root = AptRoot(site, lock.suite, lock.architecture)
    with root.file_lock():
        root.ensure_index(report)
        offered = {
            (package.name, package.version): package
            for package in _offered(root, (*lock.packages, *lock.base))
        }
    known = []
    for package in lock.packages:
        found = offered.get((package.name, package.version))
        same = found is not None and found.sha256 == package.sha256
        known.append(found if same else _from_store(site, package))
    made = find_base(site, lock)
    base = (
        [offered.get((package.name, package.version)) for package in lock.base]
        if made is None
        else list(installed(Catalogue(site).status(made.base)))
    )
    problems = [
        f"lock: {package.identity}: not in the signed package index of {lock.suite}, not in the package store"
        for package, found in zip(lock.packages, known, strict=True)
        if found is None
    ]
    if made is None:
        problems += [
            f"lock: base: {package.identity}: not in the signed package index of {lock.suite}, in no base image"
            for package, found in zip(lock.base, base, strict=True)
            if found is None
        ]
    if problems:
        raise RequestError(problems, "create without the lock takes today's versions")
    packages = sorted((one for one in known if one), key=lambda package: package.name)
    return replace(lock, base=tuple(one for one in base if one), packages=tuple(packages))


def _offered(root: AptRoot, packages: Sequence[Package]) -> tuple[Package, ...]:
    """Those of these names and versions that the signed index has, as it has them."""
    records = _records(root, sorted({package.pinned for package in packages}))
    words = sorted({f"{record['Package']}={record['Version']}" for record in records})
    if not words:
        return ()
    return _downloads(root, words)


def _downloads(root: AptRoot, words: Sequence[str]) -> tuple[Package, ...]:
    """The packages of these `name=version` words, each of which the index has; dependencies are not looked at."""
    return _with_installed_sizes(
        root, _listed(root.run("apt-get", "-q", "download", "--print-uris", "--", *words))
    )


def _from_store(site: Site, package: Package) -> Package | None:
    """The package as its .deb in the package store says; None where there is none of its digest, or another's."""
    path = signed_copy(site, package)
    if not package.sha256 or not path.is_file():
        return None
    fields = control(path)
    found = Package(
        fields["Package"],
        fields["Version"],
        fields["Architecture"],
        path.stat().st_size,
        package.sha256,
        installed_size=1024 * int(fields.get("Installed-Size", 0)),
    )
    return found if found.identity == package.identity else None


def check_names(root: AptRoot, names: Iterable[str], where: str = "") -> None:
    """Raises RequestError for names of no package, said to be asked for at `where`."""
    # Before apt sees them: it would take an unknown `lib.c` for a regular expression and `foo+` for `foo`.
    known = root.names.read_text(encoding="utf-8")
    wanted = list(names)
    unknown = {name for name in wanted if not NAME.fullmatch(name) or f"\n{name}\n" not in known}
    if unknown:
        unknown |= _only_mentioned(root, set(wanted) - unknown)
        raise _unknown(root, [name for name in wanted if name in unknown], where)


def _only_mentioned(root: AptRoot, names: Iterable[str]) -> set[str]:
    """Those of these names that are in the index, but no package's: only in what others conflict with, say."""
    wanted = sorted(names)
    if not wanted:
        return set()
    text = root.run("apt-cache", "showpkg", "--", *wanted)
    blocks = re.findall(r"^Package: (\S+)\n(.*?)(?=^Package: |\Z)", text, re.MULTILINE | re.DOTALL)
    # A version, or a package that provides the name, stands in the line after its title.
    return set(wanted) - {
        name
        for name, block in blocks
        if re.search(r"^(Versions|Reverse Provides): *\n\S", block, re.MULTILINE)
    }


def _unknown(root: AptRoot, names: Sequence[str], where: str = "") -> RequestError:
    """The error for names of no package, each with the nearest ones that are; `where` they were asked for."""
    everything = root.names.read_text(encoding="utf-8").split()
    near = {name: _near(name, everything) for name in names}
    mentioned = _only_mentioned(root, {other for found in near.values() for other in found})
    problems = []
    for name, found in near.items():
        start = f"{where}package '{name[:80]}': not in {root.suite} for {root.architecture}"
        real = [other for other in found if other not in mentioned][:3]
        problems.append(f"{start}; did you mean {', '.join(real)}?" if real else start)
    return RequestError(problems)


def _near(name: str, everything: Sequence[str]) -> list[str]:
    """Names that may be meant, the likeliest first; more than are shown, as some may be no packages."""
    parts = sorted(
        (other for other in everything if other.startswith(f"{name}-")), key=lambda one: (len(one), one)
    )
    # difflib over 100,000 names takes seconds; names that begin otherwise are rarely meant.
    alike = [other for other in everything if other[:1] == name[:1] and abs(len(other) - len(name)) < 4]
    close = difflib.get_close_matches(name, alike, n=6, cutoff=0.6)
    return [other for other in dict.fromkeys([*close[:1], *parts[:6], *close]) if other != name]


def install(root: AptRoot, names: Sequence[str], status: Path | None, *options: str) -> tuple[Package, ...]:
    """What apt would install for `names` over `status`: one call gives files, sizes and digests.

    Raises RequestError where they cannot be installed together.
    """
    try:
        text = root.run(
            "apt-get", "-q", "install", "--no-remove", "--print-uris", *options, "--", *names, status=status
        )
    except CommandError as error:
        mentioned = _only_mentioned(root, (name for name in names if NAME.fullmatch(name)))
        if mentioned:
            raise _unknown(root, [name for name in names if name in mentioned]) from error
        lines = [line for line in error.output.splitlines() if line.startswith((" ", "E:"))]
        raise RequestError([f"{root.suite}: these packages cannot be installed together", *lines]) from error
    return _with_installed_sizes(root, _listed(text))


def upgrade(root: AptRoot, status: Path) -> tuple[Package, ...]:
    """What apt would upgrade over `status`, and the new packages that this needs; packages on hold stay, none goes."""
    text = root.run(
        "apt-get", "-q", "upgrade", "--with-new-pkgs", "--no-remove", "--print-uris", status=status
    )
    return _with_installed_sizes(root, _listed(text))


def _listed(text: str) -> list[Package]:
    """The packages of apt's `--print-uris`."""
    packages = []
    for uri, filename, size, sha256 in _URI_LINE.findall(text):
        name, version, architecture = (
            urllib.parse.unquote(part) for part in filename.removesuffix(".deb").split("_")
        )
        packages.append(Package(name, version, architecture, int(size), sha256, uri, filename))
    return packages


def _with_installed_sizes(root: AptRoot, packages: Sequence[Package]) -> tuple[Package, ...]:
    records = _records(root, [package.pinned for package in packages])
    sizes = {
        (record["Package"], record["Version"]): int(record.get("Installed-Size", 0)) for record in records
    }
    return tuple(
        replace(package, installed_size=1024 * sizes.get((package.name, package.version), 0))
        for package in sorted(packages, key=lambda package: package.name)
    )


def _records(root: AptRoot, names: Sequence[str]) -> list[dict[str, str]]:
    """The index's records of `name=version` words; those it does not know are left out."""
    if not names:
        return []
    try:
        return _parse(root.run("apt-cache", "show", "--", *names))
    except CommandError as error:
        # Exit status 100 for one unknown name; the records of the others are printed all the same.
        return _parse(
            "\n".join(line for line in error.output.splitlines() if not line.startswith(("E:", "N:")))
        )


def _parse(text: str) -> list[dict[str, str]]:
    """Records of a Debian control file, one-line fields only."""
    blocks = (dict(re.findall(r"^(\S+): (.*)$", block, re.MULTILINE)) for block in text.split("\n\n"))
    return [block for block in blocks if "Package" in block]


def installed(status: Path) -> tuple[Package, ...]:
    """The packages of a dpkg status file."""
    return tuple(
        Package(
            record["Package"],
            record["Version"],
            record["Architecture"],
            installed_size=1024 * int(record.get("Installed-Size", 0)),
        )
        for record in sorted(_parse(status.read_text(encoding="utf-8")), key=lambda record: record["Package"])
        if record.get("Status", "").endswith(" installed")
    )


def _future_base(root: AptRoot, names: Sequence[str]) -> tuple[Path, tuple[Package, ...]]:
    """The packages of a base image that is not there yet, and a dpkg status file as it will have.

    The same set as mmdebstrap's variant minbase with `names` added.
    """
    minimal = "?or(?essential,?priority(required),?exact-name(apt))"
    packages = install(root, [minimal, *names], None)
    text = root.run("apt-cache", "show", "--", *(package.pinned for package in packages))
    records = (record for record in text.split("\n\n") if record.strip())
    status = root.path / "base.status"
    status.write_text(
        "\n\n".join(re.sub(r"\n", "\nStatus: install ok installed\n", record, count=1) for record in records)
        + "\n",
        encoding="utf-8",
    )
    return status, packages
