"""Placement: against hosts that are given, and against a brute-force twin."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import request as requests
from vclust_py.errors import CapacityError
from vclust_py.hypervisor import Capacity, Host
from vclust_py.placement import OVERHEAD, FreeCapacity, assign
from vclust_py.request import Request

GB = 10**9


def a_request(nodes: int = 2, **hardware: object) -> Request:
    values = {"number_of_nodes": nodes, "ram": "1GB", "disk": "4GB"} | hardware
    return requests.from_mapping({"hardware": values, "software": {"name": "test"}}, "test")


def a_capacity(**values: object) -> Capacity:
    capacity = Capacity("amd64", 4, 3 * GB, 16 * GB, 16 * GB, {}, 10**15, "kvm")
    return replace(capacity, **values)  # type: ignore[arg-type]


def free(
    name: str, memory: int = 16 * GB, cpus: int = 16, disk: int = 100 * GB, **capacity: object
) -> FreeCapacity:
    return FreeCapacity(Host(name), a_capacity(**capacity), cpus, memory, disk)


def test_nodes_go_where_most_memory_is_left() -> None:
    nodes = assign(a_request(3), [free("a", 4 * GB), free("b", 8 * GB)])
    assert [node.host for node in nodes] == ["b", "b", "b"]
    nodes = assign(a_request(3), [free("a", 8 * GB), free("b", 8 * GB)])
    assert [node.host for node in nodes] == ["a", "b", "a"]


def test_pack_fills_the_first_host() -> None:
    nodes = assign(a_request(4, spread="pack"), [free("a", 4 * GB), free("b", 64 * GB)])
    assert [node.host for node in nodes] == ["a", "a", "a", "b"]


def test_spread_over_hosts_takes_each_once() -> None:
    assert {n.host for n in assign(a_request(2, spread="hosts"), [free("a"), free("b", 2 * GB)])} == {
        "a",
        "b",
    }
    with pytest.raises(CapacityError, match=r"a: has a node of this cluster already"):
        assign(a_request(2, spread="hosts"), [free("a")])


def test_every_node_has_its_own_identity() -> None:
    nodes = assign(a_request(12), [free("a")])
    assert len({node.mac for node in nodes}) == len({node.uuid for node in nodes}) == 12
    assert len({node.address for node in nodes}) == len({node.name for node in nodes}) == 12


@pytest.mark.parametrize(
    ("hardware", "left", "said"),
    [
        ({"ram": "20GB"}, {}, "memory left, a node takes 20067"),
        ({"disk": "200GB"}, {}, "has 100000 MB of disk left, a node takes 200000"),
        ({"cpus": 5}, {}, "has 4 CPUs, asked for 5 in one node"),
        ({"cpus": 4}, {"cpus": 3}, "has 3 virtual CPUs left"),
        ({"cpu_speed": "4GHz"}, {}, "runs at 3.00 GHz, asked for 4.00 GHz"),
        ({"cpu_arch": "arm64"}, {}, "is amd64, asked for arm64"),
    ],
)
def test_what_a_host_lacks_is_named(hardware: dict[str, object], left: dict[str, int], said: str) -> None:
    with pytest.raises(CapacityError, match=said) as caught:
        assign(a_request(1, **hardware), [free("alpha", **left)])
    assert "alpha: " in str(caught.value)
    assert caught.value.exit_code == 3


@given(
    memory=st.lists(st.integers(0, 6), min_size=1, max_size=4),
    cpus=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    count=st.integers(1, 6),
    spread=st.sampled_from(["any", "pack", "hosts"]),
)
def test_all_nodes_are_placed_exactly_when_some_placement_exists(
    memory: list[int], cpus: list[int], count: int, spread: str
) -> None:
    request = a_request(count, spread=spread)
    each = request.hardware.ram + OVERHEAD["kvm"]
    hosts = [free(str(i), amount * each, cpus[i]) for i, amount in enumerate(memory)]

    def fits(counts: tuple[int, ...]) -> bool:
        return sum(counts) == count and all(
            n <= memory[i] and n <= cpus[i] and (spread != "hosts" or n <= 1) for i, n in enumerate(counts)
        )

    possible = any(fits(counts) for counts in itertools.product(range(count + 1), repeat=len(hosts)))
    try:
        nodes = assign(request, hosts)
    except CapacityError:
        assert not possible
    else:
        assert fits(tuple(sum(node.host == str(i) for node in nodes) for i in range(len(hosts))))


@pytest.mark.parametrize(
    ("wanted", "guests", "found"),
    [("", ("pv", "pvh"), "pvh"), ("", ("pv",), "pv"), ("pv", ("pv", "pvh"), "pv"), ("", (), "")],
)
def test_kind_of_xen_guest(wanted: str, guests: tuple[str, ...], found: str) -> None:
    host = replace(free("a", accelerator="xen", guests=guests), host=Host("a", "xen:///system", wanted))
    assert assign(a_request(1), [host])[0].guest == found


def test_a_kind_of_guest_that_the_host_cannot_run() -> None:
    host = replace(free("a", accelerator="xen", guests=("pv",)), host=Host("a", "xen:///system", "pvh"))
    with pytest.raises(CapacityError, match="runs pv guests, vclust_xen_guest says pvh"):
        assign(a_request(1), [host])
