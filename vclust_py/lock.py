"""`Lock`: exactly which packages a cluster's nodes hold, in which versions; and `Package`, one of them."""

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vclust_py.arguments import MAX_LOCK
from vclust_py.errors import RequestError, VclustError
from vclust_py.site import Site

# Debian policy 5.6.1; apt-get reads a trailing minus sign as "remove", so no name of ours ends with one.
NAME = re.compile(r"[a-z0-9][a-z0-9+.-]*[a-z0-9+.]")
PYTHON = "python3-minimal"
"""Has /usr/bin/python3, which Ansible needs of a node."""
_LARGEST = 1 << 40
"""Bytes that no package has."""


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

        A lock that a user gives may still be wrong in all of it: see `vclust_py.resolve.complete`.
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
                if not NAME.fullmatch(word):
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
        ("name", NAME.pattern),
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
