"""An item on this host: what is here is checked, what comes is written, and whole files get their names."""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import stat
from collections.abc import Sequence

from vclust_hop.items import Digests, Item, Pieces, Record, hole
from vclust_hop.messages import Member
from vclust_hop.store import Store, claimed
from vclust_hop.tags import Seal
from vclust_hop.wire import ZERO, Failed, ProtocolViolation


def write(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        size = os.pwrite(descriptor, view, offset)
        view, offset = view[size:], offset + size


class Copy(Item):
    """An item on this host: first files that may be it already, or what an earlier transfer has left of it.

    Neither counts before every block of it has been checked by its tag.
    """

    def __init__(self, number: int, members: Sequence[Member], block: int, store: Store) -> None:
        super().__init__(number, members, block)
        self.store = store
        same = json.dumps([[member.name, member.size, member.digest or member.mtime] for member in members])
        self._stem = "." + hashlib.sha256(same.encode()).hexdigest()[:32]
        self.part = f"{self._stem}.part"
        self.descriptor = -1
        self.present = all(self._has_file(member) for member in members)
        """It is all here under its names, as far as we know."""
        self.tags_until = self.blocks
        """Before this block only tags are needed."""
        self._there = Pieces(
            members, lambda index: self._open(members[index].name, os.O_RDONLY, store.folder)
        )
        self._digests = Digests(members)
        self._wrong = ""
        """Which member has another digest than it should, and what."""

    @staticmethod
    def _open(name: str, flags: int, folder: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=folder)

    def _has_file(self, member: Member) -> bool:
        try:
            status = os.stat(member.name, dir_fd=self.store.folder, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == member.size

    def resume(self) -> None:
        """Look for what an earlier transfer has left, and keep other transfers away from it."""
        if self.present:
            return
        drafts = self.store.drafts
        self.descriptor = self._open(self.part, os.O_RDWR | os.O_CREAT, drafts)
        with self.store.claiming:
            if not claimed(self.descriptor, self.part, drafts):
                raise Failed(f"{self.members[0].name}: another transfer brings it here")
        self.tags_until = os.fstat(self.descriptor).st_size // self.block
        # A part of a block is nothing to go on with, and in its place there may have to be a hole.
        os.ftruncate(self.descriptor, self.tags_until * self.block)

    def load(self, block: int, view: memoryview) -> None:
        if self.present:
            self._there.load(block * self.block, view)
        elif os.preadv(self.descriptor, [view], block * self.block) != len(view):
            raise EOFError

    def has_block(self, kind: int, block: int, tag: bytes, seal: Seal) -> bool:
        """Whether the block of this frame, KNOWN or ZERO, is here; the frame itself is checked by that."""
        number = self.number
        view = seal.view[: self.length(block)]
        if kind == ZERO:
            if not seal.fits(tag, number, block, 0):
                raise ProtocolViolation("a block has a wrong tag")
            if block >= self.tags_until or self._hole(block):
                return True
        try:
            self.load(block, view)
        except (EOFError, FileNotFoundError, PermissionError):
            return False
        if kind == ZERO:
            return seal.is_zero(len(view))
        return hmac.compare_digest(tag, seal.tag(number, block, len(view)))

    def _hole(self, block: int) -> bool:
        offset, size = block * self.block, self.length(block)
        return self._there.hole(offset, size) if self.present else hole(self.descriptor, offset, size)

    def correct(self, seal: Seal) -> None:
        """What is here is right up to `done` only: keep that, forget the rest."""
        kept = self.verified
        if self.present:
            there, self.present = self._there, False
            self.resume()
            for block in range(kept):
                view = seal.view[: self.length(block)]
                there.load(block * self.block, view)
                write(self.descriptor, view, block * self.block)
                self._hash(view)
            there.close()
        os.ftruncate(self.descriptor, kept * self.block)
        self.tags_until = 0

    def put(self, record: Record, view: memoryview, new: bool) -> None:
        """A checked block; one of zeros stays a hole."""
        if new:
            write(self.descriptor, view, self.verified * self.block)
        if self._digests.any and not self.present:
            self._hash(memoryview(bytes(len(view))) if record[0] == ZERO else view)
        self.add(record)

    def _hash(self, view: memoryview) -> None:
        self._wrong = self._wrong or self._digests.feed(view)

    def finish(self) -> None:
        """All blocks are here: give the file its name.  Several files are made as drafts; the puller names them."""
        if self.present:
            return
        if self._wrong:
            os.unlink(self.part, dir_fd=self.store.drafts)
            raise Failed(self._wrong)
        os.ftruncate(self.descriptor, self.size)  # zeros at its end are not written
        if len(self.members) > 1:
            self._split()
            return
        member = self.members[0]
        self._write_no_more()
        self._mark(self.descriptor, member)
        os.fsync(self.descriptor)
        self.store.adopt([(self.part, member.name)])

    def _write_no_more(self) -> None:
        """The draft's descriptor can read only from now on; who serves from it meanwhile sees no difference."""
        reader = self._open(self.part, os.O_RDONLY, self.store.drafts)
        try:
            with self.store.claiming:
                # The claim goes over first: a thread that reads at this moment keeps the old descriptor's file open.
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
                fcntl.flock(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.dup2(reader, self.descriptor, inheritable=False)
        finally:
            os.close(reader)

    @staticmethod
    def _mark(descriptor: int, member: Member) -> None:
        os.fchmod(descriptor, member.mode)
        os.utime(descriptor, ns=(member.mtime, member.mtime))

    def _split(self) -> None:
        offset = 0
        for index, member in enumerate(self.members):
            data = os.pread(self.descriptor, member.size, offset)
            offset += member.size
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            descriptor = self._open(self._piece(index), flags, self.store.drafts)
            try:
                write(descriptor, memoryview(data), 0)
                self._mark(descriptor, member)
            finally:
                os.close(descriptor)

    def made(self) -> list[tuple[str, str]]:
        """The files that `finish` has made of several, as drafts, and their names."""
        return [(self._piece(index), member.name) for index, member in enumerate(self.members)]

    def _piece(self, index: int) -> str:
        return f"{self._stem}.{index}.part"

    def close(self) -> None:
        self._there.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
