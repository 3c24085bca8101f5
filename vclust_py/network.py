"""One isolated layer-2 segment for each cluster, and a router namespace as the only way in.

The bridge has no address on the host, so that a node can reach neither the host nor another cluster, and address
ranges of clusters may overlap.  The namespace holds the request's router address; ssh goes through it
(`ip netns exec`, ip-netns(8)).
"""

import contextlib
import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from vclust_py.errors import RequestError
from vclust_py.run import run


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


def ensure(segment: str, network: IPv4Network, router: IPv4Address) -> bool:
    """Make bridge and router namespace, both called `segment`; False when they are there already.

    What an interrupted call left is made anew.
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
    run(["ip", "-netns", segment, "-batch", "-"], stdin=(
        "link set lo up\n"
        f"address add {router}/{network.prefixlen} dev eth0\n"
        "link set eth0 up\n"
    ))  # fmt: skip
    run(["ip", "link", "set", segment, "up"])
    # Last: the port is what says that the segment is whole.
    run(["ip", "link", "set", port, "up", "master", segment])
    return True


def remove(segment: str) -> bool:
    """Take the segment away; False when nothing of it was there."""
    found = False
    for interface in (f"{segment}r", segment):
        if Path("/sys/class/net", interface).exists():
            run(["ip", "link", "delete", interface])
            found = True
    if Path("/run/netns", segment).exists():
        run(["ip", "netns", "delete", segment])
        found = True
    return found
