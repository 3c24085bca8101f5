"""Connections: who may command, who may pull, and how many may wait before they have shown which they are."""

from __future__ import annotations

import contextlib
import resource
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Sequence

from vclust_hop import wire
from vclust_hop.sending import Find, Transfer, authenticate
from vclust_hop.session import Session
from vclust_hop.store import Store
from vclust_hop.wire import MAGIC, Failed, Fault, Lines, hang_up, readable

MANAGER = "vclust site manager"
"""The common name that may command a hop; a host's own certificate may not."""
MAX_UNAUTHENTICATED = 32
"""Connections at a time that have not yet said who they are."""


class Connection:
    """A connection, and the socket that it goes by now."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock


class Listener:
    """Takes connections, each in a thread; `MAX_UNAUTHENTICATED` at most that have not said who they are."""

    def __init__(self, sockets: Sequence[socket.socket], find: Find) -> None:
        self.sockets = sockets
        self.find = find
        self._unauthenticated: set[Connection] = set()
        self._lock = threading.Lock()
        self.threads: set[threading.Thread] = set()

    def accept(self, timeout: float) -> None:
        """Wait for connections, at most that long, and take them."""
        ready = readable([listening.fileno() for listening in self.sockets], timeout)
        for listening in self.sockets:
            if listening.fileno() not in ready:
                continue
            with contextlib.suppress(OSError):
                connection = Connection(listening.accept()[0])
                with self._lock:
                    if len(self._unauthenticated) >= MAX_UNAUTHENTICATED:
                        # Any of them: who fills the places, however fast, hardly hits one that needs its own for a
                        # moment only.
                        out = secrets.choice(tuple(self._unauthenticated))
                        self._unauthenticated.discard(out)
                        hang_up(out.sock)
                    self._unauthenticated.add(connection)
                thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
                self.threads.add(thread)
                thread.start()

    def _run(self, connection: Connection) -> None:
        try:
            with connection.sock as sock, contextlib.suppress(Fault, Failed, OSError, EOFError, ValueError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(wire.TIMEOUT)
                self.handle(connection)
        finally:
            self.authenticated(connection)
            self.threads.discard(threading.current_thread())

    def authenticated(self, connection: Connection) -> None:
        """It has said who it is, or is gone."""
        with self._lock:
            self._unauthenticated.discard(connection)

    def handle(self, connection: Connection) -> None:
        """Find out who it is, say that it is `authenticated`, and do what it wants."""
        transfer, wants = authenticate(connection.sock, self.find)
        self.authenticated(connection)
        transfer.serve(connection.sock, wants)


class Service(Listener):
    """A hop: also takes the head's commands."""

    def __init__(self, sockets: Sequence[socket.socket], context: ssl.SSLContext, store: Store) -> None:
        self._transfers: dict[bytes, Transfer] = {}
        super().__init__(sockets, self._transfers.get)
        self._context = context
        self._store = store

    def run(self, idle: float) -> None:
        """Returns after `idle` seconds without a connection; 0: never."""
        busy = time.monotonic()
        while True:
            self.accept(1.0)
            if self.threads:
                busy = time.monotonic()
            elif idle and time.monotonic() - busy > idle:
                return

    def handle(self, connection: Connection) -> None:
        if connection.sock.recv(1, socket.MSG_PEEK) == MAGIC[:1]:
            super().handle(connection)
            return
        with self._context.wrap_socket(
            connection.sock, server_side=True, do_handshake_on_connect=False
        ) as tls:
            connection.sock = tls
            tls.do_handshake()
            certificate = tls.getpeercert() or {}
            if certificate.get("subject") != ((("commonName", MANAGER),),):
                raise Fault("it is not the site manager")
            self.authenticated(connection)
            session = Session(Lines(tls), self._store, self._transfers)
            try:
                session.run()
            finally:
                session.close()


def tls_context(purpose: ssl.Purpose, ca: str, certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.3 with both ends' certificates of the site's authority."""
    context = ssl.create_default_context(purpose, cafile=ca)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificate, key)
    return context


def listen(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family, backlog=128)


def raise_file_limit() -> None:
    """As many open files as we may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
