"""What an image says of itself: the manifest, a JSON file beside it, and how its earlier forms are read."""

import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

SCHEMA = 1
"""The form that is written.  Schema 0 is the form without a number: packages were `name=version` texts there, suite
and architecture stood in the file's name only."""

EXTENSIONS = {
    "base": "qcow2",
    "cache": "qcow2",
    "layer": "qcow2",
    "kernel": "img",
    "installer": "img",
    "bundle": "img",
    "template": "qcow2",
    "suspended": "img",
    "remote-template": "state",
    "remote-suspended": "state",
}
"""Kinds of images and how their files' names end."""

COMPANIONS: Mapping[str, tuple[str, ...]] = {"template": ("memory", "state"), "suspended": ("memory",)}
"""Kinds of images that have more files than one, and how the others' names end."""

REMOTE = {"template": "remote-template", "suspended": "remote-suspended"}
"""Kinds of images whose disk and memory lie on the host that has made them, `Place` says where: here is the state of
their devices.  By the kinds of those that lie here."""

FROZEN = (*COMPANIONS, *REMOTE.values())
"""Kinds of images that machines go on from."""

RETIRED = "retired"
"""The key of images that nothing shall start from any more."""

_TYPES: dict[str, Any] = {
    "kind": str,
    "digest": str,
    "key": str,
    "backing": str | None,
    "suite": str,
    "architecture": str,
    "installed_size": int,
    "state": str,
    "bytes": int,
    "virtual_size": int,
    "build_seconds": int | float,
}


class NewerSchema(ValueError):
    """The manifest was written by a newer version of vclust.  `backing` is what its image stands on, where it says."""

    def __init__(self, schema: int, backing: str | None) -> None:
        super().__init__(f"schema {schema}, this version reads schemas up to {SCHEMA}")
        self.backing = backing


class _Packaged(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def sha256(self) -> str: ...


class PackageRecord(NamedTuple):
    """A package in an image.  A tuple, as a site's manifests hold some ten thousand of them."""

    name: str
    version: str
    digest: str = ""
    """sha256 of the .deb, hexadecimal; empty: not known (schema 0)."""

    @property
    def pinned(self) -> str:
        """`name=version`, as apt takes it, and as caches and locks name their packages."""
        return f"{self.name}={self.version}"

    @classmethod
    def parse(cls, pinned: str, digest: str = "") -> "PackageRecord":
        """The record of a `name=version`."""
        name, _, version = pinned.partition("=")
        return cls(name, version, digest)


class Place(NamedTuple):
    """Where on another machine an image's disk and memory lie."""

    host: str
    uri: str
    """As the host was reached."""
    folder: str
    """Among those of the clusters there."""
    bytes: int
    """What the files take there."""
    stamp: str
    """Of the memory (`hypervisor.Workplace.stamp`), when it was written last."""
    disk_stamp: str
    """Of the disk; empty: it has none."""


def records(packages: Iterable[_Packaged]) -> tuple[PackageRecord, ...]:
    """The records of a lock's packages, sorted by name."""
    found = (PackageRecord(package.name, package.version, package.sha256) for package in packages)
    return tuple(sorted(found, key=lambda record: record.name))


def contents(packages: Iterable[PackageRecord]) -> str:
    """Digest of the packages' digests in the order of their names: packages of the same version may yet be others.

    Empty where one of them is not known.
    """
    digests = [record.digest for record in sorted(packages, key=lambda record: record.name)]
    return hashlib.sha256(" ".join(digests).encode()).hexdigest() if all(digests) else ""


@dataclass(frozen=True)
class Manifest:
    """What an image holds.  Sizes in bytes; `virtual_size` is what a node sees of it (0: not a disk)."""

    kind: str
    digest: str
    """sha256 of the file, hexadecimal."""
    key: str
    """What the image was made from (`vclust_py.image.recipe`); an image of the same kind and key need not be made."""
    backing: str | None
    """Digest of the image this one is a difference to."""
    suite: str
    """Empty: not known (schema 0)."""
    architecture: str
    """Debian's name of it; empty: not known (schema 0)."""
    packages: tuple[PackageRecord, ...]
    """Sorted by name; of this image alone, not of its backing."""
    installed_size: int
    """Bytes of these packages as installed; 0 for a base."""
    contents: str
    """Digest of the .deb files in it (`contents`); empty: not known.  Not written, it follows from the packages."""
    state: str
    """`configured`, `unpacked`, or `packed` (.deb files)."""
    bytes: int
    virtual_size: int
    build_seconds: float
    tools: tuple[str, ...]
    """Programs the image was made with, each `name version`."""
    place: Place | None = None

    @property
    def pinned(self) -> tuple[str, ...]:
        """The packages, each `name=version`."""
        return tuple(record.pinned for record in self.packages)

    def to_json(self) -> str:
        data = {"schema": SCHEMA, **vars(self), "packages": [record._asdict() for record in self.packages]}
        del data["contents"], data["place"]
        if self.place is not None:
            data["place"] = self.place._asdict()
        return json.dumps(data, indent=1)

    @classmethod
    def from_json(cls, text: str, stem: str = "") -> "Manifest":
        """Read a manifest of any schema up to SCHEMA; fields that it does not know are passed over.

        `stem` is the file's name without its ending.  Raises NewerSchema, and ValueError unless every field of the
        schema is there and of its type.
        """
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deep") from error
        if not isinstance(data, dict):
            raise ValueError("not a manifest")
        schema = data.get("schema", 0)
        if type(schema) is not int or schema < 0:
            raise ValueError("schema: not a number")
        if schema > SCHEMA:
            backing = data.get("backing")
            raise NewerSchema(schema, backing if isinstance(backing, str) else None)
        if schema == 0:
            suite, architecture = _named(stem)
            data = {**data, "suite": suite, "architecture": architecture}
        for name, kinds in _TYPES.items():
            if not isinstance(data.get(name), kinds) or name not in data:
                raise ValueError(f"{name}: missing or of the wrong type")
        if data["kind"] not in EXTENSIONS:
            raise ValueError("kind: not one of an image")
        packages = tuple(map(_record_0 if schema == 0 else _record, _list(data, "packages")))
        return cls(
            **{name: data[name] for name in _TYPES},
            packages=packages,
            contents=_text(data.get("contents"), "contents") if schema == 0 else contents(packages),
            tools=tuple(_text(tool, "tools") for tool in _list(data, "tools")),
            place=_place(data) if data["kind"] in REMOTE.values() else None,
        )


def _list(data: dict[str, Any], name: str) -> list[Any]:
    if not isinstance(data.get(name), list):
        raise ValueError(f"{name}: not a list")
    found: list[Any] = data[name]
    return found


def _place(data: dict[str, Any]) -> Place:
    try:
        place = Place(**data["place"])
    except (KeyError, TypeError):
        raise ValueError("place: missing or not one") from None
    for name, kind in Place.__annotations__.items():
        if type(getattr(place, name)) is not kind:
            raise ValueError(f"place: {name}: of the wrong type")
    return place


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{name}: not text")
    return value


def _record(data: Any) -> PackageRecord:
    try:
        record = PackageRecord(data["name"], data["version"], data["digest"])
    except (KeyError, TypeError):
        raise ValueError("packages: not a record") from None
    if not (
        isinstance(record.name, str) and isinstance(record.version, str) and isinstance(record.digest, str)
    ):
        raise ValueError("packages: not text")
    return record


def _record_0(pinned: Any) -> PackageRecord:
    return PackageRecord.parse(_text(pinned, "packages"))


def _named(stem: str) -> tuple[str, str]:
    """Suite and architecture in an image's name, such as `cache-bookworm-amd64-0123`; empty where there are none."""
    words = stem.split("-")
    return ("-".join(words[1:-2]), words[-2]) if len(words) > 3 else ("", "")


@dataclass(frozen=True)
class Image:
    path: Path
    manifest: Manifest

    @property
    def companions(self) -> dict[str, Path]:
        """Its further files, by how their names end."""
        return {name: self.path.with_suffix(f".{name}") for name in COMPANIONS.get(self.manifest.kind, ())}

    @property
    def disk_bytes(self) -> int:
        """What all its files take on this machine's disk; a memory file has holes."""
        size = self.manifest.bytes
        for path in self.companions.values():
            with contextlib.suppress(FileNotFoundError):
                size += path.stat().st_blocks * 512
        return size
