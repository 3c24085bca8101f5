"""A file for nodes by plain TCP: over loopback."""

import errno
import hashlib
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vclust_py import serving
from vclust_py.router_socket import bound
from vclust_py.serving import Offer, offered


def listen() -> socket.socket:
    return bound("127.0.0.1", 0)


def fetch(offer: Offer, said: bytes | None = None) -> bytes:
    with socket.create_connection((offer.address, offer.port), 10) as connection:
        connection.sendall(f"{offer.token}\n".encode() if said is None else said)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as stream:
            return stream.read()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "file"
    found.write_bytes(os.urandom(3_000_001))
    return found


def test_many_have_the_file_at_once(path: Path) -> None:
    with offered(path, listen) as offer, ThreadPoolExecutor(100) as pool:
        found = list(pool.map(lambda _: fetch(offer), range(100)))
    assert set(found) == {path.read_bytes()}
    assert (offer.size, offer.digest) == (3_000_001, hashlib.blake2b(found[0]).hexdigest())


@pytest.mark.parametrize("said", [b"", b"\n", b"0" * 32 + b"\n", b"GET / HTTP/1.1\r\n\r\n" * 9])
def test_nothing_for_those_who_do_not_know_the_word(path: Path, said: bytes) -> None:
    with offered(path, listen) as offer:
        try:
            assert fetch(offer, said) == b""
        except OSError as error:  # cut off while it still spoke
            if not isinstance(error, ConnectionError) and error.errno != errno.ENOTCONN:
                raise
        assert len(fetch(offer)) == 3_000_001
    with offered(path, listen) as another:
        assert another.token != offer.token


def test_the_end_cuts_off_what_is_under_way(path: Path) -> None:
    """Those who say nothing, and those who take nothing, keep nobody waiting."""
    path.write_bytes(bytes(100_000_000))  # more than fits between the two
    with offered(path, listen) as offer:
        idle = [
            socket.create_connection((offer.address, offer.port), 10) for _ in range(serving._AT_ONCE + 5)
        ]
        idle[0].sendall(f"{offer.token}\n".encode())
        assert idle[0].recv(10) == bytes(10)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((offer.address, offer.port), 10)
    for one in idle:
        one.close()


def test_who_is_silent_for_too_long_gives_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "_AT_ONCE", 1)
    monkeypatch.setattr(serving, "_TIMEOUT", 0.2)
    with offered(path, listen) as offer, socket.create_connection((offer.address, offer.port), 10) as idle:
        assert len(fetch(offer)) == 3_000_001
        assert idle.recv(1) == b""


def test_it_ends_with_an_error_of_the_block(path: Path) -> None:
    with pytest.raises(RuntimeError), offered(path, listen) as offer:
        raise RuntimeError
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((offer.address, offer.port), 10)
