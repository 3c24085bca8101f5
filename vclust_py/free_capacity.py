"""What a host has left for new nodes, and how many of a request it takes."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from vclust_py.hypervisor import Capacity, Host
from vclust_py.request import Request
from vclust_py.site.clusters import Node

OVERHEAD = {"kvm": 64 * 2**20, "tcg": 192 * 2**20, "xen": 16 * 2**20}
"""Host memory of a node beyond its own: QEMU itself, and for emulation its code cache too; with Xen what the
hypervisor keeps of each domain (the QEMU of its disks is in dom0's memory)."""

CPUS, MEMORY, DISK = "virtual CPUs", "memory", "disk"
"""What a node takes of its host, as errors name it."""


@dataclass(frozen=True)
class FreeCapacity:
    """What a host has left for new nodes; bytes."""

    host: Host
    capacity: Capacity
    cpus: int
    """Virtual ones, with the over-commit that is allowed."""
    memory: int
    disk: int
    busy: int = 0
    """Virtual CPUs of all that is there already, nodes and other domains."""
    lacks: int = 0
    """0: it has the image that the nodes' disks stand on; higher: it lacks more of it."""

    @property
    def left(self) -> dict[str, int]:
        return {CPUS: self.cpus, MEMORY: self.memory, DISK: self.disk}

    def node_takes(self, request: Request, disk: int) -> dict[str, int]:
        """What one node of the request takes here, with a disk of `disk` bytes."""
        memory = request.hardware.ram + OVERHEAD[self.capacity.accelerator]
        return {CPUS: request.hardware.cpus, MEMORY: memory, DISK: disk}

    def nodes(self, request: Request, disk: int) -> int:
        """How many nodes of the request there is space for, whether it qualifies or not."""
        takes = self.node_takes(request, disk)
        return max(min(self.left[what] // amount for what, amount in takes.items()), 0)


def free_capacity(
    host: Host,
    capacity: Capacity,
    placed: Sequence[tuple[Node, int]],
    cpu_overcommit: int,
    *,
    foreign: Set[str] = frozenset(),
    lacks: int = 0,
    volumes: Sequence[tuple[int, int]] = (),
) -> FreeCapacity:
    """What is left of a host when every node placed there, and every other domain, uses all it may.

    `placed` are its nodes now, each with the bytes that its disk took when `capacity` was asked for; those placed since
    then have taken nothing yet.  `foreign` are the UUIDs of domains that were not the site's then.
    `volumes` are those there: the bytes of each, and what of them it took then.
    """
    overhead = OVERHEAD[capacity.accelerator]
    promised = {node.uuid: node.memory + overhead for node, _ in placed}
    others = {uuid: capacity.sizes[uuid] for uuid in foreign if uuid not in promised}
    promised |= {uuid: memory for uuid, (_, memory) in others.items()}
    busy = sum(node.cpus for node, _ in placed) + sum(cpus for cpus, _ in others.values())
    # What is free now must hold what nodes may still take: of memory and disk alike they have taken a part only.
    untaken = sum(max(memory - capacity.resident.get(uuid, 0), 0) for uuid, memory in promised.items())
    return FreeCapacity(
        host,
        capacity,
        cpus=capacity.cpus * cpu_overcommit - busy,
        memory=min(capacity.memory - sum(promised.values()), capacity.memory_free - untaken),
        disk=capacity.disk_free
        - sum(max(node.disk - written, 0) for node, written in placed)
        - sum(max(size - written, 0) for size, written in volumes),
        busy=busy,
        lacks=lacks,
    )


def unfit(request: Request, free: FreeCapacity) -> str | None:
    """Why the host takes no node of the request, however empty it is; None when it qualifies."""
    hardware, capacity, host = request.hardware, free.capacity, free.host
    if host.state == "drain":
        return "drained, takes no new nodes (vclust_host_state)"
    if hardware.architecture != capacity.architecture:
        return f"{capacity.architecture}, asked for {hardware.architecture}"
    if hardware.cpu_speed is not None and capacity.cpu_speed < hardware.cpu_speed:
        return f"{capacity.cpu_speed / 1e9:.2f} GHz, asked for {hardware.cpu_speed / 1e9:.2f} GHz"
    if host.guest and host.guest not in capacity.guests:
        return f"{' and '.join(capacity.guests) or 'no Xen'} guests, vclust_xen_guest says {host.guest}"
    if hardware.cpus > capacity.cpus:
        return f"{capacity.cpus} CPUs, asked for {hardware.cpus} in one node"
    return None
