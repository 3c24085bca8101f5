"""Scripts for nodes that run, by libvirt's channel to the agent in each (`vclust_py.guest.agent`)."""

import contextlib
import secrets
import time
from typing import Any, Protocol

import libvirt

from vclust_py.errors import VclustError
from vclust_py.guest.agent import GREETING, PORT, done, message
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import Element, add, parsed

_GREETING_TIMEOUT = 10.0
"""Seconds that an agent may take to say that it waits: it may be at something else, or the machine very busy."""
_POLL = 0.02
_PIECE = 1 << 16
_MOST_OUTPUT = 1 << 20
_WOULD_BLOCK = -2


class Stream(Protocol):
    """libvirt's stream, which does not block: it answers -2 instead."""

    def send(self, data: bytes) -> int: ...
    def recv(self, nbytes: int) -> bytes | int: ...


def add_port(devices: Element, name: str = PORT) -> None:
    """The port, or another one, in a domain's definition."""
    channel = add(devices, "channel", type="unix")
    add(channel, "target", type="virtio", name=name)


def tell(connection: Connection, uuid: str, script: str, timeout: float) -> str | None:
    """What the domain's agent prints while it runs `script`; None: there is none that waits, or no way to it.

    Raises VclustError when it may have begun, and has not ended after `timeout` s.
    """

    def opened(libvirt_connection: Any) -> Any:
        try:
            domain = libvirt_connection.lookupByUUIDString(uuid)
            if not _is_there(parsed(domain.XMLDesc())):
                return None
            stream = libvirt_connection.newStream(libvirt.VIR_STREAM_NONBLOCK)
            # Who was killed while it spoke may still be taken for connected.
            domain.openChannel(PORT, stream, libvirt.VIR_DOMAIN_CHANNEL_FORCE)
        except libvirt.libvirtError:
            return None  # it does not run, or its hypervisor has no channels
        return stream

    try:
        stream = connection.call(f"agent of {uuid}", opened)
    except VclustError:
        return None
    if stream is None:
        return None
    try:
        return converse(stream, script, timeout)
    except libvirt.libvirtError as error:
        raise VclustError(f"the way to its agent has closed: {error}") from error
    finally:
        with contextlib.suppress(VclustError, libvirt.libvirtError):
            connection.call(f"agent of {uuid}", lambda _: stream.abort())


def _is_there(xml: Element) -> bool:
    """Whether the guest has opened its end."""
    return any(
        target.get("name") == PORT and target.get("state") == "connected"
        for target in xml.iterfind("devices/channel/target")
    )


def converse(stream: Stream, script: str, timeout: float) -> str | None:
    """As `tell`, on a channel that is open."""
    word = secrets.token_hex(8)
    try:
        # It may not have noticed that the last one who spoke to it has gone, and says nothing by itself then.
        _say(stream, b"\n", _GREETING_TIMEOUT)
        if _heard(stream, GREETING, _GREETING_TIMEOUT) is None:
            return None
    except (VclustError, libvirt.libvirtError):
        return None
    deadline = time.monotonic() + timeout
    _say(stream, message(script, word), timeout)
    output = _heard(stream, done(word), deadline - time.monotonic())
    if output is None:
        raise VclustError(f"its agent is not done after {timeout:g} s")
    return output.removeprefix(GREETING).decode(errors="replace")


def _say(stream: Stream, data: bytes, timeout: float) -> None:
    left, deadline = data, time.monotonic() + timeout
    while left:
        sent = stream.send(left[:_PIECE])
        if sent != _WOULD_BLOCK:
            left = left[sent:]
        elif time.monotonic() > deadline:
            raise VclustError(f"its agent does not listen after {timeout:g} s")
        else:
            time.sleep(_POLL)


def _heard(stream: Stream, end: bytes, timeout: float) -> bytes | None:
    """What the agent says before these words; None: it does not come to them in time."""
    heard, deadline = bytearray(), time.monotonic() + timeout
    while end not in heard:
        piece = stream.recv(_PIECE)
        if isinstance(piece, bytes):
            heard += piece
            if not piece:
                raise VclustError("the machine has closed the way to its agent")
            if len(heard) > _MOST_OUTPUT:
                raise VclustError(f"its agent has printed more than {_MOST_OUTPUT} bytes")
        elif time.monotonic() > deadline:
            return None
        else:
            time.sleep(_POLL)
    return bytes(heard.partition(end)[0])
