"""Root's part of the service: it gives finished files their names, and has no connection."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import pwd
import signal
import socket
import stat
import sys
import time
from collections.abc import Sequence
from typing import Any

from vclust_hop import native
from vclust_hop.messages import check_name
from vclust_hop.store import DONE, DRAFTS, MAX_REQUEST, PART, KeptStore, Store
from vclust_hop.wire import MAX_TEXT, Failed

WRITER_TIMEOUT = 2.0
"""Seconds for which root's part waits until nobody has a draft open for writing."""


class Keeper:
    """Root's part of the service: makes drafts that are whole root's, and gives them their names.

    It hears its own child only, by a socket pair, and believes names only.  Whatever it looks at and changes is one
    inode that it has open, so that it does not matter what the child does to the drafts' folder meanwhile.
    """

    def __init__(self, folder: int, drafts: int, user: int, group: int) -> None:
        self._folder = folder
        self._drafts = drafts
        self._user = user
        self._group = group

    def serve(self, child: socket.socket) -> None:
        """Until the child has ended."""
        while request := child.recv(MAX_REQUEST):
            try:
                self._do(json.loads(request))
                answer = DONE
            except OSError as error:
                answer = error.strerror or str(error)
            except (Failed, ValueError, TypeError, RecursionError) as error:
                answer = str(error)[:MAX_TEXT] or type(error).__name__
            child.send(answer.encode(errors="replace"))

    def _do(self, named: Any) -> None:
        """An empty request: the folder goes to the disk."""
        for draft, name in named:
            self._adopt(draft, name)
        if not named:
            os.fsync(self._folder)

    def _adopt(self, draft: str, name: str) -> None:
        if not isinstance(draft, str) or not PART.fullmatch(draft):
            raise Failed(f"{draft!r}: not a draft")
        check_name(name)
        path = os.open(draft, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._drafts)
        try:
            status = os.fstat(path)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1 or status.st_uid != self._user:
                raise Failed(f"{name}: its draft is not a file of the service's own")
            # A descriptor of O_PATH takes no fchown; this is the same inode, whatever its name is by now.
            inode = f"/proc/self/fd/{path}"
            os.chown(inode, 0, self._group)
            # For the group, so that the service can read what it has to serve.
            os.chmod(inode, status.st_mode & 0o555 | 0o440)
            try:
                self._require_no_writer(inode, name)
                self._link(inode, draft, name)
            finally:
                os.unlink(draft, dir_fd=self._drafts)
        finally:
            os.close(path)

    @staticmethod
    def _require_no_writer(inode: str, name: str) -> None:
        """Who had it open for writing before it was root's could go on writing: a read lease is not given then."""
        descriptor = os.open(inode, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + WRITER_TIMEOUT
            while True:
                try:
                    fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                    return
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise Failed(f"{name}: its draft is open for writing") from None
                time.sleep(0.01)
        finally:
            os.close(descriptor)  # the lease goes with it

    def _link(self, inode: str, draft: str, name: str) -> None:
        """Where a file of that name is there it is replaced by way of a second name, as a link replaces nothing."""
        try:
            os.link(inode, name, dst_dir_fd=self._folder)
            return
        except FileExistsError:
            os.link(inode, draft, dst_dir_fd=self._folder)
        try:
            os.rename(draft, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError:
            os.unlink(draft, dir_fd=self._folder)
            raise


def drafts_of(folder: int, group: int) -> int:
    """The folder of drafts in a folder of root's, made where it is missing; that group may write to it.

    Raises Failed when others than root can change the folder itself: what is in it would be theirs.
    """
    status = os.fstat(folder)
    if status.st_uid != 0 or status.st_mode & 0o022:
        raise Failed("the folder must be root's, and nobody else's to write to")
    with contextlib.suppress(FileExistsError):
        os.mkdir(DRAFTS, 0o700, dir_fd=folder)
    drafts = os.open(DRAFTS, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    os.fchown(drafts, 0, group)
    os.fchmod(drafts, 0o770)
    # Root's part was killed between two names of one file; or an earlier release had its drafts here.
    for name in filter(PART.fullmatch, os.listdir(folder)):
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)
    return drafts


def split_privileges(folder: int, user: str, sockets: Sequence[socket.socket]) -> Store:
    """Go on as two processes: returns in the one that runs as `user`, and in the other, root's, never.

    To be called before there is any thread.  If one of them ends, so does the other.
    """
    person = pwd.getpwnam(user)
    if person.pw_uid == 0:
        raise Failed(f"{user}: is root")
    drafts = drafts_of(folder, person.pw_gid)
    keeper, service = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        keeper.close()
        become(person, parent)
        return KeptStore(folder, drafts, service)
    service.close()
    for sock in sockets:
        sock.close()
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # of a lease that somebody breaks
    with contextlib.suppress(ConnectionError):
        Keeper(folder, drafts, person.pw_uid, person.pw_gid).serve(keeper)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code if code >= 0 else 1)


def become(person: pwd.struct_passwd, parent: int) -> None:
    """Be that user for good, and end with `parent`."""
    os.setgroups([])
    os.setgid(person.pw_gid)
    os.setuid(person.pw_uid)
    no_new_privileges, parent_death_signal = 38, 1  # PR_SET_…; the latter is forgotten when the user changes
    if native.crypto.prctl(no_new_privileges, 1, 0, 0, 0) or native.crypto.prctl(
        parent_death_signal, signal.SIGKILL, 0, 0, 0
    ):
        raise OSError(errno.EPERM, "prctl")
    if os.getresuid() != (person.pw_uid,) * 3 or os.getppid() != parent:
        raise Failed("root's part has ended")
