"""The folder of files and that of their drafts, as the service's network part uses them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
from collections.abc import Sequence

from vclust_hop.wire import Failed

DRAFT_LIFETIME = 7 * 86400.0
"""Seconds after which a partial file is no longer kept."""
PART = re.compile(r"\.[0-9a-f]{32}(\.[0-9]{1,9})?\.part")
"""Names of drafts."""
DRAFTS = ".incoming"
"""The folder of drafts, inside the folder of files, where these are root's."""
MAX_ADOPTIONS = 64
"""Drafts of one request to root's part."""
MAX_REQUEST = 128 << 10
"""Bytes of such a request, at most."""
DONE = "done"
"""What root's part answers when all went well."""


def claimed(descriptor: int, name: str, folder: int) -> bool:
    """Whether this open file is ours alone now, and still the one of that name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False


def sweep(folder: int) -> None:
    """Remove what transfers have left that nobody has taken up again."""
    with os.scandir(folder) as entries:
        old = [entry.name for entry in entries if PART.fullmatch(entry.name) and _age(entry) > DRAFT_LIFETIME]
    for name in old:
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            try:
                if claimed(descriptor, name, folder):
                    os.unlink(name, dir_fd=folder)
            finally:
                os.close(descriptor)


def _age(entry: os.DirEntry[str]) -> float:
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return 0.0


class Store:
    """The folder of the files, and that of their drafts; here one folder, in one process."""

    def __init__(self, folder: int, drafts: int) -> None:
        self.folder = folder
        self.drafts = drafts
        self.claiming = threading.Lock()
        """Held while a draft is claimed, or a claim goes from one descriptor to another."""

    def adopt(self, named: Sequence[tuple[str, str]]) -> None:
        """Give drafts that are whole and synced their names (draft, name), and sync the folder."""
        for draft, name in named:
            os.rename(draft, name, src_dir_fd=self.drafts, dst_dir_fd=self.folder)
        os.fsync(self.folder)


class KeptStore(Store):
    """A folder that is root's: the `Keeper`, another process, gives the names."""

    def __init__(self, folder: int, drafts: int, keeper: socket.socket) -> None:
        super().__init__(folder, drafts)
        self._keeper = keeper
        self._lock = threading.Lock()

    def adopt(self, named: Sequence[tuple[str, str]]) -> None:
        with self._lock:
            for first in range(0, len(named), MAX_ADOPTIONS):
                self._ask(named[first : first + MAX_ADOPTIONS])
            self._ask([])

    def _ask(self, named: Sequence[tuple[str, str]]) -> None:
        self._keeper.send(json.dumps(named, ensure_ascii=False).encode())
        answer = self._keeper.recv(MAX_REQUEST).decode()
        if answer != DONE:
            raise Failed(answer or "the service has lost its other half")
