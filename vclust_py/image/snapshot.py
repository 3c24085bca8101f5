"""What is in a folder of images, read once.

A process has one snapshot of each folder, whoever asks.  Every look compares the folder's listing and each file's
inode, size and times with what the last one saw: only a manifest that is new or changed is read, and what other
processes add or remove is seen at once.  What the last look of any process saw is in the `index`.
"""

import contextlib
import logging
import os
import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.image import index
from vclust_py.image.files import file_digest
from vclust_py.image.index import Indexed, Version
from vclust_py.image.manifest import EXTENSIONS, Image, Manifest, NewerSchema

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refusal:
    """A manifest whose image does not count."""

    path: Path
    reason: str
    damaged: bool = False
    """The manifest is fine, its image is not."""
    newer: bool = False
    """The manifest was written by a newer version of vclust."""
    backing: str | None = None
    """What a newer version's image stands on, where it is known."""

    def __str__(self) -> str:
        return f"{self.path.name} refused: {self.reason}"


@dataclass(frozen=True)
class View:
    """The images of a folder at one moment."""

    folder: Path
    images: tuple[Image, ...]
    """All valid ones, oldest first."""
    refusals: tuple[Refusal, ...]

    @cached_property
    def by_digest(self) -> dict[str, Image]:
        return {image.manifest.digest: image for image in reversed(self.images)}

    def get(self, digest: str) -> Image:
        """Raises VclustError when there is no such valid image."""
        if image := self.by_digest.get(digest):
            return image
        for refusal in self.refusals:
            if refusal.path.stem.endswith(f"-{digest[:24]}"):
                _log.warning("%s", refusal)
        raise VclustError(f"{self.folder}: no valid image with digest {digest}")

    def chain(self, image: Image) -> list[Image]:
        """The image and all it stands on, the base last.  Raises VclustError when one of them is not there."""
        images = [image]
        while (backing := images[-1].manifest.backing) is not None:
            images.append(self.get(backing))
        return images


def read_manifest(path: Path) -> str:
    """The one place that reads a manifest's text, so that a test can count."""
    return path.read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Entry:
    """What is known of a manifest and its image, and for which versions of the two files."""

    manifest_version: Version
    described: Image | Refusal
    """What the manifest says, whatever the image."""
    image_version: Version | None = None
    outcome: Image | Refusal | None = None

    @cached_property
    def indexed(self) -> Indexed | None:
        """What the index has of it; None: nothing."""
        if self.image_version is None or not isinstance(self.outcome, Image):
            return None
        return Indexed(self.manifest_version, self.image_version, self.outcome)


class Snapshot:
    """The images of one folder; safe to use from several threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._entries: dict[str, _Entry] = {}
        self._indexed: dict[str, Indexed] | None = None
        """What is in the index, as far as this process knows; None: it has not looked."""

    def look(self) -> View:
        """The images as they are now.  Raises OSError when an image that must be hashed cannot be read."""
        with _mutex:
            return self._look()

    def _look(self) -> View:
        try:
            names = {name for name in os.listdir(self.folder) if name.endswith(".json")}
        except FileNotFoundError:
            names = set()
        if self._indexed is None:
            self._indexed = index.load(self.folder)
            for name, known in self._indexed.items():
                self._entries[name] = _Entry(
                    known.manifest_version, known.image, known.image_version, known.image
                )
        for name in self._entries.keys() - names:
            del self._entries[name]
        dated, refusals, newer = [], [], []
        for name in sorted(names):
            before = self._entries.get(name)
            try:
                entry = self._entries[name] = self._entry(name, before)
            except FileNotFoundError:  # somebody removed it meanwhile
                self._entries.pop(name, None)
                continue
            if isinstance(entry.outcome, Image):
                dated.append((entry.manifest_version[2], entry.outcome))
            elif entry.outcome is not None:
                refusals.append(entry.outcome)
                if entry.outcome.newer and (
                    before is None or before.manifest_version != entry.manifest_version
                ):
                    newer.append(name)
        if newer:
            _log.warning(
                "%s: images of a newer version of vclust are kept, and not used: %s",
                self.folder,
                ", ".join(newer),
            )
        valid = {name: entry.indexed for name, entry in self._entries.items() if entry.indexed is not None}
        if valid != self._indexed:
            index.save(self.folder, valid)
            self._indexed = valid
        dated.sort(key=lambda pair: (pair[0], pair[1].manifest.digest))
        return View(self.folder, tuple(image for _, image in dated), tuple(refusals))

    def _entry(self, name: str, known: _Entry | None) -> _Entry:
        version = _version(f"{self.folder}/{name}")
        if known is None or known.manifest_version != version:
            known = _Entry(version, _read(self.folder / name))
        image = known.described
        if isinstance(image, Refusal):
            return _Entry(version, image, outcome=image)
        try:
            image_version = _version(image.path)
        except FileNotFoundError:
            missing = Refusal(self.folder / name, "its image is not there", damaged=True)
            return _Entry(version, image, outcome=missing)
        if known.image_version == image_version:
            return known
        outcome = _checked(self.folder / name, version, image, image_version)
        # The check may have dated the manifest.  That is no other manifest, unless somebody has replaced it as well.
        dated = _version(f"{self.folder}/{name}")
        same = dated[:2] == version[:2] and dated[2] in (version[2], image_version[2])
        return _Entry(dated if same else version, image, image_version, outcome)


def _version(path: Path | str) -> Version:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _read(path: Path) -> Image | Refusal:
    try:
        manifest = Manifest.from_json(read_manifest(path), path.stem)
        return Image(path.with_suffix(f".{EXTENSIONS[manifest.kind]}"), manifest)
    except NewerSchema as error:
        return Refusal(path, f"of a newer version of vclust: {error}", newer=True, backing=error.backing)
    except ValueError as error:
        return Refusal(path, str(error))


def _checked(path: Path, version: Version, image: Image, image_version: Version) -> Image | Refusal:
    """The image, if its file is what the manifest at `path` says."""
    _, size, modified, _ = image_version
    if size != image.manifest.bytes:
        return Refusal(path, f"its image has {size} bytes, expected {image.manifest.bytes}", damaged=True)
    # Reading every image at every look would cost seconds.  One that is newer than its manifest is read once: then the
    # manifest is dated alike, as images that were copied or restored without their times would be read for ever.
    if modified > version[2]:
        if file_digest(image.path) != image.manifest.digest:
            return Refusal(path, "its image's content is not what it says", damaged=True)
        with contextlib.suppress(OSError):
            os.utime(path, ns=(modified, modified))
    return image


_mutex = threading.Lock()
_snapshots: dict[Path, Snapshot] = {}


def of(folder: Path) -> Snapshot:
    """The process's snapshot of the folder."""
    with _mutex:
        return _snapshots.setdefault(folder, Snapshot(folder))


def _renew_mutex() -> None:
    """Another thread may have held the mutex when this process was forked; nobody would give it back here."""
    global _mutex
    _mutex = threading.Lock()


os.register_at_fork(after_in_child=_renew_mutex)
