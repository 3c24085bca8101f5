"""Files of a cluster on the site manager itself."""

import contextlib
import os
import shutil
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.hypervisor.storage import DRAFTS, read_from
from vclust_py.image.space import naming_full_disk
from vclust_py.run import run
from vclust_py.site import Site


def _sizes(folder: Path) -> dict[str, os.stat_result]:
    """The folder's files by name; others may be at work in it, or remove it."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file():
                    found[entry.name] = entry.stat()
    return found


class LocalFiles:
    """`Files` on the site manager itself: image store and cluster folder are the site's own."""

    def __init__(self, site: Site, folder: str) -> None:
        self._site, self._folder = site, site.clusters / folder

    def path(self, name: str) -> Path:
        return self._folder / name

    def image(self, name: str) -> Path:
        return self._site.images / name

    def images(self) -> dict[str, int]:
        found = _sizes(self._site.images)
        return {
            name: status.st_size
            for name, status in found.items()
            if not name.endswith((*DRAFTS, ".json", ".status"))
        }

    def discard_image(self, name: str) -> None:
        self.image(name).unlink(missing_ok=True)

    def put(self, source: Path) -> None:
        target = self.path(source.name)
        if target.exists() and target.samefile(source):
            return
        draft = target.with_name(f"{target.name}.tmp")
        with naming_full_disk(self._folder):
            draft.unlink(missing_ok=True)
            draft.touch(mode=0o600)
            shutil.copyfile(source, draft)
            draft.rename(target)

    def overlay(self, name: str, backing: str, size: int, backing_format: str = "qcow2") -> None:
        path = self.path(name)
        if path.exists():
            return
        draft = path.with_name(f"{name}.tmp")
        with naming_full_disk(self._folder):
            # The format of the backing file is named so that it is never guessed; the size is in bytes.
            run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", self.image(backing), "-F", backing_format,
                 draft,
                 str(size)])  # fmt: skip
            draft.chmod(0o600)  # it will hold keys and hashes; libvirt changes its owner, not its mode
            draft.rename(path)

    def virtual_size(self, name: str) -> int:
        path = self.path(name)
        try:
            with open(path, "rb") as file:  # QEMU's docs/interop/qcow2.txt
                return int.from_bytes(file.read(32)[24:], "big")
        except OSError as error:
            raise VclustError(f"{path}: cannot be read: {error.strerror}") from error

    def grow(self, name: str, size: int) -> None:
        if self.virtual_size(name) < size:
            with naming_full_disk(self._folder):
                run(["qemu-img", "resize", "-q", "-f", "qcow2", self.path(name), str(size)])

    def blank(self, name: str, size: int) -> None:
        path = self.path(name)
        if path.exists():
            return
        with naming_full_disk(self._folder.parent):
            self._folder.mkdir(exist_ok=True)
            self._folder.chmod(0o711)  # hypervisor processes walk through it as a user of their own
            draft = path.with_name(f"{name}.tmp")
            run(["qemu-img", "create", "-q", "-f", "qcow2", draft, str(size)])
            draft.chmod(0o600)
            draft.rename(path)

    def copy(self, source: str, target: str) -> None:
        draft = self.path(f"{target}.tmp")
        with naming_full_disk(self._folder):
            try:
                # Where the file system can, blocks are shared until one of both changes.
                run(["cp", "--reflink=auto", "--sparse=always", self.path(source), draft])
                draft.chmod(0o600)
                draft.rename(self.path(target))
            finally:
                draft.unlink(missing_ok=True)

    def length(self, name: str) -> int:
        path = self.path(name)
        return path.stat().st_size if path.exists() else 0

    def read(self, name: str, position: int) -> bytes:
        return read_from(self.path(name), position)

    def allocated(self) -> dict[str, int]:
        return {name: status.st_blocks * 512 for name, status in _sizes(self._folder).items()}

    def discard(self, *names: str) -> None:
        for name in names:
            self.path(name).unlink(missing_ok=True)

    def remove(self) -> None:
        try:
            shutil.rmtree(self._folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise VclustError(f"{error.filename}: cannot be removed: {error.strerror}") from error
