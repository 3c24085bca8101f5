"""What a host of the site, a machine on the network and a hop that was taken over can do to the chain, and cannot."""

import contextlib
import fcntl
import json
import mmap
import os
import pwd
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jinja2
import pytest
from hops import Hosts, Running, Trust, answers, free_port, made, private, requested, shipped, wait_for

from vclust_hop import keeper, service, store, wire
from vclust_py import pki, x509
from vclust_py.chain import File, Hop, Keys, Options, Outcome, identity, peers, policy, send
from vclust_py.errors import VclustError
from vclust_py.site import PROJECT, Site

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

MB = 1 << 20
QUICK = Options(block=1 << 16, stall=1.5)
HERE = Path(__file__).parent
NOBODY = pwd.getpwnam("nobody")
GONE = "^$|reset|[Bb]roken pipe|alert|EOF|closed"
"""How the end of a connection is told."""


@pytest.fixture
def file(tmp_path: Path) -> File:
    path = tmp_path / "image"
    path.write_bytes(os.urandom(16 * MB) * 4)
    return File(path)


def program(name: str) -> str:
    return str(HERE / f"chain_{name}.py")


def sent(file: File, running: Sequence[Running], keys: Keys, options: Options = QUICK) -> dict[str, Outcome]:
    return {one.host: one for one in send([file], [host.hop for host in running], keys, options)}


def without(file: File, running: Sequence[Running]) -> list[str]:
    """Hosts that have not got the file."""
    data = file.path.read_bytes()
    return [
        host.hop.name
        for host in running
        if not (host.folder / file.path.name).exists() or (host.folder / file.path.name).read_bytes() != data
    ]


# ---- A host of the site that lies ----


@pytest.mark.parametrize("places", [(5,), (2,), (0,), (1, 4), (2, 3), (0, 1)])
def test_who_accuses_its_sources_has_nobody_thrown_out(
    hosts: Hosts, file: File, places: tuple[int, ...]
) -> None:
    running = [hosts.start(1, program=program("liar") if place in places else "")[0] for place in range(6)]
    outcomes = sent(file, running, hosts.trust.head)
    liars = [running[place].hop.name for place in places]
    assert [name for name, outcome in outcomes.items() if outcome.failed] == liars
    assert without(file, running) == liars
    for name in liars:
        assert outcomes[name].failed.startswith("gets wrong data from ")
        assert outcomes[name].failed.endswith("the site manager: a block has a wrong tag")
    # Whom they have accused is cleared with that.
    assert not any(outcome.warnings for outcome in outcomes.values())


def test_one_that_is_accused_when_it_has_finished_keeps_its_result(
    hosts: Hosts, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The liar speaks at its last block, and then not again."""
    monkeypatch.setenv("HONEST", str(64 * MB // QUICK.block - 1))
    monkeypatch.setenv("ONCE", "1")
    running = [*hosts.start(1), *hosts.start(1, program=program("liar")), *hosts.start(1)]
    outcomes = sent(file, running, hosts.trust.head)
    assert without(file, running) == []
    told = "host2 got wrong data from host1: a block has a wrong tag; is the memory, disk or network card"
    assert [[one[: len(told)] for one in outcome.warnings] for outcome in outcomes.values()] == [
        [told],
        [told],
        [],
    ]


def test_a_hop_with_bad_memory_has_everybody_else_served(hosts: Hosts, file: File) -> None:
    bad = str(HERE.parent / "unit/chain/corrupt.py")
    running = [*hosts.start(2), *hosts.start(1, program=bad), *hosts.start(3)]
    outcomes = sent(file, running, hosts.trust.head)
    assert without(file, running) == []
    told = "host4 got wrong data from host3: a block has a wrong tag; is the memory, disk or network card"
    assert [outcome.warnings[0][: len(told)] for outcome in outcomes.values() if outcome.warnings] == [
        told
    ] * 2


def test_one_that_withholds_blocks_has_nobody_thrown_out(
    hosts: Hosts, file: File, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says that it has them, and to those who pull that there is nothing yet."""
    monkeypatch.setattr(policy, "STUCK", 2.0)
    monkeypatch.setattr(peers, "WINDOW", 60.0)  # or it would be put to the end as slow before
    running = [*hosts.start(1, program=program("silent")), *hosts.start(3)]
    outcomes = sent(file, running, hosts.trust.head)
    assert without(file, running) == []
    told = "host2 got nothing from host1: no progress for 2 s; can these two reach each other?"
    assert outcomes["host1"].warnings == outcomes["host2"].warnings == (told,)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("done", "talks nonsense: {'done': 67108864, "),
        ("arrived", "talks nonsense: {'arrived': ['image'], "),
        ("never ready", "is not ready after 2 s"),
        ("long", "\x1b[31m\x1b[31m"),
    ],
)
def test_one_that_boasts_costs_itself_only(
    hosts: Hosts, file: File, monkeypatch: pytest.MonkeyPatch, what: str, why: str
) -> None:
    monkeypatch.setenv("WHAT", what)
    running = [*hosts.start(1, program=program("boaster")), *hosts.start(2)]
    outcomes = sent(file, running, hosts.trust.head, Options(block=1 << 16, stall=1.5, start=2.0))
    assert outcomes["host1"].failed.startswith(why)
    assert len(outcomes["host1"].failed) <= 500
    assert without(file, running) == ["host1"]


# ---- Certificates ----


def commanded(at: Hop, keys: Keys) -> bool:
    """Whether the hop takes a command from whoever has these keys; what it shows itself is not looked at."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(keys.certificate, keys.key)
    start = {
        "version": wire.VERSION, "transfer": "00" * 16, "key": "00" * 32, "block": 1 << 16, "stall": 1, "dry": True,
        "items": [[["image", 1, 0o644, 0, ""]]],
    }  # fmt: skip
    try:
        with (
            socket.create_connection((at.address, at.port), 5) as sock,
            context.wrap_socket(sock) as tls,
        ):
            tls.sendall(json.dumps(start).encode() + b"\n")
            return bool(tls.recv(1 << 16))
    except OSError:
        return False


def test_only_the_site_manager_commands(hosts: Hosts, tmp_path: Path, trust: Trust) -> None:
    (host,) = hosts.start(1)
    assert commanded(host.hop, trust.head)
    other = made(tmp_path / "other")
    for keys in (trust.host, trust.hop("host2"), other.head, other.host, client(trust, tmp_path)):
        assert not commanded(host.hop, keys)


def client(trust: Trust, folder: Path) -> Keys:
    """Of somebody else than the site manager, though for clients and of the site's authority."""
    key, _ = requested()
    now = datetime.now(UTC)
    folder_of_site = trust.head.ca.parent
    (certificate,) = x509.certificates((folder_of_site / "cacert.pem").read_text())
    signer = x509.private_key((folder_of_site / "cakey.pem").read_text())
    assert signer is not None
    authority = x509.Authority(certificate, signer)
    issued = x509.issue(authority, "somebody", key.public_key(), x509.CLIENT, (), now)
    (folder / "cert.pem").write_text(x509.pem(issued))
    (folder / "key.pem").write_bytes(private(key))
    return Keys(trust.head.ca, folder / "cert.pem", folder / "key.pem")


def test_an_expired_manager_commands_nobody(hosts: Hosts, tmp_path: Path) -> None:
    """Its authority is good for ten years, its certificate for two."""
    old = made(tmp_path / "old", timedelta(days=-3 * 365))
    site = Site(root=old.head.ca.parents[1])
    (host,) = hosts.start(1, old)
    assert not commanded(host.hop, old.head)
    pki.roll_out(site)
    assert commanded(host.hop, old.head)


def test_the_head_sends_nothing_to_a_hop_whose_certificate_is_not_its_own(
    hosts: Hosts, file: File, tmp_path: Path, trust: Trust
) -> None:
    other = made(tmp_path / "other")
    expired = Trust(trust.head, trust.host, timedelta(days=-3 * 365))
    libvirt = trust.host
    running = [
        *hosts.start(1),
        *hosts.start(1, keys=libvirt),  # as an earlier release's hop did
        *hosts.start(1, keys=trust.hop("host1")),  # another host's hop
        *hosts.start(1, other),
        *hosts.start(1, expired),
    ]
    outcomes = sent(file, running, trust.head)
    assert without(file, running) == [f"host{number}" for number in (2, 3, 4, 5)]
    for name in ("host2", "host3"):
        assert outcomes[name].failed.startswith("shows a certificate that is not for its hop: ")
        assert f"'{name}.hop.vclust.invalid'" in outcomes[name].failed
    assert outcomes["host4"].failed.startswith("shows a certificate that is not this site's: ")
    assert outcomes["host5"].failed.startswith("shows a certificate that is not good now: ")


def test_a_hops_certificate_does_not_pass_for_libvirts(tmp_path: Path, trust: Trust) -> None:
    """The site manager calls libvirt by the host's address or name."""
    keys = trust.hop("127.0.0.1")
    assert served_as(keys, trust, identity("127.0.0.1"))
    for name in ("127.0.0.1", "host1", "localhost", "::1"):
        assert not served_as(keys, trust, name)
        assert not served_as(trust.hop("host1"), trust, name)
    for name in ("127.0.0.1", "::1"):
        assert served_as(trust.host, trust, name)


def served_as(keys: Keys, trust: Trust, name: str) -> bool:
    """Whether the site manager takes whoever shows these keys for that name."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(keys.certificate, keys.key)
    client = ssl.create_default_context(cafile=str(trust.head.ca))
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(theirs, ours, server_hostname=name),
        server.wrap_bio(ours, theirs, server_side=True),
    )
    try:
        for _ in range(4):
            for end in ends:
                try:
                    end.do_handshake()
                except ssl.SSLWantReadError:
                    continue
    except ssl.SSLCertVerificationError:
        return False
    return bool(ends[0].getpeercert())


def test_no_host_gets_a_hops_name_by_its_own(tmp_path: Path) -> None:
    _, csr = requested()
    for machine in (
        pki.Machine("xen1.hop.vclust.invalid", "192.0.2.1", csr),
        pki.Machine("xen2", "XEN1.HOP.vclust.invalid.", csr),
    ):
        with pytest.raises(VclustError, match="are those of hops' certificates"):
            pki.roll_out(Site(root=tmp_path / "site"), machine, now=datetime.now(UTC))


@pytest.mark.parametrize("name", ["xen1", "xen1.example.org", "x" * 45, "x" * 46, "Xen1", "::1", "*", "a..b"])
def test_every_host_has_a_name_for_its_hop(name: str, trust: Trust) -> None:
    assert len(identity(name)) <= 64
    assert served_as(trust.hop(name), trust, identity(name))
    assert not served_as(trust.hop(name), trust, identity(name + "x"))


# ---- A machine on the network, before it has shown a certificate ----


class Waiting:
    """A hop's service in this process, so that its limits can be made short."""

    def __init__(self, folder: Path, keys: Keys) -> None:
        context = service.tls_context(
            ssl.Purpose.CLIENT_AUTH, *map(str, (keys.ca, keys.certificate, keys.key))
        )
        self.folder = os.open(folder, os.O_RDONLY)
        self.listening = service.listen("127.0.0.1", 0)
        self.service = service.Service([self.listening], context, store.Store(self.folder, self.folder))

    def connect(self) -> socket.socket:
        sock = socket.create_connection(self.listening.getsockname(), 5)
        self.service.accept(1.0)
        return sock


@pytest.fixture
def waiting(tmp_path: Path, trust: Trust, monkeypatch: pytest.MonkeyPatch) -> Waiting:
    monkeypatch.setattr(wire, "TIMEOUT", 0.5)
    return Waiting(tmp_path, trust.hop("host1"))


def rest(sock: socket.socket) -> int:
    """How many bytes come until the end."""
    count = 0
    try:
        while data := sock.recv(1 << 16):
            count += len(data)
    except ConnectionError:
        pass
    return count


RECORD = bytes.fromhex("160301") + (1 << 14).to_bytes(2, "big")
"""The head of a TLS record of a handshake."""
HELLO = bytes([1]) + ((1 << 24) - 1).to_bytes(3, "big")
"""The head of a client's greeting of 16 MB."""


@pytest.mark.parametrize("words", [b"", b"\x16", RECORD, RECORD + HELLO, b"\0" * 100, b"VCH1" + b"x" * 10])
def test_who_says_too_little_is_sent_away(waiting: Waiting, words: bytes) -> None:
    with waiting.connect() as sock:
        sock.sendall(words)
        assert rest(sock) < 100  # before this end's own time is over, which raises


def test_slow_words_do_not_hold_a_place_before_tls(waiting: Waiting) -> None:
    words = RECORD + HELLO + bytes(1000)
    count = 0
    with waiting.connect() as sock:
        try:
            for byte in words:
                count += sock.send(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass
        assert rest(sock) < 100
    assert count < len(words)  # each came in time, and all together did not


def test_little_is_read_before_tls_ends(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a greeting of 16 MB that comes as fast as it is taken."""
    monkeypatch.setattr(wire, "TIMEOUT", 10.0)
    with waiting.connect() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        count = 0
        try:
            for first in (HELLO, *1023 * [b""]):
                count += sock.send(RECORD + first + bytes((1 << 14) - len(first)))
        except OSError:
            pass
    assert count < 8 * MB  # what is not read waits in the buffers of this machine's own network
    wait_for(lambda: not waiting.service.threads)


def test_only_so_many_may_be_unknown(waiting: Waiting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "TIMEOUT", 10.0)
    held = [waiting.connect() for _ in range(service.MAX_UNAUTHENTICATED + 8)]
    for sock in held:
        with contextlib.suppress(OSError):
            sock.sendall(RECORD)  # in TLS they are no less unknown
    wait_for(lambda: len(waiting.service.threads) == service.MAX_UNAUTHENTICATED)
    assert len(wire.readable([sock.fileno() for sock in held], 5)) == 8
    for sock in held:
        sock.close()


# ---- A hop that was taken over: it runs as a user that owns nothing but drafts ----


@pytest.fixture
def kept(hosts: Hosts) -> Running:
    """A hop of two processes, started with more groups than it is to keep."""
    before = os.getgroups()
    os.setgroups([4, 27])
    try:
        return hosts.start(1, options=["--user", NOBODY.pw_name])[0]
    finally:
        os.setgroups(before)


def drafts(host: Running) -> Path:
    return host.folder / store.DRAFTS


def child_of(pid: int) -> int:
    """It listens a moment before it divides, and what divides is root for a moment more."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_for(lambda: bool(children.read_text()))
    child = int(children.read_text().split()[0])
    wait_for(lambda: status_of(child, "NoNewPrivs") == ["1"])
    return child


def unclaimed(folder: Path) -> bool:
    """Whether no transfer is at work on a draft: a hop lets go a moment after its head is gone."""
    for path in folder.iterdir():
        with open(path, "rb") as draft:
            try:
                fcntl.flock(draft, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def status_of(pid: int, field: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith(f"{field}:"))


def test_what_works_with_the_network_is_nobody_for_good(kept: Running) -> None:
    root, service = kept.process.pid, child_of(kept.process.pid)
    assert status_of(service, "Uid") == [str(NOBODY.pw_uid)] * 4
    assert status_of(service, "Gid") == [str(NOBODY.pw_gid)] * 4
    assert status_of(service, "Groups") == []
    assert status_of(service, "NoNewPrivs") == ["1"]
    for field in ("CapEff", "CapPrm", "CapAmb", "CapInh"):
        assert int(status_of(service, field)[0], 16) == 0
    # Root's part has no connection and listens nowhere: one end of a pair, and folders.
    links = [os.readlink(path) for path in Path(f"/proc/{root}/fd").iterdir()]
    assert len([link for link in links if link.startswith("socket:")]) == 1
    assert len(os.listdir(f"/proc/{root}/task")) == 1


@pytest.mark.parametrize("victim", ["root", "service"])
def test_the_two_end_together(kept: Running, victim: str) -> None:
    root, service = kept.process.pid, child_of(kept.process.pid)
    os.kill(root if victim == "root" else service, 9)
    wait_for(lambda: kept.process.poll() is not None)
    wait_for(lambda: not Path(f"/proc/{service}").exists() or status_of(service, "State")[0] == "Z")


def as_nobody(code: str, *words: object) -> str:
    """What a program prints that runs as the hop's user."""
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", f"import os, sys\n{code}", *map(str, words)],
        user=NOBODY.pw_uid, group=NOBODY.pw_gid, extra_groups=[], capture_output=True, text=True, cwd="/", check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


TRY = """
folder = int(sys.argv[1])
def refused(what, *words, **more):
    try:
        what(*words, **more)
    except OSError as error:
        print(error.strerror)
    else:
        print('DONE')
refused(os.open, 'image', os.O_WRONLY, dir_fd=folder)
refused(os.unlink, 'image', dir_fd=folder)
refused(os.rename, 'image', 'other', src_dir_fd=folder, dst_dir_fd=folder)
refused(os.chmod, 'image', 0o666, dir_fd=folder)
refused(os.open, 'new', os.O_WRONLY | os.O_CREAT, dir_fd=folder)
refused(os.rename, '.incoming', 'away', src_dir_fd=folder, dst_dir_fd=folder)
print(len(os.read(os.open('image', os.O_RDONLY, dir_fd=folder), 10)))
"""


@pytest.mark.parametrize("mode", [0o444, 0o644, 0o600, 0o777])
def test_a_finished_file_is_roots(kept: Running, file: File, trust: Trust, mode: int) -> None:
    file.path.chmod(mode)
    small = file.path.with_name("small")
    small.write_bytes(b"little")
    files = [file, File(small)]
    for _ in range(2):  # the second time it is there, and is checked and served
        (outcome,) = send(files, [kept.hop], trust.head, QUICK)
        assert outcome.failed == ""
        for one in files:
            status = (kept.folder / one.path.name).stat()
            assert (status.st_uid, status.st_mode & 0o222, status.st_nlink) == (0, 0, 1)
            assert status.st_mtime_ns == one.path.stat().st_mtime_ns
            assert (kept.folder / one.path.name).read_bytes() == one.path.read_bytes()
    assert stat.S_IMODE((kept.folder / "image").stat().st_mode) == mode & 0o555 | 0o440
    assert list(drafts(kept).iterdir()) == []
    assert {path.name for path in kept.folder.iterdir()} == {"image", "small", store.DRAFTS}
    folder = os.open(kept.folder, os.O_RDONLY)
    os.set_inheritable(folder, True)
    try:
        done = subprocess.run(
            ["/usr/bin/python3", "-I", "-c", f"import os, sys\n{TRY}", str(folder)],
            user=NOBODY.pw_uid, group=NOBODY.pw_gid, extra_groups=[], capture_output=True, text=True, cwd="/",
            check=False, pass_fds=[folder],
        )  # fmt: skip
    finally:
        os.close(folder)
    lines = done.stdout.splitlines()
    assert lines[-1] == "10", done.stdout + done.stderr
    assert set(lines[:-1]) == {"Permission denied", "Operation not permitted"}


def test_a_chain_of_such_hops(hosts: Hosts, file: File) -> None:
    running = hosts.start(3, options=["--user", NOBODY.pw_name])
    outcomes = sent(file, running, hosts.trust.head)
    assert [outcome.failed for outcome in outcomes.values()] == [""] * 3
    assert without(file, running) == []


def test_a_file_that_is_damaged_is_replaced(kept: Running, file: File, trust: Trust) -> None:
    data = bytearray(file.path.read_bytes())
    data[40 * MB] ^= 1
    (kept.folder / "image").write_bytes(data)
    (kept.folder / "image").chmod(0o400)  # as another release may have left it
    (outcome,) = send([file], [kept.hop], trust.head, QUICK)
    assert (outcome.failed, outcome.arrived) == ("", ("image",))
    assert without(file, [kept]) == []


def test_an_interrupted_transfer_goes_on_where_it_was(kept: Running, file: File, trust: Trust) -> None:
    file.path.write_bytes(file.path.read_bytes() * 4)
    stop = threading.Event()

    def interrupt() -> None:
        while sum(path.stat().st_size for path in drafts(kept).iterdir()) < 8 * MB:
            time.sleep(0.002)
        stop.set()

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(VclustError, match="interrupted"):
        send([file], [kept.hop], trust.head, QUICK, stop=stop)
    thread.join()
    wait_for(lambda: unclaimed(drafts(kept)))
    (outcome,) = send([file], [kept.hop], trust.head, QUICK)
    assert outcome.failed == ""
    assert outcome.received <= 248 * MB
    assert without(file, [kept]) == []


class Pair:
    """Root's part of a hop, here as a thread, and its child's end."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.folder = os.open(folder, os.O_RDONLY)
        self.drafts = keeper.drafts_of(self.folder, NOBODY.pw_gid)
        ours, self.child = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.keeper = keeper.Keeper(self.folder, self.drafts, NOBODY.pw_uid, NOBODY.pw_gid)
        self.thread = threading.Thread(target=self.keeper.serve, args=(ours,))
        self.thread.start()

    def draft(self, number: int = 1) -> Path:
        path = self.path / store.DRAFTS / f".{number:032x}.part"
        path.write_bytes(b"draft")
        path.chmod(0o600)
        os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        return path

    def ask(self, request: object) -> str:
        self.child.send(request if isinstance(request, bytes) else json.dumps(request).encode())
        return self.child.recv(1 << 16).decode()

    def adopt(self, path: Path, name: object = "image") -> str:
        return self.ask([[path.name, name]])

    def end(self) -> None:
        self.child.close()
        self.thread.join()
        os.close(self.folder)
        os.close(self.drafts)


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    monkeypatch.setattr(keeper, "WRITER_TIMEOUT", 0.3)
    (tmp_path / "images").mkdir()
    pair = Pair(tmp_path / "images")
    yield pair
    pair.end()


def test_a_draft_gets_its_name(pair: Pair) -> None:
    path = pair.draft()
    path.chmod(0o6777)
    assert pair.adopt(path) == pair.ask([]) == store.DONE
    status = (pair.path / "image").stat()
    assert (status.st_uid, stat.S_IMODE(status.st_mode), status.st_nlink) == (0, 0o555, 1)
    assert not path.exists()
    (pair.path / "folder").mkdir()
    assert pair.adopt(pair.draft(), "folder") == "Is a directory"
    assert pair.adopt(pair.draft(), "image") == store.DONE
    assert sorted(entry.name for entry in pair.path.iterdir()) == [store.DRAFTS, "folder", "image"]


def test_a_draft_that_is_open_for_writing_is_not_taken(pair: Pair) -> None:
    path = pair.draft()
    with path.open("r+b"):
        assert pair.adopt(path) == "image: its draft is open for writing"
    assert [entry.name for entry in pair.path.iterdir()] == [store.DRAFTS]
    path = pair.draft()
    with path.open("r+b") as writer:
        shared = mmap.mmap(writer.fileno(), 0)
    assert pair.adopt(path) == "image: its draft is open for writing"
    shared.close()
    path = pair.draft()
    writer = path.open("r+b")
    threading.Timer(0.1, writer.close).start()
    assert pair.adopt(path) == store.DONE  # in a moment it was closed


def test_what_is_no_file_of_its_own_is_not_taken(pair: Pair, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_bytes(b"root's")
    refused = "image: its draft is not a file of the service's own"
    place = pair.path / store.DRAFTS
    own = tmp_path / "own"
    own.write_bytes(b"nobody's")
    os.chown(own, NOBODY.pw_uid, NOBODY.pw_gid)
    links = {
        8: lambda path: path.symlink_to(own),
        1: lambda path: path.symlink_to(precious),
        2: lambda path: path.hardlink_to(precious),
        3: lambda path: path.mkdir(),
        4: lambda path: os.mkfifo(path),
        5: lambda path: path.hardlink_to(pair.draft(9)),
        6: lambda path: path.write_bytes(b"root's"),
    }
    for number, make in links.items():
        path = place / f".{number:032x}.part"
        make(path)
        if not path.is_symlink() and number in (3, 4):
            os.chown(path, NOBODY.pw_uid, NOBODY.pw_gid)
        assert pair.adopt(path) == refused
        assert path.is_symlink() or path.exists()
    assert pair.adopt(place / f".{7:032x}.part") == "No such file or directory"
    assert (precious.read_bytes(), precious.stat().st_uid) == (b"root's", 0)
    assert [entry.name for entry in pair.path.iterdir()] == [store.DRAFTS]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "../image", "/etc/passwd", "a\nb", "x" * 256, "\udc80", None, 3, ["a"]],
)
def test_names_that_are_none_are_refused(pair: Pair, name: object) -> None:
    path = pair.draft()
    assert pair.adopt(path, name) not in (store.DONE, "")
    assert path.stat().st_uid == NOBODY.pw_uid
    assert [entry.name for entry in pair.path.iterdir()] == [store.DRAFTS]


@pytest.mark.parametrize(
    "request_",
    [
        b"{", b"[" * 100_000, b"3", b"null", b'"x"', b"[1]", b'[["a"]]', b'[["a", "b", "c"]]', b'[["../x", "image"]]',
        b'[["/etc/passwd", "image"]]', b'[[".a.part", "image"]]', b'[[3, "image"]]', b"\xff", b"[" + b" " * 150_000,
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(pair: Pair, request_: bytes) -> None:
    assert pair.ask(request_) not in (store.DONE, "")
    assert pair.adopt(pair.draft()) == store.DONE
    assert sorted(entry.name for entry in pair.path.iterdir()) == [store.DRAFTS, "image"]


def test_a_folder_that_others_can_change_is_not_served(tmp_path: Path, trust: Trust) -> None:
    tmp_path.chmod(0o777)
    keys = trust.hop("host1")
    argv = [
        sys.executable, shipped(), "--listen", "127.0.0.1:0", "--folder", tmp_path, "--ca", keys.ca, "--certificate",
        keys.certificate, "--key", keys.key, "--user", NOBODY.pw_name,
    ]  # fmt: skip
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == 2
    assert "the folder must be root's" in done.stderr


class Counting:
    """The child's end."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.requests = 0

    def send(self, data: bytes) -> int:
        self.requests += 1
        return self._sock.send(data)

    def recv(self, size: int) -> bytes:
        return self._sock.recv(size)


def test_ten_thousand_small_files_are_few_requests(pair: Pair) -> None:
    named = [(pair.draft(number).name, f"file{number}") for number in range(1, 10_001)]
    child = Counting(pair.child)
    store.KeptStore(pair.folder, pair.drafts, child).adopt(named)  # type: ignore[arg-type]
    assert child.requests == -(-10_000 // store.MAX_ADOPTIONS) + 1  # the last one syncs the folder, once
    assert len(os.listdir(pair.folder)) == 10_001


def test_systemds_sockets_reach_the_service(tmp_path: Path, hosts: Hosts, file: File, trust: Trust) -> None:
    """As its socket unit hands them over: number 3, for this process alone."""
    keys = trust.hop("host1")
    (tmp_path / "folder").mkdir()
    listening = service.listen("127.0.0.1", 0)
    words = [
        shipped(), "--folder", tmp_path / "folder", "--ca", keys.ca, "--certificate", keys.certificate, "--key",
        keys.key, "--user", NOBODY.pw_name, "--idle", "1",
    ]  # fmt: skip
    start = (
        "import os, sys\nos.dup2(int(sys.argv[1]), 3)\n"
        "os.environ |= {'LISTEN_PID': str(os.getpid()), 'LISTEN_FDS': '1'}\n"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", start, str(listening.fileno()), *map(str, words)],
        pass_fds=[listening.fileno()],
    )
    host = Running(Hop("host1", *listening.getsockname()), tmp_path / "folder", process)
    hosts.running.append(host)
    listening.close()
    (outcome,) = send([file], [host.hop], trust.head, QUICK)
    assert outcome.failed == ""
    assert (host.folder / "image").stat().st_uid == 0
    assert process.wait(10) == 0  # it has been idle, and both have ended


def test_the_script_of_a_host_without_systemd(tmp_path: Path, hosts: Hosts, file: File, trust: Trust) -> None:
    keys, port, pid = trust.hop("host1"), free_port("127.0.0.1"), tmp_path / "pid"
    (tmp_path / "folder").mkdir()
    words = ["--folder", tmp_path / "folder", "--user", NOBODY.pw_name, "--ca", keys.ca]
    words += ["--certificate", keys.certificate, "--key", keys.key]
    template = (PROJECT / "roles/vm_host/templates/vclust-hop.init.j2").read_text()
    text = jinja2.Template(template).render(
        _vm_host_hop=" ".join(map(str, (shipped(), *words))),
        _vm_host_listen="127.0.0.1",
        _vm_host_chain_port=port,
    )
    script = tmp_path / "script"
    script.write_text(text.replace("/run/vclust-hop.pid", str(pid)))
    script.chmod(0o755)

    def run(verb: str) -> None:
        subprocess.run([script, verb], check=True, timeout=30)

    at = Hop("host1", "127.0.0.1", port)
    try:
        run("start")
        wait_for(lambda: answers(at))
        first = int(pid.read_text())
        assert status_of(child_of(first), "Uid")[0] == str(NOBODY.pw_uid)
        run("restart")
        wait_for(lambda: answers(at))
        assert not Path(f"/proc/{first}").exists()
        (outcome,) = send([file], [at], trust.head, QUICK)
        assert outcome.failed == ""
    finally:
        run("stop")
    assert (tmp_path / "folder/image").stat().st_uid == 0
    wait_for(lambda: not answers(at))
