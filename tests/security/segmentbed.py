"""Machines of a site as network namespaces on one LAN, with real segments (libvirt's hook, `network.ensure`).

Each machine has a mount namespace too, with its own /etc (an overlay), /run/vclust and /run/netns, held by a process
that sleeps.
Sockets are made inside of a namespace and used from here: a packet costs no process.
"""

import ctypes
import json
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from vclust_py.addresses import mac_of
from vclust_py.hypervisor import Segment
from vclust_py.hypervisor.segments import segment_xml
from vclust_py.site import PROJECT

HOOK = PROJECT / "vclust_py/network_hook.py"
LAN = IPv4Network("10.99.0.0/24")
LAN6 = "fd00:99::"
QUIET = 0.05
"""Seconds after which what has not come does not come; a packet here takes far less than a hundredth of that."""
BRIDGE_FILTER = "/proc/sys/net/bridge/bridge-nf-call-iptables"
BROADCAST = "ff:ff:ff:ff:ff:ff"
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_HOLD = """
mount --make-rprivate /
mount -t tmpfs work {work}
mkdir -p {work}/upper {work}/work
mount -t overlay -o lowerdir=/etc,upperdir={work}/upper,workdir={work}/work overlay /etc
mkdir -p /run/netns /run/vclust /etc/vclust
mount -t tmpfs run /run/vclust
mount -t tmpfs netns /run/netns
mount --make-shared /run/netns
echo up
exec sleep infinity
"""


def run(*argv: object, text: str = "") -> str:
    words = [str(word) for word in argv]
    done = subprocess.run(words, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
    return done.stdout


def socket_in(namespace: str, *arguments: int) -> socket.socket:
    """A socket of the namespace whose file that is."""
    made: list[socket.socket] = []

    def work() -> None:  # in a thread: no other socket may be made there by mistake
        libc = ctypes.CDLL(None, use_errno=True)
        with open(namespace) as file:
            assert libc.setns(file.fileno(), _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        made.append(socket.socket(*arguments))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return made[0]


class Link:
    """An Ethernet interface as a packet socket: it sends anything, and hears what comes in."""

    def __init__(self, namespace: str, interface: str) -> None:
        self._socket = socket_in(namespace, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.bind((interface, _ETH_P_ALL))

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def heard(self) -> list[bytes]:
        """What has come in since the last call."""
        return _heard(self._socket)

    def close(self) -> None:
        self._socket.close()


def _heard(sock: socket.socket) -> list[bytes]:
    frames = []
    while select.select([sock], [], [], 0)[0]:
        data, address = sock.recvfrom(70000)
        if not (sock.family == socket.AF_PACKET and address[2] == socket.PACKET_OUTGOING):
            frames.append(data)
    return frames


@dataclass
class Node:
    """A node's network card in a namespace of its own, on a machine's bridge."""

    name: str
    address: IPv4Address
    namespace: str
    link: Link

    @property
    def mac(self) -> str:
        return mac_of(self.address)


@dataclass
class Machine:
    """A machine of the LAN.  `link` is its network card as an attacker who has that machine uses it."""

    name: str
    address: IPv4Address
    pid: int
    link: Link
    raw: "list[socket.socket]" = field(default_factory=list)
    services: "list[socket.socket]" = field(default_factory=list)

    @property
    def namespace(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def run(self, *argv: object, text: str = "") -> str:
        return run("nsenter", "-t", self.pid, "-n", "-m", "--", *argv, text=text)

    def hook(self, what: str, segment: Segment, xml: str = "") -> None:
        """As libvirt calls it, with the network as the driver defines it."""
        network_xml = xml or ElementTree.tostring(segment_xml(segment), encoding="unicode")
        text = f"<hookData>{network_xml}</hookData>"
        self.run(sys.executable, HOOK, segment.name, what, "begin", "-", text=text)

    def join(self, segment: Segment) -> None:
        """What libvirt and its hook do when the network starts."""
        address = ["address", "52:54:00:00:00:01"]
        self.run("ip", "link", "add", segment.name, *address, "type", "bridge", "forward_delay", 0)
        self.run("ip", "link", "set", segment.name, "up")
        self.hook("started", segment)

    def entry(self, bridge: str, mac: str) -> str:
        """The bridge's port that has that hardware address."""
        found = json.loads(self.run("bridge", "-json", "fdb", "show", "br", bridge))
        (port,) = [one["ifname"] for one in found if one["mac"] == mac and one.get("master") == bridge]
        return str(port)

    def listen(self) -> None:
        """Hear all that the machine itself is given, after its packet filter: every protocol, IPv4 and IPv6; and have
        open ports, as services that listen on all addresses do."""
        for family, protocols in (
            (socket.AF_INET, (socket.IPPROTO_UDP, socket.IPPROTO_TCP, socket.IPPROTO_ICMP, socket.IPPROTO_IGMP, 132)),
            (socket.AF_INET6, (socket.IPPROTO_UDP, socket.IPPROTO_TCP, socket.IPPROTO_ICMPV6, 132)),
        ):  # fmt: skip
            for protocol in protocols:
                self.raw.append(socket_in(self.namespace, family, socket.SOCK_RAW, protocol))
            udp = socket_in(self.namespace, family, socket.SOCK_DGRAM)
            tcp = socket_in(self.namespace, family, socket.SOCK_STREAM)
            for sock in (udp, tcp):
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(("::" if family == socket.AF_INET6 else "", 5353))
            tcp.listen()
            self.services += [udp, tcp]

    def heard(self) -> list[bytes]:
        return [data for ear in self.raw for data in _heard(ear)] + self.served()

    def served(self) -> list[bytes]:
        """What has come to the ports; a TCP packet is seen by `heard`."""
        return [data for port in self.services if port.type == socket.SOCK_DGRAM for data in _heard(port)]


class Bed:
    """A LAN; to be used as a context."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._name = folder, f"vcs{os.getpid()}"
        self._stack = ExitStack()
        self._ports = 0
        self._nodes: set[str] = set()
        self.machines: dict[str, Machine] = {}

    def __enter__(self) -> "Bed":
        self._namespace("lan")
        run("ip", "-n", f"{self._name}-lan", "link", "add", "lan", "type", "bridge", "forward_delay", 0)
        run("ip", "-n", f"{self._name}-lan", "link", "set", "lan", "up")
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _namespace(self, name: str) -> str:
        full = f"{self._name}-{name}"
        run("ip", "netns", "add", full)
        self._stack.callback(run, "ip", "netns", "delete", full)
        # Else bridges drop what is no good IP packet: what this is about must not depend on it.
        run("ip", "netns", "exec", full, "sh", "-c", f"[ ! -e {BRIDGE_FILTER} ] || echo 0 > {BRIDGE_FILTER}")
        return full

    def machine(self, name: str, number: int) -> Machine:
        """A machine of the LAN; the number is its address's last byte."""
        full, address = self._namespace(name), LAN[number]
        self._ports += 1
        port = f"p{self._ports}"
        run("ip", "-n", full, "-batch", "-", text=(
            "link set lo up\n"
            f"link add eth0 type veth peer name {port} netns {self._name}-lan\n"
            f"address add {address}/{LAN.prefixlen} broadcast + dev eth0\n"
            f"address add {LAN6}{number}/64 nodad dev eth0\n"
            "link set eth0 up\n"
            f"route add default via {LAN[1]}\n"
        ))  # fmt: skip
        run("ip", "-n", f"{self._name}-lan", "link", "set", port, "master", "lan", "up")
        work = self._folder / name
        work.mkdir()
        command = ["ip", "netns", "exec", full, "unshare", "-m", "sh", "-ec", _HOLD.format(work=work)]
        holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._stack.callback(holder.wait)
        self._stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        link = Link(f"/proc/{holder.pid}/ns/net", "eth0")
        self._stack.callback(link.close)
        machine = self.machines[name] = Machine(name, address, holder.pid, link)
        return machine

    def node(self, machine: Machine, bridge: str, network: IPv4Network, number: int, mtu: int = 1450) -> Node:
        name, address = f"{bridge[-2:]}{number}", network[number]
        while f"/run/netns/{self._name}-{name}" in self._nodes:  # it moves
            name += "m"
        full = self._namespace(name)
        port = f"tap{name}"
        run("ip", "-n", full, "link", "set", "lo", "up")
        there = ["ip", "-n", f"{self._name}-{machine.name}", "link"]
        peer = ["peer", "name", "eth0", "address", mac_of(address), "netns", full]
        run(*there, "add", port, "type", "veth", *peer)
        run(*there, "set", port, "master", bridge, "up")
        run("ip", "-n", full, "address", "add", f"{address}/{network.prefixlen}", "dev", "eth0")
        run("ip", "-n", full, "link", "set", "eth0", "mtu", mtu, "up")
        namespace = f"/run/netns/{full}"
        self._nodes.add(namespace)
        link = Link(namespace, "eth0")
        self._stack.callback(link.close)
        return Node(name, address, namespace, link)


@dataclass
class Cluster:
    """A cluster's segment over several machines, the site manager among them."""

    bridge: str
    network: IPv4Network
    ends: Mapping[str, Segment]
    """By the machines' names; empty without a tunnel."""
    nodes: dict[str, Node]
    """By the machines' names and a number: `h1.2`."""
    router: Link

    @property
    def number(self) -> int:
        return number_of(self.bridge)

    @property
    def links(self) -> list[Link]:
        return [self.router, *(node.link for node in self.nodes.values())]

    def heard(self) -> list[bytes]:
        return [frame for link in self.links for frame in link.heard()]


def number_of(bridge: str) -> int:
    """The VXLAN network number that these tests give a segment."""
    return int(bridge[2:8], 16) or 1


def on(manager: Machine, expression: str, *, path: Path | None = None, fails: bool = False) -> Any:
    """What `vclust_py.network` does there; where it fails, what it says.  `path`: the only folder with commands."""
    program = (
        "from ipaddress import IPv4Address, IPv4Network\n"
        "from vclust_py import network\nfrom vclust_py.errors import VclustError\n"
        "from vclust_py.hypervisor import Segment\n"
        f"try:\n  print(repr({expression}))\n"
        f"except VclustError as error:\n  if not {fails}: raise\n  print(repr(str(error)))"
    )
    environment = [f"PATH={path}"] if path else []
    said = manager.run("env", *environment, sys.executable, "-c", program)
    return eval(said, {"Segment": Segment, "IPv4Address": IPv4Address})  # noqa: S307 - our own words


def ensure(manager: Machine, bridge: str, cluster_network: IPv4Network, segment: Segment | None) -> bool:
    router = cluster_network.broadcast_address - 1
    return bool(
        on(
            manager,
            f"network.ensure({bridge!r}, {number_of(bridge)}, {cluster_network!r}, {router!r}, {segment!r})",
        )
    )


def cluster(
    bed: Bed, manager: Machine, bridge: str, cluster_network: IPv4Network, places: Iterable[Machine]
) -> Cluster:
    """A cluster with a node for each of `places`, made as `create` makes it."""
    places = list(places)
    router = cluster_network.broadcast_address - 1
    macs: dict[str | None, list[str]] = {}
    for number, machine in enumerate(places, 1):
        macs.setdefault(None if machine is manager else str(machine.address), []).append(
            mac_of(cluster_network[number])
        )
    found = on(manager, f"network.segments({bridge!r}, {number_of(bridge)}, {router!r}, {macs!r})")
    others = {machine.name: machine for machine in places if machine is not manager}
    assert ensure(manager, bridge, cluster_network, found.get(None))
    for machine in others.values():
        machine.join(found[str(machine.address)])
    ends = {name: found[str(machine.address)] for name, machine in others.items()}
    if found:
        ends[manager.name] = found[None]
    nodes = {
        f"{machine.name}.{number}": bed.node(machine, bridge, cluster_network, number)
        for number, machine in enumerate(places, 1)
    }
    return Cluster(bridge, cluster_network, ends, nodes, router_link(manager, bridge))


def router_link(manager: Machine, bridge: str) -> Link:
    return Link(f"/proc/{manager.pid}/root/run/netns/{bridge}", "eth0")


def settle(*links: Link) -> None:
    """Wait until what machines say by themselves when they start is over, and forget it."""
    deadline = time.monotonic() + 3
    heard: list[list[bytes]] = [[b""]]
    while any(heard) and time.monotonic() < deadline:
        time.sleep(0.2)
        heard = [link.heard() for link in links]


def hears(marker: bytes, *listeners: Callable[[], list[bytes]], patience: float = QUIET) -> bool:
    """Whether any of them gets data with `marker` in it.  Ends at once when one does."""
    deadline = time.monotonic() + patience
    while True:
        if any(marker in data for listener in listeners for data in listener()):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.002)


def arrives(marker: bytes, *listeners: Callable[[], list[bytes]]) -> bool:
    """The same for what must come, on a busy machine too."""
    return hears(marker, *listeners, patience=5)


# Packets ----------------------------------------------------------------------------------------------------------


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def frame(source: str, destination: str, payload: bytes, kind: int = 0x0800) -> bytes:
    return mac(destination) + mac(source) + struct.pack("!H", kind) + payload


def _sum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(
    source: str, destination: str, protocol: int, payload: bytes, *, offset: int = 0, more: bool = False
) -> bytes:
    """An IPv4 packet; `offset` in bytes, for a fragment."""
    source_bytes, destination_bytes = IPv4Address(source).packed, IPv4Address(destination).packed
    fields = (0x45, 0, 20 + len(payload), 77, offset // 8 | (0x2000 if more else 0), 64, protocol)
    head = struct.pack("!BBHHHBB", *fields)
    check = struct.pack("!H", _sum(head + b"\0\0" + source_bytes + destination_bytes))
    return head + check + source_bytes + destination_bytes + payload


def ip6(source: str, destination: str, protocol: int, payload: bytes) -> bytes:
    ends = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64) + ends + payload


def _checked(version: int, source: str, destination: str, protocol: int, data: bytes, at: int) -> bytes:
    """`data` with its checksum, which is over its addresses too, at byte `at`."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    ends = socket.inet_pton(family, source) + socket.inet_pton(family, destination)
    check = _sum(ends + struct.pack("!IHH", len(data), 0, protocol) + data)
    return data[:at] + struct.pack("!H", check) + data[at + 2 :]


def udp(port: int, payload: bytes, source: int = 40000) -> bytes:
    """A UDP datagram without a checksum (IPv4)."""
    return struct.pack("!HHHH", source, port, 8 + len(payload), 0) + payload


def udp6(source: str, destination: str, port: int, payload: bytes) -> bytes:
    return ip6(source, destination, 17, _checked(6, source, destination, 17, udp(port, payload), 6))


def tcp(version: int, source: str, destination: str, port: int, payload: bytes) -> bytes:
    """A whole packet that opens a connection, with data in it."""
    data = struct.pack("!HHIIBBHHH", 40000, port, 1, 0, 5 << 4, 2, 1024, 0, 0) + payload
    data = _checked(version, source, destination, 6, data, 16)
    return (ip if version == 4 else ip6)(source, destination, 6, data)


def icmp(payload: bytes) -> bytes:
    """Ping."""
    data = struct.pack("!BBHHH", 8, 0, 0, 1, 1) + payload
    return data[:2] + struct.pack("!H", _sum(data)) + data[4:]


def icmp6(source: str, destination: str, payload: bytes) -> bytes:
    data = struct.pack("!BBHHH", 128, 0, 0, 1, 1) + payload
    return ip6(source, destination, 58, _checked(6, source, destination, 58, data, 2))


def arp(source_mac: str, source: str, target: str, *, answer: bool = False) -> bytes:
    """ARP's payload: who has `target`, or, as an answer, that `source` is at `source_mac`."""
    head = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 2 if answer else 1)
    return head + mac(source_mac) + IPv4Address(source).packed + b"\0" * 6 + IPv4Address(target).packed


def vxlan(number: int, inner: bytes, *, flags: int = 0x08000000) -> bytes:
    """VXLAN's header and the frame in it (RFC 7348)."""
    return struct.pack("!II", flags, number << 8) + inner


def ethernet_of(machine: Machine) -> str:
    found: Any = json.loads(machine.run("ip", "-json", "link", "show", "eth0"))
    return str(found[0]["address"])
