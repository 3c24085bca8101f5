#!/usr/bin/python3
"""libvirt's network hook: a cluster's segment goes on to the site's other machines by VXLAN.

libvirt runs it with the network's name and what happens to it, and its XML on standard input
(https://libvirt.org/hooks.html).  A network that says nothing of a segment is none of its business.  What goes wrong
is one line on standard error, and the network does not start.  Python's standard library only, 3.9 or newer.
"""

import os
import re
import subprocess
import sys
from ipaddress import IPv4Address
from xml.etree import ElementTree

NAMESPACE = "{https://vclust.invalid/segment}"
RULES = "/etc/vclust/vxlan.nft"
PORT = "4789"  # IANA's for VXLAN; RULES has it too
MTU = "1450"  # an Ethernet's 1500 less what VXLAN takes
EVERYTHING = "00:00:00:00:00:00"  # that has no forwarding entry of its own
# The host is no member of its users' segment: no answer to ARP for its other addresses, and what a node sends to them
# anyway has no way back, so it is dropped (ip-sysctl: arp_ignore, rp_filter).
SETTINGS = {
    "ipv4/conf/{}/arp_ignore": "8",
    "ipv4/conf/{}/rp_filter": "1",
    "ipv4/conf/{}/forwarding": "0",
    "ipv6/conf/{}/disable_ipv6": "1",
}
BRIDGE = re.compile(r"vc[0-9a-f]{10}")


class Failed(Exception):
    pass


def run(*argv):
    done = subprocess.run(argv, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise Failed(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")


def segment(text):
    """Bridge, number, own address and peers; None for a network that is not a segment."""
    network = ElementTree.fromstring(text).find(".//network")  # noqa: S314 - from libvirt itself
    if network is None:
        return None
    found = network.find(f"metadata/{NAMESPACE}segment")
    if found is None:
        return None
    bridge = network.find("bridge").get("name")
    if not BRIDGE.fullmatch(bridge):
        raise Failed(f"{bridge}: not the bridge of a segment")
    peers = [str(IPv4Address(peer)) for peer in found.get("peers", "").split()]
    return bridge, str(int(found.get("vni"))), str(IPv4Address(found.get("local"))), peers


def connect(bridge, vni, local, peers):
    device = f"{bridge}x"
    disconnect(bridge)  # left by a libvirtd that died
    for setting, value in SETTINGS.items():
        path = f"/proc/sys/net/{setting.format(bridge)}"
        if os.path.exists(path):  # a kernel may be without IPv6
            with open(path, "w", encoding="ascii") as file:
                file.write(value)
    # Before anything can come in.
    run("nft", "-f", RULES)
    try:
        kind = ["type", "vxlan", "id", vni, "local", local, "dstport", PORT]
        run("ip", "link", "add", device, "mtu", MTU, *kind)
        for peer in peers:
            run("bridge", "fdb", "append", EVERYTHING, "dev", device, "dst", peer)
        run("ip", "link", "set", device, "master", bridge, "up")
    except Failed:
        disconnect(bridge)
        raise


def disconnect(bridge):
    device = f"{bridge}x"
    if os.path.exists(f"/sys/class/net/{device}"):
        run("ip", "link", "delete", device)


def main():
    what = sys.argv[2]
    if what not in ("started", "stopped"):
        return 0
    try:
        found = segment(sys.stdin.read())
        if found is not None and what == "started":
            connect(*found)
        elif found is not None:
            disconnect(found[0])
    except (Failed, OSError, ValueError, AttributeError, TypeError, ElementTree.ParseError) as error:
        print(f"vclust: network {sys.argv[1]}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
