#!/usr/bin/python3
"""What nodes' apt talks to: one process a site, standard library only, started by `vclust_py.egress` as root.

It gives root up at once.  Its listening sockets are in the router namespaces of clusters and come to it ready made, so
that no packet of a node goes any further than to a socket.  It reads each request, and passes on what it has understood
and allowed in words of its own, one request a connection, to the caching proxy (apt-cacher-ng), which it starts with
the first request.  That one gets names of archives, never an address that a node has written.

On standard input: a JSON object of `folder` (for the cache, of the user), `user`, `address` and `control`, the number
of an inherited socket.  On that (SOCK_SEQPACKET), from root alone, one message of JSON each, answered by one:

{"serve": SEGMENT, "key": KEY}                  → {"served": whether it is so, with that key}
the same with "archives", "proxy", "ca",
and a listening socket                          → {"served": true}
{"leave": SEGMENT}                              → {"left": number of segments}; with the last the process ends
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import re
import signal
import socket
import struct
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import unquote

PORT = 3142  # apt-cacher-ng's own
SPACE = 5 * 10**9
"""Bytes that cached files may take; the least recently fetched go."""
CONNECTIONS = 64
"""Of one cluster at once; more wait."""
MESSAGE = 1 << 17
"""Bytes of a message, and of a piece of a file on its way."""
REQUEST_TIMEOUT, ANSWER_TIMEOUT, START_TIMEOUT = 30.0, 300.0, 20.0
_PRUNE_EVERY = 10.0
_HEAD = 1 << 14
_TARGET = re.compile(r"http://([a-z0-9.-]+)(?::([0-9]{1,5}))?(/[A-Za-z0-9._~!$&'()*+,;=:@/%-]*)?", re.I)
_HEADERS = ("range", "if-range", "if-modified-since", "cache-control", "user-agent", "accept")
_VALUE = re.compile(r"[ -~]{0,200}")


class Refused(Exception):
    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Archive(NamedTuple):
    """One repository: what nodes call it, and its key and address for the caching proxy."""

    public: str
    key: str
    remote: str


def path_of(target: str, archives: Sequence[Archive]) -> str:
    """The caching proxy's path for the target of a request; raises Refused unless it is below an archive.

    Several archives may be below each other: the longest one counts.
    """
    host, port, segments = _taken_apart(target)
    best: tuple[int, str] | None = None
    for archive in archives:
        there = _taken_apart(archive.public)
        if (host, port) == there[:2] and segments[: len(there[2])] == there[2] != segments:
            best = max(best or (-1, ""), (len(there[2]), archive.key))
    if best is None:
        raise Refused(
            "403 Not an archive of this site", f"{target}: the site's proxy fetches only its archives"
        )
    return "/".join(["", best[1], *segments[best[0] :]])


def _taken_apart(target: str) -> tuple[str, int, list[str]]:
    found = _TARGET.fullmatch(target)
    if found is None:
        raise Refused("400 Bad Request", "got no plain http:// URL")
    segments = [segment for segment in (found[3] or "").split("/") if segment not in ("", ".")]
    for segment in segments:
        decoded = unquote(segment, errors="replace")
        # What is decoded once more, by whoever, must not be another path.
        if (
            decoded in (".", "..")
            or not decoded.isascii()
            or not decoded.isprintable()
            or set(decoded) & set("/\\%?#")
        ):
            raise Refused("403 Forbidden path", "got a path that is not plain")
    return found[1].lower(), int(found[2] or 80), segments


def request_of(head: bytes, archives: Sequence[Archive]) -> bytes:
    """What the caching proxy is asked instead of the request `head`; raises Refused."""
    try:
        first, *lines = head.decode("ascii").removesuffix("\r\n\r\n").split("\r\n")
        method, target, version = first.split(" ")
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    except ValueError:
        raise Refused("400 Bad Request", "got no HTTP request") from None
    if method not in ("GET", "HEAD") or not version.startswith("HTTP/1."):
        raise Refused("405 Method Not Allowed", "the site's proxy only fetches files, by http")
    if any(name in ("content-length", "transfer-encoding") for name, _ in fields):
        raise Refused("400 Bad Request", "got a request with a body")
    kept = [f"{name}: {value}" for name, value in fields if name in _HEADERS and _VALUE.fullmatch(value)]
    words = [f"{method} {path_of(target, archives)} HTTP/1.1", "Host: archives", "Connection: close", *kept]
    return "\r\n".join([*words, "", ""]).encode()


def prune(folder: str, space: int) -> int:
    """Remove the files fetched longest ago until the rest is `space` bytes; the bytes that are left."""
    found = []
    for where, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(where, name)
            with contextlib.suppress(OSError):
                status = os.lstat(path)
                found.append((max(status.st_mtime, status.st_atime), status.st_blocks * 512, path))
    left = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if left <= space:
            break
        with contextlib.suppress(OSError):
            os.unlink(path)
        left -= size
    return left


class Cacher:
    """apt-cacher-ng, as a child: it dies with this process."""

    def __init__(self, folder: str, address: str) -> None:
        self._folder, self._address = folder, address
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._settings = ""

    async def configure(self, archives: set[Archive], proxy: str, ca: str) -> None:
        """What it may fetch; where that changes, it starts again with the next request."""
        lines = [
            f"CacheDir: {self._folder}/cache",
            "LogDir:",
            f"BindAddress: {self._address}",
            f"Port: {PORT}",
            f"SocketPath: {self._folder}/socket",  # it makes one in any case
            "ForeGround: 1",
            "ForceManaged: 1",
            "RedirMax: 0",  # redirections go to the node, which asks here again
            *([f"Proxy: {proxy}"] if proxy else []),
            *([f"CAfile: {ca}"] if ca else []),
            *(f"Remap-{archive.key}: /{archive.key} ; {archive.remote}" for archive in sorted(archives)),
        ]
        settings = "".join(f"{line}\n" for line in lines)
        if settings != self._settings:
            self._settings = settings
            await self.stop()

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError when it does not answer."""
        async with self._starting:
            if self._process is None or self._process.returncode is not None:
                await self._start()
        return await asyncio.open_connection(self._address, PORT)

    async def _start(self) -> None:
        for name in ("conf", "cache"):
            os.makedirs(os.path.join(self._folder, name), mode=0o700, exist_ok=True)
        with open(os.path.join(self._folder, "conf/acng.conf"), "w", encoding="ascii") as file:
            file.write(self._settings)
        self._process = await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--no-new-privs", "--"),
            *("apt-cacher-ng", "-c", f"{self._folder}/conf"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd="/",
        )
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_TIMEOUT
        while self._process.returncode is None:
            try:
                _, writer = await asyncio.open_connection(self._address, PORT)
            except OSError:
                if loop.time() > deadline:
                    await self.stop()
                    raise
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return
        raise OSError(f"apt-cacher-ng: exit status {self._process.returncode}")

    async def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), 3)
            except TimeoutError:
                process.kill()
                await process.wait()


class Served(NamedTuple):
    key: str
    server: asyncio.AbstractServer
    archives: frozenset[Archive]
    connections: set[asyncio.StreamWriter]

    def end(self) -> None:
        """A connection that stays open would keep its namespace."""
        self.server.close()
        for connection in self.connections:
            connection.transport.abort()


class Relay:
    def __init__(self, folder: str, address: str, control: socket.socket) -> None:
        self._folder, self._control = folder, control
        self._cacher = Cacher(folder, address)
        self._segments: dict[str, Served] = {}
        self._done = asyncio.Event()
        self._fetched = False
        self._last: socket.socket | None = None  # its end tells the last caller that all is over

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._done.set)
        loop.add_reader(self._control, lambda: asyncio.ensure_future(self._command()))
        pruning = asyncio.ensure_future(self._prune())
        await self._done.wait()
        loop.remove_reader(self._control)
        pruning.cancel()
        for served in self._segments.values():
            served.end()
        await self._cacher.stop()

    async def _prune(self) -> None:
        while True:
            await asyncio.sleep(_PRUNE_EVERY)
            if self._fetched:
                self._fetched = False
                await asyncio.get_running_loop().run_in_executor(None, prune, f"{self._folder}/cache", SPACE)

    async def _command(self) -> None:
        try:
            caller, _ = self._control.accept()
        except OSError:
            return
        # From root, who sends whole messages at once; a caller that was killed must not keep nodes waiting.
        caller.settimeout(5)
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: caller.close() if caller is not self._last else None)
            with contextlib.suppress(OSError, ValueError, KeyError):
                if _uid(caller) != 0:
                    return
                while not self._done.is_set():
                    data, files, _, _ = socket.recv_fds(caller, MESSAGE, 1)
                    if not data:
                        return
                    listening = [socket.socket(fileno=file) for file in files]
                    answer = await self._answer(json.loads(data), listening)
                    if answer.get("left") == 0:
                        self._last = caller
                        self._done.set()
                    caller.sendall(json.dumps(answer).encode())

    async def _answer(self, message: dict[str, Any], listening: Sequence[socket.socket]) -> dict[str, Any]:
        if "leave" in message:
            self._leave(message["leave"])
            return {"left": len(self._segments)}
        segment, key = message["serve"], message["key"]
        if not listening:
            return {"served": segment in self._segments and self._segments[segment].key == key}
        self._leave(segment)
        archives = frozenset(Archive(*words) for words in message["archives"])
        turns, connections = asyncio.Semaphore(CONNECTIONS), set[asyncio.StreamWriter]()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            connections.add(writer)
            try:
                async with turns:
                    await self._serve(sorted(archives), reader, writer)
            finally:
                connections.discard(writer)

        server = await asyncio.start_server(serve, sock=listening[0], limit=_HEAD)
        self._segments[segment] = Served(key, server, archives, connections)
        wanted = {archive for served in self._segments.values() for archive in served.archives}
        await self._cacher.configure(wanted, message["proxy"], message["ca"])
        return {"served": True}

    def _leave(self, segment: str) -> None:
        served = self._segments.pop(segment, None)
        if served is not None:
            served.end()

    async def _serve(
        self, archives: Sequence[Archive], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """One request of a node, and the end of its connection."""
        try:
            with contextlib.suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError):
                try:
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), REQUEST_TIMEOUT)
                    await self._pass_on(request_of(head, archives), writer)
                except asyncio.LimitOverrunError:
                    await _refuse(writer, "431 Request Too Large", "got a request that is too long")
                except Refused as refused:
                    await _refuse(writer, refused.code, str(refused))
        finally:
            writer.close()

    async def _pass_on(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            answer, asking = await self._cacher.connect()
        except OSError:
            raise Refused("503 No proxy", "the site's caching proxy does not start") from None
        self._fetched = True
        try:
            asking.write(request)
            while piece := await asyncio.wait_for(answer.read(MESSAGE), ANSWER_TIMEOUT):
                writer.write(piece)
                await asyncio.wait_for(writer.drain(), ANSWER_TIMEOUT)
        finally:
            asking.close()


async def _refuse(writer: asyncio.StreamWriter, code: str, reason: str) -> None:
    body = "".join(char for char in reason if char.isprintable())[:300] + "\n"
    head = f"HTTP/1.1 {code}\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    writer.write((head + body).encode("ascii", "replace"))
    await asyncio.wait_for(writer.drain(), REQUEST_TIMEOUT)


def _uid(caller: socket.socket) -> int:
    found = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])


def main() -> None:
    settings = json.load(sys.stdin)
    user = pwd.getpwnam(settings["user"])
    control = socket.socket(fileno=settings["control"])
    control.setblocking(False)
    os.setgroups([])
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
    os.umask(0o077)

    async def work() -> None:
        await Relay(settings["folder"], settings["address"], control).run()

    asyncio.run(work())


if __name__ == "__main__":
    main()
