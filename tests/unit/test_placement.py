"""Placement: against hosts that are given, and against a brute-force twin."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import request as requests
from vclust_py.errors import CapacityError
from vclust_py.free_capacity import OVERHEAD, FreeCapacity
from vclust_py.hypervisor import Capacity, Host
from vclust_py.placement import assign, assign_with_volume
from vclust_py.request import Request

GB = 10**9
NODE = GB + OVERHEAD["kvm"]
"""Bytes that a node of 1 GB takes of its host."""


def a_request(nodes: int = 2, **hardware: object) -> Request:
    values = {"number_of_nodes": nodes, "ram": "1GB", "disk": "4GB"} | hardware
    return requests.from_mapping({"hardware": values, "software": {"name": "test"}}, "test")


def a_capacity(**values: object) -> Capacity:
    capacity = Capacity("amd64", 4, 3 * GB, 16 * GB, 16 * GB, {}, 10**15, "kvm")
    return replace(capacity, **values)  # type: ignore[arg-type]


def free(
    name: str,
    memory: int = 16 * GB,
    cpus: int = 16,
    disk: int = 100 * GB,
    rack: str = "",
    busy: int = 0,
    lacks: int = 0,
    processors: int = 4,
    **capacity: object,
) -> FreeCapacity:
    host = Host(name, rack=rack)
    return FreeCapacity(host, a_capacity(cpus=processors, **capacity), cpus, memory, disk, busy, lacks)


def hosts_of(request: Request, *hosts: FreeCapacity) -> list[str]:
    return [node.host for node in assign(request, hosts)]


def test_the_least_loaded_host_takes_the_next_node() -> None:
    assert hosts_of(a_request(3), free("a"), free("b")) == ["a", "b", "a"]
    assert hosts_of(a_request(3), free("a", busy=1), free("b")) == ["b", "b", "a"]
    # Load is by processor: eight of them with two nodes are less loaded than four with one.
    assert hosts_of(a_request(3), free("a", busy=1), free("b", busy=2, processors=8)) == ["b", "b", "a"]


def test_of_hosts_with_one_load_the_emptier_one_stays_fit_for_large_nodes() -> None:
    assert hosts_of(a_request(1), free("a", 16 * GB), free("b", 8 * GB)) == ["b"]


def test_what_has_the_images_comes_first_until_its_processors_would_be_promised_twice() -> None:
    hosts = free("a", lacks=2), free("b", lacks=1), free("c", cpus=8, busy=1)
    assert hosts_of(a_request(14), *hosts) == 3 * ["c"] + 4 * ["b"] + 4 * ["a"] + 3 * ["c"]


def test_a_cluster_that_fits_into_one_rack_is_in_one() -> None:
    racks = [free(f"{rack}{i}", rack=rack) for rack in "xyz" for i in range(2 if rack == "y" else 1)]
    assert hosts_of(a_request(4), *racks) == ["y0", "y1", "y0", "y1"]
    assert hosts_of(a_request(2), free("a", rack="x", lacks=1), *racks) == ["y0", "y1"]


def test_spread_over_hosts_takes_each_once() -> None:
    assert set(hosts_of(a_request(2, spread="hosts"), free("a"), free("b", 2 * GB))) == {"a", "b"}
    with pytest.raises(CapacityError, match=r"a: a node of this cluster already"):
        assign(a_request(2, spread="hosts"), [free("a")])


def test_spread_over_racks_is_even_and_even_within_each() -> None:
    racks = [free(f"{rack}{i}", rack=rack) for rack, hosts in (("x", 1), ("y", 3)) for i in range(hosts)]
    found = hosts_of(a_request(6, spread="racks"), *racks, free("z", 2 * GB, rack="z"))
    assert Counter(found) == {"x0": 2, "y0": 1, "y1": 1, "y2": 1, "z": 1}


def test_pack_takes_one_host_where_one_does_and_of_these_the_fullest() -> None:
    hosts = free("a", 4 * GB), free("b", 64 * GB), free("c", 5 * GB)
    assert hosts_of(a_request(4, spread="pack"), *hosts) == ["c"] * 4
    assert hosts_of(a_request(17, spread="pack"), *hosts) == ["b"] * 16 + ["a"]


def test_pack_stays_in_a_rack() -> None:
    hosts = [free(f"{rack}{i}", 3 * GB, rack=rack) for i in range(2) for rack in "xy"]
    assert hosts_of(a_request(4, spread="pack"), *hosts) == ["x0", "x0", "x1", "x1"]


def test_every_node_has_its_own_identity() -> None:
    nodes = assign(a_request(12), [free("a")])
    assert len({node.mac for node in nodes}) == len({node.uuid for node in nodes}) == 12
    assert len({node.address for node in nodes}) == len({node.name for node in nodes}) == 12


@st.composite
def some_hosts(draw: st.DrawFn) -> list[FreeCapacity]:
    """Hosts with some places for nodes of 1 GB and 1 CPU, in some racks, some of them unfit."""
    found = []
    for index in range(draw(st.integers(1, 5))):
        places, busy = draw(st.integers(0, 4)), draw(st.integers(0, 3))
        host = free(
            f"h{index}",
            draw(st.integers(places, 4)) * NODE,
            places,
            rack=draw(st.sampled_from("xyz")),
            busy=busy,
            lacks=draw(st.integers(0, 2)),
            processors=draw(st.integers(1, 4)),
        )
        if draw(st.sampled_from([False, False, False, True])):
            host = replace(host, host=replace(host.host, state="drain"))
        found.append(host)
    return found


def places(host: FreeCapacity, spread: str) -> int:
    if host.host.state == "drain":
        return 0
    return min(host.cpus, host.memory // NODE, 1 if spread == "hosts" else 100)


def counts_that_fit(hosts: list[FreeCapacity], number: int, spread: str) -> list[tuple[int, ...]]:
    """By brute force: how many nodes each host may have."""
    ranges = [range(places(host, spread) + 1) for host in hosts]
    return [counts for counts in itertools.product(*ranges) if sum(counts) == number]


def by_rack(hosts: list[FreeCapacity], counts: tuple[int, ...]) -> list[int]:
    found = Counter[str]()
    for host, count in zip(hosts, counts, strict=True):
        found[host.host.rack] += count
    return sorted(found.values())


@pytest.mark.parametrize("spread", ["any", "pack", "hosts", "racks"])
@given(hosts=some_hosts(), number=st.integers(1, 8))
def test_all_nodes_are_placed_exactly_when_some_placement_exists(
    hosts: list[FreeCapacity], number: int, spread: str
) -> None:
    """And so as the kind of spread says, against all placements there are."""
    possible = counts_that_fit(hosts, number, spread)
    try:
        nodes = assign(a_request(number, spread=spread), hosts)
    except CapacityError:
        assert not possible
        return
    found = Counter(node.host for node in nodes)
    counts = tuple(found[host.host.name] for host in hosts)
    assert counts in possible
    if spread == "pack":
        assert len(found) == min(len([n for n in each if n]) for each in possible)
    elif spread == "racks":  # the rack with the fewest has as many as can be, then the next one
        assert by_rack(hosts, counts) == max(by_rack(hosts, each) for each in possible)


@pytest.mark.parametrize("spread", ["any", "hosts"])
@given(hosts=some_hosts(), number=st.integers(1, 8))
def test_no_place_is_taken_before_better_ones(hosts: list[FreeCapacity], number: int, spread: str) -> None:
    try:
        nodes = assign(a_request(number, spread=spread), hosts)
    except CapacityError:
        return
    found = Counter(node.host for node in nodes)
    taken, left = list[tuple[bool, int]](), list[tuple[bool, int]]()
    for host in hosts:
        for place in range(places(host, spread)):
            rank = (host.busy + place + 1 > host.capacity.cpus, host.lacks)
            (taken if place < found[host.host.name] else left).append(rank)
    assert max(taken) <= min(left, default=max(taken))


@given(some_hosts(), st.integers(1, 8))
def test_among_equals_racks_are_few_and_loads_even(hosts: list[FreeCapacity], number: int) -> None:
    """Hosts that are idle, have processors enough and the same images: the rack counts first, then the load."""
    hosts = [replace(host, busy=0, lacks=0, capacity=a_capacity()) for host in hosts]
    possible = counts_that_fit(hosts, number, "any")
    try:
        nodes = assign(a_request(number), hosts)
    except CapacityError:
        return
    found = Counter(node.host for node in nodes)
    counts = tuple(found[host.host.name] for host in hosts)

    def racks(each: tuple[int, ...]) -> int:
        return sum(1 for nodes in by_rack(hosts, each) if nodes)

    assert racks(counts) == min(map(racks, possible))
    for rack in "xyz":
        members = [i for i, host in enumerate(hosts) if host.host.rack == rack]
        same = [c for c in possible if sum(c[i] for i in members) == sum(counts[i] for i in members)]
        assert max((counts[i] for i in members), default=0) == min(
            max((c[i] for i in members), default=0) for c in same
        )


@pytest.mark.parametrize(
    ("wanted", "guests", "found"),
    [("", ("pv", "pvh"), "pvh"), ("", ("pv",), "pv"), ("pv", ("pv", "pvh"), "pv"), ("", (), "")],
)
def test_kind_of_xen_guest(wanted: str, guests: tuple[str, ...], found: str) -> None:
    host = replace(free("a", accelerator="xen", guests=guests), host=Host("a", "xen:///system", wanted))
    assert assign(a_request(1), [host])[0].guest == found


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30)), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 12),
    st.sampled_from(["any", "hosts", "racks", "pack"]),
    st.sampled_from([None, 0, 9]),
)
def test_a_volume_and_all_nodes_fit_whenever_they_can(
    hosts: list[tuple[int, int]], nodes: int, size: int, spread: str, there: int | None
) -> None:
    """Each host takes so many nodes by its memory, and has so many GB of disk, of which a node takes 4."""
    free_hosts = [free(str(n), memory=count * NODE, disk=disk * GB) for n, (count, disk) in enumerate(hosts)]
    request = a_request(nodes, spread=spread)

    def places(n: int, disk: int) -> int:
        return min(hosts[n][0], disk // 4, 1 if spread == "hosts" else nodes)

    def possible(first: int) -> bool:
        own = hosts[first][1] - (size if there is None else 0)
        others = sum(places(n, disk) for n, (_, disk) in enumerate(hosts) if n != first)
        return places(first, own) > 0 and places(first, own) + others >= nodes

    firsts = range(len(hosts)) if there is None else [n for n in (there,) if n < len(hosts)]
    host = None if there is None else str(there)
    if not any(map(possible, firsts)):
        with pytest.raises(CapacityError):
            assign_with_volume(request, free_hosts, size=size * GB, there=host)
        return
    found = assign_with_volume(request, free_hosts, size=size * GB, there=host)
    assert [(node.position, node.name) for node in found] == list(enumerate(request.hostnames))
    assert [node.address for node in found] == [str(address) for address in request.addresses]
    assert len({node.uuid for node in found}) == len({node.mac for node in found}) == nodes
    assert there is None or found[0].host == host
    taken = Counter(node.host for node in found)
    for n, (count, disk) in enumerate(hosts):
        volume = size if there is None and found[0].host == str(n) else 0
        assert taken[str(n)] <= min(count, (disk - volume) // 4)
        assert spread != "hosts" or taken[str(n)] <= 1
