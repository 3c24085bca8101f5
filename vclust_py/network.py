"""One isolated layer-2 segment for each cluster, and a router namespace as the only way in.

The bridge has no address on the host, so that a node can reach neither the host nor another cluster, and address
ranges of clusters may overlap.  The namespace holds the request's router address; ssh goes through it
(`ip netns exec`, ip-netns(8)).

Where nodes run on other machines, the segment goes there by VXLAN (RFC 7348).  Every member knows which node is on
which machine (static forwarding entries); broadcasts go to each other member.  The members' own ends are made by their
drivers (`Hypervisor.ensure_segment`), with the packet filter rules and entries that the site manager has too
(`vclust_py.network_hook`).
"""

import contextlib
import json
import os
import shutil
import socket
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from vclust_py import egress, gateway, home_server, ingress, leftover_networks, network_hook, router_socket
from vclust_py.addresses import mac_of
from vclust_py.errors import RequestError, VclustError
from vclust_py.hypervisor import Segment
from vclust_py.run import CommandError, run
from vclust_py.site.store import Store

MTU = 1500
"""Of a segment on one machine."""
_MOST = 9000 - network_hook.OVERHEAD
"""Jumbo frames, as switches have them.  Larger ones (loopback's) are no network's."""
_UNITS = "VCLUST_NETNS_UNITS"
"""In the environment of a unit that has mounts of its own: namespaces are made and removed by units that have not."""


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


def addresses(machines: Iterable[str]) -> dict[str | None, IPv4Address]:
    """IPv4 addresses of `machines` (names or addresses), and the site manager's own towards them, which is None's.

    Empty when there are no machines.  Raises VclustError when a name is unknown or there is no IPv4 way to it.
    """
    found: dict[str | None, IPv4Address] = {machine: _address(machine) for machine in sorted(set(machines))}
    if found:
        # The site manager's own address may differ by machine; the one that reaches the first is taken to reach all.
        way = json.loads(run(["ip", "-json", "-4", "route", "get", str(next(iter(found.values())))]))
        found[None] = IPv4Address(way[0]["prefsrc"])
    return found


def segments(
    name: str, number: int, router: IPv4Address, nodes: Mapping[str | None, Sequence[str]]
) -> dict[str | None, Segment]:
    """The ends of a segment with nodes on other machines, by machine; the site manager's own is None's.

    `number` is its VXLAN network number, `nodes` are hardware addresses by machine (name or address).  Empty when no
    machine is another one.  Raises VclustError as `addresses` does.
    """
    members = addresses(machine for machine in nodes if machine is not None)
    if not members:
        return {}
    size = mtu(name, [address for machine, address in members.items() if machine is not None])
    there: dict[IPv4Address, tuple[str, ...]] = {}  # two names may be one machine's
    for machine, address in members.items():
        here = (mac_of(router),) if machine is None else ()
        there[address] = (*there.get(address, ()), *here, *nodes.get(machine, ()))
    return {
        machine: Segment(
            name, number, address, {peer: macs for peer, macs in there.items() if peer != address}, size
        )
        for machine, address in members.items()
    }


def mtu(segment: str, machines: Sequence[IPv4Address]) -> int:
    """Bytes of a packet in the segment: what the site manager's ways to the machines take, less the tunnel's part.

    A segment that is there keeps what it has, as its nodes do; where that is too much, VXLAN's packets go in fragments.
    """
    there = Path("/sys/class/net", segment, "mtu")
    if there.exists():
        return int(there.read_text(encoding="ascii"))
    routes = run(["ip", "-json", "-batch", "-"], stdin="".join(f"route get {one}\n" for one in machines))
    least = network_hook.least_mtu(routes, run(["ip", "-json", "link", "show"]))
    return min(least - network_hook.OVERHEAD, _MOST)


def _address(machine: str) -> IPv4Address:
    try:
        found = socket.getaddrinfo(machine, None, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        raise VclustError(
            f"{machine}: no IPv4 address: {error.strerror}", "look at vclust_libvirt_uri in the inventory"
        ) from error
    return IPv4Address(found[0][4][0])


def ensure(
    segment: str, number: int, network: IPv4Network, router: IPv4Address, tunnel: Segment | None = None
) -> bool:
    """Make bridge and router namespace, both called `segment`; False when they are there already.

    `tunnel` is this machine's end where the segment has nodes on others.  What an interrupted call left is made
    anew.  The packet filter's rules and the forwarding entries are set in any case: the segment may be an earlier
    version's.
    """
    port, whole = f"{segment}r", is_whole(segment)
    nodes = list[str]()
    if not whole:
        nodes = _nodes(segment)
        remove(segment, number)
    protect(segment, tunnel)  # before anything can come in
    if not whole:
        _build(segment, network, router, tunnel.mtu if tunnel else MTU)
        for node in nodes:
            run(["ip", "link", "set", node, "master", segment])
    if tunnel:
        _connect(segment, tunnel)
    else:
        _disconnect(segment, number)
    # Last: the port is what says that the segment is whole.
    run(["ip", "link", "set", port, "up", "master", segment])
    run(["ip", "-netns", segment, "link", "set", "eth0", "address", mac_of(router)])
    run(["bridge", "-batch", "-"], stdin=network_hook.pinned(mac_of(router), port))
    return not whole


def _nodes(segment: str) -> list[str]:
    """Ports of nodes that run on this machine; libvirt puts them on the bridge when they start, and never again."""
    if not Path("/sys/class/net", segment).exists():
        return []
    links = json.loads(run(["ip", "-json", "link", "show", "master", segment]))
    own = (f"{segment}r", network_hook.device(segment))
    return [link["ifname"] for link in links if link.get("ifname") not in (None, *own)]


def is_whole(segment: str) -> bool:
    """Whether bridge and router namespace are there; the packet filter's rules may yet be gone."""
    # The port is made a member of the bridge last: see `ensure`.
    return Path("/run/netns", segment).exists() and Path("/sys/class/net", f"{segment}r", "master").exists()


def protect(segment: str, tunnel: Segment | None = None) -> None:
    """Load the packet filter's rules for the segment; again to no effect, unless somebody has flushed them."""
    own = (
        network_hook.rules(segment, tunnel.vni, map(str, tunnel.peers))
        if tunnel
        else network_hook.rules(segment)
    )
    _filter(_without_earlier(segment) + own)


def _connect(segment: str, tunnel: Segment) -> None:
    """The tunnel to exactly the other members; those that stay members are not without it at any time."""
    device = network_hook.device(segment)
    there = Path("/sys/class/net", device).exists()
    links = network_hook.links(segment, tunnel.vni, str(tunnel.local), tunnel.mtu, there=there)
    run(["ip", "-batch", "-"], stdin=links)
    with contextlib.suppress(CommandError):  # an old kernel
        run(network_hook.suppression(segment))
    peers = {str(peer): macs for peer, macs in tunnel.peers.items()}
    found = run(["bridge", "-json", "fdb", "show", "dev", device])
    run(["bridge", "-batch", "-"], stdin=network_hook.entries(segment, peers, found))
    found = run(["ip", "-json", "neighbour", "show", "dev", segment])
    run(["ip", "-batch", "-"], stdin=network_hook.neighbours(segment, peers, found))
    run(["ip", "link", "set", device, "up"])


def _disconnect(segment: str, number: int) -> None:
    """Take the tunnel away, if there is one: all nodes are here."""
    if _delete(network_hook.device(segment)):
        run(["ip", "neighbour", "flush", "dev", segment, "nud", "permanent"])
        with contextlib.suppress(CommandError):  # the number is another segment's
            _filter(network_hook.without_number(segment, number))


def let_out(segment: str, way: egress.Way) -> tuple[str, ...]:
    """Open the segment's way out; warnings say why there is none (`egress.ensure`)."""
    return egress.ensure(segment, way)


def let_in(segment: str, door: ingress.Door) -> tuple[str, ...]:
    """Open the segment's way in for those who are not root; warnings say why there is none (`ingress.ensure`)."""
    return ingress.ensure(segment, door)


def serve_homes(segment: str, share: home_server.Share) -> bool:
    """Have the segment's nodes served their owner's homes; False when they were (`home_server.ensure`)."""
    return home_server.ensure(segment, share)


def has_homes(segment: str) -> bool:
    """Whether the segment's nodes are served homes now."""
    return home_server.is_running(segment)


def listen(segment: str, router: IPv4Address) -> socket.socket:
    """A listening socket for the segment's nodes, at the router's address (`router_socket.listening`)."""
    return router_socket.listening(segment, str(router))


def admit(store: Store) -> tuple[str, ...]:
    """Have the site's gateway let in the users of its clusters, and nobody else (`gateway.refresh`); and the clusters'
    bridges say whose they are (`leftover_networks.mark`).
    """
    leftover_networks.mark(store)
    return gateway.refresh(store.site, lambda: gateway.admitted(store))


def leftovers(store: Store) -> list[leftover_networks.Leftover]:
    """Networks on this machine that are no cluster's (`leftover_networks.found`)."""
    return leftover_networks.found(store)


def _build(segment: str, network: IPv4Network, router: IPv4Address, mtu: int) -> None:
    """The bridge and the namespace, and the port between them, which is not the bridge's member yet."""
    _namespace("add", segment)
    # Else its hardware address is the least of its ports', and the kernel forgets neighbours whenever that changes.
    # libvirt gives its bridges one too.
    own = ":".join(["02", *(segment[at : at + 2] for at in range(2, 12, 2))])
    kind = ["type", "bridge", "stp_state", "0", "forward_delay", "0"]
    run(["ip", "link", "add", segment, "address", own, *kind])
    for setting, value in network_hook.SETTINGS.items():
        with contextlib.suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys/net", setting.format(segment)).write_text(value, encoding="ascii")
    # A bridge takes packets as large as its smallest port does, unless told; libvirt gives the nodes' ports its size.
    run(
        [
            "ip",
            "link",
            "add",
            f"{segment}r",
            "mtu",
            str(mtu),
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            segment,
        ]
    )
    run(["ip", "link", "set", segment, "mtu", str(mtu)])
    run(["ip", "-netns", segment, "-batch", "-"], stdin=(
        "link set lo up\n"
        f"address add {router}/{network.prefixlen} dev eth0\n"
        f"link set eth0 mtu {mtu} up\n"
    ))  # fmt: skip
    run(["ip", "link", "set", segment, "up"])


def _namespace(verb: str, segment: str) -> None:
    """`add` or `delete` the segment's namespace; its name is a mount, which all processes of the machine must see."""
    if _UNITS in os.environ:
        # roles/site_manager/templates/vclust-netns.service.j2
        run(["systemctl", "start", f"vclust-netns-{verb}@{segment}.service"])
    else:
        run(["ip", "netns", verb, segment])


def _delete(interface: str) -> bool:
    """Take a network interface away; False when there is none."""
    there = Path("/sys/class/net", interface)
    if not there.exists():
        return False
    try:
        run(["ip", "link", "delete", interface])
    except CommandError:
        # A port goes by itself, a moment after the namespace of its other end.
        if there.exists():
            raise
    return True


def _filter(rules: str) -> None:
    if shutil.which("nft") is None:
        raise VclustError(
            "nft not found, without which clusters are not kept apart", "install it: apt-get install nftables"
        )
    run(["nft", "-f", "-"], stdin=rules)


def _without_earlier(segment: str) -> str:
    """Takes away the table that earlier versions of vclust gave each segment; named first, so that it is there."""
    return f"table inet {segment}\ndelete table inet {segment}\n"


def remove(segment: str, number: int) -> bool:
    """Take the segment with that VXLAN network number away; False when nothing of it was there."""
    # First: processes and sockets keep their namespace.
    found = home_server.close(segment)
    found |= ingress.close(segment)
    found |= egress.close(segment)
    for interface in (f"{segment}r", network_hook.device(segment), segment):
        found |= _delete(interface)
    if Path("/run/netns", segment).exists():
        _namespace("delete", segment)
        found = True
    if shutil.which("nft"):
        with contextlib.suppress(CommandError):  # the number is another segment's
            _filter(network_hook.without_number(segment, number))
        _filter(_without_earlier(segment) + network_hook.without_bridge(segment))
    return found
