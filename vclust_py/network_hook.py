#!/usr/bin/python3
"""A machine's end of a cluster's segment, and libvirt's network hook; one file, standard library of Python 3.9 only.

The roll-out makes it a host's hook.  libvirt runs it with the network's name and what happens to it, and its XML on
standard input (https://libvirt.org/hooks.html).  A network that says nothing of a segment is left alone.  What goes
wrong is one line on standard error, and the network does not start.  The site manager makes its own ends with the
same rules and entries (`vclust_py.network`).

Members come and go while nodes run.  Metadata of a network that runs cannot be changed in all versions of libvirt; port
groups can, and libvirt then runs the hook (`updated`).  So the newest set of members is a port group's name, see
`GROUP`.  libvirt does not tell its caller when the hook fails then: the file `OUTCOMES`/BRIDGE.peers does.

Nothing is learnt from what comes in by the tunnel: which node is on which machine is known beforehand, so that no
packet can move a node's hardware address to another place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address
from typing import NamedTuple
from xml.etree import ElementTree

SEGMENT = "{https://vclust.invalid/segment}segment"
"""The element of a network's metadata."""
TABLE = "vclust_segments"
"""Of the packet filter, families inet and arp; `nft list table inet vclust_segments` shows it."""
PORT = 4789  # IANA's for VXLAN
OVERHEAD = 50
"""Bytes that VXLAN takes of a packet of the machines' network."""
MTU = 1500 - OVERHEAD
"""Bytes of a packet in a segment with a tunnel, unless its metadata say otherwise."""
GROUP = "vclust {} "
"""What a port group's name begins with: a number, the highest counts.  Members follow, as ADDRESS=MAC,MAC,… each."""
OUTCOMES = "/var/lib/vclust"
"""Folder of the files that say, in one line, the number of the members that are in force, or what went wrong."""
OTHERS = "00:00:00:00:00:00"
"""In a VXLAN device's forwarding table: broadcasts, and addresses without an entry of their own."""
SETTINGS = {
    "ipv4/conf/{}/arp_ignore": "8",
    "ipv4/conf/{}/rp_filter": "1",
    "ipv4/conf/{}/forwarding": "0",
    "ipv6/conf/{}/disable_ipv6": "1",
}
"""The machine is no member of its users' segment: no address there, no answer to ARP for its other addresses, nothing
passed on (ip-sysctl).  The packet filter says the same again; either may be undone by somebody else."""

_BRIDGE = re.compile(r"vc[0-9a-f]{10}")
_MAC = re.compile(r"[0-9a-f][02468ace](:[0-9a-f]{2}){5}")  # the last bit of the first byte says multicast
_GROUPS = "ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00"  # reserved for bridges (IEEE 802.1Q, 8.6.3)
_NUMBERS = range(1, 1 << 24)
_MTUS = range(576, 65536)
_GROUP = re.compile(r"vclust ([0-9]{1,9}) (.*)", re.DOTALL)

Peers = Mapping[str, Sequence[str]]
"""The other members: address → hardware addresses of what is there."""


class Failed(Exception):
    pass


class End(NamedTuple):
    bridge: str
    number: int
    local: str
    peers: Peers
    mtu: int = MTU
    generation: int = 0
    """Number of the members."""


# What the site manager uses too -----------------------------------------------------------------------------------


def rules(bridge: str, number: int = 0, peers: Iterable[str] = ()) -> str:
    """Packet filter rules of one segment, for nft; in one transaction, and again to no effect.

    With a tunnel, `number` is its VXLAN number (the fifth to seventh byte after UDP's header), `peers` are the
    addresses that may send it.  Other numbers are not decided on here.
    """
    # An IPv6 packet has no `ip saddr`: it is dropped.
    tunnel = f"""
        add rule inet {TABLE} {bridge} ip saddr {{ {", ".join(peers)} }} accept
        add rule inet {TABLE} {bridge} drop
        add element inet {TABLE} numbers {{ {number} : goto {bridge} }}"""
    # What a bridge carries also comes to `forward` where br_netfilter is on: then it goes out where it came in.  A
    # frame to one of the group addresses that are reserved for bridges goes up to the machine as if it had come to the
    # port, whose name is not the bridge's; IP has no use for these addresses.
    return f"""{_base(bridge)}
        flush chain inet {TABLE} input
        flush chain inet {TABLE} forward
        flush chain inet {TABLE} {bridge}
        flush chain arp {TABLE} input
        add element inet {TABLE} bridges {{ {bridge} }}
        add rule inet {TABLE} input iifname @bridges drop
        add rule inet {TABLE} input ether daddr & {_GROUPS} drop
        add rule inet {TABLE} input udp dport {PORT} @th,96,24 vmap @numbers
        add rule inet {TABLE} forward iifname @bridges oifname != @bridges drop
        add rule arp {TABLE} input ether daddr & {_GROUPS} drop{tunnel if number else ""}
    """


def without_number(bridge: str, number: int) -> str:
    """Takes the tunnel's rules away; nft refuses when the number is another segment's."""
    return f"""{_base(bridge)}
        add element inet {TABLE} numbers {{ {number} : goto {bridge} }}
        delete element inet {TABLE} numbers {{ {number} }}
    """


def without_bridge(bridge: str) -> str:
    """Takes the rest of a segment's rules away.  What is for all segments stays."""
    return f"""{_base(bridge)}
        add element inet {TABLE} bridges {{ {bridge} }}
        delete element inet {TABLE} bridges {{ {bridge} }}
        flush chain inet {TABLE} {bridge}
        delete chain inet {TABLE} {bridge}
    """


def _base(bridge: str) -> str:
    """What must be there to be changed or removed."""
    hooked = "type filter hook {} priority filter - 10; policy accept;"
    return f"""
        table inet {TABLE} {{
            set bridges {{ type ifname; }}
            map numbers {{ typeof @th,96,24 : verdict; }}
            chain input {{ {hooked.format("input")} }}
            chain forward {{ {hooked.format("forward")} }}
            chain {bridge} {{ }}
        }}
        table arp {TABLE} {{
            chain input {{ {hooked.format("input")} }}
        }}"""


def device(bridge: str) -> str:
    return f"{bridge}x"


def links(bridge: str, number: int, local: str, mtu: int = MTU, *, there: bool = False) -> str:
    """Lines for `ip -batch`: the VXLAN device and its place in the bridge, not yet up.

    `there`: it exists; one of an earlier version of vclust stops learning.
    """
    name = device(bridge)
    kind = f"type vxlan id {number} local {local} dstport {PORT}"
    return (
        f"link {f'set {name} type vxlan' if there else f'add {name} mtu {mtu} {kind}'} nolearning\n"
        f"link set {name} master {bridge}\n"
        f"link set {name} type bridge_slave learning off\n"
    )


def entries(bridge: str, peers: Peers, there: str = "") -> str:
    """Lines for `bridge -batch`: where everything goes.

    `there` is what `bridge -json fdb show` says of the device.  What is stale of it goes last: whoever stays a member
    is never without its entries.
    """
    name = device(bridge)
    found = [entry for entry in json.loads(there or "[]") if entry.get("ifname", name) == name]
    flooded = {entry["dst"] for entry in found if entry["mac"] == OTHERS and "dst" in entry}
    lines = [f"fdb append {OTHERS} dev {name} dst {peer}\n" for peer in peers if peer not in flooded]
    for peer, macs in peers.items():
        for mac in macs:
            lines += [f"fdb replace {mac} dev {name} dst {peer}\n", pinned(mac, name)]
    wanted = {mac for macs in peers.values() for mac in macs}
    lines += [f"fdb delete {OTHERS} dev {name} dst {peer}\n" for peer in sorted(flooded.difference(peers))]
    for entry in found:
        if entry["mac"] in wanted or entry["mac"] == OTHERS:
            continue
        if "dst" in entry:
            lines.append(f"fdb delete {entry['mac']} dev {name} dst {entry['dst']}\n")
        elif entry.get("master") == bridge and entry.get("state") == "static":
            lines.append(f"fdb delete {entry['mac']} dev {name} master\n")
    return "".join(lines)


def neighbours(bridge: str, peers: Peers, there: str = "") -> str:
    """Lines for `ip -batch`: the bridge answers who is where on other machines, so that not all of them are asked.

    Hardware addresses hold the node's own (`vclust_py.addresses`).  `there` is what `ip -json neighbour show` says of
    the bridge.
    """
    wanted = {_address_in(mac): mac for macs in peers.values() for mac in macs}
    lines = [
        f"neighbour replace {address} lladdr {mac} dev {bridge} nud permanent\n"
        for address, mac in wanted.items()
    ]
    for entry in json.loads(there or "[]"):
        if entry["dst"] not in wanted and "PERMANENT" in entry.get("state", ()):
            lines.append(f"neighbour delete {entry['dst']} dev {bridge}\n")
    return "".join(lines)


def suppression(bridge: str) -> tuple[str, ...]:
    """The command that has the bridge answer; kernels before 4.15 refuse it, and everybody is asked."""
    return ("ip", "link", "set", device(bridge), "type", "bridge_slave", "neigh_suppress", "on")


def _address_in(mac: str) -> str:
    return str(IPv4Address(bytes.fromhex(mac.replace(":", ""))[2:]))


def pinned(mac: str, port: str) -> str:
    """A line for `bridge -batch`: a bridge's entry that what comes in elsewhere does not move (`static` alone is)."""
    return f"fdb replace {mac} dev {port} master static sticky\n"


# The hook ---------------------------------------------------------------------------------------------------------


REFUSALS = (Failed, OSError, ValueError, ElementTree.ParseError)
"""What `segment` and `connect` raise."""


def run(*argv: str, text: str = "") -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, input=text)
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def segment(text: str) -> End | None:
    """This machine's end; None for a network that is not a segment.  No number: of an earlier version of vclust."""
    network = ElementTree.fromstring(text).find(".//network")  # noqa: S314 - from libvirt itself
    found = None if network is None else network.find(f"metadata/{SEGMENT}")
    if network is None or found is None:
        return None
    element = network.find("bridge")
    bridge = "" if element is None else element.get("name", "")
    if not _BRIDGE.fullmatch(bridge):
        raise Failed(f"{bridge}: not the bridge of a segment")
    if "number" not in found.attrib:
        return End(bridge, 0, "", {})
    number = int(found.attrib["number"])
    if number not in _NUMBERS:
        raise Failed(f"{number}: not the number of a segment")
    mtu = int(found.get("mtu", MTU))
    if mtu not in _MTUS:
        raise Failed(f"{mtu}: not the size of a packet")
    listed = [(peer.get("address", ""), peer.get("macs", "").split()) for peer in found]
    generation = 0
    for group in network.iterfind("portgroup"):
        named = _GROUP.fullmatch(group.get("name", ""))
        if named and int(named[1]) > generation:
            generation, listed = int(named[1]), members(named[2])
    peers: dict[str, list[str]] = {}
    for address, macs in listed:
        if wrong := [mac for mac in macs if not _MAC.fullmatch(mac)]:
            raise Failed(f"{wrong[0]}: not a hardware address")
        peers.setdefault(str(IPv4Address(address)), []).extend(macs)
    return End(bridge, number, _address(found), peers, mtu, generation)


def members(text: str) -> list[tuple[str, list[str]]]:
    """Addresses and hardware addresses in the name of a port group, behind its beginning."""
    words = [word.partition("=") for word in text.split()]
    return [(address, [mac for mac in macs.split(",") if mac]) for address, _, macs in words]


def _address(element: ElementTree.Element) -> str:
    return str(IPv4Address(element.get("address", "")))


def reason(error: BaseException) -> str:
    """One line of a bounded length, whatever was in the XML or a command has said."""
    return "".join(char if char.isprintable() else " " for char in " ".join(str(error).split()))[:1000]


def connect(end: End, run: Callable[..., str] = run) -> None:
    if not end.peers:
        raise Failed(f"{end.bridge}: no other members in its metadata: made by another version of vclust")
    disconnect(end, run)  # left by a libvirtd that died
    check_ways(end, run)
    for setting, value in SETTINGS.items():
        path = f"/proc/sys/net/{setting.format(end.bridge)}"
        if os.path.exists(path):  # a kernel may be without IPv6
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
    try:
        # Before anything can come in.
        run("nft", "-f", "-", text=rules(end.bridge, end.number, end.peers))
        run("ip", "-batch", "-", text=links(end.bridge, end.number, end.local, end.mtu))
        with contextlib.suppress(Failed):
            run(*suppression(end.bridge))
        run("bridge", "-batch", "-", text=entries(end.bridge, end.peers))
        run("ip", "-batch", "-", text=neighbours(end.bridge, end.peers))
        run("ip", "link", "set", device(end.bridge), "up")
    except Failed:
        disconnect(end, run)
        raise


def update(end: End, run: Callable[..., str] = run) -> None:
    """Bring what is in force to the members of `end`, while it runs."""
    if not os.path.exists(f"/sys/class/net/{device(end.bridge)}"):
        connect(end, run)
        return
    check_ways(end, run)
    run("nft", "-f", "-", text=rules(end.bridge, end.number, end.peers))
    there = run("bridge", "-json", "fdb", "show", "dev", device(end.bridge))
    run("bridge", "-batch", "-", text=entries(end.bridge, end.peers, there))
    there = run("ip", "-json", "neighbour", "show", "dev", end.bridge)
    run("ip", "-batch", "-", text=neighbours(end.bridge, end.peers, there))


def check_ways(end: End, run: Callable[..., str]) -> None:
    """Packets larger than usual must fit on the way to each member.  Raises Failed."""
    if end.mtu <= MTU or not end.peers:
        return
    asked = run("ip", "-json", "-batch", "-", text="".join(f"route get {peer}\n" for peer in end.peers))
    least = least_mtu(asked, run("ip", "-json", "link", "show"))
    if least < end.mtu + OVERHEAD:
        raise Failed(
            f"{end.bridge}: packets of {end.mtu + OVERHEAD} bytes do not fit on this machine's way to its other"
            f" members, which takes {least}: give all machines of the site the same MTU"
        )


def least_mtu(routes: str, devices: str) -> int:
    """The least MTU of routes, by `ip -json route get` of each and `ip -json link show`."""
    sizes = {link["ifname"]: link["mtu"] for link in json.loads(devices)}
    found: list[int] = []
    for line in routes.splitlines():
        for route in json.loads(line):
            said = [metric["mtu"] for metric in route.get("metrics", ()) if "mtu" in metric]
            found.append(min([sizes[route["dev"]], *said]))
    return min(found)


def disconnect(end: End, run: Callable[..., str] = run) -> None:
    if os.path.exists(f"/sys/class/net/{device(end.bridge)}"):
        run("ip", "link", "delete", device(end.bridge))
    if end.number:
        with contextlib.suppress(Failed):  # the number is another segment's
            run("nft", "-f", "-", text=without_number(end.bridge, end.number))
    run("nft", "-f", "-", text=without_bridge(end.bridge))


def report(end: End, outcome: str = "") -> None:
    """Say what came of an update, or with nothing take the file away."""
    path = os.path.join(OUTCOMES, f"{end.bridge}.peers")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    if outcome:
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"{outcome}\n")


def main() -> int:
    what = sys.argv[2]
    if what not in ("started", "updated", "stopped"):
        return 0
    try:
        end = segment(sys.stdin.read())
        if end is None:
            return 0
        if what == "started":
            connect(end)
        elif what == "stopped":
            report(end)
            disconnect(end)
        elif end.number:
            try:
                update(end)
            except REFUSALS as error:
                report(end, reason(error))
                raise
            report(end, str(end.generation))
    except REFUSALS as error:
        print(f"vclust: network {sys.argv[1]}: {reason(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
