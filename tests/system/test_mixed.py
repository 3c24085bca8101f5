"""A site of one KVM host and one Xen host, in the testbed's emulation: clusters on both kinds.

Verified on the hosts with their own tools, and in the nodes, not with what vclust says of itself.
"""

import contextlib
import itertools
import select
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address
from pathlib import Path

import checker
import pytest
from emulated.host import Host
from emulated.places import SELF
from emulatedhost import PATIENCE, Meter, held, left_on, roll_out
from machine import Vclust, left_since, output, snapshot
from segmentbed import BROADCAST, frame, ip, udp, vxlan
from shared import inventory

from vclust_py.access import program_login
from vclust_py.addresses import mac_of
from vclust_py.network_hook import TABLE
from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.kvm, pytest.mark.xen]

NAME, OTHER = "t-mixed", "t-mixed-other"
REQUEST = """\
[Hardware]
NumberOfNodes: 2
RAM: 512MB
Spread: hosts

[Software]
Name: {name}
Hostname: {name}%02d
Network: 192.168.80.0/24
Packages: {packages}
"""
ROUTER = IPv4Address("192.168.80.254")


@pytest.fixture(scope="module")
def rolled_out(host: Host, kvm_host: Host, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory with both hosts, of which the second one came later and was rolled out alone."""
    folder = tmp_path_factory.mktemp("mixed") / "inventory"
    inventory.write([kvm_host], site.root, folder)
    roll_out(folder)
    inventory.write([kvm_host, host], site.root, folder)
    roll_out(folder, "--limit", host.name)
    return folder


@pytest.fixture
def vclust(rolled_out: Path, tmp_path: Path) -> Iterator[Vclust]:
    command = Vclust(rolled_out, tmp_path, PATIENCE)

    def clear() -> None:
        for cluster in command.json("list"):
            if cluster["name"] in (NAME, OTHER):
                command("destroy", cluster["name"])

    clear()  # of a test run that was killed
    yield command
    clear()


def test_a_roll_out_of_all_changes_nothing_after_one_of_the_new_host(rolled_out: Path) -> None:
    assert roll_out(rolled_out) == set()


def test_a_request_becomes_a_cluster_on_both_kinds_and_nothing_is_left_of_it(
    host: Host, kvm_host: Host, vclust: Vclust
) -> None:
    hosts, kinds = [kvm_host, host], {kvm_host.name: "kvm", host.name: "xen"}
    here, there = snapshot(), {each.name: held(each) for each in hosts}
    asked = REQUEST.format(name=NAME, packages="gcc mpich python3")
    request = vclust.request(NAME, asked)
    assert vclust.json("plan", str(request))["accelerators"] == kinds
    with Meter(host) as creating:
        vclust("create", request)
    nodes = {f"{NAME}01", f"{NAME}02"}

    # On the hosts: a domain of KVM on one, a guest of Xen on the other, and each node once.
    by_kvm = kvm_host.ssh("virsh list --name | xargs -n 1 virsh dumpxml | grep -E '<domain type|<name>'")
    by_xen = host.ssh("xl list | awk 'NR > 2 {print $1}'").split()
    assert by_kvm.count("<domain type='kvm'") == 1, by_kvm
    assert len(by_xen) == 1, by_xen
    assert [f"{node}.{NAME}" in by_kvm for node in sorted(nodes)].count(True) == 1
    assert by_xen[0] in {f"{node}.{NAME}" for node in nodes if f"{node}.{NAME}" not in by_kvm}
    shown = vclust.json("show", NAME)
    assert {node["host"]: node["accelerator"] for node in shown["nodes"]} == kinds

    # In the nodes: MPI over both, which tell by what they run; the packages as asked.
    with Meter(host) as using:
        said = vclust(
            *("ssh", NAME, "--"),
            "mpiexec -n 2 hostname; mpiexec -n 2 systemd-detect-virt; gcc -dumpmachine; python3 --version",
        ).split()
    assert nodes | {"kvm", "xen", "x86_64-linux-gnu", "Python"} <= set(said), said

    # In place, on both: a package, then memory and disk by a restart of each.
    with_bc = asked.replace("Packages:", "Packages: bc")
    with Meter(host) as changing:
        vclust("apply", vclust.request(NAME, with_bc))
    said = vclust("ssh", NAME, "--", "mpiexec -n 2 sh -c 'echo 6*7 | bc'")
    assert said.split().count("42") == 2, said
    other = with_bc.replace("RAM: 512MB", "RAM: 448MB\nDisk: 5GB")
    with Meter(host) as restarting:
        vclust("apply", "--restart", vclust.request(NAME, other))
    for node in ("1", "2"):
        words = "awk '/^MemTotal:/ { print $2 }' /proc/meminfo; df --output=size -B 1MB / | tail -n 1"
        memory, disk = map(int, vclust("ssh", NAME, node, "--", words).split())
        assert memory < 448 * 10**6 / 1024
        assert 4500 < disk < 5000
    print(f"\nMIXED {changing.line('a package')} {restarting.line('both restarted')}")

    with Meter(host) as destroying:
        vclust("destroy", NAME)
    phases = " ".join(f"{phase['phase']} {phase['seconds']:.1f}" for phase in shown["phases"])
    print(
        f"\nMIXED, seconds/CPU-seconds of the Xen host: {creating.line('request to ready')} ({phases})"
        f" {using.line('mpi')} {destroying.line('destroy')}"
    )
    assert [left_on(each, there[each.name]) for each in hosts] == [{}, {}]
    assert left_since(here) == {}


# Packets ----------------------------------------------------------------------------------------------------------

PORT = 17365
"""Of UDP, which hosts and site manager listen on for this."""
UP = "01:80:c2:00:00:0e"
"""A group address that a bridge does not pass on: it goes up to the machine."""
ON_MACHINE = f"socket.socket(socket.AF_INET, socket.SOCK_DGRAM); ear.bind(('', {PORT}))"
IN_NODE = "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0x0300); ear.bind(('eth0', 0))"
LISTEN = """\
import re, select, socket
ear = {ear}
orders = open(0, "rb", 0)
heard = set()
print("listening", flush=True)
while True:
    if ear in select.select([ear, orders], [], [])[0]:
        data, address = ear.recvfrom(70000)
        if address[2:3] != (socket.PACKET_OUTGOING,):
            heard |= set(re.findall(rb"from-[a-z0-9-]+;", data))
        continue
    order = orders.readline()
    if not order:
        break
    if order.strip():
        ear.send(bytes.fromhex(order.decode()))
    else:
        print(b" ".join(heard).decode(), flush=True)
        heard.clear()
"""
"""Sends each line of standard input as a packet.  At an empty one it says which markers have come in since the last."""


class Ear:
    """A process that listens, here, on a host or in a node, and there can send."""

    def __init__(self, stack: contextlib.ExitStack, argv: Sequence[str]) -> None:
        self._process = stack.enter_context(
            subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        )
        stack.callback(self._process.kill)
        assert self._says() == "listening\n"

    def _says(self) -> str:
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], PATIENCE)[0]
        return self._process.stdout.readline()

    def _order(self, lines: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(lines)
        self._process.stdin.flush()

    def heard(self) -> set[str]:
        """Since the last time."""
        self._order("\n")
        return set(self._says().split())

    def send(self, packets: Sequence[bytes]) -> None:
        self._order("".join(f"{data.hex()}\n" for data in packets))


def python_in(vclust: Vclust, node: checker.Node, program: str) -> list[str]:
    """The argv that runs it in the node, as root."""
    shown = vclust.json("show", node.cluster)
    (address,) = (one["address"] for one in shown["nodes"] if one["name"] == node.name)
    command = f"python3 -c {shlex.quote(program)}"
    return program_login(shown["ssh"], node.name, address, command, patience=PATIENCE)


def packets(node: checker.Node, bridge: str, other: checker.Cluster, machines: Sequence[str]) -> list[bytes]:
    """What the node sends to machines, and to the other cluster's nodes by their tunnel; last, to its own cluster.

    `bridge` is the hardware address of its segment's bridge on its host.
    """
    own, marker = str(IPv4Address(bytes.fromhex(node.mac[6:].replace(":", "")))), f"from-{node.name}".encode()
    inner = frame(other.nodes[0].mac, BROADCAST, marker + b"-tunnel;" + b"." * 40)
    found = []
    for card, source, machine in itertools.product(
        (bridge, BROADCAST, UP, mac_of(ROUTER)),
        (own, "0.0.0.0", SELF),  # noqa: S104
        (*machines, "255.255.255.255"),
    ):
        for data in (udp(PORT, marker + b"-machine;"), udp(4789, vxlan(other.network, inner))):
            found.append(frame(node.mac, card, ip(source, machine, 17, data)))
    return [*found, frame(node.mac, BROADCAST, ip(own, "255.255.255.255", 253, marker + b"-all;"))]


@pytest.mark.long
def test_no_packet_leaves_its_cluster(host: Host, kvm_host: Host, vclust: Vclust, site: Site) -> None:
    """Two clusters of the same addresses, each with a node on both hosts, where root sends what it likes.

    The same packets do leave it when somebody has taken hosts' packet filter rules away, until these are repaired.
    """
    for name in (NAME, OTHER):
        vclust("create", vclust.request(name, REQUEST.format(name=name, packages="python3")))
    clusters, hosts = checker.read(site.root).live, {each.name: each for each in (kvm_host, host)}
    assert [{node.host for node in cluster.nodes} for cluster in clusters] == [set(hosts), set(hosts)]
    machines = [*(each.address for each in hosts.values()), SELF]
    with contextlib.ExitStack() as stack:
        listen = LISTEN.format(ear=ON_MACHINE)
        on_hosts = {
            name: Ear(stack, [*each.ssh_command("--"), f"python3 -c {shlex.quote(listen)}"])
            for name, each in hosts.items()
        }
        here = Ear(stack, [sys.executable, "-c", listen])
        nodes = [node for cluster in clusters for node in cluster.nodes]
        in_nodes = {
            node.name: Ear(stack, python_in(vclust, node, LISTEN.format(ear=IN_NODE))) for node in nodes
        }
        peers = {
            node.name: peer.name
            for node, peer in itertools.permutations(nodes, 2)
            if node.cluster == peer.cluster
        }
        sent = {
            node.name: packets(
                node,
                hosts[node.host].ssh(f"cat /sys/class/net/{cluster.segment}/address").strip(),
                other,
                machines,
            )
            for cluster, other in (clusters, clusters[::-1])
            for node in cluster.nodes
        }

        def strangers() -> dict[str, set[str]]:
            """By listener what comes in but from the other node of its cluster, when all nodes send everything."""
            for machine in machines:
                output("bash", "-c", f"echo 'from-here;' >/dev/udp/{machine}/{PORT}")
            for name, ear in in_nodes.items():
                ear.send(sent[name])
            heard, deadline = {name: set[str]() for name in in_nodes}, time.monotonic() + PATIENCE
            # What it has sent last, and to everybody.
            while not all(f"from-{peers[name]}-all;" in heard[name] for name in heard):
                assert time.monotonic() < deadline, heard
                time.sleep(1)
                for name, ear in in_nodes.items():
                    heard[name] |= ear.heard()
            heard = {
                name: {marker for marker in heard[name] if not marker.startswith(f"from-{peers[name]}-")}
                for name in heard
            }
            return heard | {name: ear.heard() for name, ear in on_hosts.items()} | {SELF: here.heard()}

        isolated = {name: set[str]() for name in in_nodes} | {name: {"from-here;"} for name in (*hosts, SELF)}
        assert strangers() == isolated
        for each in hosts.values():
            each.ssh(f"nft delete table inet {TABLE}; nft delete table arp {TABLE}")
        heard = strangers()
        print(f"\nMIXED, without rules: {heard}")
        for node in nodes:
            assert f"from-{node.name}-machine;" in heard[node.host]
            (neighbour,) = (one.name for one in nodes if one.host == node.host and one != node)
            assert f"from-{node.name}-tunnel;" in heard[neighbour]
        assert heard[SELF] == {"from-here;"}, "it has its own rules"
        vclust("site", "repair")
        assert strangers() == isolated
    for name in (NAME, OTHER):
        vclust("destroy", name)
