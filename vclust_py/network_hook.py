#!/usr/bin/python3
"""A machine's end of a cluster's segment, and libvirt's network hook; one file, standard library of Python 3.9 only.

The roll-out makes it a host's hook.  libvirt runs it with the network's name and what happens to it, and its XML on
standard input (https://libvirt.org/hooks.html).  A network that says nothing of a segment is left alone.  What goes
wrong is one line on standard error, and the network does not start.  The site manager makes its own ends with the
same rules and entries (`vclust_py.network`).

Nothing is learnt from what comes in by the tunnel: which node is on which machine is known beforehand, so that no
packet can move a node's hardware address to another place.
"""

from __future__ import annotations

import contextlib
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
MTU = 1450
"""Bytes of a packet in a segment with a tunnel: VXLAN takes 50 of an Ethernet's 1500."""
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

Peers = Mapping[str, Sequence[str]]
"""The other members: address → hardware addresses of what is there."""


class Failed(Exception):
    pass


class End(NamedTuple):
    bridge: str
    number: int
    local: str
    peers: Peers


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


def links(bridge: str, number: int, local: str, *, there: bool = False) -> str:
    """Lines for `ip -batch`: the VXLAN device and its place in the bridge, not yet up.

    `there`: it exists; one of an earlier version of vclust stops learning.
    """
    name = device(bridge)
    kind = f"type vxlan id {number} local {local} dstport {PORT}"
    return (
        f"link {f'set {name} type vxlan' if there else f'add {name} mtu {MTU} {kind}'} nolearning\n"
        f"link set {name} master {bridge}\n"
        f"link set {name} type bridge_slave learning off\n"
    )


def entries(bridge: str, peers: Peers) -> str:
    """Lines for `bridge -batch`: where everything goes.  What they replace may be of an earlier version of vclust."""
    name = device(bridge)
    lines = [f"fdb append {OTHERS} dev {name} dst {peer}\n" for peer in peers]
    for peer, macs in peers.items():
        for mac in macs:
            lines += [f"fdb replace {mac} dev {name} dst {peer}\n", pinned(mac, name)]
    return "".join(lines)


def pinned(mac: str, port: str) -> str:
    """A line for `bridge -batch`: a bridge's entry that what comes in elsewhere does not move (`static` alone is)."""
    return f"fdb replace {mac} dev {port} master static sticky\n"


# The hook ---------------------------------------------------------------------------------------------------------


REFUSALS = (Failed, OSError, ValueError, ElementTree.ParseError)
"""What `segment` and `connect` raise."""


def run(*argv: str, text: str = "") -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, input=text)
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")


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
    peers: dict[str, list[str]] = {}
    for peer in found:
        macs = peer.get("macs", "").split()
        if wrong := [mac for mac in macs if not _MAC.fullmatch(mac)]:
            raise Failed(f"{wrong[0]}: not a hardware address")
        peers.setdefault(_address(peer), []).extend(macs)
    return End(bridge, number, _address(found), peers)


def _address(element: ElementTree.Element) -> str:
    return str(IPv4Address(element.get("address", "")))


def reason(error: BaseException) -> str:
    """One line of a bounded length, whatever was in the XML or a command has said."""
    return "".join(char if char.isprintable() else " " for char in " ".join(str(error).split()))[:1000]


def connect(end: End, run: Callable[..., None] = run) -> None:
    if not end.peers:
        raise Failed(f"{end.bridge}: no other members in its metadata: made by another version of vclust")
    disconnect(end, run)  # left by a libvirtd that died
    for setting, value in SETTINGS.items():
        path = f"/proc/sys/net/{setting.format(end.bridge)}"
        if os.path.exists(path):  # a kernel may be without IPv6
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
    try:
        # Before anything can come in.
        run("nft", "-f", "-", text=rules(end.bridge, end.number, end.peers))
        run("ip", "-batch", "-", text=links(end.bridge, end.number, end.local))
        run("bridge", "-batch", "-", text=entries(end.bridge, end.peers))
        run("ip", "link", "set", device(end.bridge), "up")
    except Failed:
        disconnect(end, run)
        raise


def disconnect(end: End, run: Callable[..., None] = run) -> None:
    if os.path.exists(f"/sys/class/net/{device(end.bridge)}"):
        run("ip", "link", "delete", device(end.bridge))
    if end.number:
        with contextlib.suppress(Failed):  # the number is another segment's
            run("nft", "-f", "-", text=without_number(end.bridge, end.number))
    run("nft", "-f", "-", text=without_bridge(end.bridge))


def main() -> int:
    what = sys.argv[2]
    if what not in ("started", "stopped"):
        return 0
    try:
        end = segment(sys.stdin.read())
        if end is not None and what == "started":
            connect(end)
        elif end is not None:
            disconnect(end)
    except REFUSALS as error:
        print(f"vclust: network {sys.argv[1]}: {reason(error)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
