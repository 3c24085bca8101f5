"""The images of a site: finding them, taking new ones in, removing them, and clearing what killed builds left."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from vclust_py.errors import VclustError
from vclust_py.image import snapshot
from vclust_py.image.files import file_digest, sync
from vclust_py.image.manifest import EXTENSIONS, RETIRED, Image, Manifest, PackageRecord, Place, contents
from vclust_py.image.snapshot import Refusal, View
from vclust_py.site import Site

_log = logging.getLogger(__name__)


class Catalogue:
    """The images of a site.  All catalogues of a process share what they have read (`vclust_py.image.snapshot`)."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self._snapshot = snapshot.of(site.images)

    def look(self) -> View:
        """All images as they are now; one look serves several questions."""
        return self._snapshot.look()

    def images(self) -> list[Image]:
        """All valid images, oldest first."""
        return list(self.look().images)

    def newer(self) -> list[Refusal]:
        """Images whose manifests a newer version of vclust wrote: kept, and not used."""
        return [refusal for refusal in self.look().refusals if refusal.newer]

    def find(self, kind: str, key: str) -> Image | None:
        """The newest valid image of that kind made from `key`, its backing images valid as well, and none retired."""
        view = self.look()
        for image in reversed(view.images):
            if (image.manifest.kind, image.manifest.key) == (kind, key) and _usable(view, image):
                return image
        return None

    def get(self, digest: str) -> Image:
        """Raises VclustError when there is no such valid image."""
        return self.look().get(digest)

    def chain(self, image: Image) -> list[Image]:
        """The image and all it stands on, the base last.  Raises VclustError when one of them is not there."""
        return self.look().chain(image)

    def folder(self, kind: str, key: str) -> Path:
        """Where the image of `kind` and `key` is built, by whoever holds the file lock of its stem."""
        name = f"image-{kind}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
        return self.site.images / f"{name}.tmp"

    @contextlib.contextmanager
    def building(self, kind: str, key: str) -> Iterator[Path]:
        """Hold the build lock of `kind` and `key`; give an empty folder on the images' file system.

        Look with `find` once more inside: another process may have built the image while this one waited.
        The folder goes at the end; if this process is killed, with the next build of anything.
        """
        folder = self.folder(kind, key)
        with self.site.file_lock(folder.stem):
            for line in self.clean():
                _log.info("%s", line)
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
        digest: str = "",
        kind: str,
        key: str,
        suite: str = "",
        architecture: str = "",
        backing: Image | None = None,
        packages: Iterable[PackageRecord] = (),
        installed_size: int = 0,
        state: str = "configured",
        virtual_size: int = 0,
        build_seconds: float = 0.0,
        tools: tuple[str, ...] = (),
        companions: Mapping[str, Path] = MappingProxyType({}),
        place: Place | None = None,
    ) -> Image:
        """Take the finished file `temporary`, on the images' file system, into the catalogue, with its `companions`.

        `digest`: its sha256, where the caller has computed it already.
        """
        # Hypervisors' processes read images as a user of their own; nobody writes them again.
        os.chmod(temporary, 0o444)
        for file in (temporary, *companions.values()):
            sync(file)
        digest = digest or file_digest(temporary)
        held = tuple(sorted(packages, key=lambda record: (record.name, record.version)))
        manifest = Manifest(
            kind=kind,
            digest=digest,
            key=key,
            backing=None if backing is None else backing.manifest.digest,
            suite=suite,
            architecture=architecture,
            packages=held,
            installed_size=installed_size,
            contents=contents(held),
            state=state,
            bytes=temporary.stat().st_size,
            virtual_size=virtual_size,
            build_seconds=round(build_seconds, 3),
            tools=tools,
            place=place,
        )
        stem = "-".join(part for part in (kind, suite, architecture, digest[:24]) if part)
        path = self.site.images / f"{stem}.{EXTENSIONS[kind]}"
        draft = temporary.with_name(f"{stem}.json.tmp")
        draft.write_text(manifest.to_json(), encoding="utf-8")
        sync(draft)
        with self.site.file_lock("images"):  # `clean` must not see the file without its manifest
            os.replace(temporary, path)
            for name, companion in companions.items():
                os.replace(companion, path.with_suffix(f".{name}"))
            # Newer than the image, or the whole file would be checked.
            os.utime(draft)
            os.replace(draft, path.with_suffix(".json"))
            sync(self.site.images)
        return Image(path, manifest)

    def remove(self, image: Image) -> None:
        """Take the image away.  The caller knows that nothing uses it."""
        # The manifest first: without it the image does not exist any more.
        for path in (
            image.path.with_suffix(".json"),
            image.path,
            *image.companions.values(),
            self.status(image),
        ):
            path.unlink(missing_ok=True)

    def retire(self, image: Image) -> None:
        """Nobody finds the image by its key any more; what stands on it goes on doing so."""
        path = image.path.with_suffix(".json")
        # All else in it stays, fields that this version does not know among it.
        data = json.loads(path.read_text(encoding="utf-8")) | {"key": RETIRED}
        draft = path.with_suffix(".json.tmp")
        draft.write_text(json.dumps(data, indent=1), encoding="utf-8")
        sync(draft)
        with self.site.file_lock("images"):
            os.replace(draft, path)

    def status(self, image: Image) -> Path:
        """Where a base image's builder keeps the dpkg status of its root, for `resolve`."""
        return self.site.images / f"{image.manifest.digest}.status"

    def clean(self) -> list[str]:
        """Take away leftovers of killed builds and damaged images.  Returns why, a line for each.

        What has a manifest in another form stays: it may be another version's, with nodes running from it.
        """
        removed = []
        with self.site.file_lock("images"):
            view, kept = self.look(), set()
            for image in view.images:
                kept |= {image.path.with_suffix(".json"), image.path, self.status(image)}
                kept |= set(image.companions.values())
            for refusal in view.refusals:
                if refusal.damaged:
                    removed.append(str(refusal))
                else:
                    kept |= set(self.site.images.glob(f"{refusal.path.stem}.*"))
            for path in sorted(self.site.images.iterdir()):
                if path in kept:
                    continue
                if path.suffix == ".tmp":
                    # Somebody who still builds holds the lock of the folder's name.
                    with contextlib.suppress(VclustError), self.site.file_lock(path.stem, timeout=0):
                        shutil.rmtree(path, ignore_errors=True)
                        removed.append(f"{path.name} removed: left over from a build that was killed")
                elif path.suffix == ".status":
                    # Its image may be about to come: the builder writes it first.  It is small, let it be.
                    continue
                else:
                    path.unlink(missing_ok=True)
                    removed.append(f"{path.name} removed: no valid manifest")
        return removed


def _usable(view: View, image: Image) -> bool:
    """Whether everything that the image stands on is there, and nothing of it retired."""
    with contextlib.suppress(VclustError):
        return all(part.manifest.key != RETIRED for part in view.chain(image))
    return False
