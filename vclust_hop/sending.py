"""The side that gives: blocks to whoever proves that it belongs to the transfer."""

from __future__ import annotations

import contextlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Optional

from vclust_hop import wire
from vclust_hop.items import Item
from vclust_hop.tags import Seal
from vclust_hop.wire import (
    COUNT,
    DATA,
    FRAME,
    HEARTBEAT,
    HELLO,
    KNOWN,
    MAGIC,
    NOTHING_YET,
    PACKED,
    WANT,
    ZERO,
    Fault,
    hang_up,
    proof,
    receive_exactly,
)

PULLER_TIMEOUT = 60.0
"""Seconds that a puller may take nothing; it can come back."""
RECENT_BYTES = 2 << 20
"""Bytes of packed blocks that are kept for those who pull, at most."""


class Recent:
    """The last packed blocks, so that they are packed once only, at the head."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._blocks: dict[tuple[int, int], bytes] = {}
        self._lock = threading.Lock()

    def put(self, item: int, block: int, packed: bytes) -> None:
        with self._lock:
            self._blocks[item, block] = packed
            if len(self._blocks) > self._most:
                del self._blocks[next(iter(self._blocks))]

    def get(self, item: int, block: int) -> bytes | None:
        return self._blocks.get((item, block))


class Transfer:
    """What one transfer's sources share: key, items, and the connections of whoever pulls."""

    def __init__(self, identity: bytes, key: bytes, block: int, encrypt: bool, items: Sequence[Item]) -> None:
        self.identity = identity
        self.block = block
        self.encrypt = encrypt
        self.items = items
        self.hello_key = proof(key, b"hello")
        self.seal_key = proof(key, b"seal")
        self.closed = False
        self.recent = Recent(RECENT_BYTES // block)
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def seal(self) -> Seal:
        return Seal(self.seal_key, self.block, self.encrypt)

    @contextlib.contextmanager
    def registered(self, sock: socket.socket) -> Iterator[None]:
        """The connection ends with the transfer, whoever waits for it."""
        with self._lock:
            if self.closed:
                raise Fault("the transfer is over")
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)

    def close(self) -> None:
        with self._lock:
            self.closed = True
            for sock in self._sockets:
                hang_up(sock)

    def serve(self, sock: socket.socket, wants: Sequence[tuple[int, int, int]]) -> None:
        """Send what a puller wants, each block as soon as it is here; raises OSError when it is gone."""
        seal = self.seal()
        sock.settimeout(PULLER_TIMEOUT)
        with self.registered(sock):
            for number, first, known in wants:
                item = self.items[number]
                for block in range(first, item.blocks):
                    while (record := item.record(block, HEARTBEAT)) is None:
                        sock.sendall(NOTHING_YET)
                    kind, tag = record
                    data: memoryview | bytes = b""
                    if kind != ZERO and block < known:
                        kind = KNOWN
                    elif kind == PACKED:
                        data = self._packed(item, block, seal)
                    elif kind == DATA:
                        data = self._block(item, block, tag, seal)
                    sock.sendall(FRAME.pack(kind, number, block, len(data), tag))
                    sock.sendall(data)
                    self.sent(len(data))

    def _block(self, item: Item, block: int, tag: bytes, seal: Seal) -> memoryview:
        size = item.length(block)
        item.load(block, seal.view[:size])
        if seal.encrypt and seal.tag(item.number, block, size) != tag:
            raise Fault("the file is another now")
        return seal.wire[:size]

    def _packed(self, item: Item, block: int, seal: Seal) -> bytes:
        packed = self.recent.get(item.number, block)
        if packed is None:
            size = item.length(block)
            item.load(block, seal.view[:size])
            packed = seal.pack(size)
        if packed is None:
            raise Fault("the file is another now")
        return packed

    def sent(self, size: int) -> None:
        """Told of every block."""


Find = Callable[[bytes], Optional[Transfer]]


def authenticate(sock: socket.socket, find: Find) -> tuple[Transfer, list[tuple[int, int, int]]]:
    """The transfer that a puller belongs to, proved, and what it wants."""
    until = time.monotonic() + wire.TIMEOUT
    magic, identity, nonce = HELLO.unpack(receive_exactly(sock, HELLO.size, until))
    transfer = find(identity)
    if magic != MAGIC or transfer is None:
        raise Fault("no such transfer")
    own = secrets.token_bytes(len(nonce))
    sock.sendall(own + proof(transfer.hello_key, b"source", identity, nonce, own))
    expected = proof(transfer.hello_key, b"puller", identity, nonce, own)
    if not hmac.compare_digest(receive_exactly(sock, len(expected), until), expected):
        raise Fault("it has not the transfer's key")
    count = COUNT.unpack(receive_exactly(sock, COUNT.size, until))[0]
    if count > len(transfer.items):
        raise Fault("it wants too much")
    wants = [WANT.unpack(receive_exactly(sock, WANT.size, until)) for _ in range(count)]
    if any(number >= len(transfer.items) for number, _, _ in wants):
        raise Fault("it wants what there is not")
    return transfer, wants
