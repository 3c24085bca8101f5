"""What the head gives out: files as they were at the start, block by block."""

import contextlib
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from vclust_hop.items import Digests, Item, Pieces, Record
from vclust_hop.messages import Member, member_of
from vclust_hop.sending import Transfer
from vclust_hop.tags import Seal
from vclust_hop.wire import DATA, PACKED, ZERO
from vclust_py.chain import File
from vclust_py.errors import VclustError

PACK = 8 << 20
"""Bytes of small files, smaller than a block, that are sent as one item: while a hop makes them the network's buffers
go on taking."""
_BUFFERED, _MEASURED = 4 << 20, 4 << 20
"""Bytes that may go out before the network takes them; bytes by which its rate is measured then."""
_EMPTY = hashlib.sha256().hexdigest()
_PAUSE = 32
"""The most blocks that are not packed, after some that were in vain, until it is tried again."""


@dataclass(frozen=True)
class Source:
    """A file at the head, as it was at the start."""

    path: Path
    member: Member
    status: tuple[int, ...]
    digest: str
    """Empty when it is not known."""

    @classmethod
    def of(cls, file: File, check: bool = False) -> "Source":
        """`check`: hops check the digest too."""
        try:
            status = file.path.stat()
        except OSError as error:
            raise VclustError(f"{file.path}: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise VclustError(f"{file.path}: not a file")
        digest = file.digest or ""
        name = file.name or file.path.name
        fields = [name, status.st_size, status.st_mode & 0o777, status.st_mtime_ns, digest if check else ""]
        if not status.st_size and digest not in ("", _EMPTY):  # there is no block of it to be withheld
            raise VclustError(f"{file.path}: its sha256 is {_EMPTY}, expected {digest}")
        try:
            member = member_of(fields)
        except ValueError as error:
            raise VclustError(f"{file.path}: {error}") from error
        return cls(file.path, member, cls._what(status), digest)

    @staticmethod
    def _what(status: os.stat_result) -> tuple[int, ...]:
        return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def check(self) -> None:
        """Raises VclustError when it is not what it was."""
        try:
            same = self._what(self.path.stat()) == self.status
        except FileNotFoundError:
            raise VclustError(f"{self.path}: removed while it was sent") from None
        if not same:
            raise VclustError(f"{self.path}: changed while it was sent", "send it when nobody writes it")


def together(sources: Sequence[Source], block: int) -> list[list[Source]]:
    """Small files that follow each other go together."""
    items: list[list[Source]] = []
    room = 0
    for source in sources:
        size = source.member.size
        small = 0 < size < block
        if small and size <= room:
            items[-1].append(source)
            room -= size
        else:
            items.append([source])
            room = PACK - size if small else 0
    return items


class Sending(Transfer):
    """The head's end of a transfer: one block is tagged at a time, and packed if that pays.

    At first all is sent as it is, to measure what goes out; from then on blocks are packed as long as that takes less
    time than the bytes saved would need.
    """

    def __init__(
        self,
        identity: bytes,
        key: bytes,
        block: int,
        encrypt: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(identity, key, block, encrypt, [])
        self._clock = clock
        self.compress = "off"
        """As in Options."""
        self.tagged = 0
        """Bytes that have been tagged: no hop can have more."""
        self._seal = self.seal()
        self._tagging = threading.Lock()
        self._begun: float | None = None
        self._sent = 0
        self._pace: float | None = None
        """Seconds a byte."""
        self._pause = 0
        """How many blocks are let pass after one that was packed in vain: 1, 2, 4 …"""
        self._skip = 0
        """How many of them are left."""

    @contextlib.contextmanager
    def tagging(self) -> Iterator[Seal]:
        """Room for one block, while nobody else has it."""
        with self._tagging:
            yield self._seal

    def sent(self, size: int) -> None:
        if self._pace is not None:
            return
        self._sent += size
        if self._begun is None and self._sent >= _BUFFERED:
            self._begun, self._sent = self._clock(), 0
        elif self._begun is not None and self._sent >= _MEASURED:
            self._pace = (self._clock() - self._begun) / self._sent

    def pack(self, item: int, block: int, seal: Seal, size: int) -> bool:
        """Whether the block in `seal` is packed now."""
        if self.compress == "off" or (self.compress == "auto" and self._pace is None):
            return False
        if self._skip:
            self._skip -= 1
            return False
        begun = self._clock()
        packed = seal.pack(size)
        saved = 0 if packed is None else size - len(packed)
        if saved and (self.compress == "on" or self._clock() - begun < saved * (self._pace or 0.0)):
            self._pause = 0
        else:
            self._skip = self._pause = min(2 * self._pause or 1, _PAUSE)
        if packed is None:
            return False
        self.recent.put(item, block, packed)
        return True


class SourceItem(Item):
    """Files as they are at the head.  Each block is read and tagged once, when it is first asked for."""

    def __init__(self, number: int, sources: Sequence[Source], transfer: Sending) -> None:
        super().__init__(number, [source.member for source in sources], transfer.block)
        self.sources = sources
        self.problem: VclustError | None = None
        """Why it cannot be sent any more."""
        self._transfer = transfer
        self._pieces = Pieces(self.members, lambda index: os.open(sources[index].path, os.O_RDONLY))
        self._digests = Digests(
            [source.member._replace(name=str(source.path), digest=source.digest) for source in sources]
        )

    def record(self, block: int, timeout: float) -> Record | None:
        with self._transfer.tagging() as seal:
            while self.verified <= block:
                self._tag(self.verified, seal)
        return super().record(block, timeout)

    def _tag(self, block: int, seal: Seal) -> None:
        size = self.length(block)
        view = seal.view[:size]
        kind = ZERO
        if not self._hole(block):
            self.load(block, view)
            kind = ZERO if seal.is_zero(size) else DATA
        tag = seal.tag(self.number, block, size if kind == DATA else 0)
        if self._digests.any:
            wrong = self._digests.feed(view if kind == DATA else memoryview(bytes(size)))
            if wrong:  # without this block the file appears nowhere
                self.problem = VclustError(wrong)
                raise ConnectionAbortedError
        if kind == DATA and self._transfer.pack(self.number, block, seal, size):
            kind = PACKED
        self._transfer.tagged += size
        self.add((kind, tag))

    def load(self, block: int, view: memoryview) -> None:
        with self._reading():
            self._pieces.load(block * self.block, view)

    def _hole(self, block: int) -> bool:
        with self._reading():
            return self._pieces.hole(block * self.block, self.length(block))

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """What goes wrong, or is wrong afterwards, ends the whole transfer, and this connection at once."""
        try:
            failure: Exception | None = None
            try:
                yield
            except (EOFError, OSError) as error:
                failure = error
            if failure is not None or len(self.sources) == 1:
                for source in self.sources:
                    source.check()
            if failure is not None:
                raise VclustError(f"{self.sources[0].path}: {failure}") from failure
        except VclustError as error:
            self.problem = error
            raise ConnectionAbortedError from error

    def close(self) -> None:
        self._pieces.close()
