"""What is missing when not all nodes of a request fit, in a sentence, and why hosts take no more, in groups."""

import heapq
from collections.abc import Mapping, Sequence

from vclust_py.free_capacity import CPUS, DISK, MEMORY, FreeCapacity, unfit
from vclust_py.request import Request

_NAMED = 4
"""So many hosts of a group are named; the others are counted."""
_MOST_GROUPS = 12


def shortage(request: Request, hosts: Sequence[FreeCapacity], errors: Mapping[str, str], disk: int) -> str:
    """What the hosts lack for the request, nodes' disks being of `disk` bytes; `errors` of those that did not answer.

    What is missing is the least that, added where it is nearest, would do; the nearest host is the one that lacks the
    smallest part of a node.
    """
    number, apart = request.hardware.number_of_nodes, request.hardware.spread == "hosts"
    reasons = [unfit(request, host) for host in hosts]
    fitting = [host for host, reason in zip(hosts, reasons, strict=True) if reason is None]
    places = [min(host.nodes(request, disk), 1 if apart else number) for host in fitting]
    lines = [
        f"{request.name}: only {sum(places)} of {number} nodes fit: "
        + _missing(request, fitting, places, disk, number - sum(places))
    ]
    groups: dict[str, list[str]] = {}
    full: dict[str, list[tuple[str, int, int]]] = {}
    for host, count in zip(fitting, places, strict=True):
        if apart and count:
            groups.setdefault("a node of this cluster already (Spread: hosts)", []).append(host.host.name)
            continue
        takes = host.node_takes(request, disk)
        what = next(what for what in takes if host.left[what] - count * takes[what] < takes[what])
        left = max(host.left[what] - count * takes[what], 0)
        full.setdefault(what, []).append((host.host.name, left, takes[what]))
    for host, reason in zip(hosts, reasons, strict=True):
        if reason is not None:
            groups.setdefault(reason, []).append(host.host.name)
    listed = [_full(what, members, request.hardware.ram) for what, members in full.items()]
    listed += [f"{_names(names)}: {reason}" for reason, names in groups.items()]
    if len(listed) > _MOST_GROUPS:
        listed[_MOST_GROUPS:] = [f"and {len(listed) - _MOST_GROUPS} more reasons of other hosts"]
    if len(errors) == 1:
        listed += [f"{host}: does not answer: {error}" for host, error in errors.items()]
    elif errors:
        listed.append(f"{_names(list(errors))}: do not answer, the first says: {next(iter(errors.values()))}")
    return "\n  ".join([*lines, *listed])


def advice(request: Request, hosts: Sequence[FreeCapacity]) -> str:
    """The next step: what would help with these hosts, and not what would not."""
    if not any(unfit(request, host) is None for host in hosts):
        return "ask for hardware that a host has, or add one that has it to the inventory"
    if not any(host.busy for host in hosts):
        return "ask for less, or add a host to the inventory: nothing runs on these that could go"
    return "ask for less, or destroy a cluster (`vclust list`)"


def _missing(
    request: Request, hosts: Sequence[FreeCapacity], places: Sequence[int], disk: int, number: int
) -> str:
    """What `number` nodes need beyond what the hosts have, and which host is nearest to taking one of them."""
    apart, kind = request.hardware.spread == "hosts", _kind(request)
    if not hosts:
        return "no host qualifies"

    def lacks(index: int, more: int) -> dict[str, int]:
        """What host `index` lacks for so many more nodes; nothing for none, though it may be overbooked."""
        takes, left = hosts[index].node_takes(request, disk), hosts[index].left
        wanted = places[index] + more
        return {what: max(wanted * amount - left[what], 0) if more else 0 for what, amount in takes.items()}

    def distance(index: int, more: int) -> float:
        """How much the last of so many more nodes adds to what the host lacks, in parts of a node."""
        takes, before = hosts[index].node_takes(request, disk), lacks(index, more - 1)
        return sum((amount - before[what]) / takes[what] for what, amount in lacks(index, more).items())

    heap = [(distance(i, 1), i, 1) for i in range(len(hosts)) if not (apart and places[i])]
    heapq.heapify(heap)
    nearest = heap[0][1] if heap else None
    more = [0] * len(hosts)
    while heap and sum(more) < number:
        _, index, count = heap[0]
        more[index] = count
        if apart:
            heapq.heappop(heap)
        else:
            heapq.heapreplace(heap, (distance(index, count + 1), index, count + 1))
    total = {
        what: sum(lacks(i, count)[what] for i, count in enumerate(more)) for what in (CPUS, MEMORY, DISK)
    }
    where = f" on hosts {kind}" if kind else ""
    needs = []
    if any(total.values()):
        needs.append(f"{amounts(total)} more{where}")
    if hosts_more := number - sum(more):
        hosts_text = "1 more host" if hosts_more == 1 else f"{hosts_more} more hosts"
        needs.append(f"{hosts_text}{'' if needs or not kind else f' {kind}'} (Spread: hosts)")
    text = f"needs {' and '.join(needs)}"
    if nearest is None:
        return text
    return f"{text}; the nearest: {hosts[nearest].host.name} lacks {amounts(lacks(nearest, 1))} for one"


def _kind(request: Request) -> str:
    """Which hosts qualify, where the request says more than what is usual."""
    hardware = request.hardware
    speed = "" if hardware.cpu_speed is None else f"with >= {hardware.cpu_speed / 1e9:g} GHz"
    architecture = "" if hardware.architecture == "amd64" else f"of {hardware.architecture}"
    return " ".join(filter(None, (architecture, speed)))


def amounts(counts: Mapping[str, int]) -> str:
    """In words what a host lacks: virtual CPUs, and bytes of memory and disk."""
    found = [
        f"{amount} {what.removesuffix('s') if amount == 1 else what}"
        if what == CPUS
        else f"{_size(amount)} of {what}"
        for what, amount in counts.items()
        if amount
    ]
    return " and ".join(filter(None, (", ".join(found[:-1]), found[-1])))


def _size(count: int) -> str:
    """Rounded up: who adds so much has enough."""
    return f"{-(-count // 10**8) / 10:g} GB" if count >= 10**9 else f"{-(-count // 10**6)} MB"


def _full(what: str, members: Sequence[tuple[str, int, int]], ram: int) -> str:
    """Hosts, each with what it has left and what a node takes there; of memory that is more than its `ram`."""
    unit, name = (1, what) if what == CPUS else (10**6, f"MB of {what}")
    left = sorted({amount // unit for _, amount, _ in members})
    takes = sorted({amount // unit for _, _, amount in members})
    verb = "has" if len(members) == 1 else "have"
    names = _names([host for host, _, _ in members])
    over = sorted({(amount - ram) // unit for _, _, amount in members})
    why = f" ({ram // unit} of its own, {_range(over)} for the hypervisor)" if what == MEMORY else ""
    return f"{names}: {verb} {_range(left)} {name} left, a node takes {_range(takes)}{why}"


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _names(names: Sequence[str]) -> str:
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[: _NAMED - 1])} and {len(names) - _NAMED + 1} more"
