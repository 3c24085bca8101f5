"""The NFS server of a cluster with `Home: site`: a process for each such cluster, in its router namespace.

It is nfs-ganesha, in user space: the kernel's server is one for all, and needs rpcbind's company and mounts that others
see.  Version 4 alone, one port, for the cluster's network only; root of a node is nobody.  It sees its owner's homes
(`vclust_py.homes`) and no other file system that holds anything.  What it remembers of its clients is among the homes:
after a restart they go on with their open files and locks.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from vclust_py import home_mount
from vclust_py.errors import VclustError
from vclust_py.home_mount import HOMES, PID
from vclust_py.homes import PRIVATE, RUN, Homes, alone, mount_point
from vclust_py.router_socket import NAMESPACES
from vclust_py.text import LINE, plain

PORT = 2049
_LOG = "log"
"""What the server says until it serves, and of its death."""
_TIMEOUT = 20.0
_POLL = 0.05
_LEASE = 60
"""Seconds after which a client that says nothing loses its locks, and that a server which was started again gives them
to come back.
"""


@dataclass(frozen=True)
class Share:
    """The homes that one cluster has."""

    homes: Homes
    network: IPv4Network
    """Of its nodes, who alone may mount."""
    cluster: int
    """Its number."""
    clusters: tuple[int, ...]
    """Those of all live clusters of the owner."""
    keep: bool
    """Its nodes run: a server that starts lets them come back to their locks, and others wait for that."""


def settings(share: Share) -> str:
    """The server's configuration (ganesha-core-config(8), ganesha-export-config(8)), as versions 4 and 6 take it.

    The one does not know of IO flushers, the other would need a capability to be one.
    """
    return f"""\
NFS_CORE_PARAM {{
    Protocols = 4;
    NFS_Port = {PORT};
    Enable_UDP = false;
    Enable_NLM = false;
    Enable_RQUOTA = false;
    Allow_Set_Io_Flusher_Fail = true;
}}
NFSV4 {{
    RecoveryBackend = fs;
    RecoveryRoot = "/state";
    Lease_Lifetime = {_LEASE};
    Grace_Period = {_LEASE};
    Delegations = false;
    Allow_Numeric_Owners = true;
    Only_Numeric_Owners = true;
    UseGetpwnam = true;
    DomainName = vclust;
}}
MDCACHE {{ Entries_HWMark = 20000; }}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{
    Export_Id = 1;
    Path = "/homes/{HOMES}";
    Pseudo = "/home";
    Protocols = 4;
    Transports = TCP;
    SecType = sys;
    Squash = root_squash;
    Access_Type = None;
    CLIENT {{ Clients = {share.network}; Access_Type = RW; Squash = root_squash; }}
    FSAL {{ Name = VFS; }}
}}
LOG {{ Default_Log_Level = FATAL; }}
"""


def ensure(segment: str, share: Share) -> bool:
    """Have the segment, which is there, served; False when it was.

    Raises VclustError when the server does not start.
    """
    inode = os.stat(NAMESPACES / segment).st_ino
    text = settings(share)
    image = str(share.homes.image)
    record = hashlib.sha256(json.dumps([inode, image, text]).encode()).hexdigest()
    with alone():
        folder = RUN / segment
        written = folder / "record"
        if is_running(segment) and written.exists() and written.read_text(encoding="ascii") == record:
            return False
        _close(segment)
        folder.mkdir(mode=0o700)
        try:
            _start(segment, share, text)
        except BaseException:
            _close(segment)
            raise
        written.write_text(record, encoding="ascii")
    return True


def is_running(segment: str) -> bool:
    """Whether the segment has a server: it holds a file lock for as long as it lives."""
    try:
        file = os.open(RUN / segment / "lock", os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def close(segment: str) -> bool:
    """End the segment's server; the homes stay.  False when it had none."""
    if not (RUN / segment).exists():
        return False
    with alone():
        return _close(segment)


def _close(segment: str) -> bool:
    folder = RUN / segment
    if not folder.exists():
        return False
    deadline = time.monotonic() + _TIMEOUT
    while is_running(segment):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            # The server is its child, and dies with it.
            os.kill(int((folder / PID).read_text(encoding="ascii")), signal.SIGKILL)
        if time.monotonic() > deadline:
            raise VclustError(f"{folder}: the server of homes does not end", f"fuser {folder}/lock")
        time.sleep(_POLL)
    shutil.rmtree(folder)
    return True


def _start(segment: str, share: Share, text: str) -> None:
    folder = RUN / segment
    given = {
        "image": str(share.homes.image),
        "folder": str(mount_point()),
        "users": {},
        "serve": {
            "key": str(share.cluster),
            "keys": [str(number) for number in share.clusters],
            "keep": share.keep,
            "settings": text,
            "run": str(folder),
        },
    }
    with (
        open(os.memfd_create("given"), "wb+", buffering=0) as stdin,
        open(folder / "lock", "wb") as lock,
        open(folder / _LOG, "wb") as log,
    ):
        stdin.write(json.dumps(given).encode())
        stdin.seek(0)
        fcntl.flock(lock, fcntl.LOCK_EX)
        # A session of its own: it outlives the command that needed it.
        subprocess.run(
            [
                *("setsid", "--fork", "nsenter", f"--net={NAMESPACES / segment}", "--", *PRIVATE),
                *(sys.executable, "-IS", home_mount.__file__, str(folder)),
            ],
            stdin=stdin,
            stdout=log,
            stderr=log,
            pass_fds=[lock.fileno()],
            env={"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin", "LC_ALL": "C.UTF-8"},
            cwd="/",
            check=True,
        )
    deadline = time.monotonic() + _TIMEOUT
    while not _listens(folder):
        running = is_running(segment)
        if not running or time.monotonic() > deadline:
            lines = (folder / _LOG).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            why = plain(lines[-1], LINE) if lines else "it says nothing"
            raise VclustError(
                f"{share.homes.folder}: the server of these homes"
                f" {'does not listen' if running else 'has ended'}: {why}"
            )
        time.sleep(_POLL)


def _listens(folder: Path) -> bool:
    """Whether somebody listens on the port in the namespace of the server (proc(5): state 0A is LISTEN)."""
    with contextlib.suppress(OSError, ValueError):
        pid = int((folder / PID).read_text(encoding="ascii"))
        for name in ("tcp", "tcp6"):
            with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
                for line in Path(f"/proc/{pid}/net/{name}").read_text(encoding="ascii").splitlines()[1:]:
                    fields = line.split()
                    if fields[1].endswith(f":{PORT:04X}") and fields[3] == "0A":
                        return True
    return False
