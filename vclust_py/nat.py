"""A cluster's way to the internet, where the site allows it (`egress: nat`): by its router namespace.

A pair of interfaces leads from the namespace to this machine, which passes packets on if it is a router already
(net.ipv4.ip_forward): that is its administrator's to decide.  Nodes reach public addresses, and name servers at their
port.  They do not reach this machine, networks it is on, private networks, the site's hosts, and what the site lists.
"""

import contextlib
import json
import shutil
import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, collapse_addresses
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.run import CommandError, run

PRIVATE = (
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
    *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
    *("203.0.113.0/24", "224.0.0.0/3"),
)
"""What is nobody's on the internet (IANA's registry of special addresses); 169.254.169.254 is a cloud's own service."""
_INSIDE = "out"
"""The pair's end in the namespace."""
_PAIRS = IPv4Network("169.254.0.0/17")
_RESOLVERS = (Path("/run/systemd/resolve/resolv.conf"), Path("/etc/resolv.conf"))
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


def refusal() -> str:
    """Why this machine passes nothing on; empty when it does."""
    if _FORWARDING.read_text(encoding="ascii").strip() == "1":
        return ""
    return "net.ipv4.ip_forward is 0 on the site manager; set it to 1 (sysctl.d(5)) if it may be a router"


def resolvers() -> list[IPv4Address]:
    """The machine's name servers that others than itself reach too."""
    for path in _RESOLVERS:
        found = []
        with contextlib.suppress(OSError):
            for words in map(str.split, path.read_text(encoding="utf-8").splitlines()):
                with contextlib.suppress(ValueError):  # IPv6
                    if words[:1] == ["nameserver"] and len(words) > 1:
                        found.append(IPv4Address(words[1]))
        if usable := [address for address in found if not address.is_loopback]:
            return usable
    return []


def ensure(segment: str, network: IPv4Network, blocked: Iterable[IPv4Network]) -> None:
    """Open the way, or bring an open one up to date; call it with no other at work.  Raises VclustError."""
    if why := refusal():
        raise VclustError(why)
    outside = device(segment)
    there = Path("/sys/class/net", outside).exists()
    own, inner = _pair(segment)
    # Before a packet can come.
    run(["nft", "-f", "-"], stdin=_rules(segment, inner, [*blocked, *_connected()]))
    run(["ip", "netns", "exec", segment, "nft", "-f", "-"], stdin=_router_rules(network))
    if there:
        return
    run(["ip", "link", "add", outside, "type", "veth", "peer", "name", _INSIDE, "netns", segment])
    run(["ip", "-batch", "-"], stdin=(
        f"address add {own}/31 dev {outside}\n"
        f"link set {outside} up\n"
    ))  # fmt: skip
    run(["ip", "-netns", segment, "-batch", "-"], stdin=(
        f"address add {inner}/31 dev {_INSIDE}\n"
        f"link set {_INSIDE} up\n"
        f"route add default via {own} dev {_INSIDE}\n"
    ))  # fmt: skip
    settings = [f"/proc/sys/net/ipv4/conf/{interface}/forwarding" for interface in ("eth0", _INSIDE)]
    run(["ip", "netns", "exec", segment, "tee", *settings], stdin="1")


def remove(segment: str) -> bool:
    """Close the way; False when there was none."""
    found = Path("/sys/class/net", device(segment)).exists()
    if found:
        run(["ip", "link", "delete", device(segment)])  # the other end goes with it
    if shutil.which("nft"):
        with contextlib.suppress(CommandError):  # none
            run(["nft", "delete", "table", "inet", device(segment)])
    return found


def device(segment: str) -> str:
    """Of this machine; its packet filter's table is called so too."""
    return f"{segment}n"


def addresses(machines: Iterable[str]) -> list[IPv4Network]:
    """The machines' addresses, as networks of one; of a name that nobody knows, none."""
    found = set()
    for machine in machines:
        with contextlib.suppress(OSError):
            for answer in socket.getaddrinfo(machine, None, socket.AF_INET, socket.SOCK_STREAM):
                found.add(IPv4Network(str(answer[4][0])))
    return sorted(found)


def _pair(segment: str) -> tuple[IPv4Address, IPv4Address]:
    """Addresses of both ends: those it has, else the first free ones from a place that its name says."""
    links = json.loads(run(["ip", "-json", "-4", "address", "show"]))
    used = {IPv4Address(one["local"]): link["ifname"] for link in links for one in link["addr_info"]}
    for address, name in used.items():
        if name == device(segment):
            return address, address + 1
    first = int(segment[2:], 16)
    for number in range(first, first + _PAIRS.num_addresses // 2):
        own = _PAIRS[2 * number % _PAIRS.num_addresses]
        if own not in used:
            return own, own + 1
    raise VclustError(f"{_PAIRS}: got no two free addresses in it")


def _connected() -> list[IPv4Network]:
    """Networks that this machine is on, and its own addresses."""
    links = json.loads(run(["ip", "-json", "-4", "address", "show"]))
    return [
        IPv4Network(f"{one['local']}/{one['prefixlen']}", strict=False)
        for link in links
        for one in link["addr_info"]
    ]


def _rules(segment: str, inner: IPv4Address, blocked: Iterable[IPv4Network]) -> str:
    """This machine's part, for nft; in one transaction, and again to no effect."""
    outside = device(segment)
    ranges = collapse_addresses([*map(IPv4Network, PRIVATE), *blocked])
    nodes = f"add rule inet {outside} forward iifname {outside}"
    dns = "".join(
        f"\n        {nodes} ip daddr {server} meta l4proto {{ tcp, udp }} th dport 53 accept"
        for server in resolvers()
    )
    return f"""
        table inet {outside} {{
            set blocked {{ type ipv4_addr; flags interval; }}
            chain input {{ type filter hook input priority filter - 10; policy accept; }}
            chain forward {{ type filter hook forward priority filter - 10; policy accept; }}
            chain out {{ type nat hook postrouting priority srcnat; policy accept; }}
        }}
        flush chain inet {outside} input
        flush chain inet {outside} forward
        flush chain inet {outside} out
        flush set inet {outside} blocked
        add element inet {outside} blocked {{ {", ".join(map(str, ranges))} }}
        add rule inet {outside} input iifname {outside} drop
        {nodes} ip saddr != {inner} drop
        {nodes} meta nfproto != ipv4 drop{dns}
        {nodes} ip daddr @blocked drop
        add rule inet {outside} forward oifname {outside} ct state established,related accept
        add rule inet {outside} forward oifname {outside} drop
        add rule inet {outside} out ip saddr {inner} oifname != {outside} masquerade
    """


def _router_rules(network: IPv4Network) -> str:
    """The namespace's part: nodes go out under its address, nobody comes in, and what they reach of it is as before."""
    return f"""
        table inet out {{
            chain input {{ type filter hook input priority filter; policy accept; }}
            chain forward {{ type filter hook forward priority filter; policy drop; }}
            chain out {{ type nat hook postrouting priority srcnat; policy accept; }}
        }}
        flush chain inet out input
        flush chain inet out forward
        flush chain inet out out
        add rule inet out input iifname {_INSIDE} ct state != established,related drop
        add rule inet out forward iifname eth0 oifname {_INSIDE} ip saddr {network} accept
        add rule inet out forward iifname {_INSIDE} oifname eth0 ct state established,related accept
        add rule inet out out oifname {_INSIDE} masquerade
    """
