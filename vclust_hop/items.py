"""What is sent as one sequence of blocks, at the head and on hosts: a file, or small files together."""

from __future__ import annotations

import errno
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Sequence

from vclust_hop.messages import Member


class Digests:
    """SHA-256 of members that come one after the other, compared with what they should be."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self.any = any(member.digest for member in members)
        """Whether any of them is known."""
        self._at, self._seen = 0, 0
        self._digest = hashlib.sha256()

    def feed(self, view: memoryview) -> str:
        """The next bytes; what is wrong with the first member of them that is not what it should be, or nothing."""
        while view and self.any:
            member = self._members[self._at]
            piece = view[: member.size - self._seen]
            if member.digest:
                self._digest.update(piece)
            view = view[len(piece) :]
            self._seen += len(piece)
            if self._seen < member.size:
                continue
            digest = self._digest.hexdigest()
            if member.digest and digest != member.digest:
                return f"{member.name}: its sha256 is {digest}, expected {member.digest}"
            self._at, self._seen, self._digest = self._at + 1, 0, hashlib.sha256()
        return ""


_RECORD = struct.Struct("!B16s")
Record = tuple[int, bytes]
"""Of a block that is here and checked: kind (DATA, ZERO, PACKED) and tag."""


class Item:
    """What is sent as one sequence of blocks: a file, or small files one after the other."""

    def __init__(self, number: int, members: Sequence[Member], block: int) -> None:
        self.number = number
        self.members = tuple(members)
        self.block = block
        self.size = sum(member.size for member in members)
        self.blocks = -(-self.size // block)
        self.verified = 0
        """How many blocks are here and checked."""
        self._records = bytearray()  # a million of them are no burden so
        self._changed = threading.Condition()

    @property
    def done(self) -> int:
        """Bytes."""
        return min(self.verified * self.block, self.size)

    def length(self, block: int) -> int:
        return min(self.block, self.size - block * self.block)

    def record(self, block: int, timeout: float) -> Record | None:
        """The block's record, as soon as it is there; None when it is not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: block < self.verified, timeout):
                return None
            kind, tag = _RECORD.unpack_from(self._records, block * _RECORD.size)
            return kind, tag

    def add(self, record: Record) -> None:
        with self._changed:
            self._records += _RECORD.pack(*record)
            self.verified += 1
            self._changed.notify_all()

    def load(self, block: int, view: memoryview) -> None:
        """Read the block."""
        raise NotImplementedError


def hole(descriptor: int, offset: int, size: int) -> bool:
    """Whether the file system stores nothing there."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) >= offset + size
    except OSError as error:
        return error.errno == errno.ENXIO  # no data up to the end


class Pieces:
    """Files one after the other, as if they were one."""

    def __init__(self, members: Sequence[Member], opened: Callable[[int], int]) -> None:
        self._sizes = [member.size for member in members]
        self._opened = opened
        self._open: tuple[int, int] = (-1, -1)
        self._first, self._start = 0, 0
        self._lock = threading.Lock()

    def load(self, offset: int, view: memoryview) -> None:
        """Raises EOFError when a file is shorter than it should be, OSError when one cannot be read."""
        with self._lock:
            if offset < self._start:
                self._first, self._start = 0, 0
            while view:
                index, start = self._first, self._start
                if offset >= start + self._sizes[index]:
                    self._first, self._start = index + 1, start + self._sizes[index]
                    continue
                piece = view[: start + self._sizes[index] - offset]
                size = os.preadv(self._descriptor(index), [piece], offset - start)
                if size == 0:
                    raise EOFError
                view, offset = view[size:], offset + size

    def hole(self, offset: int, size: int) -> bool:
        """Whether nothing is stored there, as far as that can be told without reading."""
        with self._lock:
            return len(self._sizes) == 1 and hole(self._descriptor(0), offset, size)

    def _descriptor(self, index: int) -> int:
        if self._open[0] != index:
            self.close()
            self._open = (index, self._opened(index))
        return self._open[1]

    def close(self) -> None:
        if self._open[0] >= 0:
            os.close(self._open[1])
            self._open = (-1, -1)
