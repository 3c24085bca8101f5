"""What templates and suspended installers have alike: where they are made and lie, and whether they are whole.

Those of the site manager's own host are images with all their files.  On another host disk and memory are made, and
stay, in a folder beside those of clusters, and the image is the state of the devices: so it is found, pinned and taken
away as others are, and no host needs to know of it.  They are made on each host, not sent: all hosts make theirs in the
time in which one would make it for the others, and none needs another's processor and QEMU.
"""

import logging
import os
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from vclust_py.errors import BusyError, VclustError
from vclust_py.hypervisor import (
    CONSOLE,
    HOST_ROOT,
    MEMORY,
    Forking,
    Host,
    Hypervisor,
    Workplace,
    memory_bytes,
)
from vclust_py.image import Image, Place
from vclust_py.image.builder import create_over
from vclust_py.image.manifest import REMOTE
from vclust_py.image.space import naming_full_disk, require_space
from vclust_py.site import clusters
from vclust_py.site.session import Session

_log = logging.getLogger(__name__)

_DISK, _STATE = "disk.qcow2", "state"
_FOLDER = re.compile(rf"(?:{'|'.join(REMOTE.values())})-[0-9a-f]{{16}}-[0-9a-f]{{8}}")
"""Names of folders on hosts: that of the lock under which they are made, and a number."""


@dataclass(frozen=True)
class Files:
    """Of a frozen machine: disk and memory on its host, the state here; a suspended installer has no disk."""

    disk: Path
    memory: Path
    state: Path


def files_of(image: Image) -> Files:
    """Where they are."""
    if (place := image.manifest.place) is not None:
        folder = HOST_ROOT / "clusters" / place.folder
        return Files(folder / _DISK, folder / MEMORY, image.path)
    return Files(image.path, image.companions[MEMORY], image.companions.get(_STATE, image.path))


def role(image: Image) -> str:
    """What a cluster calls the image among its own, after `templates.ROLE`: by its folder, if it has one."""
    return image.manifest.place.folder if image.manifest.place else image.manifest.digest[:12]


def find(session: Session, kind: str, key: str, memory: int, forking: Forking) -> Image | None:
    """The image of that kind (`template` or `suspended`) and key, of so many bytes of memory.

    One that is damaged is never found again.
    """
    image = session.images.find(_kind(kind, forking), key)
    if image is not None and (why := _damage(image, memory, forking)):
        _log.warning("%s: %s", image.path.name, why)
        session.images.retire(image)
        return None
    return image


def _kind(kind: str, forking: Forking) -> str:
    return kind if forking.host.machine is None else REMOTE[kind]


def _damage(image: Image, memory: int, forking: Forking) -> str:
    """What is wrong with the files beside the image's own; empty: nothing."""
    if (place := image.manifest.place) is not None:
        work = forking.workplace(place.folder)
        wanted = {MEMORY: place.stamp} | ({_DISK: place.disk_stamp} if place.disk_stamp else {})
        for name, stamp in wanted.items():
            if (found := "" if work is None else work.stamp(name)) != stamp:
                there = f"has {found}, expected {stamp}" if found else "is not there"
                return f"{place.host}: {place.folder}/{name} {there}"
        return ""
    made = image.path.with_suffix(".json").stat().st_mtime_ns
    for path in image.companions.values():
        try:
            status = path.stat()
        except FileNotFoundError:
            return f"{path.name} is not there"
        if status.st_mtime_ns > made:
            return f"{path.name} was written to since it was frozen"
    size = image.companions[MEMORY].stat().st_size
    if size != memory_bytes(memory):
        return f"its memory has {size} bytes, expected {memory_bytes(memory)}"
    return ""


class Bench(Protocol):
    """Where a machine to be frozen is made."""

    path: Path
    """The folder, on the host."""
    folder: str
    """Its name among those of clusters; empty: it is none of these."""
    state: Path

    def image(self, image: Image) -> Path:
        """Where the host has it."""

    def disk(self, root: Image, size: int) -> Path:
        """A new disk over `root`, of `size` bytes."""

    def small(self, name: str, size: int, data: bytes = b"") -> Path:
        """A disk of `size` bytes that begins with `data`, and is not kept."""

    def take_in(self, **facts: Any) -> Image:
        """The image of what has been frozen; `facts` are those of `Catalogue.add`."""


def ensure(
    session: Session,
    kind: str,
    key: str,
    memory: int,
    forking: Forking,
    make: Callable[[Bench], Image],
    *,
    disk: int = 0,
) -> Image:
    """What `find` finds; it is made now if it is not there, which takes `memory`, and up to `disk`, bytes of disk.

    Raises VclustError when that does not work, or there is no space for it.
    """
    if image := find(session, kind, key, memory, forking):
        return image
    with session.images.building(_kind(kind, forking), key) as folder:
        if image := find(session, kind, key, memory, forking):
            return image
        needed = memory_bytes(memory) + disk
        if forking.host.machine is None:
            with naming_full_disk(session.site.images):
                require_space(session.site.images, needed)
                return make(_Here(session, kind, key, folder))
        _clear(session, forking)
        name = (
            f"{session.images.folder(REMOTE[kind], key).stem.removeprefix('image-')}-{secrets.token_hex(4)}"
        )
        with _workplace(name, forking) as work:
            if (free := work.free()) < needed:
                raise VclustError(
                    f"{forking.host.name}: {work.path('').parent}: not enough space: {free >> 20} MB free,"
                    f" {needed >> 20} MB needed"
                )
            return make(_There(session, kind, key, folder, forking.host, name, work))


@contextmanager
def _workplace(name: str, forking: Forking) -> Iterator[Workplace]:
    """A new folder on the host; it stays where the block comes to its end."""
    work = forking.workplace(name)
    if work is None:
        raise VclustError(f"{forking.host.name}: it is the site manager itself")
    try:
        yield work
    except BaseException:
        with suppress(VclustError):  # else with the next that is made there (`clear`)
            work.remove()
        raise


class _Here:
    folder = ""

    def __init__(self, session: Session, kind: str, key: str, path: Path) -> None:
        path.chmod(0o711)  # QEMU runs as a user of its own
        self._session, self._kind, self._key = session, kind, key
        self.path, self.state = path, path / _STATE
        self._disk: Path | None = None

    def image(self, image: Image) -> Path:
        return image.path

    def disk(self, root: Image, size: int) -> Path:
        self._disk = create_over(self._session.images, self.path, root, size)
        return self._disk

    def small(self, name: str, size: int, data: bytes = b"") -> Path:
        path = self.path / f"{name}.img"
        path.write_bytes(data)
        os.truncate(path, size)
        return path

    def take_in(self, **facts: Any) -> Image:
        companions = {MEMORY: self.path / MEMORY}
        if self._disk is not None:
            companions[_STATE] = self.state
        return self._session.images.add(
            self._disk or self.state, kind=self._kind, key=self._key, companions=companions, **facts
        )


class _There:
    def __init__(
        self,
        session: Session,
        kind: str,
        key: str,
        local: Path,
        host: Host,
        folder: str,
        work: Workplace,
    ) -> None:
        self._session, self._kind, self._key = session, kind, key
        self._host, self.folder, self._work = host, folder, work
        self.path, self.state = work.path(""), local / _STATE
        self._kept, self._small = [MEMORY], list[str]()

    def image(self, image: Image) -> Path:
        return self._work.image(image.path.name)

    def disk(self, root: Image, size: int) -> Path:
        self._work.overlay(_DISK, root.path.name, size)
        self._kept.append(_DISK)
        return self._work.path(_DISK)

    def small(self, name: str, size: int, data: bytes = b"") -> Path:
        self._work.make_raw(f"{name}.img", size, data)
        self._small.append(f"{name}.img")
        return self._work.path(f"{name}.img")

    def take_in(self, **facts: Any) -> Image:
        self._work.discard(*self._small, CONSOLE)
        stamps = {name: self._work.stamp(name) for name in self._kept}
        place = Place(
            self._host.name,
            self._host.uri,
            self.folder,
            sum(self._work.allocated().values()),
            stamps[MEMORY],
            stamps.get(_DISK, ""),
        )
        return self._session.images.add(
            self.state, kind=REMOTE[self._kind], key=self._key, place=place, **facts
        )


def clear(session: Session, drivers: Iterable[Hypervisor], *, check: bool = False) -> list[str]:
    """Remove from these hosts what is frozen there and is none of the site's images, nor about to be one.

    What was removed, or would be with `check`.  Where that fails it is for the next time.
    """
    hosts = [driver.forking for driver in drivers if driver.forking is not None]
    found = session.side_by_side(lambda forking: _clear(session, forking, check=check), hosts)
    return [folder for folders in found for folder in folders]


def _clear(session: Session, forking: Forking, *, check: bool = False) -> list[str]:
    host, removed = forking.host.name, list[str]()

    def known() -> set[str]:
        # Clones stand on theirs though the site may have lost the image, as one that was restored has.
        pinned = {
            role.partition("-")[2] for cluster in clusters.live(session.store) for role in cluster.images
        }
        return pinned | {place.folder for image in on_host(session, host) if (place := image.manifest.place)}

    try:
        for name in sorted({name for name in forking.workplaces() if _FOLDER.fullmatch(name)} - known()):
            lock = f"image-{name.rpartition('-')[0]}"
            # Who makes it holds the lock, and has written it down when the lock is free.
            with suppress(BusyError), session.site.file_lock(lock, timeout=0):
                work = forking.workplace(name)
                if work is not None and name not in known():
                    if not check:
                        work.remove()
                    removed.append(f"{name} on {host}")
    except VclustError as error:
        _log.warning("%s: what was frozen there and is of no more use is not removed: %s", host, error)
    return removed


def clear_hosts(session: Session, images: Iterable[Image]) -> None:
    """`clear` the hosts of these images, which have been taken away."""
    drivers, errors = session.drivers(hosts_of(images))
    for error in errors.values():
        _log.warning("%s", error)
    clear(session, drivers.values())


def hosts_of(images: Iterable[Image]) -> set[Host]:
    """The other machines that files of these images lie on."""
    return {Host(place.host, place.uri) for image in images if (place := image.manifest.place) is not None}


def on_host(session: Session, host: str) -> list[Image]:
    """The images whose files lie on that other machine."""
    images = session.images.images()
    return [image for image in images if image.manifest.place and image.manifest.place.host == host]
