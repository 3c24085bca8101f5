"""A user's day with real virtual machines: create, use, list, destroy.

Verified with virsh, ip, ssh, ansible and the nodes' own tools, not with what vclust says of itself.
"""

import contextlib
import json
import re
import shlex
import socket
import stat
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import segmentbed
from machine import BIN, JOURNAL, Vclust, left_since, local, output, snapshot

from vclust_py.access import ssh_options
from vclust_py.site import PROJECT, Site

pytestmark = pytest.mark.system

HELLO = (PROJECT / "examples/hello-mpi.ini").read_text()


@pytest.fixture(scope="module")
def vclust(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    folder = tmp_path_factory.mktemp("vclust")
    command = local(folder, root=site.root)
    yield command
    command.clear()


@pytest.fixture(scope="module")
def before(vclust: Vclust) -> dict[str, set[str]]:
    return snapshot()


@pytest.fixture(scope="module")
def counts(vclust: Vclust) -> Path:
    """Where `counting/sitecustomize.py` writes down what the create of `hello` does."""
    return vclust.folder / "counts"


@pytest.fixture(scope="module")
def hello(vclust: Vclust, before: dict[str, set[str]], counts: Path) -> Iterator[str]:
    """Two nodes with MPI, as in the README."""
    counting = PROJECT / "tests/system/counting"
    request = vclust.request("hello", HELLO.replace("hello", "t-hello"))
    vclust("create", request, PYTHONPATH=counting, VCLUST_TEST_COUNTS=counts)
    segment = vclust.json("show", "hello")["ssh"]["netns"]
    there = snapshot()
    assert {segment, f"{segment}r"} <= there["interfaces"]
    assert segment in there["namespaces"]
    assert sum("qemu-system" in line for line in there["processes"] - before["processes"]) == 2
    yield "hello"
    vclust("destroy", "hello")
    assert left_since(before) == {}


def run_in(vclust: Vclust, name: str, node: str, command: str) -> str:
    return vclust("ssh", name, node, "--", command)


def test_the_proof_logs_in_once_to_each_node(vclust: Vclust, hello: str) -> None:
    """From the first, by a connection that MPI goes through as well; first of the tests, as others log in, too."""
    accepted = "'Accepted publickey for alice from 192.168.77.1 '"
    count = f"{JOURNAL}; journalctl --no-pager -t sshd -t sshd-session | grep -c {accepted}"
    assert run_in(vclust, hello, "t-hello02", count).strip() == "1"


def test_the_user_can_log_in_and_run_mpi(vclust: Vclust, hello: str) -> None:
    said = vclust(
        "ssh", hello, "--", "mpiexec -n 2 hostname; id -un; python3 -c 'print(6 * 7)'; gcc --version"
    )
    assert {"t-hello01", "t-hello02", "alice", "42"} <= set(said.split())
    trial = "/usr/libexec/vclust/mpi-hello"
    said = vclust("ssh", hello, "--", f"head -c 4 {trial}; echo; mpiexec -n 2 {trial}")
    assert {"\x7fELF", "rank 0 of 2 on t-hello01", "rank 1 of 2 on t-hello02"} <= set(said.splitlines())
    assert "t-hello01" in run_in(vclust, hello, "t-hello02", "ssh -o BatchMode=yes t-hello01 hostname")


def test_a_create_does_nothing_twice(hello: str, counts: Path) -> None:
    """The request is checked by the command and by the playbook; a process opens, reads and connects once."""
    lines = [line.split(" ", 2) for line in counts.read_text().splitlines()]
    done = Counter((what, process, which) for process, what, which in lines)
    assert sum(count for (what, _, _), count in done.items() if what == "request") <= 2
    for kind in ("database", "manifest", "host"):
        found = {key: count for key, count in done.items() if key[0] == kind}
        assert found or kind == "manifest", f"nothing was counted: {kind}"  # the index may have them all
        assert set(found.values()) <= {1}, found


def test_nodes_are_domains_with_what_was_asked_for(vclust: Vclust, hello: str) -> None:
    for node in ("t-hello01", "t-hello02"):
        information = output("virsh", "-c", "qemu:///system", "dominfo", f"{node}.{hello}")
        assert re.search(r"State:\s+running", information)
        memory = re.search(r"Max memory:\s+(\d+) KiB", information)
        assert memory is not None
        assert 500_000 <= int(memory[1]) <= 501_024, "512 MB in KiB, rounded up to whole MiB"
        assert re.search(r"CPU\(s\):\s+1\n", information)
    said = run_in(
        vclust, hello, "t-hello02", "cat /etc/machine-id /etc/ssh/ssh_host_ecdsa_key.pub; ip -4 -o addr"
    )
    other = run_in(
        vclust, hello, "t-hello01", "cat /etc/machine-id /etc/ssh/ssh_host_ecdsa_key.pub; ip -4 -o addr"
    )
    assert "192.168.77.2/24" in said
    assert "192.168.77.1/24" in other
    assert not {line for line in said.splitlines() if "ecdsa-sha2" in line or len(line) == 32} & set(
        other.splitlines()
    )


def test_a_node_is_exactly_its_lock(vclust: Vclust, hello: str, site: Site) -> None:
    lock = json.loads((site.locks / f"{vclust.json('show', hello)['lock']}.json").read_text())
    # Later ones win: the closure may upgrade packages of the base.
    wanted = set({package["name"]: package["version"] for package in lock["base"] + lock["packages"]}.items())
    listed = run_in(
        vclust, hello, "t-hello01", "dpkg-query -W -f '${Package} ${Version} ${db:Status-Status}\\n'"
    )
    assert {tuple(line.split()[:2]) for line in listed.splitlines()} == wanted
    assert {line.split()[2] for line in listed.splitlines()} == {"installed"}


def test_a_node_is_a_normal_debian(vclust: Vclust, hello: str) -> None:
    said = run_in(
        vclust,
        hello,
        "t-hello01",
        "ps -o comm= -p 1; systemctl is-system-running; systemctl is-active apt-daily.timer; apt-cache policy mpich",
    )
    assert said.split()[:3] == ["systemd", "running", "active"]
    assert "Installed: 4" in said


def running(cluster: str) -> dict[str, str]:
    """The cluster's domains and their numbers, which change with every start."""
    lines = output("virsh", "-c", "qemu:///system", "-q", "list", "--name", "--id").splitlines()
    found = (line.split() for line in lines if line)
    return {name: number for number, name in found if name.endswith(f".{cluster}")}


def rules_of(segment: str) -> list[str]:
    """The packet filter's rules and elements of one segment; other clusters' come and go."""
    listed = output("nft", "list", "table", "inet", "vclust_segments")
    parts = (part.strip().removeprefix("elements = ") for part in re.split(r"[\n,]", listed))
    return sorted(part.strip(" {}") for part in parts if segment in part)


def test_nodes_and_users_are_known_by_certificates(vclust: Vclust, hello: str) -> None:
    """The real sshd and ssh of nodes; what they must refuse, they refuse for that reason."""

    def refused(options: str, to: str) -> str:
        command = f"ssh -o BatchMode=yes {options} {to} hostname 2>&1 || echo refused"
        return run_in(vclust, hello, "t-hello01", command)

    # By name and by address, with no key of the other node's listed anywhere.
    for name in ("t-hello02", "192.168.77.2"):
        assert (
            run_in(vclust, hello, "t-hello01", f"ssh -o BatchMode=yes {name} hostname").strip() == "t-hello02"
        )
    known = run_in(vclust, hello, "t-hello01", "cat /etc/ssh/ssh_known_hosts")
    assert known.startswith("@cert-authority * ecdsa-sha2-nistp256 ")
    assert known.count("ecdsa-sha2-nistp256 ") == 1
    # A node's certificate is no good for another node's name.
    said = refused("-o HostKeyAlias=t-hello01", "t-hello02")
    assert "Certificate invalid: name is not a listed principal" in said
    assert said.split()[-1] == "refused"
    # A user's is no good for root, nor for another account.
    for user in ("root", "daemon"):
        assert f"{user}@t-hello02: Permission denied (publickey" in refused("", f"{user}@t-hello02")
    # Without the certificate the key is nothing.
    run_in(vclust, hello, "t-hello01", "cp .ssh/id_ecdsa bare")
    assert "Permission denied" in refused("-o IdentitiesOnly=yes -i bare", "t-hello02")


def test_a_second_create_changes_nothing(vclust: Vclust, hello: str) -> None:
    """But that it brings the packet filter's rules back, which somebody may have flushed."""
    segment = vclust.json("show", hello)["ssh"]["netns"]
    rules = rules_of(segment)
    assert rules
    output("nft", "delete", "table", "inet", "vclust_segments")
    create = [BIN / "ansible-playbook", "-i", vclust.inventory, PROJECT / "playbooks/create_vcluster.yml"]
    started = running(hello)
    assert len(started) == 2
    done = subprocess.run(
        [*create, "-e", f"request={vclust.folder}/hello.ini", "--diff"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"changed=0 .* failed=0", done.stdout)
    assert running(hello) == started
    assert rules_of(segment) == rules


def test_another_request_of_that_name_is_refused(vclust: Vclust, hello: str) -> None:
    other = vclust.request("hello", HELLO.replace("hello", "t-hello").replace("512MB", "600MB"))
    assert "exists with a different request" in vclust("create", other, code=2)
    vclust.request("hello", HELLO.replace("hello", "t-hello"))
    assert "t-hello01" in vclust("ssh", hello, "--", "hostname")


def test_ansible_reaches_the_nodes(vclust: Vclust, hello: str) -> None:
    said = subprocess.run(
        [BIN / "ansible", "-i", vclust.inventory, "cluster_hello", "-m", "ping"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert said.stdout.count('"pong"') == 2, said.stdout + said.stderr


def resident(cluster: str) -> int:
    """KiB of the largest emulator process of the cluster."""
    largest = 0
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if re.search(rf"guest=[^.,]*\.{cluster},".encode(), path.read_bytes()):
                found = re.search(r"VmRSS:\s+(\d+)", (path.parent / "status").read_text())
                largest = max(largest, int(found[1]) if found else 0)
    assert largest
    return largest


def test_nodes_reach_no_address_of_this_machine(vclust: Vclust, hello: str) -> None:
    host = json.loads(output("ip", "-json", "-4", "addr", "show", "scope", "global"))
    address = next(info["local"] for link in host for info in link["addr_info"])
    said = run_in(
        vclust, hello, "t-hello01", f"ping -c 1 -W 2 {address} > /dev/null 2>&1 || echo unreachable"
    )
    assert said.strip() == "unreachable"
    # Nor does a packet arrive that wants no answer, from a node that claims the address is on its segment and
    # takes the bridge's own hardware address for it.
    cluster = vclust.json("show", hello)
    bridge = Path("/sys/class/net", cluster["ssh"]["netns"], "address").read_text().strip()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind((address, 0))
        listening.settimeout(3)
        port = listening.getsockname()[1]
        command = (
            f"ip route replace {address}/32 dev eth0 && "
            f"ip neighbour replace {address} lladdr {bridge} dev eth0 && "
            f"bash -c 'echo hello > /dev/udp/{address}/{port}' && echo sent"
        )
        node = cluster["nodes"][0]
        options = ssh_options(cluster, node)
        assert "sent" in output("ssh", *options, "-i", cluster["ssh"]["admin_key"], "root@node", command)
        with pytest.raises(TimeoutError):
            listening.recv(100)
    # Nor from nobody to everybody, by the hardware address for that and by one that bridges do not pass on.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("", 0))
        listening.settimeout(3)
        payload = segmentbed.udp(listening.getsockname()[1], b"hello")
        for card in (segmentbed.BROADCAST, "01:80:c2:00:00:0e"):
            packet = segmentbed.ip("0.0.0.0", "255.255.255.255", 17, payload)  # noqa: S104
            data = segmentbed.frame(node["mac"], card, packet).hex()
            program = f"import socket; s = socket.socket(17, 3); s.bind(('eth0', 0)); s.send(bytes.fromhex('{data}'))"
            command = f"python3 -c {shlex.quote(program)} && echo sent"
            assert "sent" in output("ssh", *options, "-i", cluster["ssh"]["admin_key"], "root@node", command)
        with pytest.raises(TimeoutError):
            listening.recv(100)


@pytest.mark.long
def test_four_nodes_take_as_many_tasks_as_two(vclust: Vclust, hello: str) -> None:
    """Also: its network is that of the other cluster, and its request layer is there already."""
    text = HELLO.replace("hello", "t-four").replace("NumberOfNodes: 2", "NumberOfNodes: 4")
    create = [BIN / "ansible-playbook", "-i", vclust.inventory, PROJECT / "playbooks/create_vcluster.yml"]
    counts = []
    for path in (vclust.request("four", text), vclust.folder / "hello.ini"):
        done = subprocess.run(
            [*create, "-e", f"request={path}"], cwd=PROJECT, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stdout
        counts.append(len(re.findall(r"^(?:ok|changed): \[", done.stdout, re.MULTILINE)))
    assert counts[0] == counts[1]
    said = vclust("ssh", "four", "--", "mpiexec -n 4 hostname")
    assert {f"t-four0{number}" for number in range(1, 5)} <= set(said.split())
    assert resident("four") < 700_000, "KiB, of each node of 512 MB"
    vclust("destroy", "four")


def test_every_node_installs_by_itself(vclust: Vclust, hello: str) -> None:
    """`Install: each`: no layer is built, the nodes unpack the bundle; the result is the same."""
    request = HELLO.replace("hello", "t-each").replace("gcc mpich python3", "mpich")
    vclust("create", vclust.request("each", request + "Install: each\n"))
    assert "bundle" in vclust.json("show", "each")["images"]
    said = vclust("ssh", "each", "--", "mpiexec -n 2 hostname; dpkg-query -W -f '${db:Status-Status}' mpich")
    assert {"t-each01", "t-each02", "installed"} <= set(said.split())
    vclust("destroy", "each")


def test_the_same_lock_gives_the_same_packages(vclust: Vclust, hello: str, site: Site) -> None:
    lock = vclust.json("show", hello)["lock"]
    plan = vclust.json("plan", str(vclust.request("again", HELLO)), "--locked", f"{site.locks}/{lock}.json")
    assert plan["lock"] == lock
    assert plan["layer_there"]
    assert plan["download"] == plan["build"] == 0


def test_a_restart_of_the_machine_keeps_the_users_work(vclust: Vclust, hello: str, site: Site) -> None:
    """Domains and network gone, as after a restart; `create` starts the same disks, whatever the user changed."""
    change = "echo '# mine' >> .ssh/authorized_keys; echo precious > work; sync"
    run_in(vclust, hello, "t-hello02", change)
    segment = vclust.json("show", hello)["ssh"]["netns"]
    for node in ("t-hello01", "t-hello02"):
        output("virsh", "-c", "qemu:///system", "destroy", f"{node}.{hello}")
    output("ip", "link", "delete", segment)
    output("ip", "netns", "delete", segment)
    assert f"{hello}: is stopped" in vclust("ssh", hello, code=4)
    vclust("create", vclust.folder / "hello.ini")
    assert run_in(vclust, hello, "t-hello02", "cat work").strip() == "precious"
    assert stat.S_IMODE(next(site.clusters.glob(f"{hello}.*/t-hello02.qcow2")).stat().st_mode) == 0o600


def test_root_alone_is_a_user_too(vclust: Vclust, hello: str) -> None:
    """A request without User and without packages; an existing cluster's network range is no obstacle."""
    vclust("create", vclust.request("bare", "[Hardware]\nNumberOfNodes: 2\n"))
    assert vclust("ssh", "bare", "--", "id -un; ssh bare-02 hostname").split()[-2:] == ["root", "bare-02"]
    # One cluster's key opens no other: root's of this one, for which it has a certificate, is nothing in that one.
    bare, other = vclust.json("show", "bare"), vclust.json("show", hello)
    for target, opens in ((bare, True), (other, False)):
        options = ssh_options(target, target["nodes"][0])
        argv = [
            "ssh",
            "-F",
            "/dev/null",
            *options,
            "-o",
            "BatchMode=yes",
            "-i",
            bare["ssh"]["key"],
            "root@node",
            "id -u",
        ]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
        assert (done.stdout == "0\n") is opens, done.stderr
        assert ("Permission denied" in done.stderr) is not opens
    # Nor does its node pass for a node of the other.
    trusted = dict(bare, ssh=dict(bare["ssh"], known_hosts=other["ssh"]["known_hosts"]))
    argv = [
        "ssh",
        "-F",
        "/dev/null",
        *ssh_options(trusted, bare["nodes"][0]),
        "-i",
        bare["ssh"]["key"],
        "root@node",
        "id",
    ]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert "Host key verification failed" in done.stderr
    vclust("destroy", "bare")


def test_slurm_is_configured(vclust: Vclust, hello: str) -> None:
    """A meta package with configuration steps, secrets and a readiness check of its own."""
    vclust("create", PROJECT / "examples/slurm.yml")
    said = vclust("ssh", "slurm", "--", "srun -N 2 hostname")
    assert {"compute01", "compute02"} <= set(said.split())
    vclust("destroy", "slurm")
