"""What travels: frames on data connections, lines of JSON on control connections."""

from __future__ import annotations

import contextlib
import hmac
import json
import select
import socket
import ssl
import struct
import time
from collections.abc import Iterator, Sequence
from typing import Any

VERSION = 1
"""Of the protocol."""
HEARTBEAT = 0.5
"""Seconds between two signs of life, on every connection."""
TIMEOUT = 10.0
"""Seconds that a new connection has to say who it is."""
MAX_LINE = 32 << 20
"""Bytes of a control message, at most; only who has shown a certificate gets to send one."""
MAX_TEXT = 500
"""Characters of what went wrong that one end tells the other."""
BLOCKS = (1 << 16, 4 << 20)
"""The smallest and the largest block."""

Message = dict[str, Any]


class Fault(Exception):
    """What is wrong with a source, or with the way to it; another source may do better."""


class ProtocolViolation(Fault):
    """A source that sends what it should not."""


class Failed(Exception):
    """Why this hop cannot have the files."""


FRAME = struct.Struct("!BxxxIQI16s")
"""Kind, item, block, bytes that follow, tag (of the block itself, packed or not)."""
HEARTBEAT_FRAME, DATA, ZERO, KNOWN, PACKED = range(5)
"""Nothing yet; a block; a block of zeros; the tag of a block that the puller has (it said) and can check by it; a block
compressed by zstd."""
NOTHING_YET = FRAME.pack(HEARTBEAT_FRAME, 0, 0, 0, b"")
HELLO = struct.Struct("!4s16s32s")
"""Magic, transfer, the puller's nonce."""
MAGIC = b"VCH1"
WANT = struct.Struct("!IQQ")
"""Item, first block, and before which block tags alone will do."""
COUNT = struct.Struct("!I")

_TIMEOUT = (socket.timeout,)
"""It is TimeoutError only since Python 3.10."""


class Lines:
    """JSON messages, one a line, over a socket that is used by one thread."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self._rest = bytearray()
        self._ended = False

    def send(self, message: Message, timeout: float = TIMEOUT) -> None:
        self.sock.settimeout(timeout)
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float = 0.0) -> list[Message]:
        """What has come; raises OSError when the connection is at its end, ValueError on what is no message."""
        deadline = time.monotonic() + timeout
        while not (self._ended or self._rest.endswith(b"\n")):
            self.sock.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                data = self.sock.recv(1 << 16)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, *_TIMEOUT):
                break
            self._ended = not data
            self._rest += data
            if len(self._rest) > MAX_LINE:
                raise ValueError("a message is too long")
        messages = []
        while (end := self._rest.find(b"\n")) >= 0:
            line = self._rest[:end].decode()
            del self._rest[: end + 1]
            try:
                messages.append(json.loads(line))
            except RecursionError:
                raise ValueError("a message is nested too deeply") from None
            del line  # with many files it is long
        if self._ended and not messages:
            raise ConnectionResetError("the connection was closed")
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not a message")
        return messages


def failed(why: object) -> Message:
    return {"failed": str(why)[:MAX_TEXT]}


@contextlib.contextmanager
def local_errors() -> Iterator[None]:
    """What goes wrong in here is this host's own."""
    try:
        yield
    except OSError as error:
        raise Failed(error.strerror or str(error)) from error


def readable(descriptors: Sequence[int], timeout: float) -> list[int]:
    """Those of them that have something to read, in time."""
    poll = select.poll()  # select cannot do numbers beyond 1023
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(timeout * 1000)]


def hang_up(sock: socket.socket) -> None:
    """Whoever waits for this connection, in another thread, waits no longer."""
    with contextlib.suppress(OSError):
        # Not TLS's own, which would take its state from under that thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def proof(key: bytes, role: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join((role, *parts)), "sha256")


def receive_into(sock: socket.socket, view: memoryview, until: float | None = None) -> None:
    """Fill `view`, by the time `until` or with the socket's time-out for each part; raises OSError or Fault."""
    while view:
        if until is not None:
            sock.settimeout(max(0.001, until - time.monotonic()))
        size = sock.recv_into(view)
        if size == 0:
            raise Fault("it has closed the connection")
        view = view[size:]


def receive_exactly(sock: socket.socket, size: int, until: float | None = None) -> bytes:
    data = bytearray(size)
    receive_into(sock, memoryview(data), until)
    return bytes(data)
