"""Folders on a host that is another machine, through libvirt's storage pools."""

import contextlib
import errno
import io
import os
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import ROLL_OUT, Host
from vclust_py.hypervisor.connection import CALL_TIMEOUT, Connection
from vclust_py.hypervisor.domains import absent, add, as_text, parsed

_T = TypeVar("_T")

_SLOWEST = 1_000_000
"""Bytes a second below which a transfer counts as hung."""
_RACE = 5.0
"""Seconds in which what others do to a pool at the same moment is over."""
_RACES = (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_ERR_OPERATION_INVALID)
"""Errors while another thread or process makes or removes the same pool."""
_COPY_TIMEOUT = 3600.0
"""Seconds that the copy of a disk may take; libvirt says nothing meanwhile."""
_COPYING = "asynchronous jobs"
"""In libvirt's error while volumes are copied in a pool."""
_FRESH = 1.0
"""Seconds for which a pool's list of files is taken as it is."""
DRAFTS = (".part", ".tmp")
_GONE = (libvirt.VIR_ERR_NO_STORAGE_POOL, libvirt.VIR_ERR_OPERATION_INVALID)
"""A pool that is not there any more, or stopped."""


LOOK = 1 << 20
"""Bytes read at one look into a file that others write."""
_MOST_FILES = 8192
"""Of one folder: a host that lists more is broken, or wants to keep the site manager busy."""


def read_from(path: Path, position: int) -> bytes:
    """The file's bytes from `position` on, a negative one counted from its end; none when it is not there.

    At most LOOK bytes: more is for the next look.
    """
    try:
        with open(path, "rb") as file:
            file.seek(_start(position, os.fstat(file.fileno()).st_size))
            return file.read(LOOK)
    except FileNotFoundError:
        return b""


def _start(position: int, length: int) -> int:
    return position if position >= 0 else max(length + position, 0)


class Pool:
    """A folder on another machine, as a storage pool of its libvirt.

    The pool is transient: nothing of it is written down over there, and it is made again whenever it is missing.
    """

    def __init__(
        self, connection: Connection, host: Host, name: str, folder: Path, mode: str | None = None
    ) -> None:
        """`mode`: of the folder, which is made with the pool; without it the folder must be there."""
        self.folder = folder
        self._connection, self._host, self._name, self._mode = connection, host, name, mode
        self._listed = 0.0
        self._opened: tuple[Any, Any] | None = None
        self._copying = threading.Lock()

    def _use(self, connection: Any, work: Callable[[Any], _T], *, make: bool = True) -> _T:
        """`work` on libvirt's pool, which is looked up once; again, and `work` with it, when it is gone meanwhile.

        `make` and errors are those of `open`.
        """
        opened = self._opened
        if opened is not None and opened[0] is connection:
            with absent(*_GONE):
                return work(opened[1])
        pool = self.open(connection, make=make)
        self._opened = connection, pool
        return work(pool)

    def open(self, connection: Any, *, make: bool = True) -> Any:
        """libvirt's pool, active.  Raises libvirtError; with `make` off, FileNotFoundError without the folder, or
        while it is being removed.
        """
        deadline = time.monotonic() + _RACE
        while True:
            try:
                with absent(libvirt.VIR_ERR_NO_STORAGE_POOL):
                    pool = connection.storagePoolLookupByName(self._name)
                    if not pool.isActive():  # a removal is at work, or was interrupted
                        if not make:
                            raise FileNotFoundError(str(self.folder))
                        pool.create()
                    return pool
                flags = libvirt.VIR_STORAGE_POOL_CREATE_WITH_BUILD if self._mode and make else 0
                return connection.storagePoolCreateXML(as_text(self._xml()), flags)
            except libvirt.libvirtError as error:
                if error.get_int1() == errno.ENOENT and not make:
                    raise FileNotFoundError(str(self.folder)) from error
                if error.get_int1() == errno.ENOENT and self._mode is None:
                    raise VclustError(f"{self._host.name}: {self.folder}: not found", ROLL_OUT) from error
                if error.get_error_code() not in _RACES or time.monotonic() > deadline:
                    raise
            time.sleep(0.05)

    def _xml(self) -> ElementTree.Element:
        xml = ElementTree.Element("pool", type="dir")
        add(xml, "name", self._name)
        target = add(xml, "target")
        add(target, "path", self.folder)
        if self._mode:
            _owned(target, self._mode)
        return xml

    def refresh(self, pool: Any) -> None:
        """Let libvirt look at the folder anew, for what came into it by another way."""
        deadline = time.monotonic() + _RACE
        while True:
            try:
                pool.refresh()
                self._listed = time.monotonic()
                return
            except libvirt.libvirtError as error:  # not while a volume is made in it
                if error.get_error_code() in _GONE:
                    raise
                if time.monotonic() > deadline:
                    if _COPYING in str(
                        error
                    ):  # that may take long; libvirt's list is right but for other ways
                        return
                    raise
            time.sleep(0.05)

    def sizes(self, *, written: bool) -> dict[str, int]:
        """Files in the folder: name → their length, or with `written` the bytes they take on disk."""
        flags = 0 if written else libvirt.VIR_STORAGE_VOL_GET_PHYSICAL

        def work(connection: Any) -> dict[str, int]:
            try:
                pool = self.open(connection, make=False)
            except FileNotFoundError:
                if self._mode:
                    return {}
                raise
            found = {}
            with absent(*_GONE):
                self.refresh(pool)
                for volume in self._volumes(pool):
                    with absent(libvirt.VIR_ERR_NO_STORAGE_VOL):
                        kind, _, size = volume.infoFlags(flags)
                        if kind == libvirt.VIR_STORAGE_VOL_FILE and is_file_name(volume.name()):
                            found[volume.name()] = size
            return found

        return self._connection.call(f"list {self.folder}", work)

    def _volumes(self, pool: Any) -> list[Any]:
        """What the host says is in the folder."""
        volumes: list[Any] = pool.listAllVolumes()
        if len(volumes) > _MOST_FILES:
            raise VclustError(
                f"{self._host.name}: {self.folder}: got {len(volumes)} files, expected at most {_MOST_FILES}",
                f"look into that folder on {self._host.name}",
            )
        return volumes

    def free(self) -> int:
        """Bytes left on the folder's file system."""

        def work(connection: Any) -> int:
            pool = self.open(connection)
            self.refresh(pool)
            return int(pool.info()[3])

        return self._connection.call(f"free space of {self.folder}", work)

    def read(self, name: str, position: int) -> bytes:
        """As `read_from`, of a file of this folder."""

        def work(connection: Any, pool: Any) -> bytes:
            volume = _volume(pool, name)
            if volume is None and time.monotonic() - self._listed > _FRESH:
                self.refresh(pool)
                volume = _volume(pool, name)
            if volume is None:
                return b""
            stream = connection.newStream()
            try:
                volume.download(stream, _start(position, _length(volume) if position < 0 else 0), LOOK)
            except libvirt.libvirtError as error:
                if error.get_int1() == errno.ENOENT:  # taken away by another way
                    self.refresh(pool)
                    return b""
                raise
            return _received(stream)

        def call(connection: Any) -> bytes:
            try:
                # Who only looks brings no folder back that has just been removed.
                return self._use(connection, lambda pool: work(connection, pool), make=self._mode is None)
            except FileNotFoundError:
                return b""

        return self._connection.call(f"read {self.folder / name}", call)

    def length(self, name: str) -> int:
        """The file's bytes; 0 when it is not there."""

        def work(pool: Any) -> int:
            volume = _volume(pool, name)
            return _length(volume) if volume else 0

        return self._connection.call(
            f"length of {self.folder / name}", lambda connection: self._use(connection, work)
        )

    def virtual_size(self, name: str) -> int:
        """Bytes of the disk that the file is to a guest."""

        def work(pool: Any) -> int:
            return int(self._looked_up(pool, name).info()[1])

        return self._connection.call(
            f"size of {self.folder / name}", lambda connection: self._use(connection, work)
        )

    def grow(self, name: str, size: int) -> None:
        """Make the disk that the file is `size` bytes long; no change when it is as long already."""

        def work(pool: Any) -> None:
            volume = self._looked_up(pool, name)
            if int(volume.info()[1]) < size:
                with self._naming_full_disk(pool, name):
                    volume.resize(size)

        self._connection.call(f"grow {self.folder / name}", lambda connection: self._use(connection, work))

    def _looked_up(self, pool: Any, name: str) -> Any:
        """libvirt's volume, also of a file that came by another way.  Raises libvirtError without one."""
        volume = _volume(pool, name)
        if volume is None:
            self.refresh(pool)
            volume = pool.storageVolLookupByName(name)
        return volume

    def lacks(self, names: Iterable[str]) -> list[str]:
        """Those of the files that are not there."""

        wanted = list(names)

        def work(pool: Any) -> list[str]:
            if missing := [name for name in wanted if not _there(_volume(pool, name))]:
                self.refresh(pool)
                missing = [name for name in missing if _volume(pool, name) is None]
            return missing

        return self._connection.call(
            f"look into {self.folder}", lambda connection: self._use(connection, work)
        )

    def discard(self, *names: str) -> None:
        def work(pool: Any) -> None:
            if any(_volume(pool, name) is None for name in names):
                self.refresh(pool)
            for name in names:
                _delete(_volume(pool, name))

        def call(connection: Any) -> None:
            with contextlib.suppress(FileNotFoundError):
                self._use(connection, work, make=False)

        self._connection.call(f"remove from {self.folder}: {', '.join(names)}", call)

    def write(self, name: str, source: Path) -> None:
        """Copy the site manager's file `source` here, for root only; replaces what is there."""
        size = source.stat().st_size
        xml = self._volume_xml(name, size, "raw")

        def work(connection: Any, pool: Any) -> None:
            with self._naming_full_disk(pool, name):
                volume = _created(pool, name, xml)
                if volume is None:
                    _delete(_volume(pool, name))
                    volume = pool.createXML(as_text(xml))
                try:
                    with open(source, "rb") as file:
                        _upload(connection, volume, file, size)
                except BaseException:
                    _delete(volume)
                    raise

        self._connection.call(
            f"write {self.folder / name}",
            lambda connection: self._use(connection, lambda pool: work(connection, pool)),
            timeout=CALL_TIMEOUT + size / _SLOWEST,
        )

    def make_raw(self, name: str, size: int, data: bytes, owner: tuple[int, int]) -> None:
        """Make the file `name` of `size` bytes, which begins with `data` and has zeros after it.

        `owner`: user and group, who alone may read and write it.
        """
        xml = self._volume_xml(name, size, "raw", owner)

        def work(connection: Any, pool: Any) -> None:
            with self._naming_full_disk(pool, name):
                volume = _created(pool, name, xml) or pool.storageVolLookupByName(name)
                if data:
                    _upload(connection, volume, io.BytesIO(data), len(data))

        self._connection.call(
            f"make {self.folder / name}",
            lambda connection: self._use(connection, lambda pool: work(connection, pool)),
        )

    def overwrite(self, name: str, data: bytes) -> None:
        """Write `data` over the beginning of the file, which stays as long as it is."""

        def work(connection: Any, pool: Any) -> None:
            _upload(connection, self._looked_up(pool, name), io.BytesIO(data), len(data))

        self._connection.call(
            f"write {self.folder / name}",
            lambda connection: self._use(connection, lambda pool: work(connection, pool)),
        )

    def stamp(self, name: str) -> str:
        """The file's bytes and the time of its last change, in words; empty when it is not there."""

        def work(pool: Any) -> str:
            volume = _volume(pool, name)
            if not _there(volume):
                self.refresh(pool)
                volume = _volume(pool, name)
            if volume is None:
                return ""
            changed = parsed(volume.XMLDesc()).findtext("target/timestamps/mtime", "")
            if not re.fullmatch("[0-9.]{0,40}", changed):
                raise VclustError(f"{self._host.name}: {self.folder / name}: got no time of its last change")
            return f"{_length(volume)} bytes of {changed}"

        def call(connection: Any) -> str:
            try:
                return self._use(connection, work, make=False)
            except FileNotFoundError:
                return ""

        return self._connection.call(f"look at {self.folder / name}", call)

    def folders(self) -> list[str]:
        """Names of the folders in this one."""

        def work(pool: Any) -> list[str]:
            self.refresh(pool)
            return [
                volume.name()
                for volume in self._volumes(pool)
                if volume.info()[0] == libvirt.VIR_STORAGE_VOL_DIR and is_file_name(volume.name())
            ]

        return self._connection.call(f"list {self.folder}", lambda connection: self._use(connection, work))

    def make_overlay(self, name: str, backing: Path, size: int, backing_format: str) -> None:
        """Make the qcow2 file `name` over `backing`, for root only; no change when it is there."""
        xml = self._volume_xml(name, size, "qcow2")
        store = add(xml, "backingStore")
        add(store, "path", backing)
        add(store, "format", type=backing_format)
        self._make(name, xml)

    def make_blank(self, name: str, size: int) -> None:
        """Make the empty qcow2 file `name`, for root only; no change when it is there."""
        self._make(name, self._volume_xml(name, size, "qcow2"))

    def _make(self, name: str, xml: ElementTree.Element) -> None:

        def work(pool: Any) -> None:
            with self._naming_full_disk(pool, name):
                _created(pool, name, xml)

        self._connection.call(f"make {self.folder / name}", lambda connection: self._use(connection, work))

    def copy(self, source: str, target: str) -> None:
        """Copy the qcow2 file `source` of this folder with all that it stands on, which libvirt cannot leave out;
        replaces what is there.
        """

        def work(pool: Any) -> None:
            original = self._looked_up(pool, source)
            xml = self._volume_xml(target, int(original.info()[1]), "qcow2")
            _delete(_volume(pool, target))
            with self._naming_full_disk(pool, target):
                try:
                    pool.createXMLFrom(as_text(xml), original)
                except BaseException:
                    self.refresh(pool)
                    _delete(_volume(pool, target))
                    raise

        with self._copying:
            self._connection.call(
                f"copy {self.folder / source} to {target}",
                lambda connection: self._use(connection, work),
                timeout=_COPY_TIMEOUT,
            )

    def _volume_xml(
        self, name: str, size: int, image_format: str, owner: tuple[int, int] = (0, 0)
    ) -> ElementTree.Element:
        xml = ElementTree.Element("volume")
        add(xml, "name", name)
        add(xml, "capacity", size, unit="bytes")
        add(xml, "allocation", 0)
        target = add(xml, "target")
        add(target, "format", type=image_format)
        if image_format == "qcow2":
            add(target, "compat", "1.1")
        _owned(target, "0600", owner)
        return xml

    @contextlib.contextmanager
    def _naming_full_disk(self, pool: Any, name: str) -> Iterator[None]:
        try:
            yield
        except libvirt.libvirtError as error:
            if error.get_int1() != errno.ENOSPC and os.strerror(errno.ENOSPC) not in str(error):
                raise
            pool.refresh()
            raise VclustError(
                f"{self._host.name}: {self.folder / name}: no space left on its file system"
                f" ({pool.info()[3] >> 20} MB free)",
                f"free some space on {self._host.name}",
            ) from error

    def remove(self) -> None:
        """Remove the folder with all files in it, and the pool."""

        def work(connection: Any) -> None:
            # Where a removal was interrupted, its definition is left, and perhaps the folder.
            with absent(*_GONE):
                pool = connection.storagePoolLookupByName(self._name)
                if not pool.isActive():
                    try:
                        pool.create()
                    except libvirt.libvirtError as error:
                        if error.get_int1() != errno.ENOENT:
                            raise
                        pool.undefine()
                        return
            with contextlib.suppress(FileNotFoundError), absent(*_GONE):  # others may be removing it too
                pool = self.open(connection, make=False)
                self.refresh(pool)
                for volume in self._volumes(pool):
                    _delete(volume)
                # A transient pool is gone when it stops, and only a stopped one can be deleted.
                pool = connection.storagePoolDefineXML(pool.XMLDesc())
                pool.destroy()
                pool.delete()
                pool.undefine()

        self._connection.call(f"remove {self.folder}", work)


def _owned(target: ElementTree.Element, mode: str, owner: tuple[int, int] = (0, 0)) -> None:
    """By root, or that user and group."""
    permissions = add(target, "permissions")
    for tag, value in (("mode", mode), ("owner", owner[0]), ("group", owner[1])):
        add(permissions, tag, value)


def _volume(pool: Any, name: str) -> Any | None:
    with absent(libvirt.VIR_ERR_NO_STORAGE_VOL):
        return pool.storageVolLookupByName(name)
    return None


def _created(pool: Any, name: str, xml: ElementTree.Element) -> Any | None:
    """The new volume; None when there is one of that name.  Mostly there is none: looking first would cost a call."""
    try:
        return pool.createXML(as_text(xml))
    except libvirt.libvirtError:
        if _volume(pool, name) is None:
            raise
        return None


def _length(volume: Any) -> int:
    return int(volume.infoFlags(libvirt.VIR_STORAGE_VOL_GET_PHYSICAL)[2])


def _received(stream: Any) -> bytes:
    """What comes, and no more than was asked for: the other side may send on for ever."""
    data = b""
    while len(data) < LOOK:
        piece = stream.recv(LOOK - len(data))
        if not piece:
            stream.finish()
            return data
        data += piece
    with contextlib.suppress(libvirt.libvirtError):
        stream.abort()
    return data


def is_file_name(name: str) -> bool:
    """Whether a host's word for a file is the plain name of one."""
    return (
        name not in ("", ".", "..") and "/" not in name and name.isprintable() and len(name.encode()) <= 255
    )


def _there(volume: Any | None) -> bool:
    """Not only in libvirt's list, but in the folder."""
    try:
        return volume is not None and bool(volume.info())
    except libvirt.libvirtError:
        return False


def _delete(volume: Any | None) -> None:
    if volume is not None:
        with absent(libvirt.VIR_ERR_NO_STORAGE_VOL):
            volume.delete()


def _upload(connection: Any, volume: Any, source: BinaryIO, size: int) -> None:
    stream = connection.newStream()
    volume.upload(stream, 0, size)
    send_all(stream, source)


def send_all(stream: Any, source: BinaryIO) -> None:
    """All that `source` has, into libvirt's stream, which is over then."""
    try:
        stream.sendAll(lambda _stream, count, _: source.read(count), None)
        stream.finish()
    except BaseException:
        with contextlib.suppress(libvirt.libvirtError):
            stream.abort()
        raise
