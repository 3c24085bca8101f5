"""Archives of files that go to their places in a node: ustar, for busybox; owners are numbers."""

import gzip
import struct
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file, or with `data` None a folder; its path is relative to /; `owner` is uid and gid."""

    path: str
    data: bytes | None
    mode: int = 0o644
    owner: int = 0


def text(path: str, content: str, mode: int = 0o644, owner: int = 0) -> File:
    return File(path, content.encode(), mode, owner)


def folder(path: str, mode: int, owner: int = 0) -> File:
    return File(path, None, mode, owner)


def packed(files: Iterable[File]) -> bytes:
    """The archive, gzip-compressed; the same files always give the same bytes.  Raises ValueError as `archive` does."""
    return gzip.compress(archive(files), compresslevel=6, mtime=0)


def archive(files: Iterable[File]) -> bytes:
    """Raises ValueError for a path that takes more than 100 bytes."""
    blocks = []
    for file in files:
        data = file.data or b""
        blocks += [_header(file, len(data)), data, bytes(-len(data) % _BLOCK)]
    blocks.append(bytes(2 * _BLOCK))
    return b"".join(blocks)


_BLOCK = 512
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100x6s2s247x")
"""POSIX.1-1988 (ustar): path, mode, uid, gid, size, time, checksum, type, magic, version; no link, names or device."""


def _header(file: File, size: int) -> bytes:
    """Not by `tarfile`, which takes twice as long: there is an archive for each node."""
    path = file.path.encode() + (b"/" if file.data is None else b"")
    if len(path) > 100:
        raise ValueError(f"{file.path}: got {len(path)} bytes, expected a path of at most 100")
    owner = b"%07o" % file.owner
    before = (path, b"%07o" % file.mode, owner, owner, b"%011o" % size, b"%011o" % 0)
    after = (b"5" if file.data is None else b"0", b"ustar", b"00")
    checksum = b"%06o\0 " % sum(_HEADER.pack(*before, b" " * 8, *after))
    return _HEADER.pack(*before, checksum, *after)
