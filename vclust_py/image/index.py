"""What manifests say, in one file beside their folder: a process that begins need not read each of them.

It is a copy and no more: an entry counts for the very versions of manifest and image that it was made from, and where
the file is missing, damaged or of another form, manifests are read.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import NamedTuple

from vclust_py.image.manifest import EXTENSIONS, Image, Manifest, PackageRecord, Place

Version = tuple[int, int, int, int]
"""A file's inode, size, and times in ns: another version of it has others."""

_FORM = 1
_PLAIN = tuple(one.name for one in fields(Manifest) if one.name not in ("packages", "tools"))


class Indexed(NamedTuple):
    """An image whose manifest and file had these versions."""

    manifest_version: Version
    image_version: Version
    image: Image


def _path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.index")


def load(folder: Path) -> dict[str, Indexed]:
    """By name of each manifest that was there when the index was written; {}: there is none."""
    try:
        with open(_path(folder), "rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
                return {}
            data = json.loads(file.read())
        if data["form"] != _FORM:
            return {}
        return {name: _indexed(folder / name, *entry) for name, entry in data["entries"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _indexed(
    path: Path,
    manifest_version: list[int],
    image_version: list[int],
    plain: list[object],
    packages: list[list[str]],
    tools: list[str],
) -> Indexed:
    values = dict(zip(_PLAIN, plain, strict=True))
    if values["place"] is not None:
        values["place"] = Place._make(values["place"])  # type: ignore[arg-type]
    records = tuple(map(PackageRecord._make, packages))
    manifest = Manifest(**values, packages=records, tools=tuple(tools))  # type: ignore[arg-type]
    image = Image(path.with_suffix(f".{EXTENSIONS[manifest.kind]}"), manifest)
    one, two, three, four = manifest_version
    five, six, seven, eight = image_version
    return Indexed((one, two, three, four), (five, six, seven, eight), image)


def save(folder: Path, entries: Mapping[str, Indexed]) -> None:
    """Write the index, where this process may: who cannot leaves others the poorer for it, and no more."""
    data = {name: list(_plain(entry)) for name, entry in entries.items()}
    path = _path(folder)
    draft = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with contextlib.suppress(OSError):
        try:
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump({"form": _FORM, "entries": data}, file, separators=(",", ":"))
            os.replace(draft, path)
        except OSError:
            draft.unlink()
            raise


def _plain(entry: Indexed) -> Iterable[object]:
    manifest = entry.image.manifest
    yield entry.manifest_version
    yield entry.image_version
    yield [getattr(manifest, name) for name in _PLAIN]
    yield manifest.packages
    yield manifest.tools
