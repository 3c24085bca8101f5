"""Which node runs on which host: a pure function of the request and of what hosts have left."""

import uuid
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

from vclust_py.addresses import mac_of
from vclust_py.errors import CapacityError
from vclust_py.hypervisor import Capacity, Host
from vclust_py.request import Request
from vclust_py.site.clusters import Node

OVERHEAD = {"kvm": 64 * 2**20, "tcg": 192 * 2**20, "xen": 16 * 2**20}
"""Host memory of a node beyond its own: QEMU itself, and for emulation its code cache too; with Xen what the
hypervisor keeps of each domain (the QEMU of its disks is in dom0's memory)."""


@dataclass(frozen=True)
class FreeCapacity:
    """What a host has left for new nodes; bytes."""

    host: Host
    capacity: Capacity
    cpus: int
    memory: int
    disk: int


def free_capacity(
    host: Host,
    capacity: Capacity,
    placed: Sequence[tuple[Node, int]],
    cpu_overcommit: int,
) -> FreeCapacity:
    """What is left of a host when every node placed there uses all it asked for.

    `placed` are its nodes, each with the bytes that its disk takes now.
    """
    overhead = OVERHEAD[capacity.accelerator]
    promised = sum(node.memory + overhead for node, _ in placed)
    # What is free now must hold what nodes may still take: of memory and disk alike they have taken a part only.
    untaken = sum(max(node.memory + overhead - capacity.resident.get(node.uuid, 0), 0) for node, _ in placed)
    return FreeCapacity(
        host,
        capacity,
        cpus=capacity.cpus * cpu_overcommit - sum(node.cpus for node, _ in placed),
        memory=min(capacity.memory - promised, capacity.memory_free - untaken),
        disk=capacity.disk_free - sum(max(node.disk - written, 0) for node, written in placed),
    )


def assign(
    request: Request,
    hosts: Sequence[FreeCapacity],
    errors: Mapping[str, str] | None = None,
    *,
    holders: Set[str] = frozenset(),
    least_disk: int = 0,
) -> list[Node]:
    """Give each node a host: with `Spread: pack` the first one it fits on, else the one with most memory left.

    The `holders`, which have the VD cache, come before others.  `least_disk` are bytes that a node's disk has at least,
    however few were asked for.  Raises CapacityError when not all fit; it says for
    each host why it takes no more; `errors` are those of hosts that did not answer.  Cost: nodes times hosts.
    """
    hardware, left = request.hardware, sorted(hosts, key=lambda one: one.host.name not in holders)
    disk = max(hardware.disk, least_disk)
    nodes: list[Node] = []
    used: set[str] = set()
    for position, (name, address) in enumerate(zip(request.hostnames, request.addresses, strict=True)):
        fitting = [i for i, host in enumerate(left) if _refusal(request, host, disk, used) is None]
        if not fitting:
            reasons = [f"  {host.host.name}: {_refusal(request, host, disk, used)}" for host in left]
            reasons += [f"  {host}: does not answer: {error}" for host, error in (errors or {}).items()]
            raise CapacityError(
                f"{request.name}: only {position} of {hardware.number_of_nodes} nodes fit:\n"
                + "\n".join(reasons),
                "ask for less, or destroy a cluster (`vclust list`)",
            )
        if hardware.spread == "pack":
            index = fitting[0]
        else:
            index = max(fitting, key=lambda i: (left[i].host.name in holders, left[i].memory, -i))
        chosen = left[index]
        left[index] = replace(
            chosen,
            cpus=chosen.cpus - hardware.cpus,
            memory=chosen.memory - hardware.ram - OVERHEAD[chosen.capacity.accelerator],
            disk=chosen.disk - disk,
        )
        used.add(chosen.host.name)
        nodes.append(
            Node(
                position=position,
                name=name,
                host=chosen.host.name,
                uri=chosen.host.uri,
                address=str(address),
                mac=mac_of(address),
                uuid=str(uuid.uuid4()),
                cpus=hardware.cpus,
                memory=hardware.ram,
                disk=disk,
                guest=_guest(chosen),
            )
        )
    return nodes


def _guest(left: FreeCapacity) -> str:
    """Which kind of Xen guest a node on this host is."""
    return left.host.guest or next((kind for kind in ("pvh", "pv") if kind in left.capacity.guests), "")


def _refusal(request: Request, left: FreeCapacity, disk: int, used: Set[str]) -> str | None:
    """Why the host takes no further node of the request; None when it does."""
    hardware, capacity = request.hardware, left.capacity
    memory = hardware.ram + OVERHEAD[capacity.accelerator]
    if hardware.architecture != capacity.architecture:
        return f"is {capacity.architecture}, asked for {hardware.architecture}"
    if hardware.cpu_speed is not None and capacity.cpu_speed < hardware.cpu_speed:
        return f"runs at {capacity.cpu_speed / 1e9:.2f} GHz, asked for {hardware.cpu_speed / 1e9:.2f} GHz"
    if left.host.guest and left.host.guest not in capacity.guests:
        return f"runs {' and '.join(capacity.guests) or 'no Xen'} guests, vclust_xen_guest says {left.host.guest}"
    if hardware.spread == "hosts" and left.host.name in used:
        return "has a node of this cluster already (Spread: hosts)"
    if hardware.cpus > capacity.cpus:
        return f"has {capacity.cpus} CPUs, asked for {hardware.cpus} in one node"
    for what, unit, have, need in (
        ("virtual CPUs", 1, left.cpus, hardware.cpus),
        ("MB of memory", 10**6, left.memory, memory),
        ("MB of disk", 10**6, left.disk, disk),
    ):
        if have < need:
            return f"has {max(have, 0) // unit} {what} left, a node takes {need // unit}"
    return None
