"""A node fetches files of the site's archives by its router, and nothing else from nobody.

Machines of a LAN (`segmentbed`) with the real relay and the real apt-cacher-ng.  Three web servers write down what they
are asked: the archive, a host's, and one on the site manager's loopback.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import segmentbed as bed
from segmentbed import LAN, Bed, Cluster, Machine, Node

from vclust_py import egress

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.skipif(shutil.which("apt-cacher-ng") is None, reason="apt-cacher-ng is not installed"),
]

RANGE = IPv4Network("192.168.70.0/24")
"""Of both clusters: their networks may be the same."""
ROUTER = str(RANGE.broadcast_address - 1)
ARCHIVE = f"http://{LAN[20]}:8000/debian"
HOST = f"http://{LAN[11]}:8000"
SERVER = Path(__file__).with_name("archive.py")
INTERNET, BLOCKED = "8.8.8.8", "8.8.4.4"
A, B = "vcea00000001", "vceb00000002"


@dataclass
class Site:
    folder: Path
    manager: Machine
    a: Cluster
    b: Cluster

    archive: Machine

    def way(self, mode: str = "proxy", archives: tuple[str, ...] = (ARCHIVE,)) -> str:
        """An expression for the way out of a cluster."""
        return (
            f"egress.Way(Site.from_mapping({{'root': {str(self.folder)!r}, 'egress': {mode!r},"
            f" 'egress_blocked': [{BLOCKED + '/32'!r}]}}), 'toy', 'amd64',"
            f" IPv4Address({ROUTER!r}), tuple(map(egress.archive, {archives!r})),"
            f" network={RANGE if mode == 'nat' else None!r}, machines=({str(LAN[11])!r},))"
        )

    def do(self, expression: str) -> str:
        program = (
            "from ipaddress import IPv4Address, IPv4Network\nfrom vclust_py import egress, network\n"
            "from vclust_py.site.settings import Site\n"
            "egress._upstream = lambda way: {'proxy': '', 'ca': ''}\n"
            f"print({expression})"
        )
        return self.manager.run(sys.executable, "-c", program).strip()

    def asked(self, name: str) -> list[str]:
        log = self.folder / name
        return log.read_text().splitlines() if log.exists() else []

    def processes(self) -> set[str]:
        """Of relay and proxy."""
        found = set()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if any(word.startswith(str(self.folder / "proxy").encode()) for word in words):
                found.add(path.parent.name)
        return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="vclust-egress-"))
    folder.chmod(0o755)  # the proxy's user walks through it
    servers = []
    try:
        with Bed(tmp_path_factory.mktemp("bed")) as made:
            manager, host, archive = (
                made.machine(name, number) for name, number in (("manager", 10), ("h1", 11), ("archive", 20))
            )
            # No name server, which apt-cacher-ng would wait for.
            manager.run("tee", "/etc/resolv.conf", text="nameserver 127.0.0.1\n")
            # What the internet is, behind the archive's machine.
            for address in (INTERNET, BLOCKED):
                archive.run("ip", "address", "add", f"{address}/32", "dev", "lo")
                manager.run("ip", "route", "add", f"{address}/32", "via", archive.address)
            for machine, address, name in (
                (manager, "127.0.0.1", "loopback"),
                (manager, manager.address, "manager"),
                (host, host.address, "host"),
                (archive, archive.address, "archive"),
                (archive, INTERNET, "internet"),
                (archive, BLOCKED, "blocked"),
            ):
                argv = [
                    "nsenter",
                    "-t",
                    machine.pid,
                    "-n",
                    "-m",
                    sys.executable,
                    SERVER,
                    address,
                    8000,
                    folder / name,
                ]
                servers.append(subprocess.Popen([str(word) for word in argv], stdout=subprocess.PIPE))
            for server in servers:
                assert server.stdout is not None
                assert server.stdout.readline() == b"up\n"
            a = bed.cluster(made, manager, A, RANGE, [manager])
            b = bed.cluster(made, manager, B, RANGE, [manager])
            site = Site(folder, manager, a, b, archive)
            assert site.do(f"[network.let_out(name, {site.way()}) for name in {[A, B]!r}]") == "[(), ()]"
            yield site
            for name in (A, B):
                site.do(f"egress.close({name!r})")
    finally:
        for server in servers:
            server.kill()
            server.wait()
        shutil.rmtree(folder)


def node(cluster: Cluster) -> Node:
    return next(iter(cluster.nodes.values()))


def talk(cluster: Cluster, words: bytes, patience: float = 20) -> bytes:
    """What a node of the cluster is answered by the port on its router, until the end of the connection."""
    with bed.socket_in(node(cluster).namespace, socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        sock.connect((ROUTER, egress.PORT))
        sock.sendall(words)
        said = b""
        while piece := sock.recv(1 << 16):
            said += piece
        return said


def request(target: str, method: str = "GET", more: str = "") -> bytes:
    return f"{method} {target} HTTP/1.1\r\nHost: anything\r\n{more}\r\n".encode()


def code(answer: bytes) -> int:
    return int(answer.split()[1])


def test_a_node_fetches_a_package_and_the_site_keeps_it(site: Site) -> None:
    for cluster in (site.a, site.b, site.a):
        answer = talk(cluster, request(f"{ARCHIVE}/pool/main/./x//some_1_all.deb"))
        assert code(answer) == 200
        assert answer.endswith(b"file /debian/pool/main/x/some_1_all.deb")
    assert site.asked("archive").count("/debian/pool/main/x/some_1_all.deb") == 1


REFUSED = {
    "another folder of the archive's machine": request(f"http://{LAN[20]}:8000/private/x_1_all.deb"),
    "another port of it": request(f"http://{LAN[20]}/debian/x_1_all.deb"),
    "a name that only begins like it": request(f"{ARCHIVE}2/x_1_all.deb"),
    "the archive itself": request(f"{ARCHIVE}/"),
    "a host": request(f"{HOST}/debian/x_1_all.deb"),
    "the site manager": request(f"http://{LAN[10]}:8000/debian/x_1_all.deb"),
    "its loopback": request("http://127.0.0.1:8000/debian/x_1_all.deb"),
    "its loopback by name": request("http://localhost:8000/debian/x_1_all.deb"),
    "its loopback by number": request("http://2130706433:8000/debian/x_1_all.deb"),
    "its loopback by IPv6": request("http://[::1]:8000/debian/x_1_all.deb"),
    "the proxy's own pages": request("http://127.118.0.1:3142/acng-report.html"),
    "its own pages, as a server's": request("/acng-report.html"),
    "as a server's": request("/debian/x_1_all.deb"),
    "by the proxy's key": request(f"/{egress.archive(ARCHIVE).key}/x_1_all.deb"),
    "up": request(f"{ARCHIVE}/../private/x_1_all.deb"),
    "up, encoded": request(f"{ARCHIVE}/%2e%2e/private/x_1_all.deb"),
    "up, half encoded": request(f"{ARCHIVE}/.%2E/private/x_1_all.deb"),
    "up, encoded twice": request(f"{ARCHIVE}/%252e%252e/private/x_1_all.deb"),
    "up, behind an encoded slash": request(f"{ARCHIVE}/x%2f..%2f../private/x_1_all.deb"),
    "up, with backslashes": request(f"{ARCHIVE}/..\\private\\x_1_all.deb"),
    "a query": request(f"{ARCHIVE}/x_1_all.deb?url={HOST}/"),
    "an encoded query": request(f"{ARCHIVE}/x_1_all.deb%3furl"),
    "an encoded line break": request(f"{ARCHIVE}/x%0d%0aHost:%20h1/x_1_all.deb"),
    "another machine as the user": request(f"http://{LAN[20]}:8000@{LAN[11]}:8000/debian/x_1_all.deb"),
    "a user": request(f"http://user:secret@{LAN[20]}:8000/debian/x_1_all.deb"),
    "https": request(f"https://{LAN[20]}:8000/debian/x_1_all.deb"),
    "ftp": request(f"ftp://{LAN[20]}:8000/debian/x_1_all.deb"),
    "a file": request("file:///etc/shadow"),
    "a tunnel to the archive": request(f"{LAN[20]}:8000", "CONNECT"),
    "a tunnel to a host": request(f"{LAN[11]}:8000", "CONNECT"),
    "POST": request(f"{ARCHIVE}/x_1_all.deb", "POST", "Content-Length: 2\r\n") + b"\r\nhi",
    "a body": request(f"{ARCHIVE}/x_1_all.deb", more="Content-Length: 2\r\n") + b"hi",
    "a body in pieces": request(f"{ARCHIVE}/x_1_all.deb", more="Transfer-Encoding: chunked\r\n"),
    "PURGE": request(f"{ARCHIVE}/x_1_all.deb", "PURGE"),
    "HTTP/0.9": b"GET /debian/x_1_all.deb\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "SOCKS": b"\x05\x01\x00" + b"\r\n\r\n",
    "a long head": b"GET " + b"a" * 20000 + b" HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("trial", REFUSED)
def test_nothing_else_is_fetched(site: Site, trial: str) -> None:
    before = {name: site.asked(name) for name in ("archive", "host", "manager", "loopback")}
    assert code(talk(site.a, REFUSED[trial])) in (400, 403, 405, 431)
    assert {name: site.asked(name) for name in before} == before


def test_a_connection_is_one_request(site: Site) -> None:
    """What comes behind it is not passed on, whatever it is."""
    first = request(f"{ARCHIVE}/pool/first_1_all.deb")
    for second in (request(f"{HOST}/debian/second_1_all.deb"), request(f"{ARCHIVE}/pool/second_1_all.deb")):
        answer = talk(site.a, first + second)
        assert answer.count(b"HTTP/1.1 ") == 1
        assert answer.endswith(b"file /debian/pool/first_1_all.deb")
    assert not [path for name in ("archive", "host") for path in site.asked(name) if "second" in path]


def test_headers_name_no_other_place(site: Site) -> None:
    for number, more in enumerate(
        (f"Host: {LAN[11]}:8000", f"X-Forwarded-Host: {LAN[11]}", f"Forwarded: host={LAN[11]}", "Range: \x00")
    ):
        answer = talk(site.a, request(f"{ARCHIVE}/pool/h{number}_1_all.deb", more=f"{more}\r\n"))
        assert answer.endswith(f"file /debian/pool/h{number}_1_all.deb".encode())
    assert site.asked("host") == []


def test_a_redirection_is_the_nodes(site: Site) -> None:
    """The proxy does not follow it; the node asks again, and is refused."""
    before = site.asked("loopback")
    answer = talk(site.a, request(f"{ARCHIVE}/pool/moved_1_all.deb"))
    assert b"inner_1_all.deb" not in answer.split(b"\r\n\r\n", 1)[1]
    assert code(talk(site.a, request("http://127.0.0.1:8000/debian/pool/inner_1_all.deb"))) == 403
    assert site.asked("loopback") == before


def test_the_router_has_that_one_port(site: Site) -> None:
    listening = site.manager.run("ip", "netns", "exec", A, "ss", "-Hlntu").splitlines()
    assert [line.split()[4] for line in listening] == [f"{ROUTER}:{egress.PORT}"]
    assert site.manager.run("ip", "-netns", A, "-json", "link").count('"ifname":') == 2, "lo and eth0"


def test_nobody_else_reaches_the_proxy(site: Site) -> None:
    assert code(talk(site.a, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 200  # so that it runs
    listening = [
        line.split()[3] for line in site.manager.run("ss", "-Hlnt", "sport", "=", ":3142").splitlines()
    ]
    assert len(listening) == 1
    address = listening[0].rpartition(":")[0]
    assert address.startswith("127.118.")
    program = f"import socket; socket.create_connection(('{address}', 3142), 5)"
    for user in ("nobody", "root"):
        argv = ["setpriv", "--reuid", user, "--clear-groups", "/usr/bin/python3", "-c", program]
        with pytest.raises(AssertionError, match=r"refused|Errno"):
            site.manager.run(*argv)


def test_relay_and_proxy_have_no_rights(site: Site) -> None:
    assert code(talk(site.a, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 200
    processes = site.processes()
    assert len(processes) == 2
    for process in processes:
        status = Path(f"/proc/{process}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert "0" not in fields["Uid"].split()
        assert "0" not in fields["Gid"].split()
        assert int(fields["CapEff"], 16) == int(fields["CapPrm"], 16) == 0


def test_many_connections_are_served_in_turn(site: Site) -> None:
    """A node that opens all it can and says nothing keeps no other cluster waiting, and its own not for ever."""
    opened = []
    try:
        for _ in range(200):
            sock = bed.socket_in(node(site.a).namespace, socket.AF_INET, socket.SOCK_STREAM)
            sock.settimeout(5)
            sock.connect((ROUTER, egress.PORT))
            opened.append(sock)
        assert code(talk(site.b, request(f"{ARCHIVE}/pool/some_1_all.deb"), patience=5)) == 200
    finally:
        for sock in opened:
            sock.close()
    assert code(talk(site.a, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 200


def test_a_killed_relay_comes_back_with_the_next_cluster(site: Site) -> None:
    """With all that it served; its proxy goes with it."""
    (relay,) = [
        process
        for process in site.processes()
        if b"egress_relay" in Path(f"/proc/{process}/cmdline").read_bytes()
    ]
    os.kill(int(relay), 9)
    deadline = time.monotonic() + 10
    while site.processes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert site.processes() == set()
    with pytest.raises(ConnectionRefusedError):
        talk(site.b, request(f"{ARCHIVE}/pool/some_1_all.deb"))
    assert site.do(f"network.let_out({A!r}, {site.way()})") == "()"
    for cluster in (site.a, site.b):
        assert code(talk(cluster, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 200


def test_other_archives_and_back(site: Site) -> None:
    other = f"http://{LAN[11]}:8000/other"
    assert site.do(f"network.let_out({A!r}, {site.way(archives=(other,))})") == "()"
    assert code(talk(site.a, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 403
    assert talk(site.a, request(f"{other}/pool/o_1_all.deb")).endswith(b"file /other/pool/o_1_all.deb")
    assert code(talk(site.b, request(f"{other}/pool/o_1_all.deb"))) == 403, "each cluster its own"
    assert site.do(f"network.let_out({A!r}, {site.way()})") == "()"
    assert code(talk(site.a, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 200


def test_a_port_that_is_taken_is_said(site: Site) -> None:
    site.do(f"egress.close({A!r})")
    taken = bed.socket_in(f"/proc/{site.manager.pid}/root/run/netns/{A}", socket.AF_INET, socket.SOCK_STREAM)
    with taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ROUTER, egress.PORT))
        taken.listen()
        said = site.do(f"network.let_out({A!r}, {site.way()})")
        assert f"nodes cannot install packages: {ROUTER}:3142: Address already in use" in said
    assert site.do(f"network.let_out({A!r}, {site.way()})") == "()"


FORWARDING = "/proc/sys/net/ipv4/ip_forward"


def fetch(cluster: Cluster, target: str, port: int = 8000, patience: float = 1) -> bytes:
    """What a node gets from a machine itself; nothing when it gets no connection."""
    with bed.socket_in(node(cluster).namespace, socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience)
        try:
            sock.connect((target, port))
            sock.sendall(b"GET /x HTTP/1.0\r\n\r\n")
            return b"".join(iter(lambda: sock.recv(1 << 16), b""))
        except OSError:
            return b""


@pytest.fixture
def nat(site: Site) -> Iterator[Site]:
    """The manager is a router; A goes out by it, B does not."""
    site.manager.run("tee", FORWARDING, text="1")
    for cluster in (site.a, site.b):
        name = node(cluster).namespace.rpartition("/")[2]
        bed.run("ip", "-n", name, "route", "replace", "default", "via", ROUTER)
    assert site.do(f"network.let_out({A!r}, {site.way('nat')})") == "()"
    yield site
    assert site.do(f"network.let_out({A!r}, {site.way()})") == "()"
    site.manager.run("tee", FORWARDING, text="0")


def test_nat_is_for_the_internet(nat: Site) -> None:
    assert b"file /x" in fetch(nat.a, INTERNET, patience=20)
    assert fetch(nat.b, INTERNET) == b"", "of another mode"
    assert code(talk(nat.a, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 200, "packages by the proxy too"


def test_nat_opens_no_other_way(nat: Site) -> None:
    """The targets answer whoever reaches them: the manager itself is the witness."""
    inside = json.loads(nat.manager.run("ip", "-json", "address", "show", "dev", f"{A}n"))
    own = inside[0]["addr_info"][0]["local"]
    before = {name: nat.asked(name) for name in ("archive", "host", "manager", "loopback", "blocked")}
    with bed.socket_in(nat.manager.namespace, socket.AF_INET, socket.SOCK_STREAM) as everywhere:
        everywhere.bind(("", 8001))
        everywhere.listen()
        for target in (str(LAN[10]), own, "169.254.169.254", str(LAN.broadcast_address)):
            assert fetch(nat.a, target, 8001) == b"", target
            everywhere.settimeout(0)
            with pytest.raises(BlockingIOError):
                everywhere.accept()
    for target in (LAN[10], LAN[11], LAN[20], BLOCKED):
        assert fetch(nat.a, str(target)) == b"", target
    assert {name: nat.asked(name) for name in before} == before
    for target in (LAN[11], LAN[20], BLOCKED):  # it is not that nobody is there
        program = f"import socket; socket.create_connection(({str(target)!r}, 8000), 5)"
        nat.manager.run(sys.executable, "-c", program)


def test_nat_reaches_name_servers_at_their_port(nat: Site) -> None:
    nat.manager.run("tee", "/etc/resolv.conf", text=f"nameserver 127.0.0.1\nnameserver {LAN[20]}\n")
    assert nat.do(f"network.let_out({A!r}, {nat.way('nat')})") == "()"
    nat.manager.run("tee", "/etc/resolv.conf", text="nameserver 127.0.0.1\n")
    ears = []
    for port in (53, 54):
        ear = bed.socket_in(nat.archive.namespace, socket.AF_INET, socket.SOCK_DGRAM)
        ear.bind((str(LAN[20]), port))
        ears.append(ear)
    with bed.socket_in(node(nat.a).namespace, socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for port in (54, 53):
            asking.sendto(b"who", (str(LAN[20]), port))
    ears[0].settimeout(5)
    data, sender = ears[0].recvfrom(100)
    assert (data, sender[0]) == (b"who", str(LAN[10])), "under the site manager's address"
    ears[1].settimeout(0.2)
    with pytest.raises(TimeoutError):
        ears[1].recvfrom(100)
    for ear in ears:
        ear.close()


def test_nobody_comes_in_by_nat(nat: Site) -> None:
    inside = json.loads(nat.manager.run("ip", "-json", "address", "show", "dev", f"{A}n"))
    own = inside[0]["addr_info"][0]["local"]
    inner = own[: own.rindex(".") + 1] + str(int(own.rpartition(".")[2]) + 1)
    nat.archive.run("ip", "route", "replace", "169.254.0.0/17", "via", nat.manager.address)
    nat.archive.run("ip", "route", "replace", str(RANGE), "via", nat.manager.address)
    nat.manager.run("ip", "route", "replace", str(RANGE), "via", inner)
    try:
        for target, port in ((inner, egress.PORT), (ROUTER, egress.PORT), (str(node(nat.a).address), 22)):
            program = f"import socket; socket.create_connection(({target!r}, {port}), 1)"
            for machine in (nat.archive, nat.manager):
                with pytest.raises(AssertionError, match=r"timed out|Error"):
                    machine.run(sys.executable, "-c", program)
    finally:
        nat.manager.run("ip", "route", "delete", str(RANGE))


def test_a_machine_that_is_no_router_says_so(site: Site) -> None:
    site.manager.run("tee", FORWARDING, text="0")
    said = site.do(f"network.let_out({A!r}, {site.way('nat')})")
    assert "nodes do not reach the internet: net.ipv4.ip_forward is 0" in said
    assert site.do(f"network.let_out({A!r}, {site.way()})") == "()"


def test_nat_leaves_nothing(nat: Site) -> None:
    assert f"{A}n" in nat.manager.run("ip", "link")
    nat.do(f"egress.close({A!r})")
    assert f"{A}n" not in nat.manager.run("ip", "link")
    assert f"{A}n" not in nat.manager.run("nft", "list", "ruleset")
    assert fetch(nat.a, INTERNET) == b""


def test_none_is_none_and_nothing_is_left(site: Site) -> None:
    """The setting may change while clusters run; with the last one all of it ends."""
    assert site.do(f"network.let_out({A!r}, {site.way('none')})") == "()"
    with pytest.raises(ConnectionRefusedError):
        talk(site.a, request(f"{ARCHIVE}/pool/some_1_all.deb"))
    assert code(talk(site.b, request(f"{ARCHIVE}/pool/some_1_all.deb"))) == 200
    assert site.do(f"egress.close({B!r})") == "True"
    nothing_is_left(site)

    # Nor when the one and only cannot be served, or the relay was killed.
    with bed.socket_in(
        f"/proc/{site.manager.pid}/root/run/netns/{B}", socket.AF_INET, socket.SOCK_STREAM
    ) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((ROUTER, egress.PORT))
        taken.listen()
        assert "Address already in use" in site.do(f"network.let_out({B!r}, {site.way()})")
        nothing_is_left(site)
    assert site.do(f"network.let_out({B!r}, {site.way()})") == "()"
    for process in site.processes():
        with contextlib.suppress(ProcessLookupError):  # it dies with the other
            os.kill(int(process), 9)
    assert site.do(f"network.remove({B!r}, {site.b.number})") == "True"
    nothing_is_left(site)
    assert B not in site.manager.run("ip", "netns")


def nothing_is_left(site: Site) -> None:
    assert site.processes() == set()
    assert site.manager.run("ls", "-A", "/run/vclust/egress").split() == ["lock"]
    tables = json.loads(site.manager.run("nft", "-j", "list", "tables"))["nftables"]
    assert not [table for table in tables if "proxy" in table.get("table", {}).get("name", "")]
