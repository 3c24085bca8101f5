"""Whether a node that somebody wants to log in to is up: told at once, where ssh would wait for minutes.

A ping takes a millisecond and costs the node next to nothing; a connection to its sshd would cost an emulated one as
much as half a login.  Only where no answer comes is its hypervisor asked.
"""

import argparse
import ctypes
import os
import secrets
import socket
import struct
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclust_py.cli import sites
from vclust_py.errors import VclustError
from vclust_py.site import Site

if TYPE_CHECKING:
    from vclust_py.site.session import Session

_WAIT = 1.0
"""Seconds for the answer to a ping: of a node that runs, however busy it is."""
_EVERY = 0.3
_CLONE_NEWNET = 0x40000000
_REQUEST, _REPLY = 8, 0
"""Types of ICMP messages (RFC 792)."""


def require_running(
    arguments: argparse.Namespace, site: str, cluster: Mapping[str, Any], node: Mapping[str, Any]
) -> None:
    """Raises VclustError when the node does not run, or its host does not answer."""
    if answers(cluster["ssh"]["netns"], node["address"], _WAIT):
        return
    place = next((place for place in sites.places_here(arguments) if place.site == site), None)
    if place is None:
        return
    # Imported where they are needed: most nodes answer.
    from vclust_py.site.session import Session

    with Session(Site.from_mapping(place.where["settings"])) as session:
        _ask_hypervisor(session, cluster["name"], node["name"])


def _ask_hypervisor(session: "Session", cluster: str, name: str) -> None:
    from vclust_py.hypervisor import Host
    from vclust_py.site import clusters

    found = clusters.get(session.store, cluster)
    node = next((node for node in found.nodes if node.name == name), None)
    if node is None:
        return
    drivers, errors = session.drivers([Host(node.host, node.uri, node.guest)])
    if node.host in errors:
        raise VclustError(f"{cluster}: {name} does not answer, nor does its host: {errors[node.host]}")
    if node.uuid not in drivers[node.host].running():
        raise VclustError(
            f"{cluster}: {name} is down: it does not run on {node.host}",
            "`vclust create` with its request starts it again",
        )


def answers(netns: str, address: str, seconds: float) -> bool:
    """Whether `address` answers a ping from the network namespace in so many seconds; true where none can be sent."""
    result = [True]

    def ping() -> None:
        # This thread alone goes there; it ends with the question.
        try:
            with open(Path("/run/netns", netns)) as namespace:
                if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as pings:
                result[0] = _ping(pings, address, seconds)
        except OSError:
            pass  # what is wrong with the network is ssh's to find

    thread = threading.Thread(target=ping)
    thread.start()
    thread.join()
    return result[0]


def _ping(pings: socket.socket, address: str, seconds: float) -> bool:
    token, end = secrets.token_bytes(16), time.monotonic() + seconds
    message = _echo(token)
    while (left := end - time.monotonic()) > 0:
        try:
            pings.sendto(message, (address, 0))
        except OSError:
            return False  # nobody has that address
        again = time.monotonic() + min(_EVERY, left)
        while (wait := again - time.monotonic()) > 0:
            pings.settimeout(wait)
            try:
                packet = pings.recv(2048)
            except TimeoutError:
                break
            except OSError:
                return False
            header = (packet[0] & 15) * 4
            if packet[header] == _REPLY and packet.endswith(token):
                return True
    return False


def _echo(token: bytes) -> bytes:
    """An echo request with `token` as its data, and the checksum of RFC 1071."""
    bare = struct.pack("!BBHHH", _REQUEST, 0, 0, 0, 0) + token
    total = sum(struct.unpack(f"!{len(bare) // 2}H", bare))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return bare[:2] + struct.pack("!H", ~total & 0xFFFF) + bare[4:]
