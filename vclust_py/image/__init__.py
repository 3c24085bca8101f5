"""Images: files that never change once made, each with a manifest beside it.

base      the base image with its kernel and installer, by mmdebstrap
installer the initramfs that prepares a node
store     every .deb once, as signed, and a fast copy
builder   VD caches, request layers (strategy `once`) and package bundles (strategy `each`)

An image without a valid manifest does not exist: the manifest is written last, and a file that is not what
its manifest says is refused and taken away.
"""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.site import Site

Report = Callable[[str, int, int], None]
"""(what is being done, how much is done, of how much); a total of 0 means that it is not known."""

EXTENSIONS = {
    "base": "qcow2",
    "cache": "qcow2",
    "layer": "qcow2",
    "kernel": "img",
    "installer": "img",
    "bundle": "img",
}
"""Kinds of images and how their files' names end."""

RETIRED = "retired"
"""The key of images that nothing shall start from any more."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Manifest:
    """What an image holds.  Sizes in bytes; `virtual_size` is what a node sees of it (0: not a disk)."""

    kind: str
    digest: str
    """sha256 of the file, hexadecimal."""
    key: str
    """What the image was made from; an image with the same kind and key need not be made again."""
    backing: str | None
    """Digest of the image this one is a difference to."""
    packages: tuple[str, ...]
    """`name=version`, sorted; of this image alone, not of its backing."""
    installed_size: int
    """Bytes of these packages as installed; 0 for a base."""
    contents: str
    """Digest of the .deb files in it (`contents`): packages of the same version may yet be others."""
    state: str
    """`configured`, `unpacked`, or `packed` (.deb files)."""
    bytes: int
    virtual_size: int
    build_seconds: float
    tools: tuple[str, ...]
    """Programs the image was made with, each `name version`."""

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Manifest":
        """Raises ValueError unless `text` is a manifest, every field there and of its type."""
        try:
            data = json.loads(text)
        except RecursionError as error:
            raise ValueError("nested too deep") from error
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            raise ValueError("not a manifest")
        if not isinstance(data["kind"], str) or data["kind"] not in EXTENSIONS:
            raise ValueError("kind: not one of an image")
        for name in ("packages", "tools"):
            if not isinstance(data[name], list) or not all(isinstance(item, str) for item in data[name]):
                raise ValueError(f"{name}: not a list of strings")
            data[name] = tuple(data[name])
        for name, kinds in (
            ("digest", str),
            ("key", str),
            ("backing", str | None),
            ("contents", str),
            ("state", str),
            ("installed_size", int),
            ("bytes", int),
            ("virtual_size", int),
            ("build_seconds", int | float),
        ):
            if not isinstance(data[name], kinds):
                raise ValueError(f"{name}: wrong type")
        return cls(**data)


@dataclass(frozen=True)
class Image:
    path: Path
    manifest: Manifest


def base_key(suite: str, architecture: str, kernel: str, recipe: str) -> str:
    """The key of a base image; `recipe` is `vclust_py.image.base.RECIPE`."""
    return f"{suite} {architecture} {kernel} {recipe}"


def file_digest(path: Path) -> str:
    """sha256 of the file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Wait until the file (or folder) `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Catalogue:
    """The images of a site."""

    def __init__(self, site: Site) -> None:
        self.site = site

    def images(self) -> list[Image]:
        """All valid images, oldest first."""
        found = []
        for path in self.site.images.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
                image = self._load(path)
                if isinstance(image, Image):
                    found.append((path.stat().st_mtime_ns, image))
        return [image for _, image in sorted(found, key=lambda pair: (pair[0], pair[1].manifest.digest))]

    def find(self, kind: str, key: str) -> Image | None:
        """The newest valid image of that kind made from `key`, its backing images valid as well, and none retired."""
        for image in reversed(self.images()):
            if (image.manifest.kind, image.manifest.key) == (kind, key) and self._backed(image):
                return image
        return None

    def get(self, digest: str) -> Image:
        """Raises VclustError when there is no such valid image."""
        for path in self.site.images.glob(f"*-{digest[:24]}.json"):
            image = self._load(path)
            if isinstance(image, Image) and image.manifest.digest == digest:
                return image
            _log.warning("%s", image)
        raise VclustError(f"{self.site.images}: no valid image with digest {digest}")

    @contextlib.contextmanager
    def building(self, kind: str, key: str) -> Iterator[Path]:
        """Hold the build lock of `kind` and `key`; give an empty folder on the images' file system.

        Look with `find` once more inside: another process may have built the image while this one waited.
        The folder goes at the end; if this process is killed, with the next build of anything.
        """
        name = f"image-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        with self.site.hold(name):
            for line in self.clean():
                _log.info("%s", line)
            folder = self.site.images / f"{name}.tmp"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700)
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def add(
        self,
        temporary: Path,
        *,
        kind: str,
        key: str,
        label: str = "",
        backing: Image | None = None,
        packages: tuple[str, ...] = (),
        installed_size: int = 0,
        contents: str = "",
        state: str = "configured",
        virtual_size: int = 0,
        build_seconds: float = 0.0,
        tools: tuple[str, ...] = (),
    ) -> Image:
        """Take the finished file `temporary`, on the images' file system, into the catalogue.

        `label` stands in the file's name for people to read, as `bookworm-amd64`.
        """
        # Hypervisors' processes read images as a user of their own; nobody writes them again.
        os.chmod(temporary, 0o444)
        sync(temporary)
        digest = file_digest(temporary)
        manifest = Manifest(
            kind=kind,
            digest=digest,
            key=key,
            backing=None if backing is None else backing.manifest.digest,
            packages=tuple(sorted(packages)),
            installed_size=installed_size,
            contents=contents,
            state=state,
            bytes=temporary.stat().st_size,
            virtual_size=virtual_size,
            build_seconds=round(build_seconds, 3),
            tools=tools,
        )
        stem = "-".join(part for part in (kind, label, digest[:24]) if part)
        path = self.site.images / f"{stem}.{EXTENSIONS[kind]}"
        draft = temporary.with_name(f"{stem}.json.tmp")
        draft.write_text(manifest.to_json(), encoding="utf-8")
        sync(draft)
        with self.site.hold("images"):  # `clean` must not see the file without its manifest
            os.replace(temporary, path)
            # Newer than the image, or `_load` would check the whole file each time.
            os.utime(draft)
            os.replace(draft, path.with_suffix(".json"))
            sync(self.site.images)
        return Image(path, manifest)

    def remove(self, image: Image) -> None:
        """Take the image away.  The caller knows that nothing uses it."""
        # The manifest first: without it the image does not exist any more.
        for path in (image.path.with_suffix(".json"), image.path, self.status(image)):
            path.unlink(missing_ok=True)

    def retire(self, image: Image) -> None:
        """Nobody finds the image by its key any more; what stands on it goes on doing so."""
        path = image.path.with_suffix(".json")
        draft = path.with_suffix(".json.tmp")
        draft.write_text(replace(image.manifest, key=RETIRED).to_json(), encoding="utf-8")
        sync(draft)
        with self.site.hold("images"):
            os.replace(draft, path)

    def status(self, image: Image) -> Path:
        """Where a base image's builder keeps the dpkg status of its root, for `resolve`."""
        return self.site.images / f"{image.manifest.digest}.status"

    def clean(self) -> list[str]:
        """Take away leftovers of killed builds and damaged images.  Returns why, a line for each.

        What has a manifest in another form stays: it may be another version's, with nodes running from it.
        """
        said = []
        with self.site.hold("images"):
            kept = set()
            for path in sorted(self.site.images.glob("*.json")):
                image = self._load(path)
                if isinstance(image, Image):
                    kept |= {path, image.path, self.status(image)}
                elif _readable(path):
                    said.append(image)
                else:
                    kept |= set(self.site.images.glob(f"{path.stem}.*"))
            for path in sorted(self.site.images.iterdir()):
                if path in kept:
                    continue
                if path.suffix == ".tmp":
                    # Somebody who still builds holds the lock of the folder's name.
                    with contextlib.suppress(VclustError), self.site.hold(path.stem, patience=0):
                        shutil.rmtree(path, ignore_errors=True)
                        said.append(f"{path.name} removed: left over from a build that was killed")
                elif path.suffix == ".status":
                    # Its image may be about to come: the builder writes it first.  It is small, let it be.
                    continue
                else:
                    path.unlink(missing_ok=True)
                    said.append(f"{path.name} removed: no valid manifest")
        return said

    def _load(self, path: Path) -> Image | str:
        """The image whose manifest is at `path`, or why it is refused."""
        try:
            manifest = Manifest.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            return f"{path.name} refused: {error}"
        image = Image(path.with_suffix(f".{EXTENSIONS[manifest.kind]}"), manifest)
        try:
            status = image.path.stat()
        except FileNotFoundError:
            return f"{path.name} refused: its image is not there"
        if status.st_size != manifest.bytes:
            return f"{image.path.name} refused: {status.st_size} bytes, its manifest says {manifest.bytes}"
        # Reading every image at every look would cost a second; one touched after its manifest is read, once, as images
        # that were copied or restored without their times would be read for ever.
        if status.st_mtime_ns > path.stat().st_mtime_ns:
            if file_digest(image.path) != manifest.digest:
                return f"{image.path.name} refused: its content is not what its manifest says"
            with contextlib.suppress(OSError):
                os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
        return image

    def chain(self, image: Image) -> list[Image]:
        """The image and all it stands on, the base last.  Raises VclustError when one of them is not there."""
        images = [image]
        while (backing := images[-1].manifest.backing) is not None:
            images.append(self.get(backing))
        return images

    def _backed(self, image: Image) -> bool:
        with contextlib.suppress(VclustError):
            return all(one.manifest.key != RETIRED for one in self.chain(image))
        return False


def _readable(path: Path) -> bool:
    try:
        Manifest.from_json(path.read_text(encoding="utf-8"))
    except ValueError:
        return False
    return True
