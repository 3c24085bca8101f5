"""`Request` becomes the `Lock`: the package closure with versions, sizes and digests, by real apt.

apt works in a private root (`vclust_py.apt`) whose dpkg status is that of the base image, so that the
closure is just what the base lacks.
"""

import difflib
import hashlib
import json
import os
import re
import urllib.parse
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclust_py.apt import AptRoot
from vclust_py.apt import sources as sources
from vclust_py.arguments import MAX_LOCK
from vclust_py.errors import RequestError, VclustError
from vclust_py.image import Catalogue, Report, base_key
from vclust_py.run import CommandError
from vclust_py.site import Site

if TYPE_CHECKING:
    from vclust_py.metapackages import MetaPackage
    from vclust_py.request import Request
    from vclust_py.state import Cluster

# Debian policy 5.6.1; apt-get reads a trailing minus sign as "remove", so no name of ours ends with one.
_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]")
_LARGEST = 1 << 40
"""Bytes that no package has."""
_URI_LINE = re.compile(r"'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Package:
    """One binary package; sizes in bytes.

    Packages of a base image that is there already are known by name, version and architecture only: the rest
    is empty or 0 for them.
    """

    name: str
    version: str
    architecture: str
    size: int = 0
    sha256: str = ""
    uri: str = ""
    filename: str = ""
    """What apt calls the file: name_version_architecture.deb, the version's colon as %3a."""
    installed_size: int = 0

    @property
    def pinned(self) -> str:
        """As apt takes it, and as manifests and VD caches name what they hold."""
        return f"{self.name}={self.version}"

    @property
    def identity(self) -> str:
        return f"{self.name}={self.version}:{self.architecture}"


@dataclass(frozen=True)
class Lock:
    """Exactly what a cluster's nodes hold: enough to make the same ones again."""

    suite: str
    architecture: str
    kernel: str
    """The package of the nodes' kernel; part of the base."""
    base: tuple[Package, ...]
    packages: tuple[Package, ...]
    """The closure of the request beyond the base, sorted by name."""
    requested: tuple[str, ...]

    @property
    def digest(self) -> str:
        """sha256 of what the nodes will hold, whatever mirror it came from."""
        data = [
            [self.suite, self.architecture, self.kernel, list(self.requested)],
            [package.identity for package in self.base],
            [[package.identity, package.sha256] for package in self.packages],
        ]
        return hashlib.sha256(json.dumps(data).encode()).hexdigest()

    @property
    def installed_bytes(self) -> int:
        """Of the closure beyond the base, on disk."""
        return sum(package.installed_size for package in self.packages)

    def installed(self) -> dict[str, str]:
        """Version by name of all a node holds: the closure may upgrade packages of the base."""
        return {package.name: package.version for package in (*self.base, *self.packages)}

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str, source: str = "lock") -> "Lock":
        """Raises RequestError, naming `source`, unless `text` is a lock whose every value is of its form.

        A lock that a user gives may still be wrong in all of it: see `complete`.
        """
        try:
            if len(text) > MAX_LOCK:
                raise ValueError(f"got {len(text)} characters, expected {MAX_LOCK} at most")
            data = json.loads(text)
            lock = cls(
                suite=data["suite"],
                architecture=data["architecture"],
                kernel=data["kernel"],
                base=tuple(_package(item) for item in data["base"]),
                packages=tuple(_package(item) for item in data["packages"]),
                requested=tuple(data["requested"]),
            )
            for word in (lock.suite, lock.architecture, lock.kernel, *lock.requested):
                if not _NAME.fullmatch(word):
                    raise ValueError(f"got '{word}', expected a name")
            for packages in (lock.base, lock.packages):
                if twice := [
                    name for name, count in Counter(one.name for one in packages).items() if count > 1
                ]:
                    raise ValueError(f"{twice[0]}: got it twice, expected each package once")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise RequestError([f"{source}: not a lock of vclust: {error}"]) from error
        return lock

    def save(self, site: Site) -> Path:
        """Keep the lock in the site, under its digest."""
        site.make_directories()
        path = site.locks / f"{self.digest}.json"
        draft = path.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(self.to_json(), encoding="utf-8")
        os.replace(draft, path)
        return path

    @classmethod
    def load(cls, site: Site, digest: str) -> "Lock":
        """Raises VclustError when the site has no such lock."""
        path = site.locks / f"{digest}.json"
        try:
            return cls.from_json(path.read_text(encoding="utf-8"), str(path))
        except FileNotFoundError:
            raise VclustError(f"{path}: no such lock") from None


def _package(data: dict[str, Any]) -> Package:
    package = Package(**data)
    for name, form in (
        ("name", _NAME.pattern),
        ("version", r"[A-Za-z0-9.+:~-]+"),
        ("architecture", r"[a-z0-9-]+"),
        ("sha256", r"([0-9a-f]{64})?"),
        ("uri", r"((https?|tor\+https?|mirror\+https?|mirror\+file|file|copy):/[!-~]+)?"),
        ("filename", r"([A-Za-z0-9][A-Za-z0-9.+~_%-]*\.deb)?"),
    ):
        if not re.fullmatch(form, getattr(package, name)):
            raise ValueError(f"{package.name}: {name}: got '{getattr(package, name)}'")
    for name in ("size", "installed_size"):
        size = getattr(package, name)
        if type(size) is not int or not 0 <= size < _LARGEST:
            raise ValueError(f"{package.name}: {name}: got '{size}', expected bytes, fewer than {_LARGEST}")
    return package


def settle(
    request: "Request",
    meta_packages: "Sequence[MetaPackage]",
    site: Site,
    report: Report,
    *,
    cluster: "Cluster | None",
    given: Lock | None,
) -> Lock:
    """The lock of the request's cluster: the one `given`, or that of an interrupted creation, or a new one.

    Raises RequestError when the given lock is not one of this request, or the cluster holds another one already.
    """
    held = _held(site, cluster)
    if given is None:
        return held or resolve(request, meta_packages, site, report)
    _check_fit(given, request, meta_packages, site)
    if held is not None and held.digest != given.digest:
        raise RequestError(
            [f"lock: got {given.digest[:12]}, the cluster {request.name} has {held.digest[:12]} already"],
            f"destroy it first, `vclust destroy {request.name}`, or go on without a lock",
        )
    lock = held or complete(given, site, report)
    lock.save(site)
    return lock


def _held(site: Site, cluster: "Cluster | None") -> Lock | None:
    """The lock that an interrupted creation goes on with."""
    from vclust_py.image.base import find_base  # it uses this module
    from vclust_py.image.store import missing

    if cluster is None or not cluster.lock:
        return None
    lock = Lock.load(site, cluster.lock)
    if cluster.images:
        return lock
    # The archive may have moved on meanwhile: what is not here yet may be nowhere.
    return lock if find_base(site, lock) and not missing(site, lock.packages) else None


def _asked(request: "Request", meta_packages: "Sequence[MetaPackage]", site: Site) -> dict[str, Any]:
    """What the request leaves to be resolved: the arguments of `closure`."""
    software, architecture = request.software, request.hardware.architecture
    return {
        "names": {*software.packages, *(name for meta in meta_packages for name in meta.packages)},
        "suite": software.suite or site.default_suite,
        "architecture": architecture,
        "kernel": software.kernel or f"linux-image-cloud-{architecture}",
    }


def _check_fit(lock: Lock, request: "Request", meta_packages: "Sequence[MetaPackage]", site: Site) -> None:
    asked = _asked(request, meta_packages, site)
    problems = [
        f"lock: {name}: got '{getattr(lock, name)}', the request asks for '{asked[name]}'"
        for name in ("suite", "architecture", "kernel")
        if getattr(lock, name) != asked[name]
    ]
    for names, said in (
        (asked["names"] - set(lock.requested), "was made without"),
        (set(lock.requested) - asked["names"], "was made with, and the request is without,"),
    ):
        if names:
            problems.append(f"lock: {said} {', '.join(sorted(names))}")
    if problems:
        raise RequestError(problems, "a lock serves requests for the same packages only")


def resolve(request: "Request", meta_packages: "Sequence[MetaPackage]", site: Site, report: Report) -> Lock:
    """The lock of `request` with its meta packages expanded, saved in the site.

    Fetches the package index first where it is missing or old.  Raises RequestError for names the index does
    not know and for packages that cannot be installed together.
    """
    lock = closure(**_asked(request, meta_packages, site), site=site, report=report)
    lock.save(site)
    return lock


def closure(
    names: Iterable[str], *, suite: str, architecture: str, kernel: str, site: Site, report: Report
) -> Lock:
    """What installing `names` over the base image takes."""
    from vclust_py.image.base import BASE_PACKAGES  # it uses this module

    requested = sorted(set(names))
    site.make_directories()
    root = AptRoot(site, suite, architecture)
    with root.hold():
        root.ensure_index(report)
        _check_names(root, [*requested, kernel])
        image = Catalogue(site).find("base", base_key(suite, architecture, kernel))
        if image is not None:
            status = Catalogue(site).status(image)
            base = installed(status)
        else:
            status, base = _future_base(root, [*BASE_PACKAGES, kernel])
        packages = _install(root, requested, status) if requested else ()
    return Lock(suite, architecture, kernel, base, packages, tuple(requested))


def current(
    names: Iterable[str], *, suite: str, architecture: str, site: Site, report: Report
) -> tuple[Package, ...]:
    """The packages of these names as the index offers them now; names it no longer knows are left out."""
    root, wanted = AptRoot(site, suite, architecture), set(names)
    if not wanted:
        return ()
    with root.hold():
        root.ensure_index(report)
    # Reading all these takes seconds, and requests must not wait: an index that is fetched meanwhile is an error here.
    text = root.run("apt-cache", "policy", "--", *sorted(wanted))
    offered = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (?!\(none\))(\S+)$", text, re.MULTILINE)
    words = [f"{name}={version}" for name, version in offered if name in wanted]
    if not words:
        return ()
    return _downloads(root, words)


def complete(lock: Lock, site: Site, report: Report) -> Lock:
    """A lock that came from outside, with nothing taken from it but which packages there are: the rest is known here.

    Names, versions and digests are the lock's; sizes, files and where they come from are those of the signed index or,
    for what the archive no longer has, of the package store.  Raises RequestError for packages that neither knows by
    that name, version and digest, and for a base that is neither there nor in the index.
    """
    from vclust_py.image.base import find_base  # it uses this module

    root = AptRoot(site, lock.suite, lock.architecture)
    with root.hold():
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
    from vclust_py.image.store import control, signed_copy  # it uses this module

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


def _check_names(root: AptRoot, names: Iterable[str]) -> None:
    # Before apt sees them: it would take an unknown `lib.c` for a regular expression and `foo+` for `foo`.
    known = root.names.read_text(encoding="utf-8")
    unknown = [name for name in names if not _NAME.fullmatch(name) or f"\n{name}\n" not in known]
    if unknown:
        everything = known.split()
        raise RequestError([_unknown(name, everything, root) for name in unknown])


def _unknown(name: str, everything: list[str], root: AptRoot) -> str:
    start = f"package '{name[:80]}': not in {root.suite} for {root.architecture}"
    # difflib over 100,000 names takes seconds; names that begin otherwise are rarely meant.
    alike = [other for other in everything if other[:1] == name[:1] and abs(len(other) - len(name)) < 4]
    near = difflib.get_close_matches(name, alike, n=3, cutoff=0.6)
    return f"{start}; did you mean {', '.join(near)}?" if near else start


def _install(root: AptRoot, names: Sequence[str], status: Path | None) -> tuple[Package, ...]:
    """What apt would install for `names` over `status`: one call gives files, sizes and digests."""
    try:
        text = root.run(
            "apt-get", "-q", "install", "--no-remove", "--print-uris", "--", *names, status=status
        )
    except CommandError as error:
        lines = [line for line in error.output.splitlines() if line.startswith((" ", "E:"))]
        raise RequestError([f"{root.suite}: these packages cannot be installed together", *lines]) from error
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
    packages = _install(root, [minimal, *names], None)
    text = root.run("apt-cache", "show", "--", *(package.pinned for package in packages))
    records = (record for record in text.split("\n\n") if record.strip())
    status = root.path / "base.status"
    status.write_text(
        "\n\n".join(re.sub(r"\n", "\nStatus: install ok installed\n", record, count=1) for record in records)
        + "\n",
        encoding="utf-8",
    )
    return status, packages
