"""The side that takes: pulls a transfer's items from whatever source the head names."""

from __future__ import annotations

import contextlib
import errno
import hmac
import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

from vclust_hop import native
from vclust_hop.files import Copy
from vclust_hop.sending import Transfer
from vclust_hop.tags import Seal
from vclust_hop.wire import (
    COUNT,
    DATA,
    FRAME,
    HEARTBEAT_FRAME,
    HELLO,
    KNOWN,
    MAGIC,
    MAX_TEXT,
    PACKED,
    WANT,
    ZERO,
    Failed,
    Fault,
    Message,
    ProtocolViolation,
    failed,
    hang_up,
    local_errors,
    proof,
    receive_exactly,
    receive_into,
)

SYNC_BYTES = 64 << 20
"""Bytes of small files that are synced together."""


class Puller:
    """Gets a transfer's items from whatever source it is reported, in a thread of its own.

    `say` is reported {"ready"} once, {"fault", "source", "rubbish"} about a source, and at last {"arrived", "had",
    "received"}, {"lacks", "received"} or {"failed"}.
    """

    def __init__(
        self,
        transfer: Transfer,
        items: Sequence[Copy],
        stall: float,
        dry: bool,
        say: Callable[[Message], None],
    ) -> None:
        self.transfer = transfer
        self.items = items
        self.received = 0
        self._stall = stall
        self._dry = dry
        self._say = say
        self._source: Message | None = None
        self._sock: socket.socket | None = None
        self._ended = False
        self._made: list[Copy] = []
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def done(self) -> int:
        return sum(item.done for item in self.items)

    def turn_to(self, source: Message | None) -> None:
        """Pull from another source from now on; without one, end."""
        with self._changed:
            self._source = source
            self._ended = source is None
            if self._sock is not None:
                hang_up(self._sock)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._say(self._work())
        except Failed as error:
            self._say(failed(error))
        except Exception as error:  # whatever it is, the head must not wait for us
            self._say(failed(f"{type(error).__name__}: {error}"))
            raise

    def _work(self) -> Message:
        lacks = [item for item in self.items if not item.present] if self._dry else []
        pending = [item for item in self.items if item not in lacks]
        with local_errors():
            for item in pending:
                item.resume()
        self._say({"ready": True, "unpacks": native.zstd is not None})
        while pending:
            with self._changed:
                self._changed.wait_for(lambda: self._source is not None or self._ended)
                source = self._source
            if source is None:
                raise Failed("the head has ended it")
            try:
                self._pull(source, pending)
            except _Different:
                if self._dry:
                    lacks.append(pending.pop(0))
                else:
                    with local_errors():
                        pending[0].correct(self.transfer.seal())
            except (Fault, OSError) as error:
                with self._changed:
                    if self._source is source:
                        self._source = None
                        why = (str(error) or type(error).__name__)[:MAX_TEXT]
                        self._say(
                            {
                                "fault": why,
                                "source": source["name"],
                                "rubbish": isinstance(error, ProtocolViolation),
                            }
                        )
        if self._dry:
            return {"lacks": [member.name for item in lacks for member in item.members], "received": 0}
        names: dict[bool, list[str]] = {True: [], False: []}
        for item in self.items:
            names[item.present] += [member.name for member in item.members]
        return {"had": names[True], "arrived": names[False], "received": self.received}

    def _pull(self, source: Message, pending: list[Copy]) -> None:
        """Take the pending items from there; each that is finished is pending no longer."""
        seal = self.transfer.seal()
        address = (source["address"], source["port"])
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock, self._current(source, sock):
            sock.settimeout(self._stall)
            sock.connect(address)
            self._introduce(sock, [(item.number, item.verified, item.tags_until) for item in pending])
            while pending:
                item = pending[0]
                for block in range(item.verified, item.blocks):
                    self._block(sock, seal, item, block)
                with local_errors():
                    item.finish()
                    self._name_small_files(item, last=len(pending) == 1)
                pending.pop(0)

    def _name_small_files(self, item: Copy, *, last: bool) -> None:
        """Give small files their names, many after one sync: each is on the disk before it appears."""
        if len(item.members) > 1 and not item.present:
            self._made.append(item)
        if self._made and (last or sum(made.size for made in self._made) >= SYNC_BYTES):
            store = item.store
            if native.crypto.syncfs(store.drafts) != 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            store.adopt([named for made in self._made for named in made.made()])
            for made in self._made:
                os.unlink(made.part, dir_fd=store.drafts)
            self._made.clear()

    @contextlib.contextmanager
    def _current(self, source: Message, sock: socket.socket) -> Iterator[None]:
        with self._changed:
            if self._source is not source:
                raise Fault("another source is due")
            self._sock = sock
        try:
            yield
        finally:
            with self._changed:
                self._sock = None

    def _introduce(self, sock: socket.socket, wants: Sequence[tuple[int, int, int]]) -> None:
        """Prove to each other that both belong to the transfer, and say what is wanted."""
        transfer = self.transfer
        nonce = secrets.token_bytes(32)
        sock.sendall(HELLO.pack(MAGIC, transfer.identity, nonce))
        theirs = receive_exactly(sock, len(nonce))
        expected = proof(transfer.hello_key, b"source", transfer.identity, nonce, theirs)
        if not hmac.compare_digest(receive_exactly(sock, len(expected)), expected):
            raise ProtocolViolation("it has not the transfer's key")
        own = proof(transfer.hello_key, b"puller", transfer.identity, nonce, theirs)
        sock.sendall(own + COUNT.pack(len(wants)) + b"".join(WANT.pack(*want) for want in wants))

    def _block(self, sock: socket.socket, seal: Seal, item: Copy, block: int) -> None:
        record = receive_exactly(sock, FRAME.size)
        while record[0] == HEARTBEAT_FRAME:
            record = receive_exactly(sock, FRAME.size)
        kind, number, index, packed, tag = FRAME.unpack(record)
        if (number, index) != (item.number, block):
            raise ProtocolViolation("a frame is not what was asked for")
        size = item.length(block)
        if kind in (DATA, PACKED):
            self._fetch(sock, seal, item, block, kind, packed)
            if not seal.fits(tag, number, block, size):
                raise ProtocolViolation("a block has a wrong tag")
        elif kind in (KNOWN, ZERO):
            with local_errors():
                if not item.has_block(kind, block, tag, seal):
                    raise _Different
        else:
            raise ProtocolViolation("a frame is of no known kind")
        with local_errors():
            item.put((DATA if kind == KNOWN else kind, tag), seal.view[:size], kind in (DATA, PACKED))

    def _fetch(self, sock: socket.socket, seal: Seal, item: Copy, block: int, kind: int, packed: int) -> None:
        """The block's bytes, not yet checked."""
        size = item.length(block)
        if kind == DATA:
            receive_into(sock, seal.wire[:size])
            self.received += size
            return
        if not 0 < packed < size or seal.encrypt or native.zstd is None:
            raise ProtocolViolation("a packed block is not what it should be")
        data = receive_exactly(sock, packed)
        self.received += packed
        if not seal.unpack(data, size):
            raise ProtocolViolation("a block cannot be unpacked")
        self.transfer.recent.put(item.number, block, data)


class _Different(Exception):
    """What is here is not what the head has."""
