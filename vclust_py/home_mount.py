#!/usr/bin/python3
"""An owner's homes, mounted where nobody else sees them: standard library only, started by `vclust_py.homes` and
`vclust_py.home_server` as root in a mount namespace of its own.

It makes the homes of users that have none yet.  Where it is to serve, it then becomes the NFS server (nfs-ganesha) of
one cluster, which sees the owner's file system, programs, and nothing else of the machine.  With its end the mount is
gone, whatever it died of.

On standard input: a JSON object of `image`, `folder` (to mount on), `users` (numbers by name), and `serve`, null or
`key` (of the cluster), `keys` (of those whose state is kept), `keep` (whether this one's is), `settings` (the server's
configuration) and `run` (a folder for its process number).
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HOMES, STATE, NEW = "home", "servers", "new"
"""In the file system: what nodes mount, what servers remember of their clients, homes that are not whole yet."""
PID = "pid"
_SKELETON = Path("/etc/skel")
_PROTOCOLS = Path("/etc/netconfig")
_TRIES = 5
_PAUSE = 0.3
_CAPABILITIES = ("CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "SETGID", "SETUID")
"""What the server needs to act for each user (credentials(7)), and to open files by their handles."""


_ADDRESS_SPACE = 3 << 30
"""Bytes that the server may have: its threads' stacks are half of that, what clients make it keep the rest."""


def mount(image: str, folder: str) -> None:
    """Raises CalledProcessError.

    mount(8) takes the loop device that the image has already; it may be going at this moment.
    """
    options = "loop,nosuid,nodev,noexec,noatime"
    for attempt in range(1, _TRIES + 1):
        try:
            subprocess.run(["mount", "-t", "ext4", "-o", options, image, folder], check=True)
            return
        except subprocess.CalledProcessError:
            if attempt == _TRIES:
                raise
            time.sleep(_PAUSE)


def make_homes(root: Path, users: dict[str, int]) -> None:
    """Homes for those who have none; what is there stays.  A home appears whole, as its user's."""
    for name, mode in ((HOMES, 0o755), (STATE, 0o700), (NEW, 0o700)):
        (root / name).mkdir(mode=mode, exist_ok=True)
        (root / name).chmod(mode)  # whatever the umask
    for user, number in users.items():
        home = root / HOMES / user
        if home.is_symlink() or home.exists():
            continue
        made = root / NEW / user
        shutil.rmtree(made, ignore_errors=True)  # of one that was interrupted
        made.mkdir(mode=0o700)
        for file in sorted(_SKELETON.glob(".[a-z]*")):
            if file.is_file():
                shutil.copyfile(file, made / file.name)
                (made / file.name).chmod(0o644)
                os.chown(made / file.name, number, number)
        os.chown(made, number, number)
        made.rename(home)


def become_server(root: Path, serve: dict[str, Any]) -> None:
    """Never returns: this process is bubblewrap then, and the server its child, which dies with it."""
    state = root / STATE
    for path in state.iterdir():
        if path.name not in serve["keys"] or (path.name == serve["key"] and not serve["keep"]):
            shutil.rmtree(path)
    own = state / str(serve["key"])
    own.mkdir(mode=0o700, exist_ok=True)
    settings, protocols = _given(serve["settings"].encode()), _given(_PROTOCOLS.read_bytes())
    (Path(serve["run"]) / PID).write_text(str(os.getpid()), encoding="ascii")
    capabilities = [word for name in _CAPABILITIES for word in ("--cap-add", f"CAP_{name}")]
    linked = [
        word
        for folder in ("bin", "lib", "lib32", "lib64", "sbin")
        if Path("/", folder).is_symlink()
        for word in ("--symlink", f"usr/{folder}", f"/{folder}")
    ]
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    os.execvp(  # noqa: S606 - no shell is wanted
        "bwrap",
        [
            *("bwrap", "--die-with-parent", "--ro-bind", "/usr", "/usr", *linked),
            *("--ro-bind-data", str(protocols), "/etc/netconfig", "--proc", "/proc"),
            *("--symlink", "/proc/self/mounts", "/etc/mtab", "--tmpfs", "/tmp", "--tmpfs", "/run"),  # noqa: S108 - its own
            *("--bind", str(root), "/homes", "--bind", str(own), "/state"),
            *("--ro-bind-data", str(settings), "/etc/ganesha.conf"),
            *("--clearenv", "--setenv", "PATH", "/usr/bin:/usr/sbin", "--chdir", "/"),
            # Else each processor takes address space for its own.
            *("--setenv", "MALLOC_ARENA_MAX", "4"),
            *("--cap-drop", "ALL", *capabilities),
            *("ganesha.nfsd", "-F", "-f", "/etc/ganesha.conf", "-L", "STDERR", "-p", "/run/pid"),
        ],
    )


def _given(data: bytes) -> int:
    """A file that the server is handed, and that is nowhere else."""
    file = os.memfd_create("given", 0)
    os.write(file, data)
    os.lseek(file, 0, os.SEEK_SET)
    return file


def main() -> None:
    given = json.load(sys.stdin)
    os.umask(0o022)
    try:
        mount(given["image"], given["folder"])
        root = Path(given["folder"])
        make_homes(root, given["users"])
        if given["serve"] is not None:
            become_server(root, given["serve"])
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{given['image']}: {error}")


if __name__ == "__main__":
    main()
