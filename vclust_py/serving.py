"""A file of the site manager for the nodes of a cluster, by plain TCP within the cluster's own network.

Bytes through ssh are dear for an emulated node: it has to decrypt them.  Who connects says a word first, which nodes
are given by a login, with the digest of the file.
"""

import contextlib
import hashlib
import hmac
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

_AT_ONCE = 64
"""Connections that are answered at once; more wait."""
_TIMEOUT = 60.0
"""Seconds in which the other side must say the word, and then take some more of the file."""


@dataclass(frozen=True)
class Offer:
    """Where the file is to be had, until the end of `offered`."""

    address: str
    port: int
    token: str
    """To be said first, with a line end."""
    size: int
    digest: str
    """BLAKE2b, hexadecimal, as b2sum(1) writes it: an emulated node has it in half the time that sha256 takes."""


@contextlib.contextmanager
def offered(path: Path, listen: Callable[[], socket.socket]) -> Iterator[Offer]:
    """Have nodes fetch the file until the block ends; `listen` makes the socket.

    What is under way then is cut off.
    """
    token = secrets.token_hex(16)
    with listen() as listening:
        address, port = listening.getsockname()
        served = _Server(path, listening, token)
        thread = threading.Thread(target=served.run, daemon=True)
        thread.start()
        try:
            yield Offer(address, port, token, path.stat().st_size, _digest(path))
        finally:
            served.stop()
            thread.join()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


class _Server:
    def __init__(self, path: Path, listening: socket.socket, token: str) -> None:
        self._path, self._listening, self._line = path, listening, f"{token}\n".encode()
        self._mutex = threading.Lock()
        self._open: set[socket.socket] = set()
        self._ended = False

    def run(self) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool, contextlib.suppress(OSError):  # by `stop`
            while True:
                connection, _ = self._listening.accept()
                with self._mutex:
                    if self._ended:
                        connection.close()
                        return
                    self._open.add(connection)
                pool.submit(self._answer, connection)

    def stop(self) -> None:
        with self._mutex:
            self._ended = True
            for one in (self._listening, *self._open):
                with contextlib.suppress(OSError):  # the other side has gone
                    one.shutdown(socket.SHUT_RDWR)

    def _answer(self, connection: socket.socket) -> None:
        try:
            with contextlib.suppress(OSError):  # whoever needs it connects again
                connection.settimeout(_TIMEOUT)
                said = b""
                while len(said) < len(self._line) and (piece := connection.recv(len(self._line) - len(said))):
                    said += piece
                if hmac.compare_digest(said, self._line):
                    with open(self._path, "rb") as file:
                        connection.sendfile(file)
        finally:
            with self._mutex:
                self._open.discard(connection)
                connection.close()
