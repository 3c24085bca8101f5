"""One isolated layer-2 segment for each cluster, and a router namespace as the only way in.

The bridge has no address on the host, so that a node can reach neither the host nor another cluster, and address
ranges of clusters may overlap.  The namespace holds the request's router address; ssh goes through it
(`ip netns exec`, ip-netns(8)).

Where nodes run on other machines, the segment goes there by VXLAN (RFC 7348): every member sends what it knows no
better place for to each other member (static forwarding entries), and learns from what comes in.  The members' own
ends are made by their drivers (`Hypervisor.ensure_segment`).
"""

import contextlib
import json
import shutil
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from vclust_py.errors import RequestError, VclustError
from vclust_py.hypervisor import Segment
from vclust_py.run import run

MTU = 1500
TUNNEL_MTU = 1450
"""Bytes of a packet in the segment: VXLAN takes 50 of an Ethernet's 1500."""
VXLAN_PORT = 4789


def check_free(network: IPv4Network) -> None:
    """Raises RequestError when the machine itself has a route into `network`: that range is in use."""
    for route in json.loads(run(["ip", "-json", "-4", "route", "show", "table", "all"])):
        target = route.get("dst", "default")
        if target == "default" or route.get("type") in ("broadcast", "multicast"):
            continue
        used = IPv4Network(target, strict=False)
        if used.overlaps(network) and used.prefixlen > 0:
            raise RequestError(
                [f"Network: got '{network}', expected a range apart from {used}, which this machine uses"
                 f" on {route.get('dev', 'a route')}"]
            )  # fmt: skip


def filtered() -> bool:
    """Whether the machine's packet filter also decides on what passes a bridge (br_netfilter)."""
    setting = Path("/proc/sys/net/bridge/bridge-nf-call-iptables")
    return setting.exists() and setting.read_text(encoding="ascii").strip() == "1"


def segments(name: str, vni: int, machines: Iterable[str]) -> dict[str | None, Segment]:
    """The ends of a segment with nodes on other `machines` (names or addresses): by machine; the site manager's
    own is None's.  Empty when there are no others.

    Raises VclustError when a name is unknown or there is no IPv4 way to it.
    """
    members: dict[str | None, IPv4Address] = {one: _address(one) for one in sorted(set(machines))}
    if not members:
        return {}
    # The site manager's own address may differ by machine; the one that reaches the first is taken to reach all.
    way = json.loads(run(["ip", "-json", "-4", "route", "get", str(next(iter(members.values())))]))
    members[None] = IPv4Address(way[0]["prefsrc"])
    return {
        one: Segment(name, vni, address, tuple(other for other in members.values() if other != address))
        for one, address in members.items()
    }


def _address(machine: str) -> IPv4Address:
    try:
        found = socket.getaddrinfo(machine, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise VclustError(
            f"{machine}: no IPv4 address: {error.strerror}", "look at vclust_libvirt_uri in the inventory"
        ) from error
    return IPv4Address(found[0][4][0])


def ensure(segment: str, network: IPv4Network, router: IPv4Address, tunnel: Segment | None = None) -> bool:
    """Make bridge and router namespace, both called `segment`; False when they are there already.

    `tunnel` is this machine's end where the segment has nodes on others.  What an interrupted call left is made
    anew.
    """
    port = f"{segment}r"
    # The port is made a member of the bridge last: see below.
    if Path("/run/netns", segment).exists() and Path("/sys/class/net", port, "master").exists():
        return False
    remove(segment)
    run(["ip", "netns", "add", segment])
    run(["ip", "link", "add", segment, "type", "bridge", "stp_state", "0", "forward_delay", "0"])
    # The host is not on the users' segment: no link-local address, no answer to ARP for its other addresses, and
    # what a node sends to them anyway has no way back, so it is dropped (ip-sysctl: rp_filter, arp_ignore).
    for version, setting, value in (
        ("ipv6", "disable_ipv6", "1"),
        ("ipv4", "arp_ignore", "8"),
        ("ipv4", "rp_filter", "1"),
        ("ipv4", "forwarding", "0"),
    ):
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net", version, "conf", segment, setting).write_text(value, encoding="ascii")
    run(["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", segment])
    mtu = TUNNEL_MTU if tunnel else MTU
    run(["ip", "-netns", segment, "-batch", "-"], stdin=(
        "link set lo up\n"
        f"address add {router}/{network.prefixlen} dev eth0\n"
        f"link set eth0 mtu {mtu} up\n"
    ))  # fmt: skip
    if tunnel:
        _dig(tunnel)
    run(["ip", "link", "set", segment, "up"])
    # Last: the port is what says that the segment is whole.
    run(["ip", "link", "set", port, "up", "master", segment])
    return True


def _dig(tunnel: Segment) -> None:
    device = f"{tunnel.name}x"
    # Before anything can come in: what bears the segment's number (VXLAN's fifth to seventh byte) and is from nobody
    # of it is dropped.
    peers = ", ".join(map(str, tunnel.peers))
    run(["nft", "-f", "-"], stdin=(
        f"table inet {tunnel.name} {{\n"
        "  chain input {\n"
        "    type filter hook input priority filter - 10; policy accept;\n"
        f"    udp dport {VXLAN_PORT} @th,96,24 {tunnel.vni} ip saddr != {{ {peers} }} drop\n"
        f"    udp dport {VXLAN_PORT} @th,96,24 {tunnel.vni} meta nfproto ipv6 drop\n"
        "  }\n"
        "}\n"
    ))  # fmt: skip
    run(["ip", "link", "add", device, "mtu", str(TUNNEL_MTU), "type", "vxlan", "id", str(tunnel.vni),
         "local", str(tunnel.local), "dstport", str(VXLAN_PORT)])  # fmt: skip
    everything = "00:00:00:00:00:00"  # that has no entry of its own
    for peer in tunnel.peers:
        run(["bridge", "fdb", "append", everything, "dev", device, "dst", str(peer)])
    run(["ip", "link", "set", device, "up", "master", tunnel.name])


def remove(segment: str) -> bool:
    """Take the segment away; False when nothing of it was there."""
    found = False
    for interface in (f"{segment}r", f"{segment}x", segment):
        if Path("/sys/class/net", interface).exists():
            run(["ip", "link", "delete", interface])
            found = True
    if Path("/run/netns", segment).exists():
        run(["ip", "netns", "delete", segment])
        found = True
    if shutil.which("nft"):
        # Named first, so that it is there to be deleted.
        run(["nft", "-f", "-"], stdin=f"table inet {segment}\ndelete table inet {segment}\n")
    return found
