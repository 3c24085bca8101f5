"""Listening sockets in the router namespaces of clusters: what nodes reach of the site, and nothing else."""

import ctypes
import os
import socket
import threading
from pathlib import Path

from vclust_py.errors import VclustError

NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000


def listening(segment: str, router: str, port: int = 0) -> socket.socket:
    """A socket that listens at the router's address in the segment's namespace; port 0: any that is free.

    Raises VclustError where that does not work.
    """
    made: list[socket.socket] = []
    errors: list[OSError] = []

    def work() -> None:  # in a thread, which alone goes to the other namespace
        libc = ctypes.CDLL(None, use_errno=True)
        try:
            with open(NAMESPACES / segment, "rb") as namespace:
                if libc.setns(namespace.fileno(), _CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            made.append(bound(router, port))
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if errors:
        raise VclustError(f"{router}:{port}: {errors[0].strerror}") from errors[0]
    return made[0]


def bound(address: str, port: int) -> socket.socket:
    """A socket that listens there, in the namespace of the thread.  Raises OSError."""
    listening = socket.socket()
    try:
        # The one before may be listening, and its connections linger.
        for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
            listening.setsockopt(socket.SOL_SOCKET, option, 1)
        listening.bind((address, port))
        listening.listen(64)
    except OSError:
        listening.close()
        raise
    return listening
