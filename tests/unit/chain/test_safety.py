"""Who may do what with a hop, and the pieces that this stands on."""

import contextlib
import json
import os
import socket
import ssl
import threading
import time
from collections import deque
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hops import Hosts, Trust, made, wait_for
from hypothesis import given, settings
from hypothesis import strategies as st

from vclust_hop import items, messages, sending, service, tags, wire
from vclust_py import pki
from vclust_py.chain import File, Keys, head, report, send
from vclust_py.site import Site

GONE = "^$|reset|[Bb]roken pipe|alert|EOF|closed"
"""How the end of a connection is told."""
KEY = bytes(range(32))
ITEMS = [[messages.Member("image", 1 << 20, 0o644, 0)]]


def test_its_manager_is_the_sites() -> None:
    assert service.MANAGER == pki.CLIENT


def start(**values: object) -> dict[str, object]:
    return {
        "version": wire.VERSION,
        "transfer": "00" * 16,
        "key": KEY.hex(),
        "block": 1 << 16,
        "stall": 1,
        "items": ITEMS,
        **values,
    }


def commanded(host: service.Listener, keys: Keys, message: object) -> str:
    """What a hop says to a head with these keys first; raises OSError when it says nothing."""
    context = service.tls_context(ssl.Purpose.SERVER_AUTH, *map(str, (keys.ca, keys.certificate, keys.key)))
    with (
        socket.create_connection((host.hop.address, host.hop.port), 5) as sock,
        context.wrap_socket(sock, server_hostname=host.hop.identity) as tls,
    ):
        tls.sendall(json.dumps(message).encode() + b"\n")
        answer = tls.recv(1 << 16).decode()
        if not answer:
            raise ConnectionResetError
        return answer


def test_only_the_site_manager_commands(hosts: Hosts, tmp_path: Path) -> None:
    (host,) = hosts.start(1)
    assert json.loads(commanded(host, hosts.trust.head, start()).splitlines()[0])["ready"]
    with pytest.raises(OSError, match=GONE):
        commanded(host, hosts.trust.host, start())  # another host of the site
    other = made(tmp_path / "other")
    with pytest.raises(OSError, match=GONE):  # another site's manager, who trusts this site's hosts
        commanded(host, Keys(hosts.trust.head.ca, other.head.certificate, other.head.key), start())
    assert not list(host.folder.glob("image"))


def test_keys_of_another_site(hosts: Hosts, tmp_path: Path) -> None:
    other = made(tmp_path / "other")
    mine, *_ = hosts.start(1)
    theirs, *_ = hosts.start(1, other)
    path = tmp_path / "image"
    path.write_bytes(b"x")
    good, bad = send([File(path)], [mine.hop, theirs.hop], hosts.trust.head)
    assert good.failed == ""
    assert bad.failed.startswith("shows a certificate that is not this site's")
    keys = Keys(other.head.ca, hosts.trust.head.certificate, hosts.trust.head.key)
    (bad,) = send([File(path)], [theirs.hop], keys)
    assert bad.failed.endswith("does it know this site's authority, and is its clock right?")


def test_a_host_that_was_taken_out(hosts: Hosts, tmp_path: Path) -> None:
    """The one that is still in the site gets the file."""
    out, still = hosts.start(2)
    path = tmp_path / "image"
    path.write_bytes(b"x")
    site = Site(root=hosts.trust.head.ca.parents[1])
    pki.withdraw(site, pki.Machine(out.hop.name, ""))
    bad, good = send([File(path)], [out.hop, still.hop], report.keys(site))
    assert bad.failed == "shows a certificate that was revoked when its host was taken out of the site"
    assert (good.failed, good.arrived) == ("", ("image",))


def test_clocks_that_differ(hosts: Hosts, tmp_path: Path) -> None:
    """To whose clock is behind, the other's certificate is of the future; the hour that roll-outs date back is fine."""
    path = tmp_path / "image"
    path.write_bytes(b"x")
    sites = [made(tmp_path / name, timedelta(hours=hours)) for name, hours in (("near", 0.9), ("far", 2.0))]
    near, far = (hosts.start(1, trust)[0] for trust in sites)
    (good,) = send([File(path)], [near.hop], sites[0].head)
    assert good.failed == ""
    (bad,) = send([File(path)], [far.hop], sites[1].head)
    assert bad.failed.startswith("shows a certificate that is not good now: certificate is not yet valid")
    assert bad.failed.endswith("are the clocks right, its and the site manager's?")
    # A hop that knows both sites' authorities sees the manager's certificate of the future.
    both = tmp_path / "both.pem"
    both.write_bytes(sites[0].head.ca.read_bytes() + sites[1].head.ca.read_bytes())
    (host,) = hosts.start(1, Trust(sites[0].head, sites[0].host, sites[0].ahead, both))
    (bad,) = send([File(path)], [host.hop], Keys(both, sites[1].head.certificate, sites[1].head.key))
    assert bad.failed.endswith("is its clock right?")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"version": 0}, "speaks version 1 of the chain, not 0"),
        ({"block": 1 << 40}, "does not understand the head"),
        ({"key": "00"}, "does not understand the head"),
        ({"items": 3}, "does not understand the head"),
        ({"items": [[["../image", 1, 0, 0, ""]]]}, "not a file name"),
        ({"items": [[["image", -1, 0, 0, ""]]]}, "wrong size"),
        ({"items": [[["image", "1", 0, 0, ""]]]}, "does not understand the head"),
    ],
)
def test_what_a_hop_refuses(hosts: Hosts, values: dict[str, object], why: str) -> None:
    (host,) = hosts.start(1)
    assert why in json.loads(commanded(host, hosts.trust.head, start(**values)))["failed"]


def test_links_are_not_followed(hosts: Hosts, tmp_path: Path) -> None:
    (host,) = hosts.start(1)
    target = tmp_path / "precious"
    target.write_bytes(b"other")
    (host.folder / "image").symlink_to(target)
    path = tmp_path / "image"
    path.write_bytes(b"image")
    (outcome,) = send([File(path)], [host.hop], hosts.trust.head)
    assert outcome.arrived == ("image",)
    assert target.read_bytes() == b"other"
    assert not (host.folder / "image").is_symlink()


def test_an_older_hop_is_told_as_such(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "image"
    path.write_bytes(b"x")
    (host,) = hosts.start(1)
    monkeypatch.setattr(head, "VERSION", 2)
    (outcome,) = send([File(path)], [host.hop], hosts.trust.head)
    assert outcome.failed == "speaks version 1 of the chain, not 2"


@pytest.mark.parametrize("flooded", [False, True])
def test_connections_that_say_nothing_do_not_keep_the_head_out(
    hosts: Hosts, tmp_path: Path, flooded: bool
) -> None:
    """More than there are places, who say nothing; `flooded`: and new ones as fast as they can be opened."""
    path = tmp_path / "image"
    path.write_bytes(b"x")
    (host,) = hosts.start(1)
    held = [
        socket.create_connection((host.hop.address, host.hop.port))
        for _ in range(2 * service.MAX_UNAUTHENTICATED)
    ]
    over, recent = threading.Event(), deque[socket.socket](maxlen=512)

    def flood() -> None:
        while flooded and not over.is_set():
            with contextlib.suppress(OSError):
                recent.append(socket.create_connection((host.hop.address, host.hop.port)))

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        (outcome,) = send([File(path)], [host.hop], hosts.trust.head)
    finally:
        over.set()
        thread.join()
    silent = [sock for sock in (*held, *recent) if sock.fileno() >= 0]
    gone = wire.readable([sock.fileno() for sock in silent], 0)
    for sock in silent:
        sock.close()
    assert outcome.failed == ""
    assert outcome.arrived == ("image",)
    # The head did not have to wait until they were sent away: most places are still theirs.
    assert len(silent) - len(gone) > service.MAX_UNAUTHENTICATED / 2


class Serving:
    """Data connections to something that serves one transfer of one file, in this process."""

    def __init__(self, transfer: sending.Transfer) -> None:
        self.transfer = transfer
        self.listening = service.listen("127.0.0.1", 0)
        self.listener = service.Listener([self.listening], {transfer.identity: transfer}.get)

    def connect(self) -> socket.socket:
        sock = socket.create_connection(self.listening.getsockname(), 10)
        self.listener.accept(1.0)
        return sock


class Bytes(items.Item):
    """In memory."""

    def __init__(self, data: bytes, seal: tags.Seal) -> None:
        super().__init__(0, [messages.Member("image", len(data), 0o644, 0)], len(seal.view))
        self.data = data
        for block in range(self.blocks):
            self.load(block, seal.view[: self.length(block)])
            tag = seal.tag(0, block, self.length(block))
            self.add((wire.DATA, tag))

    def load(self, block: int, view: memoryview) -> None:
        view[:] = self.data[block * self.block :][: len(view)]


@pytest.fixture
def serving() -> Serving:
    transfer = sending.Transfer(bytes(16), KEY, 1 << 16, False, [])
    transfer.items = [Bytes(os.urandom(100_000), transfer.seal())]
    return Serving(transfer)


def hello(sock: socket.socket, key: bytes, wants: bytes) -> bytes:
    """What a puller with that key gets, the source's proof left out."""
    auth = wire.proof(key, b"hello")
    nonce = os.urandom(32)
    sock.sendall(wire.HELLO.pack(wire.MAGIC, bytes(16), nonce))
    theirs = wire.receive_exactly(sock, 64)[:32]
    sock.sendall(wire.proof(auth, b"puller", bytes(16), nonce, theirs) + wants)
    return rest(sock)


def rest(sock: socket.socket) -> bytes:
    data = b""
    try:
        while more := sock.recv(1 << 16):
            data += more
    except ConnectionResetError:
        pass
    return data


ALL = wire.COUNT.pack(1) + wire.WANT.pack(0, 0, 0)


def test_who_has_the_key_gets_the_blocks(serving: Serving) -> None:
    with serving.connect() as sock:
        got = hello(sock, KEY, ALL)
    size = wire.FRAME.size
    data = serving.transfer.items[0].data
    assert got[size:][: 1 << 16] == data[: 1 << 16]
    assert got[2 * size + (1 << 16) :] == data[1 << 16 :]


@pytest.mark.parametrize(
    ("key", "wants"),
    [
        (bytes(32), ALL),
        (KEY, wire.COUNT.pack(2) + 2 * wire.WANT.pack(0, 0, 0)),
        (KEY, wire.COUNT.pack(1) + wire.WANT.pack(7, 0, 0)),
        (KEY, wire.COUNT.pack(0xFFFFFFFF)),
    ],
)
def test_others_get_nothing(serving: Serving, key: bytes, wants: bytes) -> None:
    with serving.connect() as sock:
        assert hello(sock, key, wants) == b""


def test_what_was_said_once_is_worth_nothing(serving: Serving) -> None:
    """The puller's words of one connection, played again."""
    nonce = os.urandom(32)
    first = wire.HELLO.pack(wire.MAGIC, bytes(16), nonce)
    with serving.connect() as sock:
        sock.sendall(first)
        theirs = wire.receive_exactly(sock, 64)[:32]
        second = wire.proof(serving.transfer.hello_key, b"puller", bytes(16), nonce, theirs) + ALL
        sock.sendall(second)
        assert rest(sock)
    with serving.connect() as sock:
        sock.sendall(first + second)
        assert len(rest(sock)) == 64  # a new nonce and its proof, and no more


@pytest.mark.parametrize(
    "words", [b"", b"V", b"GET / HTTP/1.1\r\n\r\n", wire.HELLO.pack(b"VCH9", bytes(16), KEY)]
)
def test_who_says_too_little_is_sent_away(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(wire, "TIMEOUT", 0.3)
    with serving.connect() as sock:
        sock.sendall(words)
        assert rest(sock) == b""  # at once, not when this end's own time is over, which raises


def test_slow_words_do_not_hold_a_place(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TIMEOUT", 0.5)
    words = wire.HELLO.pack(wire.MAGIC, bytes(16), KEY)
    count = 0
    with serving.connect() as sock, contextlib.suppress(OSError):
        for byte in words:
            count += sock.send(bytes([byte]))
            time.sleep(0.05)
    assert count < len(words)  # each came in time, and all together did not


def test_only_so_many_unauthenticated_connections(serving: Serving) -> None:
    waiting = [serving.connect() for _ in range(service.MAX_UNAUTHENTICATED + 1)]
    gone = wire.readable([sock.fileno() for sock in waiting], 5)
    assert len(gone) == 1
    (sent_away,) = (sock for sock in waiting if sock.fileno() in gone)
    assert rest(sent_away) == b""
    for sock in waiting:
        sock.close()
    wait_for(lambda: not serving.listener.threads)
    with serving.connect() as sock:
        assert hello(sock, KEY, ALL)


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1))
def test_tags_are_gcm(data: bytes, item: int, block: int) -> None:
    seal = tags.Seal(KEY, 5000)
    seal.view[: len(data)] = data
    nonce = item.to_bytes(4, "big") + block.to_bytes(8, "big")
    assert seal.tag(item, block, len(data)) == AESGCM(KEY).encrypt(nonce, b"", data)
    sealed = tags.Seal(KEY, 5000, encrypt=True)
    sealed.view[: len(data)] = data
    tag = sealed.tag(item, block, len(data))
    assert bytes(sealed.wire[: len(data)]) + tag == AESGCM(KEY).encrypt(nonce, data, b"")
    sealed.view[: len(data)] = bytes(len(data))
    assert sealed.fits(tag, item, block, len(data))
    assert sealed.view[: len(data)] == data
    assert not sealed.fits(tag, item, block ^ 1, len(data))
    sealed.wire[0] ^= 1
    assert not sealed.fits(tag, item, block, len(data))
    assert seal.tag(item, block, 0) == AESGCM(KEY).encrypt(nonce, b"", b"")
    assert seal.is_zero(len(data)) == (not any(data))


@settings(max_examples=50)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.data())
def test_pieces_are_one_file(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    whole = os.urandom(sum(sizes))
    members = []
    for index, size in enumerate(sizes):
        start = sum(sizes[:index])
        (folder / str(index)).write_bytes(whole[start : start + size])
        members.append(messages.Member(str(index), size, 0, 0))
    pieces = items.Pieces(members, lambda index: os.open(folder / str(index), os.O_RDONLY))
    for _ in range(5):
        first = data.draw(st.integers(0, len(whole)))
        last = data.draw(st.integers(first, len(whole)))
        room = bytearray(last - first)
        pieces.load(first, memoryview(room))
        assert room == whole[first:last]
    pieces.close()


@given(st.text(max_size=300))
def test_a_name_stays_in_its_folder(name: str) -> None:
    try:
        member = messages.member_of([name, 0, 0o644, 0, ""])
    except ValueError:
        return
    assert os.path.basename(member.name) == name
    assert name not in ("", ".", "..")
    assert len(os.fsencode(name)) <= 255
