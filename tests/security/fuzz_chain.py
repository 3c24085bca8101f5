"""What a hop may say to the head, the head to a hop, hops to each other, and a hop's user to root's part: any of it.

`CASES`: by name, a strategy, and what is done with each value.  That raises when a part that is to bear anything raises
what it does not declare, says more than 4 KB, or touches a file that it should not.
"""

import atexit
import contextlib
import functools
import json
import os
import pwd
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hops import made
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from vclust_hop import files, items, keeper, messages, receiving, sending, session, store, tags, wire
from vclust_py.chain import File, Hop, Options, policy
from vclust_py.chain.connections import Connection
from vclust_py.chain.head import Chain
from vclust_py.chain.peers import HEAD

LONGEST = 4096
"""Bytes of what is told to a person."""
BLOCK = wire.BLOCKS[0]
KEY = bytes(range(32))
NOBODY = pwd.getpwnam("nobody")

Value = Any
Check = Callable[[Value], None]


@functools.cache
def place() -> Path:
    """For all inputs of this process."""
    folder = Path(tempfile.mkdtemp(prefix="vclust-fuzz-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def odd() -> SearchStrategy[Value]:
    """Values of JSON as nobody would write them."""
    numbers = st.sampled_from(
        [
            -1,
            0,
            1,
            3,
            7.5,
            1 << 31,
            1 << 62,
            1 << 63,
            1 << 64,
            10**400,
            1e308,
            float("nan"),
            float("inf"),
            True,
        ]
    )
    texts = st.one_of(
        st.text(max_size=20),
        st.sampled_from(
            ["", ".", "..", "../x", "a/b", "a\nb", "\x1b]0;x\x07", "x" * 5000, "\ud800", HEAD, "host1"]
        ),
    )
    plain = st.one_of(st.none(), numbers, texts)
    return st.one_of(
        plain, st.lists(plain, max_size=4), st.dictionaries(st.text(max_size=5), plain, max_size=3)
    )


def mostly(*good: Value) -> SearchStrategy[Value]:
    """One of these, or now and then something odd."""
    return st.one_of(*3 * [st.sampled_from(good)], odd())


def message(**fields: SearchStrategy[Value]) -> SearchStrategy[dict[str, Value]]:
    """With one of these fields missing at times."""
    names = (None, None, None, *fields)
    return st.tuples(st.fixed_dictionaries(fields), st.sampled_from(names)).map(
        lambda drawn: {key: value for key, value in drawn[0].items() if key != drawn[1]}
    )


class Repeated(NamedTuple):
    """Words of a line, each so many times: as these, what fails is printed in short."""

    words: tuple[tuple[str, int], ...]


def raw() -> SearchStrategy[bytes | Repeated]:
    """Lines that are hardly JSON."""
    long = [
        (("[", 50_000),), (('{"a":', 10_000),), (("[", 900), ("]", 900)), (("1", 5000),),
        (('{"failed": "', 1), ("x", 100_000), ('"}', 1)), (('{"done": ', 1), ("[", 600), ("]", 600), ("}", 1)),
    ]  # fmt: skip
    return st.one_of(
        st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"")), st.sampled_from(long).map(Repeated)
    )


def line(value: dict[str, Value] | bytes | Repeated) -> bytes:
    if isinstance(value, Repeated):
        return "".join(word * count for word, count in value.words).encode() + b"\n"
    return (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n"


# ---- From hops to the head ----

_NAMES = ("image", "small")
_HOPS = 3


def hop_messages() -> SearchStrategy[list[tuple[int, dict[str, Value] | bytes | Repeated]]]:
    """Which hop says what, one after the other."""
    sources = mostly(HEAD, "host0", "host1", "host2")
    count = mostly(0, 1, BLOCK, 2 * BLOCK, 2 * BLOCK + 6)
    said = st.one_of(
        message(done=count, received=count),
        message(ready=mostly(True), unpacks=mostly(True, False)),
        message(
            fault=mostly("a block has a wrong tag", "x" * 9000), source=sources, rubbish=mostly(True, False)
        ),
        message(failed=mostly("No space left on device", "x" * 100_000)),
        message(arrived=mostly(["image", "small"], ["image"], []), had=mostly([], ["small"]), received=count),
        message(lacks=mostly(["image"], []), received=count),
        st.dictionaries(st.text(max_size=8), odd(), max_size=3),
        raw(),
    )
    return st.lists(st.tuples(st.integers(0, _HOPS - 1), said), min_size=1, max_size=12)


@functools.cache
def chain() -> Chain:
    folder = place() / "head"
    folder.mkdir()
    for name, size in zip(_NAMES, (2 * BLOCK, 6), strict=True):
        (folder / name).write_bytes(os.urandom(size))
    trust = made(folder / "trust")
    hops = [Hop(f"host{number}", "127.0.0.1", 1000 + number) for number in range(_HOPS)]
    sources = [File(folder / name) for name in _NAMES]
    made_chain = Chain(sources, hops, trust.head, Options(), lambda progress: None, threading.Event(), False)
    made_chain._port = 1
    return made_chain


def check_hop_messages(said: list[tuple[int, dict[str, Value] | bytes | Repeated]]) -> None:
    """The head bears it; nobody is dropped who has said nothing, and nothing long is told."""
    head = chain()
    head.peers, head.connections, head.results, head.failed = {}, {}, {}, {}
    head.transfer.tagged = head.limits.total if len(said) % 2 else BLOCK
    ends, socks = [], []
    for number in range(_HOPS):
        ours, theirs = socket.socketpair()
        ends.append(theirs)
        socks.append(ours)
        head._admit(Connection(head.hops[number], wire.Lines(ours), "127.0.0.1"))  # type: ignore[arg-type]
    # Half of the time the transfer has begun when they speak.
    if len(said) % 3:
        head.peers = {name: peer.became_ready(peer.moved, True) for name, peer in head.peers.items()}
    try:
        head._decide()
        for number, one in said:
            with contextlib.suppress(OSError):
                ends[number].setblocking(False)
                ends[number].send(line(one))
            head._receive(f"host{number}")
            head._decide()
    finally:
        for connection in head.connections.values():
            head._selector.unregister(connection.lines.sock)
        for sock in (*socks, *ends):
            sock.close()
    spoke = {f"host{number}" for number, _ in said}
    assert head.failed.keys() <= spoke, (head.failed, spoke)
    told = [
        *head.failed.values(),
        *(one for warnings in policy.warnings(head.peers.values()).values() for one in warnings),
    ]
    assert all(len(one.encode(errors="replace")) <= LONGEST for one in told), max(told, key=len)[:200]


# ---- From the head to a hop ----


def head_messages() -> SearchStrategy[list[dict[str, Value] | bytes | Repeated]]:
    """A start, and what comes after it."""
    name = mostly("image", "small", "größe", "x" * 255)
    digest = mostly("", "0" * 64)
    member = st.one_of(
        st.tuples(name, mostly(0, 1, 10, 1 << 20), mostly(0o644), mostly(0, 1), digest).map(list), odd()
    )
    items = st.one_of(st.lists(st.lists(member, max_size=3), max_size=3), odd())
    start = message(
        version=mostly(wire.VERSION), transfer=mostly("00" * 16), key=mostly("00" * 32), block=mostly(BLOCK, 1 << 20),
        stall=mostly(1, 0.5), encrypt=mostly(True, False), dry=mostly(True, False), items=items,
    )  # fmt: skip
    source = message(
        name=mostly(HEAD, "host1"), address=mostly("", "127.0.0.1", "::1"), port=mostly(1, 65535)
    )
    more = st.lists(st.one_of(source, st.just({}), raw()), max_size=3)
    return st.tuples(st.one_of(start, start, start, raw()), more).map(lambda drawn: [drawn[0], *drawn[1]])


class _Plain(wire.Lines):
    """On a socket pair; what is sent is kept."""

    def send(self, message: wire.Message, timeout: float = 10.0) -> None:
        assert len(json.dumps(message)) <= LONGEST, message
        super().send(message, timeout)


class _End:
    """Of a socket pair, which has no address."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def getpeername(self) -> tuple[str, int]:
        return ("127.0.0.1", 1)


@functools.cache
def hop_store() -> store.Store:
    (place() / "hop").mkdir()
    folder = os.open(place() / "hop", os.O_RDONLY)
    return store.Store(folder, folder)


def check_head_messages(said: list[dict[str, Value] | bytes | Repeated]) -> None:
    """The session ends by what it declares; there is nothing in the folder but drafts, and in check mode not these."""
    failures: list[Any] = []
    hook, threading.excepthook = threading.excepthook, failures.append
    ours, theirs = socket.socketpair()
    transfers: dict[bytes, sending.Transfer] = {}
    with ours, theirs:
        theirs.settimeout(0.2)
        talk = session.Session(_Plain(_End(ours)), hop_store(), transfers)  # type: ignore[arg-type]
        try:
            theirs.sendall(line(said[0]))
            sender = b"".join(map(line, said[1:]))
            with contextlib.suppress(OSError):
                theirs.setblocking(False)
                theirs.send(sender)
            theirs.shutdown(socket.SHUT_WR)
            talk.run()
        except (OSError, ValueError):
            pass
        finally:
            talk.close()
            threading.excepthook = hook
    assert not failures, failures
    assert not transfers
    left = os.listdir(place() / "hop")
    for name in left:
        (place() / "hop" / name).unlink()
    assert all(store.PART.fullmatch(name) for name in left), left
    start = said[0]
    assert not left or not isinstance(start, dict) or not start.get("dry"), left


# ---- From hop to hop: frames, and who asks for them ----


Frame = tuple[int, int, int, int | None, bytes | int, bool]
"""Kind, item, block, length (None: the data's own), data (or so many zeros), and whether the tag is the data's."""


def frames() -> SearchStrategy[list[Frame]]:
    small = st.integers(0, 6)
    edges = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, (1 << 32) - 1])
    packed = st.sampled_from([packed_zeros(), packed_zeros()[:-1], b"\x28\xb5\x2f\xfd" + b"\xff" * 40])
    data = st.one_of(st.binary(max_size=40), st.just(BLOCK), packed)
    frame = st.tuples(
        st.one_of(small, st.integers(0, 255)), st.sampled_from([0, 0, 0, 1, (1 << 32) - 1]),
        st.sampled_from([0, 0, 0, 1, (1 << 64) - 1]), st.one_of(st.none(), edges), data, st.booleans(),
    )  # fmt: skip
    return st.lists(frame, min_size=1, max_size=3)


@functools.cache
def packed_zeros() -> bytes:
    seal = tags.Seal(KEY, BLOCK)
    return seal.pack(BLOCK) or b""


@functools.cache
def puller() -> tuple[receiving.Puller, tags.Seal, store.Store]:
    (place() / "puller").mkdir()
    folder = os.open(place() / "puller", os.O_RDONLY)
    transfer = sending.Transfer(bytes(16), KEY, BLOCK, False, [])
    return (
        receiving.Puller(transfer, [], 1.0, False, lambda message: None),
        transfer.seal(),
        store.Store(folder, folder),
    )


def check_frames(sent: list[Frame]) -> None:
    """No block counts but with the tag of its bytes; a source that sends anything else is at fault, and no more."""
    taker, seal, where = puller()
    copy = files.Copy(0, [messages.Member("image", 2 * BLOCK, 0o644, 0)], BLOCK, where)
    ours, theirs = socket.socketpair()
    good = 0
    try:
        copy.resume()
        words = b""
        for kind, item, block, length, given, tagged in sent:
            data = bytes(given) if isinstance(given, int) else given
            tag = bytes(16)
            if tagged:
                seal.view[: min(len(data), BLOCK)] = data[:BLOCK]
                seal.view[min(len(data), BLOCK) :] = bytes(max(0, BLOCK - len(data)))
                tag = seal.tag(0, len(words) and 1, 0 if kind == wire.ZERO else BLOCK)
                good += 1
            size = len(data) if length is None else length
            words += wire.FRAME.pack(kind & 255, item, block, size, tag) + data
        ours.settimeout(0.2)
        theirs.settimeout(0.2)
        with contextlib.suppress(OSError):
            theirs.sendall(words)
        theirs.shutdown(socket.SHUT_WR)
        for block in range(2):
            taker._block(ours, seal, copy, block)
    except (wire.Fault, wire.Failed, receiving._Different, OSError):
        pass
    finally:
        ours.close()
        theirs.close()
        copy.close()
    assert copy.verified <= good
    left = os.listdir(place() / "puller")
    assert left == [copy.part], left
    (place() / "puller" / copy.part).unlink()


def greetings() -> SearchStrategy[tuple[bytes, bool, bytes]]:
    """The first words of whoever pulls, whether its proof is right, and what it wants."""
    identity = st.sampled_from([bytes(16), bytes(16), b"\1" * 16])
    hello = st.builds(
        wire.HELLO.pack, st.sampled_from([wire.MAGIC, wire.MAGIC, b"VCH9"]), identity, st.just(KEY)
    )
    number = st.sampled_from([0, 0, 1, (1 << 32) - 1])
    first = st.sampled_from([0, 1, 2, (1 << 64) - 1])
    want = st.builds(wire.WANT.pack, number, first, first)
    wants = st.tuples(st.sampled_from([0, 1, 1, 2, (1 << 32) - 1]), st.lists(want, max_size=3)).map(
        lambda drawn: struct.pack("!I", drawn[0]) + b"".join(drawn[1])
    )
    return st.tuples(
        st.one_of(hello, hello, hello, st.binary(max_size=60)),
        st.booleans(),
        st.one_of(wants, st.binary(max_size=30)),
    )


@functools.cache
def source() -> sending.Transfer:
    class Bytes(items.Item):
        def load(self, block: int, view: memoryview) -> None:
            view[:] = bytes(len(view))

    transfer = sending.Transfer(bytes(16), KEY, BLOCK, False, [])
    item = Bytes(0, [messages.Member("image", BLOCK + 5, 0o644, 0)], BLOCK)
    seal = transfer.seal()
    for block in range(item.blocks):
        item.add((wire.DATA, seal.tag(0, block, item.length(block))))
    transfer.items = [item]
    return transfer


def check_greetings(words: tuple[bytes, bool, bytes]) -> None:
    """Who has not the key gets no block; nothing else is raised than what is declared."""
    hello, right, wants = words
    transfer = source()
    ours, theirs = socket.socketpair()
    failures: list[BaseException] = []
    served: list[bool] = []

    def serve() -> None:
        try:
            with ours:
                ours.settimeout(1.0)
                found, wanted = sending.authenticate(ours, {bytes(16): transfer}.get)
                served.append(True)
                found.serve(ours, wanted)
        except (wire.Fault, wire.Failed, OSError, EOFError, ValueError):
            pass
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve)
    thread.start()
    with theirs, contextlib.suppress(OSError, wire.Fault):
        theirs.settimeout(1.0)
        theirs.sendall(hello)
        if len(hello) < wire.HELLO.size:
            theirs.shutdown(socket.SHUT_WR)
        nonce = wire.receive_exactly(theirs, 64)[:32]
        proof = wire.proof(transfer.hello_key, b"puller", bytes(16), hello[20:52], nonce)
        theirs.sendall((proof if right else bytes(32)) + wants)
        theirs.shutdown(socket.SHUT_WR)
        while theirs.recv(1 << 16):
            pass
    thread.join()
    assert not failures, failures
    assert right or not served


# ---- From a hop's user to root's part ----


def keeper_requests() -> SearchStrategy[tuple[bytes, int]]:
    """A request, and what is where the draft should be."""
    draft = mostly(f".{1:032x}.part", f".{1:032x}.2.part", f".{2:032x}.part")
    named = st.lists(st.tuples(draft, mostly("image", "x" * 255)).map(list), max_size=3)
    request = st.one_of(named, odd()).map(lambda value: json.dumps(value).encode())
    return st.tuples(st.one_of(request, request, st.binary(min_size=1, max_size=60)), st.integers(0, 4))


@functools.cache
def root_part() -> tuple[keeper.Keeper, Path]:
    images = place() / "images"
    images.mkdir()
    folder = os.open(images, os.O_RDONLY)
    drafts = keeper.drafts_of(folder, NOBODY.pw_gid)
    return keeper.Keeper(folder, drafts, NOBODY.pw_uid, NOBODY.pw_gid), images


def check_keeper_requests(words: tuple[bytes, int]) -> None:
    """An answer always; only files of the user's get names, and then they are root's; nothing is followed."""
    request, what = words
    part, images = root_part()
    drafts = images / store.DRAFTS
    draft, precious = drafts / f".{1:032x}.part", place() / "precious"
    precious.write_bytes(b"root's")
    match what:
        case 0:
            draft.symlink_to(precious)
        case 1:
            draft.hardlink_to(precious)
        case 2:
            draft.mkdir()
        case _:
            draft.write_bytes(b"draft")
            os.chown(draft, NOBODY.pw_uid, NOBODY.pw_gid)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(request)
        theirs.shutdown(socket.SHUT_WR)
        part.serve(ours)
        answer = theirs.recv(store.MAX_REQUEST)
    assert answer
    assert len(answer) <= LONGEST
    status = precious.stat()
    assert (precious.read_bytes(), status.st_uid, status.st_mode & 0o777) == (b"root's", 0, 0o644)
    for path in list(images.iterdir()):
        if path != drafts:
            status = path.lstat()
            assert what > 2, (request, path)
            assert (status.st_uid, status.st_mode & 0o222, status.st_nlink) == (0, 0, 1)
            path.unlink()
    for path in list(drafts.iterdir()):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


CASES: dict[str, tuple[SearchStrategy[Value], Check]] = {
    "hop to head": (hop_messages(), check_hop_messages),
    "head to hop": (head_messages(), check_head_messages),
    "frames": (frames(), check_frames),
    "greetings": (greetings(), check_greetings),
}
if os.geteuid() == 0:
    CASES["root's part"] = (keeper_requests(), check_keeper_requests)
