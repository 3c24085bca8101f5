"""Nobody sends into a segment who is not of it, nothing in it moves a node, and nothing of it reaches the machine.

Real machines of a LAN but for their kernel, which they share (`segmentbed`): the hook and `network.ensure` run as they
are, and what is sent is looked for where it must not arrive.  Three clusters:

A   site manager, h1 (nodes 1 and 2), h2 (node 3)
B   site manager, h1 (node 1), other (node 2)
C   site manager (node 1)
"""

import os
import shutil
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import segmentbed as bed
from segmentbed import (
    BROADCAST,
    LAN,
    LAN6,
    Bed,
    Cluster,
    Machine,
    arp,
    arrives,
    frame,
    hears,
    icmp,
    icmp6,
    ip,
    tcp,
    udp,
    udp6,
    vxlan,
)

from vclust_py import network_hook

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

A, B, C = "vca0b1c2d3e4", "vcb0c1d2e3f4", "vcc0d1e2f3a4"
RANGE = IPv4Network("192.168.70.0/24")
"""Of all: clusters' networks may be the same."""
VXLAN = network_hook.PORT
EVERYBODY = "255.255.255.255"
NOBODY = "0.0.0.0"  # noqa: S104
IGMP = b"\x11\x64\xee\x9b" + b"\0" * 4
OUTSIDE = "192.0.2.7"
RESERVED, LLDP = "01:80:c2:00:00:03", "01:80:c2:00:00:0e"
"""Group addresses that are for bridges: they do not pass them on."""


@dataclass
class Site:
    bed: Bed
    manager: Machine
    h1: Machine
    h2: Machine
    other: Machine
    stranger: Machine
    a: Cluster
    b: Cluster

    c: Cluster

    def machine(self, name: str) -> Machine:
        return self.bed.machines[name]

    def origin(self, name: str) -> "Origin":
        """A node of that machine: of a cluster with a tunnel and of one without."""
        cluster = self.c if name == "manager" else self.a
        return Origin(cluster.nodes[f"{name}.1"], self.machine(name), cluster.bridge)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Bed(tmp_path_factory.mktemp("bed")) as made:
        manager, h1, h2, other = (
            made.machine(name, number)
            for name, number in (("manager", 10), ("h1", 11), ("h2", 12), ("other", 13))
        )
        stranger = made.machine("stranger", 99)
        a = bed.cluster(made, manager, A, RANGE, [h1, h1, h2])
        b = bed.cluster(made, manager, B, RANGE, [h1, other])
        c = bed.cluster(made, manager, C, RANGE, [manager])
        for machine in (manager, h1, h2, other):
            machine.listen()
        bed.settle(*a.links, *b.links, *c.links)
        yield Site(made, manager, h1, h2, other, stranger, a, b, c)


@pytest.fixture
def marker() -> bytes:
    return b"marker-" + os.urandom(17)  # with an IP header's length: VXLAN sends no less


# What works -------------------------------------------------------------------------------------------------------


def test_every_node_reaches_every_other_and_the_router(site: Site, marker: bytes) -> None:
    """By name of the network card and by broadcast, with the largest packet there is, in each cluster by itself."""
    for cluster in (site.a, site.b):
        router = bed.mac_of(RANGE.broadcast_address - 1)
        ends = {node.mac: node.link for node in cluster.nodes.values()} | {router: cluster.router}
        for source, link in ends.items():
            for target, there in ends.items():
                payload = marker + mac_bytes(source, target)
                if source != target:
                    link.send(
                        frame(source, target, (ip("10.1.1.1", "10.1.1.2", 253, payload)).ljust(1450, b"."))
                    )
                    assert arrives(payload, there.heard), f"{source} to {target}"
            link.send(frame(source, BROADCAST, marker + source.encode()))
            for there in ends.values():
                assert there is link or arrives(marker + source.encode(), there.heard)
        other = site.b if cluster is site.a else site.a
        assert not hears(marker, other.heard)


def mac_bytes(*macs: str) -> bytes:
    return b"".join(map(bed.mac, macs))


def test_the_kernel_itself_finds_nodes_by_arp(site: Site, marker: bytes) -> None:
    first, last = site.a.nodes["h1.1"], site.a.nodes["h2.3"]
    here = bed.socket_in(first.namespace, socket.AF_INET, socket.SOCK_DGRAM)
    there = bed.socket_in(last.namespace, socket.AF_INET, socket.SOCK_DGRAM)
    with here, there:
        there.bind((str(last.address), 7))
        there.settimeout(5)
        here.settimeout(5)
        here.sendto(marker, (str(last.address), 7))
        data, sender = there.recvfrom(100)
        assert data == marker
        there.sendto(b"back", sender)
        assert here.recv(100) == b"back"


def test_what_a_bridge_carries_may_be_filtered_by_the_machine(site: Site, marker: bytes) -> None:
    """br_netfilter, as Docker switches it on: bridged packets come by the packet filter's `forward` too."""
    first, second, last = site.a.nodes.values()
    site.h1.run("sh", "-c", f"echo 1 > {bed.BRIDGE_FILTER}")
    try:
        for target in (second, last):
            packet = ip(str(first.address), str(target.address), 253, marker + target.mac.encode())
            first.link.send(frame(first.mac, target.mac, packet))
            assert arrives(marker + target.mac.encode(), target.link.heard)
    finally:
        site.h1.run("sh", "-c", f"echo 0 > {bed.BRIDGE_FILTER}")


# From machines that are not of the cluster ------------------------------------------------------------------------

Send = Callable[[Site, bytes], None]
"""Sends something with the marker in it."""


def inner(site: Site, marker: bytes, destination: str = BROADCAST) -> bytes:
    node = site.a.nodes["h1.2"]
    answer = arp(node.mac, str(node.address), str(node.address), answer=True)
    return frame(node.mac, destination, answer + marker, 0x0806)


def outer(
    machine: str,
    target: str,
    number: int,
    *,
    to: str = "",
    source: str = "",
    flags: int = 0x08000000,
    port: int = 40000,
    tail: bytes = b"",
) -> Send:
    """One VXLAN packet with a frame for cluster A in it, from a machine that really has that address and card."""

    def send(site: Site, marker: bytes) -> None:
        sender, receiver = site.machine(machine), site.machine(target)
        packet = vxlan(number, inner(site, marker) + tail, flags=flags)
        card = BROADCAST if to else bed.ethernet_of(receiver)
        datagram = ip(
            source or str(sender.address), to or str(receiver.address), 17, udp(VXLAN, packet, port)
        )
        sender.link.send(frame(bed.ethernet_of(sender), card, datagram))

    return send


def fragments(machine: str, target: str, number: int, cut: int) -> Send:
    """The same in two IP fragments, of which the first ends `cut` bytes after the beginning of UDP's header."""

    def send(site: Site, marker: bytes) -> None:
        sender, receiver = site.machine(machine), site.machine(target)
        data = udp(VXLAN, vxlan(number, inner(site, marker)))
        ends = (str(sender.address), str(receiver.address), 17)
        for part in (ip(*ends, data[:cut], more=True), ip(*ends, data[cut:], offset=cut)):
            sender.link.send(frame(bed.ethernet_of(sender), bed.ethernet_of(receiver), part))

    return send


def over_ipv6(machine: str, target: str, number: int) -> Send:
    def send(site: Site, marker: bytes) -> None:
        sender, receiver = site.machine(machine), site.machine(target)
        ends = [f"{LAN6}{int(one.address) & 0xFF}" for one in (sender, receiver)]
        packet = udp6(ends[0], ends[1], VXLAN, vxlan(number, inner(site, marker)))
        sender.link.send(frame(bed.ethernet_of(sender), bed.ethernet_of(receiver), packet, 0x86DD))

    return send


def from_itself(machine: str, number: int) -> Send:
    """What any user of a machine may send to it."""

    def send(site: Site, marker: bytes) -> None:
        with bed.socket_in(site.machine(machine).namespace, socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for target in ("127.0.0.1", str(site.machine(machine).address)):
                sock.sendto(vxlan(number, inner(site, marker)), (target, VXLAN))

    return send


def by_device(machine: str, target: str, number: int) -> Send:
    """By the kernel's own VXLAN device, as somebody with the machine would make one."""

    def send(site: Site, marker: bytes) -> None:
        sender = site.machine(machine)
        kind = f"type vxlan id {number} local {sender.address} dstport {VXLAN}"
        sender.run("ip", "-batch", "-", text=f"link add forged {kind}\nlink set forged up\n")
        try:
            where = ["dev", "forged", "dst", str(site.machine(target).address)]
            sender.run("bridge", "fdb", "append", network_hook.OTHERS, *where)
            link = bed.Link(sender.namespace, "forged")
            link.send(inner(site, marker))
            link.close()
        finally:
            sender.run("ip", "link", "delete", "forged")

    return send


NUMBER, OTHER_NUMBER = bed.number_of(A), bed.number_of(B)

INJECTIONS: dict[str, Send] = {
    **{
        f"{machine} to {target}, A's number": outer(machine, target, NUMBER)
        for machine in ("other", "stranger")
        for target in ("manager", "h1", "h2")
    },
    **{
        f"{machine} by a device of its own": by_device(machine, "h1", NUMBER)
        for machine in ("other", "stranger")
    },
    "a host that is in no cluster with h2": outer("other", "h2", OTHER_NUMBER),
    "h2 is not of B": outer("h2", "other", OTHER_NUMBER),
    "a stranger with B's number": outer("stranger", "h1", OTHER_NUMBER),
    "an unused number": outer("other", "h1", 5),
    "number 0": outer("other", "h1", 0),
    "the next number": outer("other", "h1", NUMBER + 1),
    "the number shifted": outer("other", "h1", NUMBER >> 8),
    "no number, its flag not set": outer("other", "h1", NUMBER, flags=0),
    "all flags": outer("other", "h1", NUMBER, flags=0xFFFFFFFF),
    "from VXLAN's own port": outer("other", "h1", NUMBER, port=VXLAN),
    "from port 0": outer("other", "h1", NUMBER, port=0),
    "to everybody on the LAN": outer("other", "h1", NUMBER, to=str(LAN.broadcast_address)),
    "to everybody": outer("other", "h1", NUMBER, to="255.255.255.255"),
    "to all systems' group": outer("other", "h1", NUMBER, to="224.0.0.1"),
    "from nobody": outer("other", "h1", NUMBER, source=NOBODY),
    "from an address elsewhere": outer("other", "h1", NUMBER, source=OUTSIDE),
    "from the receiver's own address": outer("other", "h1", NUMBER, source=str(LAN[11])),
    "from loopback": outer("other", "h1", NUMBER, source="127.0.0.1"),
    "with more behind the frame": outer("other", "h1", NUMBER, tail=b"." * 1000),
    "in fragments, cut behind UDP's header": fragments("other", "h1", NUMBER, 8),
    "in fragments, cut behind VXLAN's header": fragments("other", "h1", NUMBER, 16),
    "in fragments, to the site manager": fragments("other", "manager", NUMBER, 8),
    "by IPv6": over_ipv6("other", "h1", NUMBER),
    "by IPv6 from a peer": over_ipv6("h2", "h1", NUMBER),
    "by IPv6 to the site manager": over_ipv6("other", "manager", NUMBER),
    "from a user of the host itself": from_itself("h1", NUMBER),
    "from a user of the site manager": from_itself("manager", NUMBER),
}


@pytest.mark.parametrize("trial", INJECTIONS)
def test_injection(site: Site, marker: bytes, trial: str) -> None:
    INJECTIONS[trial](site, marker)
    assert not hears(marker, site.a.heard, site.b.heard)


def test_the_trials_are_told_from_what_works(site: Site, marker: bytes) -> None:
    """The same packet from one of the cluster arrives: what the trials above look for can be seen."""
    outer("h2", "h1", NUMBER)(site, marker)
    assert arrives(marker, site.a.nodes["h1.1"].link.heard)
    outer("other", "h1", OTHER_NUMBER)(site, marker + b"-b")
    assert arrives(marker + b"-b", site.b.nodes["h1.1"].link.heard)
    fragments("h2", "h1", NUMBER, 8)(site, marker + b"-f")
    assert arrives(marker + b"-f", site.a.nodes["h1.1"].link.heard)


def test_a_forged_address_is_believed(site: Site, marker: bytes) -> None:
    """What is not refused, and cannot be by this: the switches must, or IPsec (docs/xen.md)."""
    outer("stranger", "h1", NUMBER, source=str(site.h2.address))(site, marker)
    assert arrives(marker, site.a.nodes["h1.1"].link.heard)


# Nothing moves a node ---------------------------------------------------------------------------------------------


def test_a_member_cannot_take_a_nodes_place(site: Site, marker: bytes) -> None:
    """h2 says again and again that the nodes of h1 and the router are on it."""
    victims = [site.a.nodes["h1.1"].mac, bed.mac_of(RANGE.broadcast_address - 1)]
    for victim in victims:
        for target in (site.h1, site.manager):
            forged = frame(
                victim, BROADCAST, arp(victim, "192.168.70.1", "192.168.70.1", answer=True), 0x0806
            )
            datagram = ip(str(site.h2.address), str(target.address), 17, udp(VXLAN, vxlan(NUMBER, forged)))
            for _ in range(3):
                site.h2.link.send(frame(bed.ethernet_of(site.h2), bed.ethernet_of(target), datagram))
    node, router = site.a.nodes["h1.1"], site.a.router
    bed.settle(node.link, router)
    site.h2.link.heard()
    assert site.h1.entry(A, node.mac) == "tape41"
    assert site.manager.entry(A, victims[1]) == f"{A}r"
    assert site.manager.entry(A, node.mac) == f"{A}x"
    router.send(frame(victims[1], node.mac, marker))
    assert arrives(marker, node.link.heard)
    node.link.send(frame(node.mac, victims[1], marker + b"-back"))
    assert arrives(marker + b"-back", router.heard)
    assert not hears(marker, site.h2.link.heard)


@pytest.mark.parametrize("thief", ["h1.1", "h1.2"])
def test_a_node_cannot_take_a_place_on_another_machine(site: Site, marker: bytes, thief: str) -> None:
    node, victim = site.a.nodes[thief], site.a.nodes["h2.3"]
    for stolen in (victim.mac, bed.mac_of(RANGE.broadcast_address - 1)):
        for _ in range(3):
            node.link.send(
                frame(stolen, BROADCAST, arp(stolen, "192.168.70.3", "192.168.70.3", answer=True), 0x0806)
            )
        assert site.h1.entry(A, stolen) == f"{A}x"
    honest = site.a.nodes["h1.2" if thief == "h1.1" else "h1.1"]
    honest.link.send(frame(honest.mac, victim.mac, marker))
    assert arrives(marker, victim.link.heard)
    assert not hears(marker, node.link.heard)
    site.a.router.send(frame(bed.mac_of(RANGE.broadcast_address - 1), victim.mac, marker + b"-2"))
    assert arrives(marker + b"-2", victim.link.heard)


def test_nodes_of_a_cluster_on_one_machine_trust_each_other(site: Site, marker: bytes) -> None:
    """Not refused either: a node takes the place of another one of its own cluster on the same machine."""
    first, second = site.a.nodes["h1.1"], site.a.nodes["h1.2"]
    claim = arp(second.mac, str(second.address), str(second.address), answer=True)
    first.link.send(frame(second.mac, BROADCAST, claim, 0x0806))
    site.a.router.send(frame(bed.mac_of(RANGE.broadcast_address - 1), second.mac, marker))
    assert arrives(marker, first.link.heard)
    second.link.send(frame(second.mac, BROADCAST, claim, 0x0806))
    site.a.router.send(frame(bed.mac_of(RANGE.broadcast_address - 1), second.mac, marker + b"-2"))
    assert arrives(marker + b"-2", second.link.heard)


# From a node to its machine ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origin:
    """A node and the machine under it."""

    node: bed.Node
    machine: Machine
    bridge: str

    @property
    def address(self) -> str:
        return str(self.node.address)

    @property
    def host(self) -> str:
        return str(self.machine.address)

    @property
    def host6(self) -> str:
        return LAN6 + self.host.rsplit(".", 1)[1]


@dataclass(frozen=True)
class Up:
    """A packet from a node to the machine under it, by the hardware address `to` (empty: the bridge's own)."""

    packet: Callable[[bytes, Origin], bytes]
    to: str = ""

    def send(self, origin: Origin, marker: bytes) -> None:
        packet = self.packet(marker, origin)
        kind = 0x86DD if packet[0] >> 4 == 6 else 0x0800
        to = self.to or origin.machine.run("cat", f"/sys/class/net/{origin.bridge}/address").strip()
        origin.node.link.send(frame(origin.node.mac, to, packet, kind))


NODE6 = "fe80::5054:ff:fe00:1"
SEGMENT_BROADCAST, LAN_BROADCAST = str(RANGE.broadcast_address), str(LAN.broadcast_address)
NEIGHBOUR = str(LAN[50])
"""A machine of the LAN that is not there."""
ALL, ALL6 = "01:00:5e:00:00:01", "33:33:00:00:00:01"


def datagram(source: str, destination: str, to: str = "", port: int = 5353) -> Up:
    """UDP; an empty address is the node's, or the host's."""
    return Up(lambda m, at: ip(source or at.address, destination or at.host, 17, udp(port, m)), to)


def syn(source: str, destination: str, to: str = "") -> Up:
    return Up(lambda m, at: tcp(4, source or at.address, destination or at.host, 5353, m), to)


def ping(source: str, destination: str, to: str = "") -> Up:
    return Up(lambda m, at: ip(source or at.address, destination or at.host, 1, icmp(m)), to)


def datagram6(source: str, destination: str, to: str = "") -> Up:
    return Up(lambda m, at: udp6(source, destination or at.host6, 5353, m), to)


def into(cluster: str, source: str, to: str) -> Up:
    """A node that speaks VXLAN to the machine under it."""
    broadcast = frame("52:54:00:00:00:09", BROADCAST, arp("52:54:00:00:00:09", "1.2.3.4", "1.2.3.4"), 0x0806)
    number = bed.number_of(cluster)
    return Up(
        lambda m, at: ip(source or at.address, at.host, 17, udp(VXLAN, vxlan(number, broadcast + m))), to
    )


PEER = str(LAN[13])
"""The other host, which is of cluster B."""

UPWARDS: dict[str, Up] = {
    "UDP from nobody to everybody": datagram(NOBODY, EVERYBODY, BROADCAST),
    "the same to DHCP's port": datagram(NOBODY, EVERYBODY, BROADCAST, 67),
    "the same to the bridge's card": datagram(NOBODY, EVERYBODY),
    "the same to a group's card": datagram(NOBODY, EVERYBODY, ALL),
    "UDP to everybody": datagram("", EVERYBODY, BROADCAST),
    "UDP to everybody from elsewhere": datagram(OUTSIDE, EVERYBODY, BROADCAST),
    "UDP to the segment's broadcast": datagram("", SEGMENT_BROADCAST, BROADCAST),
    "UDP from nobody to the segment's broadcast": datagram(NOBODY, SEGMENT_BROADCAST, BROADCAST),
    "UDP to the LAN's broadcast": datagram("", LAN_BROADCAST, BROADCAST),
    "UDP from nobody to the LAN's broadcast": datagram(NOBODY, LAN_BROADCAST, BROADCAST),
    "UDP to all systems": datagram("", "224.0.0.1", ALL),
    "UDP from nobody to all systems": datagram(NOBODY, "224.0.0.1", ALL),
    "multicast DNS": datagram("", "224.0.0.251", "01:00:5e:00:00:fb"),
    "multicast DNS from nobody": datagram(NOBODY, "224.0.0.251", "01:00:5e:00:00:fb"),
    "UDP to the host": datagram("", ""),
    "UDP to the host from nobody": datagram(NOBODY, ""),
    "UDP to the host from elsewhere": datagram(OUTSIDE, ""),
    "UDP to the host from its LAN": datagram(NEIGHBOUR, ""),
    "UDP to the host by broadcast": datagram("", "", BROADCAST),
    "UDP to loopback": datagram("", "127.0.0.1"),
    "UDP to loopback from loopback": datagram("127.0.0.1", "127.0.0.1"),
    "UDP to loopback's broadcast": datagram("127.0.0.1", "127.255.255.255", BROADCAST),
    "UDP to address 0": datagram(NOBODY, NOBODY, BROADCAST),
    "UDP to everybody by a reserved group": datagram(NOBODY, EVERYBODY, RESERVED),
    "UDP to the host by a reserved group": datagram("", "", RESERVED),
    "UDP to the host by a reserved group, from its LAN": datagram(NEIGHBOUR, "", RESERVED),
    "UDP to the host by bridges' own group": datagram("", "", "01:80:c2:00:00:00"),
    "UDP to the host by LLDP's group": datagram("", "", LLDP),
    "UDP to the host by the last reserved group": datagram("", "", "01:80:c2:00:00:0f"),
    "TCP to the host": syn("", ""),
    "TCP to the host from its LAN": syn(NEIGHBOUR, ""),
    "TCP to the host by a reserved group": syn(NEIGHBOUR, "", RESERVED),
    "TCP to the host by LLDP's group": syn(NEIGHBOUR, "", LLDP),
    "TCP to loopback": syn("127.0.0.1", "127.0.0.1"),
    "ping to the host": ping("", ""),
    "ping to everybody": ping("", EVERYBODY, BROADCAST),
    "ping from nobody to everybody": ping(NOBODY, EVERYBODY, BROADCAST),
    "ping to all systems": ping(NOBODY, "224.0.0.1", ALL),
    "ping to the host by a reserved group": ping(NEIGHBOUR, "", RESERVED),
    "IGMP from nobody": Up(lambda m, _: ip(NOBODY, "224.0.0.1", 2, IGMP + m), BROADCAST),
    "SCTP from nobody": Up(
        lambda m, _: ip(NOBODY, EVERYBODY, 132, struct.pack("!HHII", 1, 5353, 0, 0) + m), BROADCAST
    ),
    "UDP of IPv6 to the host": datagram6(NODE6, ""),
    "UDP of IPv6 to all nodes": datagram6(NODE6, "ff02::1", ALL6),
    "UDP of IPv6 to all nodes from nobody": datagram6("::", "ff02::1", ALL6),
    "multicast DNS of IPv6": datagram6(NODE6, "ff02::fb", "33:33:00:00:00:fb"),
    "UDP of IPv6 to all nodes of the interface": datagram6(NODE6, "ff01::1", ALL6),
    "UDP of IPv6 to loopback": datagram6(NODE6, "::1"),
    "UDP of IPv6 by a reserved group": datagram6(NODE6, "", RESERVED),
    "UDP of IPv6 to all nodes by a reserved group": datagram6(NODE6, "ff02::1", RESERVED),
    "UDP of IPv6 to all nodes by LLDP's group": datagram6(NODE6, "ff02::1", LLDP),
    "TCP of IPv6 to the host": Up(lambda m, at: tcp(6, NODE6, at.host6, 5353, m)),
    "TCP of IPv6 by a reserved group": Up(lambda m, at: tcp(6, NODE6, at.host6, 5353, m), RESERVED),
    "ping of IPv6 to all nodes": Up(lambda m, _: icmp6(NODE6, "ff02::1", m), ALL6),
    "ping of IPv6 by a reserved group": Up(lambda m, at: icmp6(NODE6, at.host6, m), RESERVED),
    "VXLAN to the host": into(A, "", ""),
    "VXLAN into another cluster from one of its machines": into(B, PEER, ""),
    "VXLAN into another cluster by broadcast": into(B, PEER, BROADCAST),
    "VXLAN into another cluster by a reserved group": into(B, PEER, RESERVED),
    "VXLAN into another cluster by LLDP's group": into(B, PEER, LLDP),
}


@pytest.mark.parametrize("where", ["h1", "manager"])
@pytest.mark.parametrize("trial", UPWARDS)
def test_a_node_does_not_reach_its_host(site: Site, marker: bytes, trial: str, where: str) -> None:
    origin = site.origin(where)
    UPWARDS[trial].send(origin, marker)
    assert not hears(marker, origin.machine.heard, site.b.heard)


def test_the_hosts_ears_hear(site: Site, marker: bytes) -> None:
    """The same packets from the LAN arrive."""
    card = bed.ethernet_of(site.h1)
    sender, host = str(site.stranger.address), str(site.h1.address)
    sender6, host6 = f"{LAN6}99", site.origin("h1").host6
    for number, packet in enumerate(
        [
            lambda data: ip(sender, host, 17, udp(5353, data)),
            lambda data: ip(NOBODY, EVERYBODY, 17, udp(5353, data)),
            lambda data: tcp(4, sender, host, 5353, data),
            lambda data: ip(sender, host, 1, icmp(data)),
            lambda data: ip(sender, "224.0.0.1", 2, IGMP + data),
            lambda data: udp6(sender6, host6, 5353, data),
            lambda data: tcp(6, sender6, host6, 5353, data),
            lambda data: icmp6(sender6, host6, data),
        ]
    ):
        data = marker + b"%d" % number
        whole = packet(data)
        kind = 0x86DD if whole[0] >> 4 == 6 else 0x0800
        site.stranger.link.send(frame(bed.ethernet_of(site.stranger), card, whole, kind))
        assert arrives(data, site.h1.heard), f"{number}"


def test_the_site_manager_is_kept_from_its_nodes_too(site: Site, marker: bytes) -> None:
    """A member that has gone bad sends what its nodes may not."""
    wrong = frame("52:54:00:00:00:09", BROADCAST, ip(NOBODY, EVERYBODY, 17, udp(5353, marker)))
    datagram = ip(str(site.h1.address), str(site.manager.address), 17, udp(VXLAN, vxlan(NUMBER, wrong)))
    site.h1.link.send(frame(bed.ethernet_of(site.h1), bed.ethernet_of(site.manager), datagram))
    assert arrives(marker, site.a.router.heard)
    # Not by its raw sockets: the tunnel's own packet, with the marker in it, is for the machine.
    assert not hears(marker, site.manager.served)


@pytest.mark.parametrize("where", ["h1", "manager"])
@pytest.mark.parametrize("to", [BROADCAST, RESERVED, LLDP])
def test_a_host_answers_no_arp(site: Site, to: str, where: str) -> None:
    origin = site.origin(where)
    origin.node.link.heard()
    question = arp(origin.node.mac, origin.address, origin.host)
    origin.node.link.send(frame(origin.node.mac, to, question, 0x0806))
    answer = question[:7] + b"\2"
    assert not hears(answer, origin.node.link.heard)


@pytest.mark.parametrize("to", ["", RESERVED, LLDP])
def test_a_host_passes_nothing_on(site: Site, marker: bytes, to: str) -> None:
    """Not even when somebody lets the machine pass packets on, and from anywhere: the kernel's settings for that are
    for all its interfaces."""
    stranger, settings = site.stranger, "/proc/sys/net/ipv4"
    site.h1.run("sh", "-c", f"cd {settings}; echo 1 > ip_forward; echo 0 | tee conf/*/rp_filter")
    card = bed.ethernet_of(stranger)
    site.h1.run("ip", "neighbour", "replace", stranger.address, "lladdr", card, "dev", "eth0")
    try:
        assert site.h1.run("cat", f"{settings}/conf/{A}/forwarding") == "1\n"
        for source in ("", NEIGHBOUR):
            datagram(source, str(stranger.address), to).send(site.origin("h1"), marker)
        assert not hears(marker, stranger.link.heard)
    finally:
        site.h1.run("sh", "-c", f"cd {settings}; echo 0 > ip_forward; echo 1 | tee conf/vc*/rp_filter")


# Again, and away ---------------------------------------------------------------------------------------------------


def state(machine: Machine) -> tuple[str, str]:
    """The packet filter's rules, and the forwarding entries that somebody has made, not what was learnt."""
    entries = machine.run("bridge", "fdb", "show").splitlines()
    made = [line for line in entries if "static" in line or (" dst " in line and "permanent" in line)]
    return machine.run("nft", "list", "ruleset"), "\n".join(sorted(made))


def test_again_changes_nothing(site: Site) -> None:
    before = state(site.manager)
    assert not bed.ensure(site.manager, A, RANGE, site.a.ends["manager"])
    assert state(site.manager) == before
    rules = site.h2.run("nft", "list", "ruleset")
    site.h2.hook("started", site.a.ends["h2"])
    assert site.h2.run("nft", "list", "ruleset") == rules


def test_flushed_rules_come_back(site: Site, marker: bytes) -> None:
    rules = site.manager.run("nft", "list", "ruleset")
    site.manager.run("nft", "flush", "ruleset")
    for cluster in (site.a, site.b, site.c):
        bed.on(site.manager, f"network.protect({cluster.bridge!r}, {cluster.ends.get('manager')!r})")
    assert sorted(site.manager.run("nft", "list", "ruleset").split()) == sorted(rules.split())
    outer("other", "manager", NUMBER)(site, marker)
    assert not hears(marker, site.a.heard)


def test_a_segment_goes_and_the_others_stay(site: Site, marker: bytes) -> None:
    bridge, ranged = "vc00000ffff0", IPv4Network("192.168.71.0/24")
    before = [state(machine) for machine in (site.manager, site.h1)]
    cluster = bed.cluster(site.bed, site.manager, bridge, ranged, [site.h1])
    assert cluster.number == 15
    node = cluster.nodes["h1.1"]

    def comes() -> bool:
        node.link.send(frame(node.mac, BROADCAST, marker))
        return arrives(marker, cluster.router.heard)

    assert comes() or comes()  # on a busy machine the kernel may take links up late, and lose the first
    cluster.router.close()
    for _ in range(2):
        bed.on(site.manager, f"network.remove({bridge!r}, 15)")
    site.h1.run("ip", "link", "delete", bridge)
    for _ in range(2):
        site.h1.hook("stopped", cluster.ends["h1"])
    assert [state(machine) for machine in (site.manager, site.h1)] == before
    assert bridge not in site.manager.run("ip", "link") + site.h1.run("ip", "link")


def test_a_segment_of_an_earlier_version_becomes_as_others(site: Site) -> None:
    """On the site manager, while nodes run: it learnt, pinned nothing, and its router's card was another."""
    before, name = state(site.manager), network_hook.device(A)
    router = bed.mac_of(RANGE.broadcast_address - 1)
    forget = f"fdb delete {router} dev {A}r master\n"
    for node in site.a.nodes.values():
        forget += f"fdb delete {node.mac} dev {name}\nfdb delete {node.mac} dev {name} master\n"
    site.manager.run("bridge", "-batch", "-", text=forget)
    site.manager.run("ip", "link", "set", name, "type", "vxlan", "learning")
    site.manager.run("ip", "link", "set", name, "type", "bridge_slave", "learning", "on")
    site.manager.run("ip", "-n", A, "link", "set", "eth0", "address", "52:54:00:12:34:56")
    site.manager.run("nft", "-f", "-", text=f"flush ruleset\nadd table inet {A}\nadd chain inet {A} input")
    for cluster in (site.a, site.b, site.c):
        bed.ensure(site.manager, cluster.bridge, RANGE, cluster.ends.get("manager"))
    assert state(site.manager) == before
    assert " nolearning " in site.manager.run("ip", "-details", "link", "show", name)
    assert " learning off " in site.manager.run("ip", "-details", "link", "show", name)
    assert router in site.manager.run("ip", "-n", A, "link", "show", "eth0")


def test_without_nft_there_is_no_segment(site: Site, tmp_path: Path) -> None:
    for program in ("ip", "bridge", "setpriv", "nsenter"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    said = bed.on(site.manager, "network.ensure('vc0000000000', 1, None, None)", path=tmp_path, fails=True)
    assert "nft not found, without which clusters are not kept apart" in said
    assert "apt-get install nftables" in said
    assert "vc0000000000" not in site.manager.run("ip", "link")
