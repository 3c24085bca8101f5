"""The head's control connections: calls to hops, and why one is not reached, in words."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vclust_hop import wire
from vclust_hop.service import tls_context
from vclust_hop.wire import Lines, Message
from vclust_py.chain import Hop, Keys, Options
from vclust_py.errors import VclustError

_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_DATES = (9, 10)
"""OpenSSL's words for a certificate that is not yet, or no longer, valid."""
_MISMATCH = (62, 64)
"""OpenSSL's words for a certificate of another name or address."""
_REVOKED = 23
"""OpenSSL's word for a certificate that counts no more."""
_CLOCKS = "are the clocks right, its and the site manager's?"
_UNKNOWN = "does it know this site's authority, and is its clock right?"
_PAUSE = 0.25
"""Seconds between two calls."""


@dataclass(frozen=True)
class Connection:
    """To a hop that has shown its certificate."""

    hop: Hop
    lines: Lines
    address: str
    """As other hops can reach it."""


class Caller:
    """Opens control connections, and says on each how the transfer is."""

    def __init__(self, keys: Keys, start: Message, options: Options, stop: threading.Event) -> None:
        """Raises VclustError where the keys cannot be read."""
        try:
            files: tuple[Path, ...] = (keys.ca, keys.certificate, keys.key)
            self._context = tls_context(ssl.Purpose.SERVER_AUTH, *map(str, files))
            if keys.revoked is not None:
                self._context.load_verify_locations(keys.revoked)
                self._context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
        except OSError as error:
            raise VclustError(
                f"{keys.ca.parent}: no keys to send with: {error}", "roll the site out first"
            ) from error
        self._start = json.dumps(start).encode() + b"\n"
        self._options = options
        self._patience = max(options.start, options.stall)
        """Seconds that a hop whose machine answers may take to greet."""
        self._stop = stop

    def call(self, hop: Hop) -> tuple[Connection, list[Message]] | str:
        """The hop with its first words, or why it is not reached."""
        end = time.monotonic() + 2 * wire.TIMEOUT
        while True:
            try:
                sock = socket.create_connection((hop.address, hop.port), timeout=self._options.stall)
            except (OSError, ValueError) as error:  # a name that is none
                return f"not reached: {words(error)}"
            try:
                return self._greet(sock, hop)
            except ssl.SSLCertVerificationError as error:
                if error.verify_code in _MISMATCH:
                    return f"shows a certificate that is not for its hop: {error.verify_message}"
                if error.verify_code == _REVOKED:
                    return "shows a certificate that was revoked when its host was taken out of the site"
                if error.verify_code in _DATES:
                    return f"shows a certificate that is not good now: {error.verify_message}; {_CLOCKS}"
                return f"shows a certificate that is not this site's: {error.verify_message}"
            except ValueError as error:
                return f"talks nonsense: {error}"
            except TimeoutError:
                return f"not reached: it took the call and then said nothing for {self._patience:g} s"
            except OSError as error:
                # Connections of others that fill all its places may have had us sent away.
                if time.monotonic() > end or not isinstance(error, _CLOSED) or self._stop.is_set():
                    return f"hangs up: {words(error)}; {_UNKNOWN}"
            finally:
                sock.close()  # of no effect on what is TLS's by now
            time.sleep(_PAUSE)

    def _greet(self, sock: socket.socket, hop: Hop) -> tuple[Connection, list[Message]]:
        """The hop, and its first words: not before these has it taken us in."""
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(self._patience)
        tls = self._context.wrap_socket(sock, server_hostname=hop.identity)
        try:
            tls.sendall(self._start)
            lines = Lines(tls)
            first = lines.receive(self._patience)
            return Connection(hop, lines, tls.getpeername()[0]), first
        except BaseException:
            tls.close()
            raise


def lost(error: Exception, ready: bool) -> str:
    """Why there is no connection to a hop any more; `ready`: it had begun."""
    text = f"lost: {words(error)}"
    return text if ready else f"{text}; {_UNKNOWN}"


def words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


def listen() -> socket.socket:
    """Where hops pull from the head, on every address."""
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    return socket.create_server(("", 0), backlog=128)


def rack_by_rack(hops: Sequence[Hop]) -> list[Hop]:
    """Each once; raises VclustError when one name stands for two hops, or the other way round."""
    racks: dict[str, list[Hop]] = {}
    for hop in dict.fromkeys(hops):
        racks.setdefault(hop.rack, []).append(hop)
    ordered = [hop for rack in racks.values() for hop in rack]
    places: dict[Any, Hop] = {}
    for hop in ordered:
        for key in (hop.name, (hop.address, hop.port)):
            if places.setdefault(key, hop) is not hop:
                raise VclustError(f"{hop.name}: listed twice, as {places[key]} and as {hop}")
    return ordered
