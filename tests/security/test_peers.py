"""A segment's members come and go while its nodes run: whoever stays is never cut off, whoever leaves is out.

Machines of a LAN (`segmentbed`), with the real hook; libvirt's part is proven with a real libvirtd at the end.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path
from xml.etree import ElementTree

import pytest
import segmentbed as bed
from segmentbed import BROADCAST, Bed, Cluster, Machine, Node, arp, arrives, frame, hears, ip, udp, vxlan

from vclust_py import network_hook
from vclust_py.hypervisor import Segment
from vclust_py.hypervisor.segments import segment_xml
from vclust_py.site import PROJECT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces")

A = "vcda0b1c2d3e"
RANGE = IPv4Network("192.168.71.0/24")
ROUTER = RANGE.broadcast_address - 1


class Site:
    """Manager, h1 (nodes 1 and 2), h2 (node 3); h3 is a host without nodes."""

    def __init__(self, made: Bed) -> None:
        self.bed = made
        self.manager, self.h1, self.h2, self.h3 = (
            made.machine(name, number)
            for name, number in (("manager", 10), ("h1", 11), ("h2", 12), ("h3", 13))
        )
        for machine in (self.h1, self.h2, self.h3):
            machine.run("mount", "-t", "tmpfs", "vclust", "/var/lib/vclust")
        self.a = bed.cluster(made, self.manager, A, RANGE, [self.h1, self.h1, self.h2])
        self.generation = 0
        bed.settle(*self.a.links)

    @property
    def hosts(self) -> list[Machine]:
        return [self.h1, self.h2, self.h3]

    def ends(self, places: dict[int, Machine]) -> dict[str, Segment]:
        macs: dict[str | None, list[str]] = {}
        for number, machine in places.items():
            machine_name = None if machine is self.manager else str(machine.address)
            macs.setdefault(machine_name, []).append(bed.mac_of(RANGE[number]))
        found = bed.on(self.manager, f"network.segments({A!r}, {self.a.number}, {ROUTER!r}, {macs!r})")
        names = {str(machine.address): machine.name for machine in self.hosts}
        return {"manager" if machine is None else names[machine]: end for machine, end in found.items()}

    def change(self, places: dict[int, Machine]) -> None:
        """As the phase `create` does: site manager and hosts with nodes get the new members; others are left."""
        ends = self.ends(places)
        self.generation += 1
        assert not bed.ensure(self.manager, A, RANGE, ends["manager"])
        for machine in self.hosts:
            there = os.path.exists(f"/proc/{machine.pid}/root/sys/class/net/{A}")
            if machine.name not in ends:
                if there:
                    machine.hook("stopped", self.a.ends[machine.name])
                    machine.run("ip", "link", "delete", A)
            elif there:
                update(machine, self.a.ends[machine.name], ends[machine.name], self.generation)
            else:
                machine.join(ends[machine.name])
                self.a.ends = {**self.a.ends, machine.name: ends[machine.name]}


def update(machine: Machine, first: Segment, now: Segment, generation: int) -> None:
    """What libvirt gives the hook when the driver has changed the members."""
    xml = segment_xml(first)
    members = " ".join(f"{peer}={','.join(macs)}" for peer, macs in now.peers.items())
    ElementTree.SubElement(xml, "portgroup", name=network_hook.GROUP.format(generation) + members)
    machine.hook("updated", now, ElementTree.tostring(xml, encoding="unicode"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Bed(tmp_path) as made:
        yield Site(made)


@pytest.fixture
def marker() -> bytes:
    return b"marker-" + os.urandom(17)


def reach(source: Node | None, target: Node | None, cluster: Cluster, marker: bytes) -> bool:
    """By name of the network card; None is the router."""
    router = bed.mac_of(ROUTER)
    sender = cluster.router if source is None else source.link
    receiver = cluster.router if target is None else target.link
    payload = marker + os.urandom(4)
    addresses = (source.mac if source else router, target.mac if target else router)
    sender.send(frame(*addresses, ip("10.1.1.1", "10.1.1.2", 253, payload)))
    return arrives(payload, receiver.heard)


def everybody(cluster: Cluster, nodes: list[Node], marker: bytes) -> None:
    ends = [None, *nodes]
    for source in ends:
        for target in ends:
            assert source is target or reach(source, target, cluster, marker), (source, target)


def tables(machine: Machine, bridge: str) -> list[object]:
    """All that is kept of who is where, as the system's own tools show it."""
    device = network_hook.device(bridge)
    fdb = json.loads(machine.run("bridge", "-json", "fdb", "show", "dev", device))
    kept = [
        (one["mac"], one.get("dst"), one.get("master"))
        for one in fdb
        if one.get("state") != "permanent" or "dst" in one
    ]
    neighbours = json.loads(machine.run("ip", "-json", "neighbour", "show", "dev", bridge))
    rules = machine.run("nft", "list", "chain", "inet", network_hook.TABLE, bridge)
    return [sorted(map(str, kept)), sorted((one["dst"], one["lladdr"]) for one in neighbours), rules]


def test_a_node_added_on_a_new_host_and_a_host_that_leaves(site: Site, marker: bytes) -> None:
    first, second, third = site.a.nodes.values()
    everybody(site.a, [first, second, third], marker)

    # A fourth, on a host that had none.
    site.change({1: site.h1, 2: site.h1, 3: site.h2, 4: site.h3})
    fourth = site.bed.node(site.h3, A, RANGE, 4)
    bed.settle(fourth.link)
    everybody(site.a, [first, second, third, fourth], marker)

    # h2 loses its node, and with it its place.
    before = {machine.name: tables(machine, A) for machine in (site.manager, site.h1)}
    site.change({1: site.h1, 2: site.h1, 4: site.h3})
    everybody(site.a, [first, second, fourth], marker)
    for machine in (site.manager, site.h1, site.h3):
        assert str(site.h2.address) not in str(tables(machine, A)), machine.name
        assert third.mac not in str(tables(machine, A)), machine.name
        datagram = ip(
            str(site.h2.address),
            str(machine.address),
            17,
            udp(network_hook.PORT, vxlan(site.a.number, frame(third.mac, BROADCAST, marker + b"-out"))),
        )
        site.h2.link.send(frame(bed.ethernet_of(site.h2), bed.ethernet_of(machine), datagram))
    assert not hears(marker + b"-out", first.link.heard, fourth.link.heard, site.a.router.heard)

    # And back: all is as it was.
    site.change({1: site.h1, 2: site.h1, 3: site.h2, 4: site.h3})
    assert {machine.name: tables(machine, A) for machine in (site.manager, site.h1)} == before


def test_a_node_that_moves(site: Site, marker: bytes) -> None:
    """From h2 to h1, where it is one of the bridge's own then, and on to the site manager."""
    first, second, moved = site.a.nodes.values()
    for number, (source, target) in enumerate(((site.h2, site.h1), (site.h1, site.manager))):
        source.run("ip", "link", "delete", f"tap{moved.name}")
        site.change({1: site.h1, 2: site.h1, 3: target})
        moved = site.bed.node(target, A, RANGE, 3)
        bed.settle(moved.link)
        moved.link.send(frame(moved.mac, BROADCAST, marker + b"here"))  # as it speaks when it starts
        everybody(site.a, [first, second, moved], marker + str(number).encode())


def test_who_stays_is_never_cut_off(site: Site, marker: bytes) -> None:
    """Packets between h1 and h2, sent all the time while h3 comes and goes, all arrive."""
    first, _, third = site.a.nodes.values()
    stop, sent = False, 0

    def send() -> None:
        nonlocal sent
        while not stop:
            payload = marker + b"%08d." % sent
            first.link.send(frame(first.mac, third.mac, ip("10.1.1.1", "10.1.1.2", 253, payload)))
            sent += 1
            time.sleep(0.005)

    heard: set[bytes] = set()

    def listen() -> None:
        while not stop or (len(heard) < sent and time.monotonic() < deadline):
            for data in third.link.heard():
                at = data.find(marker)
                if at >= 0:
                    heard.add(data[at + len(marker) : at + len(marker) + 8])
            time.sleep(0.001)

    deadline = float("inf")
    threads = [threading.Thread(target=work) for work in (send, listen)]
    for thread in threads:
        thread.start()
    try:
        for places in ({4: site.h3}, {}, {4: site.h3}):
            site.change({1: site.h1, 2: site.h1, 3: site.h2, **places})
    finally:
        stop, deadline = True, time.monotonic() + 5
        for thread in threads:
            thread.join()
    assert sent > 100
    assert len(heard) == sent


def test_the_bridge_answers_who_is_where(site: Site, marker: bytes) -> None:
    """ARP for a node on another machine goes nowhere; it is answered, by what the site knows."""
    details = json.loads(
        site.h1.run("bridge", "-json", "-details", "link", "show", "dev", network_hook.device(A))
    )
    if not details[0].get("neigh_suppress"):
        pytest.skip("this kernel's bridges do not suppress")
    first, _, third = site.a.nodes.values()
    ask = frame(first.mac, BROADCAST, arp(first.mac, str(first.address), str(third.address)) + marker, 0x0806)
    first.link.send(ask)
    answer = arp(third.mac, str(third.address), str(first.address), answer=True)[:18]
    assert arrives(answer[6:18], first.link.heard)
    assert not hears(marker, third.link.heard, site.a.router.heard)
    # Who nobody knows is asked for everywhere, as ever.
    first.link.send(
        frame(first.mac, BROADCAST, arp(first.mac, str(first.address), "192.168.71.99") + marker, 0x0806)
    )
    assert arrives(marker, third.link.heard)


def test_larger_packets_where_all_ways_take_them(site: Site) -> None:
    """The site manager goes by its routes; a host whose way is narrower refuses."""
    for machine in (site.manager, site.h1):
        machine.run("ip", "link", "set", "eth0", "mtu", 9000)
    ends = site.ends({1: site.h1, 2: site.h1, 3: site.h2})
    assert ends["manager"].mtu == 1450, "a segment that is there keeps what it has"
    other = "vcda0b1c2d3f"
    macs = {str(site.h1.address): [bed.mac_of(RANGE[1])], str(site.h2.address): [bed.mac_of(RANGE[2])]}
    found = bed.on(site.manager, f"network.segments({other!r}, 9, {ROUTER!r}, {macs!r})")
    assert {end.mtu for end in found.values()} == {8950}
    site.h1.join(found[str(site.h1.address)])
    assert "mtu 8950" in site.h1.run("ip", "link", "show", network_hook.device(other))
    with pytest.raises(AssertionError, match="packets of 9000 bytes do not fit on this machine's way"):
        site.h2.join(found[str(site.h2.address)])
    assert bed.ensure(site.manager, other, RANGE, found[None])
    for interface in (other, f"{other}r", network_hook.device(other)):
        assert "mtu 8950" in site.manager.run("ip", "link", "show", interface)
    # One route is narrower: all of the segment is.
    site.manager.run("ip", "route", "add", str(site.h2.address), "dev", "eth0", "mtu", 1400)
    found = bed.on(site.manager, f"network.segments('vcda0b1c2d30', 8, {ROUTER!r}, {macs!r})")
    assert {end.mtu for end in found.values()} == {1350}


# libvirt's part -----------------------------------------------------------------------------------------------------

LIBVIRT = """
mkdir -p /etc/libvirt/hooks/network.d /var/lib/vclust
rm -rf /etc/libvirt/qemu/networks
for folder in /run/libvirt /var/lib/libvirt /var/log/libvirt; do
    mkdir -p $folder
    mount -t tmpfs libvirt $folder
done
mkdir -p /run/libvirt/network /var/lib/libvirt/images /var/lib/libvirt/qemu /var/lib/libvirt/dnsmasq
cp HOOK /etc/libvirt/hooks/network.d/vclust
chmod 755 /etc/libvirt/hooks/network.d/vclust
libvirtd -d --pid-file /run/libvirt/libvirtd.pid
"""
ENSURE = """
import sys
from ipaddress import IPv4Address
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Segment, segments
from vclust_py.hypervisor.connection import Connection
host = Host("h3", "qemu:///system")
segments._members = lambda connection, bridge: ["a node"]  # runs without a domain here
connection = Connection(host)
try:
    segments.ensure(connection, host, eval(sys.stdin.read()))
except VclustError as error:
    print(error)
connection.close()
"""


def test_a_real_libvirt_runs_the_hook(site: Site, marker: bytes) -> None:
    """The driver's call changes the members of a network that runs, with no restart; a hook that fails is said."""
    if shutil.which("libvirtd") is None:
        pytest.skip("libvirtd is not installed")
    first, second, third = site.a.nodes.values()
    host, hook = site.h3, PROJECT / "vclust_py/network_hook.py"
    host.run("sh", "-ec", LIBVIRT.replace("HOOK", str(hook)))
    up = "until [ -s /run/libvirt/libvirtd.pid ]; do sleep 0.1; done; cat /run/libvirt/libvirtd.pid"
    pid = int(host.run("sh", "-c", up))
    try:

        def ensure(end: Segment) -> str:
            return host.run(sys.executable, "-c", ENSURE, text=repr(end)).strip()

        def groups() -> list[str]:
            text = host.run("virsh", "-q", "-c", "qemu:///system", "net-dumpxml", A)
            return [str(group.get("name")) for group in ElementTree.fromstring(text).iterfind("portgroup")]  # noqa: S314

        all_places = {1: site.h1, 2: site.h1, 3: site.h2, 4: site.h3}
        ends = site.ends(all_places)
        assert ensure(ends["h3"]) == ""
        assert groups() == []
        fourth = site.bed.node(host, A, RANGE, 4)
        device = network_hook.device(A)
        index = host.run("cat", f"/sys/class/net/{device}/ifindex")

        bed.ensure(site.manager, A, RANGE, ends["manager"])
        for machine in (site.h1, site.h2):
            update(machine, site.a.ends[machine.name], ends[machine.name], 1)
        bed.settle(fourth.link)
        everybody(site.a, [first, second, third, fourth], marker)
        fresh = tables(host, A)

        # h2 leaves, then comes back: the device is the same all the time, and only the newest members are kept.
        without = site.ends({1: site.h1, 2: site.h1, 4: site.h3})
        assert ensure(without["h3"]) == ""
        assert [name.split()[1] for name in groups()] == ["1"]
        assert str(site.h2.address) not in str(tables(host, A))
        assert ensure(without["h3"]) == "", "again, to no effect"
        assert [name.split()[1] for name in groups()] == ["2"]
        assert ensure(ends["h3"]) == ""
        assert [name.split()[1] for name in groups()] == ["3"]
        assert tables(host, A) == fresh
        assert host.run("cat", f"/sys/class/net/{device}/ifindex") == index
        assert host.run("cat", f"/var/lib/vclust/{A}.peers") == "3\n"
        everybody(site.a, [first, second, third, fourth], marker + b"-2")

        # A hook that cannot do it: the caller hears why, and what was is in force again.
        host.run("sh", "-c", "mount --bind /bin/false $(command -v nft)")
        assert "its new members: nft -f -" in ensure(without["h3"])
        host.run("sh", "-c", "umount $(command -v nft)")
        assert [name.split()[1] for name in groups()] == ["3"]
        assert tables(host, A) == fresh
        assert ensure(without["h3"]) == ""
        assert ensure(ends["h3"]) == ""

        # Somebody has flushed the packet filter and taken an entry away.
        host.run("nft", "flush", "ruleset")
        host.run("bridge", "fdb", "delete", first.mac, "dev", device, "dst", site.h1.address)
        assert ensure(ends["h3"]) == ""
        assert tables(host, A) == fresh

        host.run("virsh", "-q", "-c", "qemu:///system", "net-destroy", A)
        assert host.run("ls", "/var/lib/vclust").split() == []
        assert A not in host.run("nft", "list", "ruleset")
    finally:
        os.kill(pid, 15)
