#!/usr/bin/python3
"""The way in to one cluster without root: a Unix socket for each node, which leads to the node's port 22.

One process for each cluster, standard library only, started by `vclust_py.ingress` as root.  It makes its sockets, goes
to the cluster's router namespace and gives root up, for good, before it hears anybody.  The kernel tells it which
account has opened a connection (SO_PEERCRED); others than those it was given are turned away.  What goes through is
the node's own ssh, from end to end: it reads nothing of it.

On standard input: a JSON object of `folder` (for the sockets), `namespace` (a file), `nodes` (address by name), `uids`
(who may come in) and `account` (user and group numbers of the process).  It prints `up` when all that is so.

SIGHUP: take no more connections, and end with the last one; another process has taken over.  SIGTERM: end.
The file `lock` in the folder says who is there (fcntl(2), F_GETLK): its byte LISTENING is locked by the process that
takes connections, its byte ALIVE is shared by all.
"""

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import sys
from typing import Any

LISTENING, ALIVE = 0, 1
PORT = 22
CONNECTIONS = 1000
"""At once; more are turned away."""
CONNECT_TIMEOUT = 20.0
_PIECE = 1 << 16
_CLONE_NEWNET = 0x40000000
_PR_SET_NO_NEW_PRIVS = 38


class Relay:
    def __init__(self, uids: frozenset[int], lock: int) -> None:
        self._uids, self._lock = uids, lock
        self._servers: list[asyncio.AbstractServer] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._draining = False
        self._done = asyncio.Event()

    async def run(self, listening: "list[tuple[socket.socket, str]]") -> None:
        """Serve the sockets, each with its node's address, until a signal says no."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._done.set)
        loop.add_signal_handler(signal.SIGHUP, self._drain)
        for sock, address in listening:

            def accepted(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str = address
            ) -> None:
                task = loop.create_task(self._serve(reader, writer, address))
                self._connections.add(task)
                task.add_done_callback(self._ended)

            self._servers.append(await asyncio.start_unix_server(accepted, sock=sock))
        print("up", flush=True)
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):  # who started it does not stay
            os.dup2(nowhere, stream)
        await self._done.wait()

    def _drain(self) -> None:
        self._draining = True
        for server in self._servers:
            server.close()
        fcntl.lockf(self._lock, fcntl.LOCK_UN, 1, LISTENING)
        if not self._connections:
            self._done.set()

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._connections.discard(task)
        if self._draining and not self._connections:
            self._done.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.TimeoutError):
            if (
                _uid(writer.get_extra_info("socket")) not in self._uids
                or len(self._connections) > CONNECTIONS
            ):
                return
            node, to_node = await asyncio.wait_for(asyncio.open_connection(address, PORT), CONNECT_TIMEOUT)
            with contextlib.closing(to_node):
                await asyncio.gather(_pump(reader, to_node), _pump(node, writer))


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until the source's end, which the target is told."""
    while piece := await source.read(_PIECE):
        target.write(piece)
        await target.drain()
    target.write_eof()


def _uid(caller: socket.socket) -> int:
    found = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    return int(struct.unpack("3i", found)[1])


def _listen(folder: str, nodes: "dict[str, str]") -> "list[tuple[socket.socket, str]]":
    """A socket for each node, in place of those of a process before; those of nodes that have gone are removed."""
    made = []
    for name, address in nodes.items():
        path, draft = os.path.join(folder, name), os.path.join(folder, ".draft")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(draft)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(draft)
        os.chmod(draft, 0o666)  # noqa: S103 - who may is asked of each connection
        sock.listen(64)
        sock.setblocking(False)
        os.rename(draft, path)
        made.append((sock, address))
    for name in os.listdir(folder):
        if name not in (*nodes, "lock", "record"):
            os.unlink(os.path.join(folder, name))
    return made


def _enter(namespace: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    with open(namespace, "rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), namespace)


def _give_up_root(uid: int, gid: int) -> None:
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    settings: dict[str, Any] = json.load(sys.stdin)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    lock = os.open(os.path.join(settings["folder"], "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, LISTENING)
    # Several processes read what nobody ever writes: a lock that they share.
    fcntl.lockf(lock, fcntl.LOCK_SH, 1, ALIVE)
    listening = _listen(settings["folder"], settings["nodes"])
    _enter(settings["namespace"])
    _give_up_root(*settings["account"])

    async def work() -> None:
        await Relay(frozenset(settings["uids"]), lock).run(listening)

    asyncio.run(work())


if __name__ == "__main__":
    main()
