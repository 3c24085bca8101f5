"""What the head says, checked: a transfer's terms, its files, the source to pull from."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from vclust_hop.wire import BLOCKS, Message


class Member(NamedTuple):
    """A file, as the head has it."""

    name: str
    size: int
    mode: int
    mtime: int
    """Nanoseconds."""
    digest: str = ""
    """sha256, hexadecimal; empty when it is not to be checked."""


class Terms(NamedTuple):
    """What the head says of a transfer at its start."""

    identity: bytes
    key: bytes
    block: int
    stall: float
    encrypt: bool
    dry: bool
    items: list[list[Member]]


def terms_of(start: Message) -> Terms:
    """Raises KeyError, TypeError or ValueError on what is no start of a transfer.  Takes the items out of it."""
    items = start.pop("items")
    for item in items:
        item[:] = map(member_of, item)  # in place, as there may be many
    block, stall = start["block"], start["stall"]
    identity, key = bytes.fromhex(start["transfer"]), bytes.fromhex(start["key"])
    if len(identity) != 16 or len(key) != 32:
        raise ValueError("its transfer or key is of the wrong size")
    if type(block) is not int or not BLOCKS[0] <= block <= BLOCKS[1]:
        raise ValueError("its block is of the wrong size")
    if type(stall) not in (int, float) or not 0 < stall <= 3600:
        raise ValueError("stall: expected up to 3600 seconds")
    if not all(items):
        raise ValueError("an item without a file")
    return Terms(identity, key, block, stall, bool(start.get("encrypt")), bool(start.get("dry")), items)


def source_of(message: Message, head: str) -> Message:
    """Whom to pull from; without an address it is the head.  Raises ValueError on what is none."""
    name, address, port = (message.get(key) for key in ("name", "address", "port"))
    if not isinstance(name, str) or not isinstance(address, str) or type(port) is not int:
        raise ValueError("a source without name, address or port")
    if not 0 < port < 1 << 16:
        raise ValueError("a source's port is none")
    return {"name": name, "address": str(ipaddress.ip_address(address)) if address else head, "port": port}


def check_name(name: Any) -> None:
    """Raises ValueError on what is no name of a file that may be in the folder."""
    if not isinstance(name, str):
        raise ValueError("a file's name is no text")
    if not name or name[0] == "." or "/" in name or not name.isprintable() or len(name.encode()) > 255:
        raise ValueError(f"{name[:300]!r}: not a file name")


def member_of(fields: Sequence[Any]) -> Member:
    """Raises ValueError or TypeError on what is no file that may be put into the folder."""
    name, size, mode, mtime, digest = fields
    check_name(name)
    if not all(type(number) is int for number in (size, mode, mtime)):
        raise ValueError(f"{name}: its size, mode or time is no number")
    if not 0 <= size < 1 << 62 or not 0 <= mtime < 1 << 63:
        raise ValueError(f"{name}: wrong size or time")
    if not isinstance(digest, str) or not re.fullmatch("([0-9a-f]{64})?", digest):
        raise ValueError(f"{name}: its sha256 is none")
    return Member(name, size, mode & 0o777, mtime, digest)
