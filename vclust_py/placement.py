"""Which node runs on which host: a pure function of the request and of what hosts have left.

All nodes of a request are alike, so a host is so many places for a node, and whenever the places of all hosts together
are enough, every order of filling them ends with all nodes placed.  The order is what `Spread` and the preferences are
about:

1. Places at which no processor of the host is promised twice; the over-committed ones come last.
2. Hosts that have the image the nodes' disks stand on, then those that have the VD cache below it.
3. Racks that have a node of the cluster, then those with most places: few racks.
4. Hosts with the least load once the node is there: virtual CPUs for each of its own.
5. Hosts with the least memory left, so that the emptier ones stay fit for large nodes.
"""

import heapq
import uuid
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

from vclust_py.addresses import mac_of
from vclust_py.errors import CapacityError
from vclust_py.free_capacity import CPUS, DISK, MEMORY, FreeCapacity, unfit
from vclust_py.request import Request
from vclust_py.shortage import advice, shortage
from vclust_py.site.clusters import Node


@dataclass
class _Places:
    """A host that qualifies: how many nodes of the request it can take, and how many it has taken."""

    free: FreeCapacity
    index: int
    count: int
    uncrowded: int
    """So many of them promise none of its processors twice."""
    cpus: int
    memory: int
    """Of one node here."""
    taken: int = 0

    @property
    def rack(self) -> str:
        """Hosts without a rack are taken for one rack: nothing says that they are apart."""
        return self.free.host.rack

    def preference(self) -> tuple[float, int, int]:
        """The host with the least of these takes the next node."""
        load = (self.free.busy + (self.taken + 1) * self.cpus) / self.free.capacity.cpus
        return load, self.free.memory - self.taken * self.memory, self.index


def assign(
    request: Request,
    hosts: Sequence[FreeCapacity],
    errors: Mapping[str, str] | None = None,
    *,
    least_disk: int = 0,
) -> list[Node]:
    """Give each node a host, as its `Spread` says and in the order of preferences above.

    any     in that order
    hosts   likewise, at most one node a host
    racks   as evenly over the racks as their free capacity allows, within each in that order
    pack    as few hosts as possible, however loaded they are; the last one is the fullest that does

    `least_disk` are bytes that a node's disk has at least, however few were asked for.  Raises CapacityError when not
    all fit, which says what is missing; `errors` are those of hosts that did not answer.  Cost: nodes · log hosts.
    """
    hardware = request.hardware
    disk = max(hardware.disk, least_disk)
    places = [
        _places(request, free, index, disk)
        for index, free in enumerate(hosts)
        if unfit(request, free) is None
    ]
    number = hardware.number_of_nodes
    if sum(host.count for host in places) < number:
        raise CapacityError(
            shortage(request, hosts, errors or {}, disk),
            advice(request, hosts),
        )
    fill = {"racks": _over_racks, "pack": _packed}.get(hardware.spread, _preferred)
    return [
        Node(
            position=position,
            name=name,
            host=free.host.name,
            uri=free.host.uri,
            address=str(address),
            mac=mac_of(address),
            uuid=str(uuid.uuid4()),
            cpus=hardware.cpus,
            memory=hardware.ram,
            disk=disk,
            guest=_guest(free),
        )
        for position, (name, address, free) in enumerate(
            zip(request.hostnames, request.addresses, fill(places, number), strict=True)
        )
    ]


def assign_with_volume(
    request: Request,
    hosts: Sequence[FreeCapacity],
    errors: Mapping[str, str] | None = None,
    *,
    least_disk: int = 0,
    size: int,
    there: str | None,
) -> list[Node]:
    """As `assign`, the first node with a volume of `size` bytes: on the host `there`, or where there is space for it.

    The other nodes go where they like best after it.  Raises CapacityError only where they cannot be placed so.
    """
    name = request.software.name
    if there is None:
        open_to = [replace(one, disk=one.disk - size) for one in hosts]
    else:
        open_to = [one for one in hosts if one.host.name == there]
    if not open_to:
        why = (errors or {}).get(there or "", f"{there}: is no host of the site any more")
        raise CapacityError(f"{name}: its volume is on {there}, and so must its first node be:\n{why}")
    failure: CapacityError | None = None
    while True:
        try:
            (first,) = assign(_of(request, 1), open_to, errors, least_disk=least_disk)
        except CapacityError as error:
            if failure is not None:
                raise failure from error
            if there is None:
                raise
            raise CapacityError(
                f"{name}: its volume is on {there}, and so must its first node be:\n{error}"
            ) from error
        try:
            others = _beside(first, request, hosts, errors, least_disk, size if there is None else 0)
        except CapacityError as error:  # the volume takes places of nodes there, elsewhere perhaps fewer
            failure = failure or error
            open_to = [one for one in open_to if one.host.name != first.host]
            continue
        return [
            replace(node, position=position, name=host_name, address=str(address), mac=mac_of(address))
            for position, (node, host_name, address) in enumerate(
                zip([first, *others], request.hostnames, request.addresses, strict=True)
            )
        ]


def _beside(
    first: Node,
    request: Request,
    hosts: Sequence[FreeCapacity],
    errors: Mapping[str, str] | None,
    least_disk: int,
    volume: int,
) -> list[Node]:
    """All nodes but the first, which has its host, with a new volume of so many bytes."""
    number = request.hardware.number_of_nodes - 1
    rest = [
        _with_node(one, request, first.disk, volume) if one.host.name == first.host else one
        for one in hosts
        if request.hardware.spread != "hosts" or one.host.name != first.host
    ]
    return assign(_of(request, number), rest, errors, least_disk=least_disk) if number else []


def _of(request: Request, number: int) -> Request:
    """The same for so many nodes."""
    return replace(request, hardware=replace(request.hardware, number_of_nodes=number, min_nodes=number))


def _with_node(free: FreeCapacity, request: Request, disk: int, volume: int) -> FreeCapacity:
    """What is left of the host with a node of the request more, and a volume."""
    takes = free.node_takes(request, disk)
    return replace(
        free,
        cpus=free.cpus - takes[CPUS],
        memory=free.memory - takes[MEMORY],
        disk=free.disk - takes[DISK] - volume,
        busy=free.busy + takes[CPUS],
    )


def _places(request: Request, free: FreeCapacity, index: int, disk: int) -> _Places:
    hardware = request.hardware
    count = free.nodes(request, disk)
    if hardware.spread == "hosts":
        count = min(count, 1)
    uncrowded = max(free.capacity.cpus - free.busy, 0) // hardware.cpus
    memory = free.node_takes(request, disk)[MEMORY]
    return _Places(free, index, count, min(count, uncrowded), hardware.cpus, memory)


def _preferred(places: Sequence[_Places], number: int) -> list[FreeCapacity]:
    """The hosts of `number` nodes, in the order of preferences; there are places for all."""
    picked: list[FreeCapacity] = []
    racks: set[str] = set()
    for crowded, lacks in product((False, True), sorted({host.free.lacks for host in places})):
        limits = {
            host.index: host.count if crowded else host.uncrowded
            for host in places
            if host.free.lacks == lacks
        }
        still_open = [host for host in places if host.taken < limits.get(host.index, 0)]
        for rack, members in sorted(
            _by_rack(still_open).items(),
            key=lambda item: (item[0] not in racks, -sum(limits[h.index] - h.taken for h in item[1])),
        ):
            if len(picked) < number:
                picked += _least_loaded(members, number - len(picked), limits)
                racks.add(rack)
    return picked


def _least_loaded(hosts: Iterable[_Places], most: int, limits: Mapping[int, int]) -> list[FreeCapacity]:
    """At most `most` nodes' hosts, each the least loaded one at its turn; none beyond its limit."""
    picked: list[FreeCapacity] = []
    heap = [(*host.preference(), host) for host in hosts]
    heapq.heapify(heap)
    while heap and len(picked) < most:
        host = heap[0][-1]
        picked.append(host.free)
        host.taken += 1
        if host.taken < limits[host.index]:
            heapq.heapreplace(heap, (*host.preference(), host))
        else:
            heapq.heappop(heap)
    return picked


def _over_racks(places: Sequence[_Places], number: int) -> list[FreeCapacity]:
    """The hosts of `number` nodes: each goes to the rack with the fewest among those that still take one."""
    racks = sorted(
        _by_rack(host for host in places if host.count).values(),
        key=lambda members: (min(h.free.lacks for h in members), -sum(h.uncrowded for h in members)),
    )
    left = [sum(host.count for host in members) for members in racks]
    heap = [(0, rack) for rack in range(len(racks))]
    turns: list[int] = []
    while len(turns) < number:
        given, rack = heap[0]
        turns.append(rack)
        if given + 1 < left[rack]:
            heapq.heapreplace(heap, (given + 1, rack))
        else:
            heapq.heappop(heap)
    share = Counter(turns)
    picked = [iter(_preferred(members, share[rack])) for rack, members in enumerate(racks)]
    return [next(picked[rack]) for rack in turns]


def _packed(places: Sequence[_Places], number: int) -> list[FreeCapacity]:
    """The hosts of `number` nodes, as few as possible: the largest ones, then the smallest that takes the rest."""
    total = {rack: sum(host.count for host in members) for rack, members in _by_rack(places).items()}
    largest_first = sorted(places, key=lambda h: (-h.count, h.free.lacks, -total[h.rack], h.rack, h.index))
    picked: list[FreeCapacity] = []
    racks: set[str] = set()
    for position, host in enumerate(largest_first):
        rest = number - len(picked)
        if host.count < rest:
            picked += [host.free] * host.count
            racks.add(host.rack)
            continue
        last = min(
            (one for one in largest_first[position:] if one.count >= rest),
            key=lambda one: (one.count, one.free.lacks, one.rack not in racks, one.index),
        )
        return picked + [last.free] * rest
    return picked


def _by_rack(hosts: Iterable[_Places]) -> dict[str, list[_Places]]:
    """In the order of their first hosts."""
    found: dict[str, list[_Places]] = {}
    for host in hosts:
        found.setdefault(host.rack, []).append(host)
    return found


def _guest(free: FreeCapacity) -> str:
    """Which kind of Xen guest a node on this host is."""
    return free.host.guest or next((kind for kind in ("pvh", "pv") if kind in free.capacity.guests), "")
