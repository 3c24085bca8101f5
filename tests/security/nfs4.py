"""As much of an NFS client as somebody needs who is root in a node and means ill: any number, and handles made up.

Version 4.0 (RFC 7530, RFC 5531), from a network namespace that `ip netns exec` has entered: no file is opened, so that
neither a client nor a state has to be known.
"""

import json
import socket
import struct
import subprocess
import sys
from typing import Any

OK, PERMISSION, NOT_THERE, ACCESS, STALE, BAD_HANDLE = 0, 1, 2, 13, 70, 10001
_GETATTR, _GETFH, _LOOKUP, _LOOKUPP, _PUTFH, _PUTROOTFH, _READ, _REMOVE = 9, 10, 15, 16, 22, 24, 25, 28


def _opaque(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data + bytes(-len(data) % 4)


def root() -> bytes:
    return struct.pack(">I", _PUTROOTFH)


def handle(data: bytes) -> bytes:
    return struct.pack(">I", _PUTFH) + _opaque(data)


def lookup(*names: str) -> list[bytes]:
    return [struct.pack(">I", _LOOKUPP if name == ".." else _LOOKUP) + (b"" if name == ".." else _opaque(name.encode()))
            for name in names]  # fmt: skip


def remove(name: str) -> bytes:
    return struct.pack(">I", _REMOVE) + _opaque(name.encode())


def get_handle() -> bytes:
    return struct.pack(">I", _GETFH)


def read(count: int = 4096) -> bytes:
    """The first bytes, without a file's having been opened."""
    return struct.pack(">I", _READ) + bytes(16) + struct.pack(">QI", 0, count)


class _Reply:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def number(self) -> int:
        (found,) = struct.unpack_from(">I", self._data, self._at)
        self._at += 4
        return int(found)

    def opaque(self) -> bytes:
        length = self.number()
        found = self._data[self._at : self._at + length]
        self._at += length + -length % 4
        return found


def ask(address: str, uid: int, operations: list[bytes]) -> tuple[int, bytes]:
    """How the operations have ended, and what the last of them has given: a handle, or what was read."""
    credentials = struct.pack(">I", 0) + _opaque(b"node") + struct.pack(">III", uid, uid, 0)
    call = struct.pack(">IIIIII", 1, 0, 2, 100003, 4, 1) + struct.pack(">I", 1) + _opaque(credentials)
    call += (
        struct.pack(">II", 0, 0)
        + _opaque(b"")
        + struct.pack(">II", 0, len(operations))
        + b"".join(operations)
    )
    with socket.create_connection((address, 2049), 10) as connection:
        connection.settimeout(20)
        connection.sendall(struct.pack(">I", 0x80000000 | len(call)) + call)
        with connection.makefile("rb") as stream:
            (mark,) = struct.unpack(">I", stream.read(4))
            reply = _Reply(stream.read(mark & 0x7FFFFFFF))
    header = [reply.number() for _ in range(3)]
    assert header[1:] == [1, 0], "the call itself was refused"
    reply.number(), reply.opaque()
    assert reply.number() == 0, "the server does not take the call"
    status = reply.number()
    reply.opaque()
    given = b""
    for _ in range(reply.number()):
        operation, ended = reply.number(), reply.number()
        if ended == OK and operation == _GETFH:
            given = reply.opaque()
        elif ended == OK and operation == _READ:
            reply.number()
            given = reply.opaque()
        elif ended == OK and operation == _REMOVE:
            break
    return status, given


def from_namespace(name: str, address: str, uid: int, *operations: bytes) -> tuple[int, bytes]:
    """`ask` from there."""
    words = json.dumps([address, uid, [one.hex() for one in operations]])
    done = subprocess.run(
        ["ip", "netns", "exec", name, sys.executable, __file__, words],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    answer: list[Any] = json.loads(done.stdout)
    return answer[0], bytes.fromhex(answer[1])


if __name__ == "__main__":
    address, uid, operations = json.loads(sys.argv[1])
    status, given = ask(address, uid, [bytes.fromhex(one) for one in operations])
    print(json.dumps([status, given.hex()]))
