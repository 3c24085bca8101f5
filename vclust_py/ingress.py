"""The way in to clusters for those who are not root: who may, and the processes that let them (`ingress_relay`).

On the site manager each node of a cluster has a Unix socket that leads to its port 22: for the cluster's owner, members
of its project and administrators, as far as they have an account here, and for the site's gateway
(`vclust_py.gateway`).  There they log in as on any machine, by their own key or password.  A cluster that is for root
alone has no such sockets: root goes through the namespace itself.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from vclust_py import ingress_relay
from vclust_py.access import ACCOUNT, SOCKETS
from vclust_py.errors import VclustError
from vclust_py.ingress_relay import ALIVE, LISTENING
from vclust_py.run import run
from vclust_py.site.settings import Site

NAMESPACES = Path("/run/netns")
_TIMEOUT = 10.0


@dataclass(frozen=True)
class Door:
    """Who comes in to a cluster how: addresses of its nodes by name, and numbers of accounts of this machine."""

    nodes: Mapping[str, str]
    uids: frozenset[int]
    gateway: bool = False
    """Whether the site's gateway lets people in, too."""


def door(site: Site, owner: str, project: str, nodes: Mapping[str, str]) -> Door:
    """The door of a cluster of that owner and project (`vclust_py.site.users`)."""
    members = site.project(project)
    uids = _uids([owner, *(members.users if members else ()), *site.administrators])
    return Door(nodes, uids, gateway=site.gateway is not None)


def _uids(names: Iterable[str]) -> frozenset[int]:
    """Of accounts of this machine; root needs no door."""
    found = set()
    for name in names:
        with contextlib.suppress(KeyError):  # a user of a controller
            found.add(pwd.getpwnam(name).pw_uid)
    return frozenset(found - {0})


def ensure(segment: str, door: Door) -> tuple[str, ...]:
    """Open the door of the segment, which is there, or close one that is nobody's any more.

    Connections stay when it is changed.  Warnings say why it is not open; a cluster is one without it too.
    """
    try:
        if not (door.uids or door.gateway):
            close(segment)
        else:
            _open(segment, door)
    except (VclustError, OSError) as error:
        return (f"ssh without root: the way in is not open: {' '.join(str(error).split())}",)
    return ()


def _open(segment: str, door: Door) -> None:
    uid, gid = account()
    folder, namespace = SOCKETS / segment, NAMESPACES / segment
    settings = {
        "folder": str(folder),
        "namespace": str(namespace),
        "nodes": dict(door.nodes),
        "uids": sorted(door.uids | ({uid} if door.gateway else set())),
        "account": [uid, gid],
    }
    inode = os.stat(namespace).st_ino
    record = hashlib.sha256(json.dumps([inode, settings], sort_keys=True).encode()).hexdigest()
    for path in (SOCKETS.parent, SOCKETS, folder):
        path.mkdir(mode=0o755, exist_ok=True)
        path.chmod(0o755)
    with open(SOCKETS / "mutex", "w", encoding="ascii") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        listening = _holder(folder, LISTENING)
        written = folder / "record"
        if listening and written.exists() and written.read_text(encoding="ascii") == record:
            return
        if listening:
            os.kill(listening, signal.SIGHUP)
            _wait(folder, LISTENING)
        _start(settings)
        written.write_text(record, encoding="ascii")


def _start(settings: Mapping[str, object]) -> None:
    # A session of its own: it outlives the command that needed it.
    with subprocess.Popen(
        [sys.executable, "-IS", ingress_relay.__file__, str(settings["folder"])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"},
        cwd="/",
        start_new_session=True,
        text=True,
    ) as process:
        assert process.stdin and process.stdout and process.stderr  # noqa: PT018, S101 - for mypy
        process.stdin.write(json.dumps(settings))
        process.stdin.close()
        if process.stdout.readline() != "up\n":
            lines = process.stderr.read().splitlines() or ["it has ended"]
            raise VclustError(f"its relay does not start: {lines[-1]}")
        process.returncode = 0  # it stays: nobody waits for it


def close(segment: str) -> bool:
    """Close the segment's door; connections end.  False when it had none."""
    folder = SOCKETS / segment
    if not folder.exists():
        return False
    while holder := _holder(folder, ALIVE):
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, signal.SIGTERM)
        _wait(folder, ALIVE, holder)
    shutil.rmtree(folder)
    return True


def _holder(folder: Path, byte: int) -> int:
    """The number of a process that has that byte of the folder's lock; 0 where there is none (fcntl(2), F_GETLK)."""
    try:
        file = os.open(folder / "lock", os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        flock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, byte, 1, 0)
        kind, _, _, _, pid = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, flock))
    finally:
        os.close(file)
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _wait(folder: Path, byte: int, holder: int | None = None) -> None:
    """Until the byte is free, or another's than the holder's.  Raises VclustError when that takes too long."""
    deadline = time.monotonic() + _TIMEOUT
    while now := _holder(folder, byte):
        if holder is not None and now != holder:
            return
        if time.monotonic() > deadline:
            raise VclustError(f"its relay, process {now}, does not end", f"kill {now}")
        time.sleep(0.01)


def account() -> tuple[int, int]:
    """User and group number of ACCOUNT, which is made where it is not there."""
    with contextlib.suppress(KeyError):
        found = pwd.getpwnam(ACCOUNT)
        return found.pw_uid, found.pw_gid
    # No password, and none that locks it: sshd refuses a locked account its keys as well.
    home = ["--no-create-home", "--home-dir", "/", "--shell", "/bin/sh", "--password", "*"]
    run(["useradd", "--system", "--user-group", *home, ACCOUNT])
    found = pwd.getpwnam(ACCOUNT)
    return found.pw_uid, found.pw_gid
