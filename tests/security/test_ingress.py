"""Who comes in to a cluster without root: on the site manager, and by its gateway from another machine.

Machines of a LAN (`segmentbed`) with the real relays, the gateway's real sshd, a real sshd in each node, and real
clients: ssh, scp, rsync, sftp.  Accounts of the machine stand for people; what they must not get is tried by them.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import segmentbed as bed
from segmentbed import LAN, Bed, Cluster, Machine, Node

from vclust_py.access import ACCOUNT, SOCKETS, local_config, remote_config
from vclust_py.guest.trust import Authority

SSHD = shutil.which("sshd", path="/usr/sbin")
pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces"),
    pytest.mark.skipif(SSHD is None or shutil.which("rsync") is None, reason="no openssh-server or rsync"),
]

RANGE = IPv4Network("192.168.70.0/24")
"""Of both clusters: their networks may be the same."""
A, B = "vcea00000011", "vceb00000012"
NAMES = {A: "alpha", B: "beta"}
OWNER, STRANGER = "games", "news"
"""Accounts that each Debian has."""
PORT = 2222


Done = subprocess.CompletedProcess[str]


@dataclass
class Site:
    folder: Path
    manager: Machine
    desk: Machine
    """A machine of a user's."""
    clusters: dict[str, Cluster]
    gateway: bool = False
    servers: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def do(self, expression: str) -> str:
        """An expression on the site manager."""
        program = (
            "from vclust_py import gateway, ingress, network\n"
            "from vclust_py.gateway import Admitted\nfrom vclust_py.ingress import Door\n"
            "from vclust_py.site.settings import Site\n"
            f"site = Site.from_mapping({{'root': {str(self.folder / 'site')!r}, 'gateway': {{'port': {PORT}}}}})\n"
            f"closed = Site.from_mapping({{'root': {str(self.folder / 'site')!r}}})\n"
            f"print({expression})"
        )
        return self.manager.run(sys.executable, "-c", program).strip()

    def door(self, bridge: str, *people: str, gateway: bool = True) -> str:
        """An expression for a cluster's door."""
        uids = {pwd.getpwnam(name).pw_uid for name in people}
        return f"Door({self.nodes(bridge)!r}, frozenset({uids or '()'}), {gateway})"

    def nodes(self, bridge: str) -> dict[str, str]:
        nodes = self.clusters[bridge].nodes.values()
        return {f"{NAMES[bridge]}0{number}": str(node.address) for number, node in enumerate(nodes, 1)}

    def admit(self, **keys: str) -> str:
        """Let the gateway admit a key for each of the clusters, by their names."""
        bridges = {name: bridge for bridge, name in NAMES.items()}
        public = {name: (self.folder / f"{who}.pub").read_text().strip() for name, who in keys.items()}
        entries = [f"Admitted({name!r}, {bridges[name]!r}, ({key!r},))" for name, key in public.items()]
        return self.do(f"gateway.refresh(site, lambda: [{', '.join(entries)}])")

    def config(self, bridge: str, who: str, *, remote: bool) -> Path:
        """What `vclust ssh-config` prints, for who has that key; they log in to nodes as root, as nodes here have no
        other account."""
        key = self.folder / "site/gateway/host_key.pub"
        cluster = {
            "name": NAMES[bridge],
            "nodes": [{"name": name, "address": address} for name, address in self.nodes(bridge).items()],
            "ssh": {
                "user": "root",
                "known_hosts": str(self.folder / "known_hosts"),
                "sockets": str(SOCKETS / bridge),
                "gateway": {"host": str(LAN[10]), "port": PORT, "key": key.read_text().strip()}
                if remote
                else {},
            },
        }
        text = (remote_config if remote else local_config)(cluster, "root", str(self.folder / who))
        path = self.folder / f"config-{NAMES[bridge]}-{who}-{remote}"
        path.write_text(text)
        path.chmod(0o644)
        return path


def as_account(name: str, *argv: object) -> list[object]:
    return ["setpriv", "--reuid", name, "--regid", name, "--clear-groups", "--", *argv]


def attempt(machine: Machine, *argv: object, text: str = "", patience: float = 30) -> Done:
    words = [str(word) for word in ("nsenter", "-t", machine.pid, "-n", "-m", "--", *argv)]
    return subprocess.run(words, input=text, capture_output=True, text=True, check=False, timeout=patience)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    # Not below /tmp: sshd wants no folder above the keys that everybody may write to.
    folder = Path(tempfile.mkdtemp(prefix="vclust-ingress-", dir="/var/lib"))
    folder.chmod(0o755)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        with Bed(tmp_path_factory.mktemp("bed")) as made:
            manager, desk = made.machine("manager", 10), made.machine("desk", 20)
            clusters = {name: bed.cluster(made, manager, name, RANGE, [manager, manager]) for name in (A, B)}
            for who in (OWNER, STRANGER):
                bed.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", who, "-f", folder / who)
                os.chown(folder / who, pwd.getpwnam(who).pw_uid, 0)
            authority = Authority()
            (folder / "known_hosts").write_text(authority.known_hosts)
            found = Site(folder, manager, desk, clusters, servers=servers)
            for bridge, cluster in clusters.items():
                for name, node in zip(found.nodes(bridge), cluster.nodes.values(), strict=True):
                    servers.append(a_node(folder, name, node, authority, OWNER if bridge == A else STRANGER))
            assert found.do(f"network.let_in({A!r}, {found.door(A, OWNER)})") == "()"
            assert found.do(f"network.let_in({B!r}, {found.door(B, STRANGER)})") == "()"
            assert found.admit(alpha=OWNER, beta=STRANGER) == "()"
            yield found
            for name in (A, B):
                found.do(f"network.remove({name!r}, {bed.number_of(name)})")
            assert found.do("gateway.refresh(site, list)") == "()"
    finally:
        for server in servers:
            server.kill()
            server.wait()
        shutil.rmtree(folder)


def a_node(folder: Path, name: str, node: Node, authority: Authority, who: str) -> "subprocess.Popen[bytes]":
    """An sshd as a node has it, with the authority's certificate, that takes the key of `who`."""
    assert SSHD is not None
    key, there = authority.new_host_key(name, node.address), folder / name
    there.mkdir()
    for file, text in (
        ("key", key.private),
        ("key.pub", f"{key.public}\n"),
        ("key-cert.pub", f"{key.certificate}\n"),
    ):
        (there / file).write_text(text)
        (there / file).chmod(0o600)
    shutil.copyfile(folder / f"{who}.pub", there / "authorized_keys")
    (there / "config").write_text(
        f"HostKey {there}/key\nHostCertificate {there}/key-cert.pub\nAuthorizedKeysFile {there}/authorized_keys\n"
        f"PidFile none\nUsePAM no\nUseDNS no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
        f"SetEnv NODE={name}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    argv = ["nsenter", f"--net={node.namespace}", SSHD, "-D", "-f", str(there / "config")]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


WAYS = pytest.mark.parametrize("remote", [False, True], ids=["here", "from afar"])


def ssh(
    site: Site, who: str, bridge: str, *argv: object, remote: bool, program: str = "ssh", text: str = ""
) -> Done:
    """A client of OpenSSH as that account: on the site manager, or on a machine of its own."""
    config = site.config(bridge, who, remote=remote)
    words = as_account(who, program, "-F", config, "-o", "BatchMode=yes", *argv)
    return attempt(site.desk if remote else site.manager, *words, text=text)


@WAYS
def test_ssh(site: Site, remote: bool) -> None:
    for bridge, who in ((A, OWNER), (B, STRANGER)):
        for name in site.nodes(bridge):
            done = ssh(
                site,
                who,
                bridge,
                f"{name}.{NAMES[bridge]}",
                "echo $NODE; cat; exit 3",
                remote=remote,
                text="in\n",
            )
            assert (done.stdout, done.stderr, done.returncode) == (f"{name}\nin\n", "", 3)


@WAYS
def test_scp_sftp_and_rsync(site: Site, remote: bool) -> None:
    folder = Path(tempfile.mkdtemp(dir=site.folder))
    os.chown(folder, pwd.getpwnam(OWNER).pw_uid, 0)
    data = os.urandom(3 << 20)
    (folder / "in").write_bytes(data)
    config = site.config(A, OWNER, remote=remote)
    done = ssh(site, OWNER, A, folder / "in", f"alpha01.alpha:{folder}/copied", remote=remote, program="scp")
    assert done.returncode == 0, done.stderr
    assert (folder / "copied").read_bytes() == data
    batch = folder / "batch"
    batch.write_text(f"get {folder}/copied {folder}/got\n")
    done = ssh(site, OWNER, A, "-b", batch, "alpha02.alpha", remote=remote, program="sftp")
    assert done.returncode == 0, done.stderr
    assert (folder / "got").read_bytes() == data
    words = ["rsync", "-a", "-e", f"ssh -F {config}", folder / "in", f"alpha01.alpha:{folder}/synced"]
    done = attempt(site.desk if remote else site.manager, *as_account(OWNER, *words))
    assert done.returncode == 0, done.stderr
    assert (folder / "synced").read_bytes() == data


@WAYS
def test_a_forwarded_port_as_an_editor_uses_it(site: Site, remote: bool) -> None:
    """A server that the editor starts in the node, on the node's loopback, and its own connection through ssh."""
    machine, bridge = site.desk if remote else site.manager, A
    node = next(iter(site.clusters[A].nodes.values()))
    server = (
        "import socket; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
        " c, _ = s.accept(); c.sendall(c.recv(100)[::-1])"
    )
    argv = ["nsenter", f"--net={node.namespace}", sys.executable, "-c", server]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as editor:
        try:
            assert editor.stdout is not None
            port = int(editor.stdout.readline())
            done = ssh(
                site, OWNER, bridge, "-W", f"127.0.0.1:{port}", "alpha01.alpha", remote=remote, text="editor"
            )
            assert done.stdout == "rotide"
        finally:
            editor.kill()
    words = as_account(
        OWNER,
        "ssh",
        "-F",
        site.config(A, OWNER, remote=remote),
        "-N",
        "-L",
        "127.0.0.1:5999:127.0.0.1:22",
        "alpha01.alpha",
    )
    full = [str(word) for word in ("nsenter", "-t", machine.pid, "-n", "-m", "--", *words)]
    with subprocess.Popen(full, stderr=subprocess.PIPE) as tunnel:
        try:
            program = "import socket,sys; print(socket.create_connection(('127.0.0.1', 5999), 5).recv(4))"
            deadline = time.monotonic() + 20
            while "b'SSH-'" not in (said := attempt(machine, sys.executable, "-c", program).stdout):
                assert time.monotonic() < deadline, said
                time.sleep(0.1)
        finally:
            tunnel.kill()


def test_here_the_account_counts(site: Site) -> None:
    """Neither a key nor a configuration helps: the socket is another's."""
    for who, bridge, name in ((STRANGER, A, "alpha01"), (OWNER, B, "beta01")):
        done = ssh(site, who, bridge, f"{name}.{NAMES[bridge]}", "id", remote=False)
        assert done.returncode == 255
        assert done.stdout == ""
        raw = attempt(site.manager, *as_account(who, "nc", "-U", SOCKETS / bridge / name))
        assert raw.stdout == ""
    raw = attempt(
        site.manager, *as_account(OWNER, "timeout", "5", "nc", "-U", SOCKETS / A / "alpha01"), text="x\n"
    )
    assert raw.stdout.startswith("SSH-2.0-"), "it is not that nobody is there"


def test_the_relays_have_no_rights_and_their_folder_is_roots(site: Site) -> None:
    assert len(relays()) == 2
    for process in relays():
        assert rights(process) == (numbers_of_account(site), 0, "1")
    for account in (OWNER, ACCOUNT):
        for command in (
            ["touch", SOCKETS / A / "x"],
            ["rm", "-f", SOCKETS / A / "alpha01"],
            ["cat", SOCKETS / A / "lock"],
        ):
            assert attempt(site.manager, *as_account(account, *command)).returncode != 0


def processes(word: bytes) -> list[int]:
    """By a word of their command lines that no other process of this machine has."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if word in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except OSError:
            continue
    return found


def relays(bridge: str = "") -> list[int]:
    """Of that cluster, or of both."""
    return [
        one for name in (A, B) if bridge in ("", name) for one in processes(f"{SOCKETS / name}\0".encode())
    ]


def rights(process: int) -> tuple[set[int], int, str]:
    """User and group numbers of a process, its capabilities, and whether it can never get more."""
    fields = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if ":\t" in line
    )
    numbers = {int(word) for name in ("Uid", "Gid") for word in fields[name].split()}
    return numbers, int(fields["CapEff"], 16) | int(fields["CapPrm"], 16), fields["NoNewPrivs"].strip()


def holder_of(site: Site) -> int:
    """Root's process that keeps the gateway's namespaces."""
    (holder,) = [
        process
        for process in processes(f"{site.folder}/site/gateway/sshd_config".encode())
        if Path(f"/proc/{process}/comm").read_text() == "unshare\n"
    ]
    return holder


def numbers_of_account(site: Site) -> set[int]:
    numbers = site.manager.run("sh", "-c", f"id -u {ACCOUNT}; id -g {ACCOUNT}").split()
    assert "0" not in numbers
    return {int(number) for number in numbers}


def jump(site: Site, key: str, *argv: object, text: str = "", patience: float = 30) -> Done:
    """The gateway itself, as whoever has that key, with the host key not looked at: they are the attacker."""
    trust = ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    words = [
        "ssh",
        "-F",
        "none",
        "-o",
        "BatchMode=yes",
        "-o",
        "IdentitiesOnly=yes",
        *trust,
        "-p",
        PORT,
        "-i",
        site.folder / key,
    ]
    return attempt(site.desk, *words, *argv, text=text, patience=patience)


GATEWAY = f"{ACCOUNT}@{LAN[10]}"


@pytest.mark.parametrize(
    "words",
    [
        "",
        "id",
        "sh",
        "beta01.beta",
        "alpha01.beta",
        "beta01.alpha",
        "alpha09.alpha",
        "alpha01.alpha; id",
        "alpha01.alpha\nid",
        "$(id).alpha",
        "../vceb00000012/beta01.alpha",
        "lock.alpha",
        "record.alpha",
        ".alpha",
        "alpha01.",
        "-U.alpha",
        "internal-sftp",
        "scp -t /tmp",
    ],
)
def test_the_gateway_leads_to_the_nodes_of_the_key_alone(site: Site, words: str) -> None:
    done = jump(site, OWNER, GATEWAY, *([words] if words else []), text="echo got in\n")
    assert done.returncode != 0
    assert "uid=" not in done.stdout + done.stderr
    assert "SSH-2.0" not in done.stdout
    assert "got in" not in done.stdout
    fine = jump(site, OWNER, GATEWAY, "alpha01.alpha", text="x\n")
    assert fine.stdout.startswith("SSH-2.0-"), "it is not that nobody is there"


@pytest.mark.parametrize(
    "target", [f"127.0.0.1:{PORT}", f"{LAN[20]}:8022", "192.168.70.1:22", f"{LAN[10]}:{PORT}"]
)
def test_the_gateway_forwards_nothing(site: Site, target: str) -> None:
    done = jump(site, OWNER, "-W", target, GATEWAY)
    assert done.returncode != 0
    assert done.stdout == ""


def test_no_listening_no_sockets_no_terminal_no_agent_no_sftp(site: Site) -> None:
    for options in (["-R", "8099:127.0.0.1:22"], ["-R", "/tmp/x:127.0.0.1:22"]):
        done = jump(site, OWNER, "-N", "-o", "ExitOnForwardFailure=yes", *options, GATEWAY)
        assert done.returncode != 0
    done = jump(site, OWNER, "-tt", GATEWAY, "id")
    assert "PTY allocation request failed" in done.stderr
    assert jump(site, OWNER, "-s", GATEWAY, "sftp").returncode != 0
    for word in ("-A", "-X"):
        done = jump(site, OWNER, word, GATEWAY, "alpha01.alpha", text="x\n")
        assert done.stdout.startswith("SSH-2.0-")
    listening = site.manager.run("ss", "-Hlnt").splitlines()
    assert {line.split()[3].rpartition(":")[2] for line in listening} == {str(PORT)}


def test_nobody_else_logs_in_to_the_gateway(site: Site) -> None:
    other = site.folder / "other"
    if not other.exists():
        bed.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", other)
    assert "Permission denied (publickey)" in jump(site, "other", GATEWAY, "alpha01.alpha").stderr
    for account in ("root", OWNER, "nobody"):
        done = jump(site, OWNER, f"{account}@{LAN[10]}", "alpha01.alpha")
        assert "Permission denied (publickey)" in done.stderr
    methods = jump(
        site, "other", "-o", "PreferredAuthentications=none,password,keyboard-interactive", GATEWAY
    ).stderr
    assert "(publickey)" in methods


def test_a_key_of_the_gateway_is_none_of_the_node(site: Site) -> None:
    """Who gets to port 22 of a node still has to log in there: here with a key that only the gateway has been given."""
    assert site.admit(alpha=STRANGER, beta=STRANGER) == "()"
    try:
        done = ssh(site, STRANGER, A, "alpha01.alpha", "id", remote=True)
        assert "Permission denied (publickey" in done.stderr
        assert ssh(site, STRANGER, B, "beta01.beta", "true", remote=True).returncode == 0
        assert ssh(site, OWNER, A, "alpha01.alpha", "true", remote=True).returncode == 255, "its key has gone"
    finally:
        assert site.admit(alpha=OWNER, beta=STRANGER) == "()"


def test_one_key_of_two_clusters(site: Site) -> None:
    assert site.admit(alpha=OWNER, beta=OWNER) == "()"
    try:
        for words in ("alpha01.alpha", "beta02.beta"):
            assert jump(site, OWNER, GATEWAY, words, text="x\n").stdout.startswith("SSH-2.0-")
    finally:
        assert site.admit(alpha=OWNER, beta=STRANGER) == "()"


def test_the_gateway_has_no_rights(site: Site) -> None:
    holder = holder_of(site)
    (child,) = Path(f"/proc/{holder}/task/{holder}/children").read_text().split()
    assert rights(int(child)) == (numbers_of_account(site), 0, "1")
    folder = site.folder / "site/gateway"
    for command in (
        ["touch", folder / "x"],
        ["tee", "-a", folder / "authorized_keys"],
        ["tee", folder / "jump"],
    ):
        assert attempt(site.manager, *as_account(ACCOUNT, *command)).returncode != 0
    assert attempt(site.manager, *as_account(OWNER, "cat", folder / "host_key")).returncode != 0


def test_a_door_that_changes_keeps_who_is_inside(site: Site) -> None:
    words = as_account(
        OWNER,
        "ssh",
        "-F",
        site.config(A, OWNER, remote=False),
        "alpha01.alpha",
        "echo in; read line; echo $line",
    )
    full = [str(word) for word in ("nsenter", "-t", site.manager.pid, "-n", "-m", "--", *words)]
    with subprocess.Popen(full, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as inside:
        assert inside.stdin is not None
        assert inside.stdout is not None
        assert inside.stdout.readline() == "in\n"
        assert site.do(f"network.let_in({A!r}, {site.door(A, OWNER, STRANGER)})") == "()"
        assert site.do(f"network.let_in({A!r}, {site.door(A, OWNER, STRANGER)})") == "()", (
            "again to no effect"
        )
        raw = attempt(
            site.manager,
            *as_account(STRANGER, "timeout", "5", "nc", "-U", SOCKETS / A / "alpha01"),
            text="x\n",
        )
        assert raw.stdout.startswith("SSH-2.0-")
        assert site.do(f"network.let_in({A!r}, {site.door(A, OWNER)})") == "()"
        assert len(relays(A)) == 2, "the first stays, with its guest"
        inside.stdin.write("still here\n")
        inside.stdin.close()
        assert inside.stdout.read() == "still here\n"
    raw = attempt(site.manager, *as_account(STRANGER, "nc", "-U", SOCKETS / A / "alpha01"), text="x\n")
    assert raw.stdout == ""
    deadline = time.monotonic() + 10
    while len(relays(A)) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_relay_and_a_killed_gateway_come_back(site: Site) -> None:
    for process in relays():
        os.kill(process, signal.SIGKILL)
    for process in processes(f"{site.folder}/site/gateway/sshd_config".encode()):
        os.kill(process, signal.SIGKILL)
    assert site.do(f"network.let_in({A!r}, {site.door(A, OWNER)})") == "()"
    assert site.do(f"network.let_in({B!r}, {site.door(B, STRANGER)})") == "()"
    assert site.admit(alpha=OWNER, beta=STRANGER) == "()"
    for remote in (False, True):
        assert ssh(site, OWNER, A, "alpha02.alpha", "true", remote=remote).returncode == 0


def test_the_gateway_ends_with_the_process_that_root_knows(site: Site) -> None:
    holder = holder_of(site)
    os.kill(holder, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes(f"{site.folder}/site/gateway/sshd_config".encode()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert site.admit(alpha=OWNER, beta=STRANGER) == "()"


def test_a_port_that_is_taken_is_said(site: Site) -> None:
    assert site.do("gateway.refresh(site, list)") == "()"
    with bed.socket_in(site.manager.namespace, socket.AF_INET, socket.SOCK_STREAM) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("", PORT))
        taken.listen()
        assert f"port {PORT} of 0.0.0.0: Address already in use" in site.admit(alpha=OWNER)
    assert site.admit(alpha=OWNER, beta=STRANGER) == "()"


def test_what_is_closed_is_gone(site: Site) -> None:
    """With those who were inside."""
    for remote in (False, True):
        assert ssh(site, OWNER, A, "alpha01.alpha", "true", remote=remote).returncode == 0
    assert site.do("gateway.refresh(closed, list)") == "()"
    assert processes(f"{site.folder}/site/gateway/sshd_config".encode()) == []
    assert site.manager.run("ss", "-Hlnt") == ""
    assert site.do(f"network.let_in({A!r}, {site.door(A, gateway=False)})") == "()", "nobody's"
    assert not (SOCKETS / A).exists()
    assert site.do(f"network.remove({B!r}, {bed.number_of(B)})") == "True"
    assert relays() == []
    assert B not in site.manager.run("ip", "netns")
