"""The hop service of the chain; one file, standard library of Python 3.9 only (docs/chain.md has the protocol).

`python3 hop.py --folder DIR --ca FILE --certificate FILE --key FILE [--user NAME] [--listen ADDRESS:PORT]`, or by
systemd's socket.  With `--user` it is two processes: all that has to do with the network runs as that user, and root's
part only gives finished files their names.  The head imports the wire format from here, and serves its files by the
same code.
"""

from __future__ import annotations

import _hashlib
import argparse
import contextlib
import ctypes
import errno
import fcntl
import hashlib
import hmac
import ipaddress
import json
import mmap
import os
import pwd
import queue
import re
import resource
import secrets
import select
import signal
import socket
import ssl
import stat
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Optional

VERSION = 1
MANAGER = "vclust site manager"
"""The common name that may command a hop; a host's own certificate may not."""

BEAT = 0.5
"""Seconds between two signs of life, on every connection."""
PATIENCE = 10.0
"""Seconds that a stranger has to say who it is."""
SLOW = 60.0
"""Seconds that a puller may take nothing; it can come back."""
STRANGERS = 32
"""Connections at a time that have not yet said it."""
FORGOTTEN = 7 * 86400.0
"""Seconds after which a partial file is no longer kept."""
PART = re.compile(r"\.[0-9a-f]{32}(\.[0-9]{1,9})?\.part")
"""Names of drafts."""
DRAFTS = ".incoming"
"""The folder of drafts, inside the folder of files, where these are root's."""
WRITER = 2.0
"""Seconds for which root's part waits until nobody has a draft open for writing."""
ADOPTED = 64
"""Drafts of one request to root's part."""
REQUEST = 128 << 10
"""Bytes of such a request, at most."""
SETTLE = 64 << 20
"""Bytes of small files that are synced together."""
RECENT = 2 << 20
"""Bytes of packed blocks that are kept for those who pull, at most."""
LINE = 32 << 20
"""Bytes of a control message, at most; only who has shown a certificate gets to send one."""
TEXT = 500
"""Characters of what went wrong that one end tells the other."""
BLOCKS = (1 << 16, 4 << 20)
"""The smallest and the largest block."""

Message = dict[str, Any]


class Fault(Exception):
    """What is wrong with a source, or with the way to it; another source may do better."""


class Rubbish(Fault):
    """A source that sends what it should not."""


class Failed(Exception):
    """Why this hop cannot have the files."""


# ---- What travels: frames on data connections, lines on control connections ----

FRAME = struct.Struct("!BxxxIQI16s")
"""Kind, item, block, bytes that follow, tag (of the block itself, packed or not)."""
BEAT_FRAME, DATA, ZERO, KNOWN, PACKED = range(5)
"""Nothing yet; a block; a block of zeros; the tag of a block that the puller has (it said) and can check by it; a block
compressed by zstd."""
NOTHING_YET = FRAME.pack(BEAT_FRAME, 0, 0, 0, b"")
HELLO = struct.Struct("!4s16s32s")
"""Magic, transfer, the puller's nonce."""
MAGIC = b"VCH1"
WANT = struct.Struct("!IQQ")
"""Item, first block, and before which block tags alone will do."""
COUNT = struct.Struct("!I")


_TIMEOUT = (socket.timeout,)
"""It is TimeoutError only since Python 3.10."""


class Lines:
    """JSON messages, one a line, over a socket that is used by one thread."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self.sock = sock
        self._rest = bytearray()
        self._ended = False

    def send(self, message: Message, patience: float = PATIENCE) -> None:
        self.sock.settimeout(patience)
        self.sock.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, timeout: float = 0.0) -> list[Message]:
        """What has come; raises OSError when the connection is at its end, ValueError on what is no message."""
        deadline = time.monotonic() + timeout
        while not (self._ended or self._rest.endswith(b"\n")):
            self.sock.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                data = self.sock.recv(1 << 16)
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError, *_TIMEOUT):
                break
            self._ended = not data
            self._rest += data
            if len(self._rest) > LINE:
                raise ValueError("a message is too long")
        messages = []
        while (end := self._rest.find(b"\n")) >= 0:
            line = self._rest[:end].decode()
            del self._rest[: end + 1]
            try:
                messages.append(json.loads(line))
            except RecursionError:
                raise ValueError("a message is nested too deeply") from None
            del line  # with many files it is long
        if self._ended and not messages:
            raise ConnectionResetError("the connection was closed")
        if not all(isinstance(message, dict) for message in messages):
            raise ValueError("not a message")
        return messages


def failed(why: object) -> Message:
    return {"failed": str(why)[:TEXT]}


@contextlib.contextmanager
def local() -> Iterator[None]:
    """What goes wrong in here is this host's own."""
    try:
        yield
    except OSError as error:
        raise Failed(error.strerror or str(error)) from error


def readable(descriptors: Sequence[int], timeout: float) -> list[int]:
    """Those of them that have something to read, in time."""
    poll = select.poll()  # select cannot do numbers beyond 1023
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in poll.poll(timeout * 1000)]


def hang_up(sock: socket.socket) -> None:
    """Whoever waits for this connection, in another thread, waits no longer."""
    with contextlib.suppress(OSError):
        # Not TLS's own, which would take its state from under that thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def proof(key: bytes, role: bytes, *parts: bytes) -> bytes:
    return hmac.digest(key, b"".join((role, *parts)), "sha256")


def read(sock: socket.socket, view: memoryview, until: float | None = None) -> None:
    """Fill `view`, by the time `until` or with the socket's time-out for each part; raises OSError or Fault."""
    while view:
        if until is not None:
            sock.settimeout(max(0.001, until - time.monotonic()))
        size = sock.recv_into(view)
        if size == 0:
            raise Fault("it has closed the connection")
        view = view[size:]


def take(sock: socket.socket, size: int, until: float | None = None) -> bytes:
    data = bytearray(size)
    read(sock, memoryview(data), until)
    return bytes(data)


# ---- Tags ----


def _libcrypto() -> Any:
    """The OpenSSL that hashlib uses, 1.1.1 or 3."""
    library = ctypes.CDLL(getattr(_hashlib, "__file__", None))
    pointer, number = ctypes.c_void_p, ctypes.c_int
    library.EVP_CIPHER_CTX_new.restype = pointer
    library.EVP_CIPHER_CTX_free.argtypes = [pointer]
    library.EVP_CIPHER_CTX_ctrl.argtypes = [pointer, number, number, pointer]
    library.EVP_aes_256_gcm.restype = pointer
    for way in ("Encrypt", "Decrypt"):
        init = getattr(library, f"EVP_{way}Init_ex")
        init.argtypes = [pointer, pointer, pointer, ctypes.c_char_p, ctypes.c_char_p]
        update = getattr(library, f"EVP_{way}Update")
        update.argtypes = [pointer, pointer, ctypes.POINTER(number), pointer, number]
        getattr(library, f"EVP_{way}Final_ex").argtypes = [pointer, pointer, ctypes.POINTER(number)]
    library.memcmp.argtypes = [pointer, pointer, ctypes.c_size_t]
    library.prctl.argtypes = [number, *4 * [ctypes.c_ulong]]
    return library


def _libzstd() -> Any:
    """What dpkg stands on; None on machines without."""
    try:
        library = ctypes.CDLL("libzstd.so.1")
    except OSError:
        return None
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    library.ZSTD_compress.restype = library.ZSTD_decompress.restype = size
    library.ZSTD_compress.argtypes = [pointer, size, pointer, size, ctypes.c_int]
    library.ZSTD_decompress.argtypes = [pointer, size, ctypes.c_char_p, size]
    return library


_crypto = _libcrypto()
_zstd = _libzstd()
_GET_TAG, _SET_TAG = 0x10, 0x11  # EVP_CTRL_AEAD_…
TAG = 16


class Seal:
    """Room for one block, and its tag: AES-256-GCM, the block as associated data (GMAC) or, on request, encrypted.

    The nonce is item and block.  A key is one transfer's, and the head tags every block once, so no nonce ever
    serves for two contents.  For one thread.
    """

    def __init__(self, key: bytes, block: int, encrypt: bool = False) -> None:
        self.encrypt = encrypt
        self.view, self._at = self._room(block)
        """The block's bytes."""
        self.wire = self.view
        """As they travel."""
        self._wire_at: int | None = None
        if encrypt:
            self.wire, self._wire_at = self._room(block)
        self._tag = ctypes.create_string_buffer(TAG)
        self._length = ctypes.c_int()
        self._out = _crypto.EVP_CIPHER_CTX_new()
        self._in = _crypto.EVP_CIPHER_CTX_new()
        self._do(_crypto.EVP_EncryptInit_ex(self._out, _crypto.EVP_aes_256_gcm(), None, key, None))
        self._do(_crypto.EVP_DecryptInit_ex(self._in, _crypto.EVP_aes_256_gcm(), None, key, None))

    def __del__(self) -> None:
        _crypto.EVP_CIPHER_CTX_free(self._out)
        _crypto.EVP_CIPHER_CTX_free(self._in)

    @staticmethod
    def _room(size: int) -> tuple[memoryview, int]:
        room = mmap.mmap(-1, size)
        return memoryview(room), ctypes.addressof(ctypes.c_char.from_buffer(room))

    def tag(self, item: int, block: int, size: int) -> bytes:
        """Of the first `size` bytes of `view`, which are then in `wire`; a size of 0 stands for a block of zeros."""
        context, length = self._out, ctypes.byref(self._length)
        self._do(_crypto.EVP_EncryptInit_ex(context, None, None, None, struct.pack("!IQ", item, block)))
        self._do(_crypto.EVP_EncryptUpdate(context, self._wire_at, length, self._at, size))
        self._do(_crypto.EVP_EncryptFinal_ex(context, self._tag, length))
        self._do(_crypto.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, TAG, self._tag))
        return self._tag.raw

    def fits(self, tag: bytes, item: int, block: int, size: int) -> bool:
        """Whether the first `size` bytes of `wire` have that tag; they are then in `view`."""
        if not self.encrypt or size == 0:
            return hmac.compare_digest(tag, self.tag(item, block, size))
        context, length = self._in, ctypes.byref(self._length)
        self._tag.raw = tag
        self._do(_crypto.EVP_DecryptInit_ex(context, None, None, None, struct.pack("!IQ", item, block)))
        self._do(_crypto.EVP_DecryptUpdate(context, self._at, length, self._wire_at, size))
        self._do(_crypto.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, TAG, self._tag))
        return bool(_crypto.EVP_DecryptFinal_ex(context, self._tag, length) == 1)

    def pack(self, size: int) -> bytes | None:
        """The first `size` bytes of `view`, compressed; None where that saves too little."""
        room = ctypes.create_string_buffer(size * 7 // 8)
        packed = _zstd.ZSTD_compress(room, len(room), self._at, size, 1)
        return None if _zstd.ZSTD_isError(ctypes.c_size_t(packed)) else ctypes.string_at(room, packed)

    def unpack(self, packed: bytes, size: int) -> bool:
        """Whether these are `size` bytes, compressed; they are then in `view`."""
        return bool(_zstd.ZSTD_decompress(self._at, size, packed, len(packed)) == size)

    def empty(self, size: int) -> bool:
        """Whether the first `size` bytes of `view`, at least one, are zeros."""
        return self.view[0] == 0 and _crypto.memcmp(self._at, self._at + 1, size - 1) == 0

    @staticmethod
    def _do(result: int) -> None:
        if result != 1:
            raise Failed("libcrypto does not do AES-GCM")


# ---- What is sent: items ----


class Member(NamedTuple):
    """A file, as the head has it."""

    name: str
    size: int
    mode: int
    mtime: int
    """Nanoseconds."""
    digest: str = ""
    """sha256, hexadecimal; empty when it is not to be checked."""


class Digests:
    """SHA-256 of members that come one after the other, compared with what they should be."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self.known = any(member.digest for member in members)
        self._at, self._seen = 0, 0
        self._digest = hashlib.sha256()

    def feed(self, view: memoryview) -> str:
        """The next bytes; what is wrong with the first member of them that is not what it should be, or nothing."""
        while view and self.known:
            member = self._members[self._at]
            piece = view[: member.size - self._seen]
            if member.digest:
                self._digest.update(piece)
            view = view[len(piece) :]
            self._seen += len(piece)
            if self._seen < member.size:
                continue
            digest = self._digest.hexdigest()
            if member.digest and digest != member.digest:
                return f"{member.name}: its sha256 is {digest}, expected {member.digest}"
            self._at, self._seen, self._digest = self._at + 1, 0, hashlib.sha256()
        return ""


_RECORD = struct.Struct("!B16s")
Record = tuple[int, bytes]
"""Of a block that is here and checked: kind (DATA, ZERO, PACKED) and tag."""


class Item:
    """What is sent as one sequence of blocks: a file, or small files one after the other."""

    def __init__(self, number: int, members: Sequence[Member], block: int) -> None:
        self.number = number
        self.members = tuple(members)
        self.block = block
        self.size = sum(member.size for member in members)
        self.blocks = -(-self.size // block)
        self.there = 0
        """How many blocks are here and checked."""
        self._records = bytearray()  # a million of them are no burden so
        self._changed = threading.Condition()

    @property
    def done(self) -> int:
        """Bytes."""
        return min(self.there * self.block, self.size)

    def length(self, block: int) -> int:
        return min(self.block, self.size - block * self.block)

    def record(self, block: int, timeout: float) -> Record | None:
        """The block's record, as soon as it is there; None when it is not in time."""
        with self._changed:
            if not self._changed.wait_for(lambda: block < self.there, timeout):
                return None
            kind, tag = _RECORD.unpack_from(self._records, block * _RECORD.size)
            return kind, tag

    def add(self, record: Record) -> None:
        with self._changed:
            self._records += _RECORD.pack(*record)
            self.there += 1
            self._changed.notify_all()

    def load(self, block: int, view: memoryview) -> None:
        """Read the block."""
        raise NotImplementedError


def hole(descriptor: int, offset: int, size: int) -> bool:
    """Whether the file system stores nothing there."""
    try:
        return os.lseek(descriptor, offset, os.SEEK_DATA) >= offset + size
    except OSError as error:
        return error.errno == errno.ENXIO  # no data up to the end


class Pieces:
    """Files one after the other, as if they were one."""

    def __init__(self, members: Sequence[Member], opened: Callable[[int], int]) -> None:
        self._sizes = [member.size for member in members]
        self._opened = opened
        self._open: tuple[int, int] = (-1, -1)
        self._first, self._start = 0, 0
        self._lock = threading.Lock()

    def load(self, offset: int, view: memoryview) -> None:
        """Raises EOFError when a file is shorter than it should be, OSError when one cannot be read."""
        with self._lock:
            if offset < self._start:
                self._first, self._start = 0, 0
            while view:
                index, start = self._first, self._start
                if offset >= start + self._sizes[index]:
                    self._first, self._start = index + 1, start + self._sizes[index]
                    continue
                piece = view[: start + self._sizes[index] - offset]
                size = os.preadv(self._descriptor(index), [piece], offset - start)
                if size == 0:
                    raise EOFError
                view, offset = view[size:], offset + size

    def hole(self, offset: int, size: int) -> bool:
        """Whether nothing is stored there, as far as that can be told without reading."""
        with self._lock:
            return len(self._sizes) == 1 and hole(self._descriptor(0), offset, size)

    def _descriptor(self, index: int) -> int:
        if self._open[0] != index:
            self.close()
            self._open = (index, self._opened(index))
        return self._open[1]

    def close(self) -> None:
        if self._open[0] >= 0:
            os.close(self._open[1])
            self._open = (-1, -1)


def claimed(descriptor: int, name: str, folder: int) -> bool:
    """Whether this open file is ours alone now, and still the one of that name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except (BlockingIOError, FileNotFoundError):
        return False


def write(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        size = os.pwrite(descriptor, view, offset)
        view, offset = view[size:], offset + size


def sweep(folder: int) -> None:
    """Remove what transfers have left that nobody has taken up again."""
    with os.scandir(folder) as entries:
        old = [entry.name for entry in entries if PART.fullmatch(entry.name) and _age(entry) > FORGOTTEN]
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


# ---- Where files go ----


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
            for first in range(0, len(named), ADOPTED):
                self._ask(named[first : first + ADOPTED])
            self._ask([])

    def _ask(self, named: Sequence[tuple[str, str]]) -> None:
        self._keeper.send(json.dumps(named, ensure_ascii=False).encode())
        answer = self._keeper.recv(REQUEST).decode()
        if answer != DONE:
            raise Failed(answer or "the service has lost its other half")


DONE = "done"


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
        while request := child.recv(REQUEST):
            try:
                self._do(json.loads(request))
                answer = DONE
            except OSError as error:
                answer = error.strerror or str(error)
            except (Failed, ValueError, TypeError, RecursionError) as error:
                answer = str(error)[:TEXT] or type(error).__name__
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
            deadline = time.monotonic() + WRITER
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


def divide(folder: int, user: str, sockets: Sequence[socket.socket]) -> Store:
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
        drop(person, parent)
        return KeptStore(folder, drafts, service)
    service.close()
    for sock in sockets:
        sock.close()
    signal.signal(signal.SIGIO, signal.SIG_IGN)  # of a lease that somebody breaks
    with contextlib.suppress(ConnectionError):
        Keeper(folder, drafts, person.pw_uid, person.pw_gid).serve(keeper)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    sys.exit(code if code >= 0 else 1)


def drop(person: pwd.struct_passwd, parent: int) -> None:
    """Be that user for good, and end with `parent`."""
    os.setgroups([])
    os.setgid(person.pw_gid)
    os.setuid(person.pw_uid)
    no_new_privileges, parent_death_signal = 38, 1  # PR_SET_…; the latter is forgotten when the user changes
    if _crypto.prctl(no_new_privileges, 1, 0, 0, 0) or _crypto.prctl(
        parent_death_signal, signal.SIGKILL, 0, 0, 0
    ):
        raise OSError(errno.EPERM, "prctl")
    if os.getresuid() != (person.pw_uid,) * 3 or os.getppid() != parent:
        raise Failed("root's part has ended")


class Copy(Item):
    """An item on this host: first files that may be it already, or what an earlier transfer has left of it.

    Neither counts before every block of it has been checked by its tag.
    """

    def __init__(self, number: int, members: Sequence[Member], block: int, store: Store) -> None:
        super().__init__(number, members, block)
        self.store = store
        same = json.dumps([[member.name, member.size, member.digest or member.mtime] for member in members])
        self._stem = "." + hashlib.sha256(same.encode()).hexdigest()[:32]
        self.part = f"{self._stem}.part"
        self.descriptor = -1
        self.had = all(self._present(member) for member in members)
        """It is all here under its names, as far as we know."""
        self.known = self.blocks
        """Before this block only tags are needed."""
        self._there = Pieces(
            members, lambda index: self._open(members[index].name, os.O_RDONLY, store.folder)
        )
        self._digests = Digests(members)
        self._wrong = ""
        """Which member has another digest than it should, and what."""

    @staticmethod
    def _open(name: str, flags: int, folder: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600, dir_fd=folder)

    def _present(self, member: Member) -> bool:
        try:
            status = os.stat(member.name, dir_fd=self.store.folder, follow_symlinks=False)
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == member.size

    def resume(self) -> None:
        """Look for what an earlier transfer has left, and keep other transfers away from it."""
        if self.had:
            return
        drafts = self.store.drafts
        self.descriptor = self._open(self.part, os.O_RDWR | os.O_CREAT, drafts)
        with self.store.claiming:
            if not claimed(self.descriptor, self.part, drafts):
                raise Failed(f"{self.members[0].name}: another transfer brings it here")
        self.known = os.fstat(self.descriptor).st_size // self.block
        # A part of a block is nothing to go on with, and in its place there may have to be a hole.
        os.ftruncate(self.descriptor, self.known * self.block)

    def load(self, block: int, view: memoryview) -> None:
        if self.had:
            self._there.load(block * self.block, view)
        elif os.preadv(self.descriptor, [view], block * self.block) != len(view):
            raise EOFError

    def holds(self, kind: int, block: int, tag: bytes, seal: Seal) -> bool:
        """Whether the block of this frame, KNOWN or ZERO, is here; the frame itself is checked by that."""
        number = self.number
        view = seal.view[: self.length(block)]
        if kind == ZERO:
            if not seal.fits(tag, number, block, 0):
                raise Rubbish("a block has a wrong tag")
            if block >= self.known or self._hole(block):
                return True
        try:
            self.load(block, view)
        except (EOFError, FileNotFoundError, PermissionError):
            return False
        if kind == ZERO:
            return seal.empty(len(view))
        return hmac.compare_digest(tag, seal.tag(number, block, len(view)))

    def _hole(self, block: int) -> bool:
        offset, size = block * self.block, self.length(block)
        return self._there.hole(offset, size) if self.had else hole(self.descriptor, offset, size)

    def correct(self, seal: Seal) -> None:
        """What is here is right up to `done` only: keep that, forget the rest."""
        kept = self.there
        if self.had:
            there, self.had = self._there, False
            self.resume()
            for block in range(kept):
                view = seal.view[: self.length(block)]
                there.load(block * self.block, view)
                write(self.descriptor, view, block * self.block)
                self._hash(view)
            there.close()
        os.ftruncate(self.descriptor, kept * self.block)
        self.known = 0

    def take(self, record: Record, view: memoryview, new: bool) -> None:
        """A checked block; one of zeros stays a hole."""
        if new:
            write(self.descriptor, view, self.there * self.block)
        if self._digests.known and not self.had:
            self._hash(memoryview(bytes(len(view))) if record[0] == ZERO else view)
        self.add(record)

    def _hash(self, view: memoryview) -> None:
        self._wrong = self._wrong or self._digests.feed(view)

    def finish(self) -> None:
        """All blocks are there: give the file its name; of several, make them, to be given their names by `settle`."""
        if self.had:
            return
        if self._wrong:
            os.unlink(self.part, dir_fd=self.store.drafts)
            raise Failed(self._wrong)
        os.ftruncate(self.descriptor, self.size)  # zeros at its end are not written
        if len(self.members) > 1:
            self._split()
            return
        member = self.members[0]
        self._write_no_more()
        self._mark(self.descriptor, member)
        os.fsync(self.descriptor)
        self.store.adopt([(self.part, member.name)])

    def _write_no_more(self) -> None:
        """The draft's descriptor can read only from now on; who serves from it meanwhile sees no difference."""
        reader = self._open(self.part, os.O_RDONLY, self.store.drafts)
        try:
            with self.store.claiming:
                # The claim goes over first: a thread that reads at this moment keeps the old descriptor's file open.
                fcntl.flock(self.descriptor, fcntl.LOCK_UN)
                fcntl.flock(reader, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.dup2(reader, self.descriptor, inheritable=False)
        finally:
            os.close(reader)

    @staticmethod
    def _mark(descriptor: int, member: Member) -> None:
        os.fchmod(descriptor, member.mode)
        os.utime(descriptor, ns=(member.mtime, member.mtime))

    def _split(self) -> None:
        offset = 0
        for index, member in enumerate(self.members):
            data = os.pread(self.descriptor, member.size, offset)
            offset += member.size
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
            descriptor = self._open(self._piece(index), flags, self.store.drafts)
            try:
                write(descriptor, memoryview(data), 0)
                self._mark(descriptor, member)
            finally:
                os.close(descriptor)

    def made(self) -> list[tuple[str, str]]:
        """The files that `finish` has made of several, as drafts, and their names."""
        return [(self._piece(index), member.name) for index, member in enumerate(self.members)]

    def _piece(self, index: int) -> str:
        return f"{self._stem}.{index}.part"

    def close(self) -> None:
        self._there.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


# ---- The side that gives ----


class Recent:
    """The last packed blocks, so that they are packed once only, at the head."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._blocks: dict[tuple[int, int], bytes] = {}
        self._lock = threading.Lock()

    def put(self, item: int, block: int, packed: bytes) -> None:
        with self._lock:
            self._blocks[item, block] = packed
            if len(self._blocks) > self._most:
                del self._blocks[next(iter(self._blocks))]

    def get(self, item: int, block: int) -> bytes | None:
        return self._blocks.get((item, block))


class Transfer:
    """What one transfer's sources share: key, items, and the connections of whoever pulls."""

    def __init__(self, identity: bytes, key: bytes, block: int, encrypt: bool, items: Sequence[Item]) -> None:
        self.identity = identity
        self.block = block
        self.encrypt = encrypt
        self.items = items
        self.hello_key = proof(key, b"hello")
        self.seal_key = proof(key, b"seal")
        self.closed = False
        self.recent = Recent(RECENT // block)
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()

    def seal(self) -> Seal:
        return Seal(self.seal_key, self.block, self.encrypt)

    @contextlib.contextmanager
    def holding(self, sock: socket.socket) -> Iterator[None]:
        """The connection ends with the transfer, whoever waits for it."""
        with self._lock:
            if self.closed:
                raise Fault("the transfer is over")
            self._sockets.add(sock)
        try:
            yield
        finally:
            with self._lock:
                self._sockets.discard(sock)

    def close(self) -> None:
        with self._lock:
            self.closed = True
            for sock in self._sockets:
                hang_up(sock)

    def serve(self, sock: socket.socket, wants: Sequence[tuple[int, int, int]]) -> None:
        """Send what a puller wants, each block as soon as it is here; raises OSError when it is gone."""
        seal = self.seal()
        sock.settimeout(SLOW)
        with self.holding(sock):
            for number, first, known in wants:
                item = self.items[number]
                for block in range(first, item.blocks):
                    while (record := item.record(block, BEAT)) is None:
                        sock.sendall(NOTHING_YET)
                    kind, tag = record
                    data: memoryview | bytes = b""
                    if kind != ZERO and block < known:
                        kind = KNOWN
                    elif kind == PACKED:
                        data = self._packed(item, block, seal)
                    elif kind == DATA:
                        data = self._block(item, block, tag, seal)
                    sock.sendall(FRAME.pack(kind, number, block, len(data), tag))
                    sock.sendall(data)
                    self.sent(len(data))

    def _block(self, item: Item, block: int, tag: bytes, seal: Seal) -> memoryview:
        size = item.length(block)
        item.load(block, seal.view[:size])
        if seal.encrypt and seal.tag(item.number, block, size) != tag:
            raise Fault("the file is another now")
        return seal.wire[:size]

    def _packed(self, item: Item, block: int, seal: Seal) -> bytes:
        packed = self.recent.get(item.number, block)
        if packed is None:
            size = item.length(block)
            item.load(block, seal.view[:size])
            packed = seal.pack(size)
        if packed is None:
            raise Fault("the file is another now")
        return packed

    def sent(self, size: int) -> None:
        """Told of every block."""


Find = Callable[[bytes], Optional[Transfer]]  # noqa: UP045 - Python 3.9


def admit(sock: socket.socket, find: Find) -> tuple[Transfer, list[tuple[int, int, int]]]:
    """The transfer that a puller belongs to, proved, and what it wants."""
    until = time.monotonic() + PATIENCE
    magic, identity, nonce = HELLO.unpack(take(sock, HELLO.size, until))
    transfer = find(identity)
    if magic != MAGIC or transfer is None:
        raise Fault("no such transfer")
    own = secrets.token_bytes(len(nonce))
    sock.sendall(own + proof(transfer.hello_key, b"source", identity, nonce, own))
    expected = proof(transfer.hello_key, b"puller", identity, nonce, own)
    if not hmac.compare_digest(take(sock, len(expected), until), expected):
        raise Fault("it has not the transfer's key")
    count = COUNT.unpack(take(sock, COUNT.size, until))[0]
    if count > len(transfer.items):
        raise Fault("it wants too much")
    wants = [WANT.unpack(take(sock, WANT.size, until)) for _ in range(count)]
    if any(number >= len(transfer.items) for number, _, _ in wants):
        raise Fault("it wants what there is not")
    return transfer, wants


# ---- The side that takes ----


class Puller:
    """Gets a transfer's items from whatever source it is told, in a thread of its own.

    `say` is told {"ready"} once, {"fault", "source", "rubbish"} about a source, and at last {"arrived", "had",
    "received"}, {"lacks", "received"} or {"failed"}.
    """

    def __init__(
        self,
        transfer: Transfer,
        items: Sequence[Copy],
        stall: float,
        dry: bool,
        say: Callable[[Message], None],
    ) -> None:
        self.transfer = transfer
        self.items = items
        self.received = 0
        self._stall = stall
        self._dry = dry
        self._say = say
        self._source: Message | None = None
        self._sock: socket.socket | None = None
        self._ended = False
        self._made: list[Copy] = []
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._run, daemon=True)

    @property
    def done(self) -> int:
        return sum(item.done for item in self.items)

    def turn_to(self, source: Message | None) -> None:
        """Pull from another source from now on; without one, end."""
        with self._changed:
            self._source = source
            self._ended = source is None
            if self._sock is not None:
                hang_up(self._sock)
            self._changed.notify_all()

    def _run(self) -> None:
        try:
            self._say(self._work())
        except Failed as error:
            self._say(failed(error))
        except Exception as error:  # whatever it is, the head must not wait for us
            self._say(failed(f"{type(error).__name__}: {error}"))
            raise

    def _work(self) -> Message:
        lacks = [item for item in self.items if not item.had] if self._dry else []
        pending = [item for item in self.items if item not in lacks]
        with local():
            for item in pending:
                item.resume()
        self._say({"ready": True, "unpacks": _zstd is not None})
        while pending:
            with self._changed:
                self._changed.wait_for(lambda: self._source is not None or self._ended)
                source = self._source
            if source is None:
                raise Failed("the head has ended it")
            try:
                self._pull(source, pending)
            except _Other:
                if self._dry:
                    lacks.append(pending.pop(0))
                else:
                    with local():
                        pending[0].correct(self.transfer.seal())
            except (Fault, OSError) as error:
                with self._changed:
                    if self._source is source:
                        self._source = None
                        why = (str(error) or type(error).__name__)[:TEXT]
                        self._say(
                            {"fault": why, "source": source["name"], "rubbish": isinstance(error, Rubbish)}
                        )
        if self._dry:
            return {"lacks": [member.name for item in lacks for member in item.members], "received": 0}
        names: dict[bool, list[str]] = {True: [], False: []}
        for item in self.items:
            names[item.had] += [member.name for member in item.members]
        return {"had": names[True], "arrived": names[False], "received": self.received}

    def _pull(self, source: Message, pending: list[Copy]) -> None:
        """Take the pending items from there; each that is finished is pending no longer."""
        seal = self.transfer.seal()
        address = (source["address"], source["port"])
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock, self._current(source, sock):
            sock.settimeout(self._stall)
            sock.connect(address)
            self._introduce(sock, [(item.number, item.there, item.known) for item in pending])
            while pending:
                item = pending[0]
                for block in range(item.there, item.blocks):
                    self._block(sock, seal, item, block)
                with local():
                    item.finish()
                    self._settle(item, last=len(pending) == 1)
                pending.pop(0)

    def _settle(self, item: Copy, *, last: bool) -> None:
        """Give small files their names, many after one sync: each is on the disk before it appears."""
        if len(item.members) > 1 and not item.had:
            self._made.append(item)
        if self._made and (last or sum(made.size for made in self._made) >= SETTLE):
            store = item.store
            if _crypto.syncfs(store.drafts) != 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            store.adopt([named for made in self._made for named in made.made()])
            for made in self._made:
                os.unlink(made.part, dir_fd=store.drafts)
            self._made.clear()

    @contextlib.contextmanager
    def _current(self, source: Message, sock: socket.socket) -> Iterator[None]:
        with self._changed:
            if self._source is not source:
                raise Fault("another source is due")
            self._sock = sock
        try:
            yield
        finally:
            with self._changed:
                self._sock = None

    def _introduce(self, sock: socket.socket, wants: Sequence[tuple[int, int, int]]) -> None:
        """Prove to each other that both belong to the transfer, and say what is wanted."""
        transfer = self.transfer
        nonce = secrets.token_bytes(32)
        sock.sendall(HELLO.pack(MAGIC, transfer.identity, nonce))
        theirs = take(sock, len(nonce))
        expected = proof(transfer.hello_key, b"source", transfer.identity, nonce, theirs)
        if not hmac.compare_digest(take(sock, len(expected)), expected):
            raise Rubbish("it has not the transfer's key")
        own = proof(transfer.hello_key, b"puller", transfer.identity, nonce, theirs)
        sock.sendall(own + COUNT.pack(len(wants)) + b"".join(WANT.pack(*want) for want in wants))

    def _block(self, sock: socket.socket, seal: Seal, item: Copy, block: int) -> None:
        record = take(sock, FRAME.size)
        while record[0] == BEAT_FRAME:
            record = take(sock, FRAME.size)
        kind, number, index, packed, tag = FRAME.unpack(record)
        if (number, index) != (item.number, block):
            raise Rubbish("a frame is not what was asked for")
        size = item.length(block)
        if kind in (DATA, PACKED):
            self._fetch(sock, seal, item, block, kind, packed)
            if not seal.fits(tag, number, block, size):
                raise Rubbish("a block has a wrong tag")
        elif kind in (KNOWN, ZERO):
            with local():
                if not item.holds(kind, block, tag, seal):
                    raise _Other
        else:
            raise Rubbish("a frame is of no known kind")
        with local():
            item.take((DATA if kind == KNOWN else kind, tag), seal.view[:size], kind in (DATA, PACKED))

    def _fetch(self, sock: socket.socket, seal: Seal, item: Copy, block: int, kind: int, packed: int) -> None:
        """The block's bytes, not yet checked."""
        size = item.length(block)
        if kind == DATA:
            read(sock, seal.wire[:size])
            self.received += size
            return
        if not 0 < packed < size or seal.encrypt or _zstd is None:
            raise Rubbish("a packed block is not what it should be")
        data = take(sock, packed)
        self.received += packed
        if not seal.unpack(data, size):
            raise Rubbish("a block cannot be unpacked")
        self.transfer.recent.put(item.number, block, data)


class _Other(Exception):
    """What is here is not what the head has."""


class Session:
    """One transfer, as long as the head keeps its control connection open."""

    def __init__(self, lines: Lines, store: Store, transfers: dict[bytes, Transfer]) -> None:
        self.lines = lines
        self._store = store
        self._transfers = transfers
        self._said: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._woken, self._wake = os.pipe()

    def _say(self, message: Message) -> None:
        self._said.put(message)
        os.write(self._wake, b".")

    def run(self) -> None:
        """Raises OSError or ValueError when the head is gone or talks nonsense."""
        start = self._start()
        if start.get("version") != VERSION:
            self.lines.send(failed(f"speaks version {VERSION} of the chain, not {start.get('version')}"))
            return
        try:
            terms = terms_of(start)
            if terms.identity in self._transfers:
                raise ValueError("this transfer is under way")
        except (KeyError, TypeError, ValueError) as error:
            self.lines.send(failed(f"does not understand the head: {error}"))
            return
        identity, stall = terms.identity, terms.stall
        if not terms.dry:
            with self._store.claiming:
                sweep(self._store.drafts)
        items = [Copy(number, item, terms.block, self._store) for number, item in enumerate(terms.items)]
        transfer = Transfer(identity, terms.key, terms.block, terms.encrypt, items)
        puller = Puller(transfer, items, stall, terms.dry, self._say)
        self._transfers[identity] = transfer
        puller.thread.start()
        try:
            self._talk(puller, 3 * stall)
        finally:
            del self._transfers[identity]
            puller.turn_to(None)
            transfer.close()
            puller.thread.join()
            for copy in items:
                copy.close()

    def _start(self) -> Message:
        messages = self.lines.receive(PATIENCE)
        if len(messages) != 1:
            raise ValueError("one message was expected")
        return messages[0]

    def _talk(self, puller: Puller, patience: float) -> None:
        heard = time.monotonic()
        told = 0.0
        while True:
            ready = readable([self.lines.sock.fileno(), self._woken], BEAT)
            if self.lines.sock.fileno() in ready:
                heard = time.monotonic()
                for message in self.lines.receive():
                    if "address" in message:
                        puller.turn_to(source_of(message, self.lines.sock.getpeername()[0]))
            elif time.monotonic() - heard > patience:
                raise TimeoutError("the head is silent")
            if self._woken in ready:
                os.read(self._woken, 1)
                self.lines.send(self._said.get())
            if time.monotonic() - told >= BEAT:
                told = time.monotonic()
                self.lines.send({"done": puller.done, "received": puller.received})

    def close(self) -> None:
        os.close(self._woken)
        os.close(self._wake)


class Terms(NamedTuple):
    """What the head says of a transfer at its start."""

    identity: bytes
    key: bytes
    block: int
    stall: float
    encrypt: bool
    dry: bool
    items: list[list[Member]]


def terms_of(start: Message) -> Terms:
    """Raises KeyError, TypeError or ValueError on what is no start of a transfer.  Takes the items out of it."""
    items = start.pop("items")
    for item in items:
        item[:] = map(member_of, item)  # in place, as there may be many
    block, stall = start["block"], start["stall"]
    identity, key = bytes.fromhex(start["transfer"]), bytes.fromhex(start["key"])
    if len(identity) != 16 or len(key) != 32:
        raise ValueError("its transfer or key is of the wrong size")
    if type(block) is not int or not BLOCKS[0] <= block <= BLOCKS[1]:
        raise ValueError("its block is of the wrong size")
    if type(stall) not in (int, float) or not 0 < stall <= 3600:
        raise ValueError("stall: expected up to 3600 seconds")
    if not all(items):
        raise ValueError("an item without a file")
    return Terms(identity, key, block, stall, bool(start.get("encrypt")), bool(start.get("dry")), items)


def source_of(message: Message, head: str) -> Message:
    """Whom to pull from; without an address it is the head.  Raises ValueError on what is none."""
    name, address, port = (message.get(key) for key in ("name", "address", "port"))
    if not isinstance(name, str) or not isinstance(address, str) or type(port) is not int:
        raise ValueError("a source without name, address or port")
    if not 0 < port < 1 << 16:
        raise ValueError("a source's port is none")
    return {"name": name, "address": str(ipaddress.ip_address(address)) if address else head, "port": port}


def check_name(name: Any) -> None:
    """Raises ValueError on what is no name of a file that may be in the folder."""
    if not isinstance(name, str):
        raise ValueError("a file's name is no text")
    if not name or name[0] == "." or "/" in name or not name.isprintable() or len(name.encode()) > 255:
        raise ValueError(f"{name[:300]!r}: not a file name")


def member_of(fields: Sequence[Any]) -> Member:
    """Raises ValueError or TypeError on what is no file that may be put into the folder."""
    name, size, mode, mtime, digest = fields
    check_name(name)
    if not all(type(number) is int for number in (size, mode, mtime)):
        raise ValueError(f"{name}: its size, mode or time is no number")
    if not 0 <= size < 1 << 62 or not 0 <= mtime < 1 << 63:
        raise ValueError(f"{name}: wrong size or time")
    if not isinstance(digest, str) or not re.fullmatch("([0-9a-f]{64})?", digest):
        raise ValueError(f"{name}: its sha256 is none")
    return Member(name, size, mode & 0o777, mtime, digest)


# ---- The service ----


class Guest:
    """A connection, and the socket that it goes by now."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock


class Listener:
    """Takes connections, each in a thread; `STRANGERS` at most that have not said who they are."""

    def __init__(self, sockets: Sequence[socket.socket], find: Find) -> None:
        self.sockets = sockets
        self.find = find
        self._strangers: set[Guest] = set()
        self._lock = threading.Lock()
        self.threads: set[threading.Thread] = set()

    def accept(self, timeout: float) -> None:
        """Wait for connections, at most that long, and take them."""
        ready = readable([listening.fileno() for listening in self.sockets], timeout)
        for listening in self.sockets:
            if listening.fileno() not in ready:
                continue
            with contextlib.suppress(OSError):
                guest = Guest(listening.accept()[0])
                with self._lock:
                    if len(self._strangers) >= STRANGERS:
                        # Any of them: who fills the places, however fast, hardly hits one that needs its own for a
                        # moment only.
                        out = secrets.choice(tuple(self._strangers))
                        self._strangers.discard(out)
                        hang_up(out.sock)
                    self._strangers.add(guest)
                thread = threading.Thread(target=self._meet, args=(guest,), daemon=True)
                self.threads.add(thread)
                thread.start()

    def _meet(self, guest: Guest) -> None:
        try:
            with guest.sock as sock, contextlib.suppress(Fault, Failed, OSError, EOFError, ValueError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.settimeout(PATIENCE)
                self.meet(guest)
        finally:
            self.known(guest)
            self.threads.discard(threading.current_thread())

    def known(self, guest: Guest) -> None:
        """It has said who it is, or is gone."""
        with self._lock:
            self._strangers.discard(guest)

    def meet(self, guest: Guest) -> None:
        """Find out who it is, say that it is `known`, and do what it wants."""
        transfer, wants = admit(guest.sock, self.find)
        self.known(guest)
        transfer.serve(guest.sock, wants)


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

    def meet(self, guest: Guest) -> None:
        if guest.sock.recv(1, socket.MSG_PEEK) == MAGIC[:1]:
            super().meet(guest)
            return
        with self._context.wrap_socket(guest.sock, server_side=True, do_handshake_on_connect=False) as tls:
            guest.sock = tls
            tls.do_handshake()
            certificate = tls.getpeercert() or {}
            if certificate.get("subject") != ((("commonName", MANAGER),),):
                raise Fault("it is not the site manager")
            self.known(guest)
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


def more_files() -> None:
    """As many open files as we may have."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def main() -> None:
    parser = argparse.ArgumentParser(description="Take files from the chain, and pass them on.")
    parser.add_argument("--folder", required=True, help="where the files go")
    parser.add_argument("--ca", required=True, help="certificate of the site's authority (PEM)")
    parser.add_argument("--certificate", required=True, help="this host's (PEM)")
    parser.add_argument("--key", required=True, help="this host's (PEM)")
    parser.add_argument("--user", help="who does all but give finished files, which are root's, their names")
    parser.add_argument("--listen", metavar="ADDRESS:PORT", help="by default systemd's socket")
    parser.add_argument(
        "--idle", type=float, default=0.0, help="seconds without work after which to end; 0: never"
    )
    options = parser.parse_args()
    if options.listen:
        address, _, port = options.listen.rpartition(":")
        sockets = [listen(address.strip("[]"), int(port))]
    elif os.environ.get("LISTEN_PID") == str(os.getpid()):
        sockets = [socket.socket(fileno=3 + index) for index in range(int(os.environ["LISTEN_FDS"]))]
    else:
        parser.error("neither --listen nor a socket of systemd's")
    more_files()
    context = tls_context(ssl.Purpose.CLIENT_AUTH, options.ca, options.certificate, options.key)
    folder = os.open(options.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        store = divide(folder, options.user, sockets) if options.user else Store(folder, folder)
    except (Failed, KeyError) as error:
        parser.error(f"{options.folder}, {options.user}: {error}")
    Service(sockets, context, store).run(options.idle)


if __name__ == "__main__":
    main()
