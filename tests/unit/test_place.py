"""Placement: against hosts that are given, and against a brute-force twin."""

import itertools
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import request as requests
from vclust_py import state
from vclust_py.errors import CapacityError, VclustError
from vclust_py.hypervisor import Capacity, Host
from vclust_py.image.builder import disk_size
from vclust_py.place import OVERHEAD, Room, assign, place
from vclust_py.request import Request
from vclust_py.resolve import Lock, Package
from vclust_py.site import Site

GB = 10**9
LOCK = Lock("bookworm", "amd64", "linux-image-cloud-amd64", (), (), ())


def a_request(nodes: int = 2, **hardware: object) -> Request:
    values = {"number_of_nodes": nodes, "ram": "1GB", "disk": "4GB"} | hardware
    return requests.from_mapping({"hardware": values, "software": {"name": "test"}}, "test")


def a_capacity(**values: object) -> Capacity:
    capacity = Capacity("amd64", 4, 3 * GB, 16 * GB, 16 * GB, {}, 10**15, "kvm")
    return replace(capacity, **values)  # type: ignore[arg-type]


def a_room(
    name: str, memory: int = 16 * GB, cpus: int = 16, disk: int = 100 * GB, **capacity: object
) -> Room:
    return Room(Host(name), a_capacity(**capacity), cpus, memory, disk)


class FixedHost:
    """A hypervisor of a given size."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity_given = capacity

    def capacity(self) -> Capacity:
        return self.capacity_given

    def files(self, folder: str) -> "FixedHost":
        return self

    def allocated(self) -> dict[str, int]:
        return {}

    def images(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(root=tmp_path / "site")
    site.make_directories()
    return site


def test_nodes_go_where_most_memory_is_left() -> None:
    nodes = assign(a_request(3), [a_room("a", 4 * GB), a_room("b", 8 * GB)])
    assert [node.host for node in nodes] == ["b", "b", "b"]
    nodes = assign(a_request(3), [a_room("a", 8 * GB), a_room("b", 8 * GB)])
    assert [node.host for node in nodes] == ["a", "b", "a"]


def test_pack_fills_the_first_host() -> None:
    nodes = assign(a_request(4, spread="pack"), [a_room("a", 4 * GB), a_room("b", 64 * GB)])
    assert [node.host for node in nodes] == ["a", "a", "a", "b"]


def test_spread_over_hosts_takes_each_once() -> None:
    assert {n.host for n in assign(a_request(2, spread="hosts"), [a_room("a"), a_room("b", 2 * GB)])} == {
        "a",
        "b",
    }
    with pytest.raises(CapacityError, match=r"a: has a node of this cluster already"):
        assign(a_request(2, spread="hosts"), [a_room("a")])


def test_every_node_has_its_own_identity() -> None:
    nodes = assign(a_request(12), [a_room("a")])
    assert len({node.mac for node in nodes}) == len({node.uuid for node in nodes}) == 12
    assert len({node.address for node in nodes}) == len({node.name for node in nodes}) == 12


@pytest.mark.parametrize(
    ("hardware", "room", "said"),
    [
        ({"ram": "20GB"}, {}, "memory left, a node takes 20067"),
        ({"disk": "200GB"}, {}, "has 100000 MB of disk left, a node takes 200000"),
        ({"cpus": 5}, {}, "has 4 CPUs, asked for 5 in one node"),
        ({"cpus": 4}, {"cpus": 3}, "has 3 virtual CPUs left"),
        ({"cpu_speed": "4GHz"}, {}, "runs at 3.00 GHz, asked for 4.00 GHz"),
        ({"cpu_arch": "arm64"}, {}, "is amd64, asked for arm64"),
    ],
)
def test_what_a_host_lacks_is_named(hardware: dict[str, object], room: dict[str, int], said: str) -> None:
    with pytest.raises(CapacityError, match=said) as caught:
        assign(a_request(1, **hardware), [a_room("alpha", **room)])
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
    rooms = [a_room(str(i), amount * each, cpus[i]) for i, amount in enumerate(memory)]

    def fits(counts: tuple[int, ...]) -> bool:
        return sum(counts) == count and all(
            n <= memory[i] and n <= cpus[i] and (spread != "hosts" or n <= 1) for i, n in enumerate(counts)
        )

    possible = any(fits(counts) for counts in itertools.product(range(count + 1), repeat=len(rooms)))
    try:
        nodes = assign(request, rooms)
    except CapacityError:
        assert not possible
    else:
        assert fits(tuple(sum(node.host == str(i) for node in nodes) for i in range(len(rooms))))


def test_check_writes_nothing_and_a_second_place_keeps_the_first(site: Site) -> None:
    request = a_request(2)
    state.register(site, request)

    def connect(site: Site, host: Host) -> FixedHost:
        return FixedHost(a_capacity())

    plan = place(site, request, LOCK, [Host("a")], check=True, connect=connect)  # type: ignore[arg-type]
    assert plan.changed
    assert state.get(site, "test").nodes == ()
    assert place(site, request, LOCK, [Host("a")], connect=connect).changed  # type: ignore[arg-type]
    nodes = state.get(site, "test").nodes
    assert not place(site, request, LOCK, [Host("a"), Host("b")], connect=connect).changed  # type: ignore[arg-type]
    assert state.get(site, "test").nodes == nodes


def test_a_cluster_without_images_takes_another_lock(site: Site) -> None:
    request, newer = a_request(2), replace(LOCK, suite="trixie")
    state.register(site, request)

    def place_with(lock: Lock, *, check: bool = False) -> str:
        place(
            site, request, lock, [Host("a")], check=check, connect=lambda site, host: FixedHost(a_capacity())
        )  # type: ignore[arg-type, return-value]
        return state.get(site, "test").lock

    assert place_with(LOCK) == LOCK.digest
    assert place_with(newer, check=True) == LOCK.digest
    assert place_with(newer) == newer.digest
    state.update(site, state.get(site, "test"), images={"base": "0" * 64})
    assert place_with(LOCK) == newer.digest


def test_a_second_cluster_gets_only_what_the_first_left(site: Site) -> None:
    first, second = a_request(10), a_request(10, ram="1GB")
    second = replace(second, software=replace(second.software, name="second"))
    connect = lambda site, host: FixedHost(a_capacity())  # noqa: E731
    state.register(site, first)
    place(site, first, LOCK, [Host("a")], connect=connect)  # type: ignore[arg-type,return-value]
    state.register(site, second)
    with pytest.raises(CapacityError, match=r"only 4 of 10 nodes fit"):
        place(site, second, LOCK, [Host("a")], connect=connect)  # type: ignore[arg-type,return-value]
    assert [cluster.name for cluster in state.clusters(site)] == ["test"]


def test_memory_that_running_nodes_may_still_take_is_not_given_twice(site: Site) -> None:
    """16 GB, of which 8 GB are other programs'; a node of 6 GB has touched 1 GB so far."""
    first = a_request(1, ram="6GB")
    state.register(site, first)
    place(
        site, first, LOCK, [Host("a")], connect=lambda site, host: FixedHost(a_capacity(memory_free=8 * GB))
    )  # type: ignore[arg-type,return-value]
    uuid = state.get(site, "test").nodes[0].uuid
    busy = a_capacity(memory_free=7 * GB, resident={uuid: 1 * GB})
    for ram, fits in (("3GB", False), ("1GB", True)):
        second = a_request(1, ram=ram)
        second = replace(second, software=replace(second.software, name=f"second-{ram.lower()}"))
        state.register(site, second)
        try:
            place(site, second, LOCK, [Host("a")], connect=lambda site, host: FixedHost(busy))  # type: ignore[arg-type,return-value]
        except CapacityError:
            assert not fits
        else:
            assert fits


def packages_of(gigabytes: int) -> Lock:
    return replace(LOCK, packages=(Package("large", "1", "amd64", installed_size=gigabytes * GB),))


def test_all_that_a_nodes_disk_may_take_is_reserved(site: Site) -> None:
    """9 GB of packages need a disk of 11.8 GB, whatever was asked for: what a layer is made of, overlays are too."""
    request, large = a_request(3, disk="3GB"), packages_of(9)
    connect = lambda site, host: FixedHost(a_capacity(disk_free=30 * GB))  # noqa: E731
    state.register(site, request)
    with pytest.raises(CapacityError, match="has 6377 MB of disk left, a node takes 11811"):
        place(site, request, large, [Host("a")], connect=connect)  # type: ignore[arg-type,return-value]
    two = a_request(2, disk="3GB")
    state.register(site, two)
    plan = place(site, two, large, [Host("a")], connect=connect)  # type: ignore[arg-type,return-value]
    assert (plan.disk, plan.disk_asked) == (disk_size(large), 3 * GB)
    assert [node.disk for node in state.get(site, "test").nodes] == [disk_size(large)] * 2
    assert plan.disk > 11 * GB
    third = replace(two, software=replace(two.software, name="third"))
    state.register(site, third)
    with pytest.raises(CapacityError, match="has 6377 MB of disk left"):
        place(site, third, large, [Host("a")], connect=connect)  # type: ignore[arg-type,return-value]


def test_a_larger_disk_than_packages_need_is_as_asked_for(site: Site) -> None:
    request = a_request(1, disk="20GB")
    state.register(site, request)
    plan = place(
        site, request, packages_of(1), [Host("a")], connect=lambda site, host: FixedHost(a_capacity())
    )  # type: ignore[arg-type,return-value]
    assert plan.disk == plan.disk_asked == 20 * GB


def test_no_hosts(site: Site) -> None:
    with pytest.raises(CapacityError, match="vm_hosts is empty"):
        place(site, a_request(), LOCK, [], check=True)


def test_a_host_that_does_not_answer_takes_no_node(site: Site) -> None:
    def connect(site: Site, host: Host) -> FixedHost:
        if host.name == "dead":
            raise VclustError("dead: no route")
        return FixedHost(a_capacity())

    request = a_request()
    plan = place(site, request, LOCK, [Host("dead"), Host("a")], check=True, connect=connect)  # type: ignore[arg-type]
    assert set(plan.placement.values()) == {"a"}
    assert plan.unreachable == {"dead": "dead: no route"}
    with pytest.raises(CapacityError, match="dead: does not answer: dead: no route"):
        place(site, a_request(200), LOCK, [Host("dead"), Host("a")], check=True, connect=connect)  # type: ignore[arg-type]
    with pytest.raises(VclustError, match=r"^dead: no route$"):
        place(site, request, LOCK, [Host("dead")], check=True, connect=connect)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "guests", "found"),
    [("", ("pv", "pvh"), "pvh"), ("", ("pv",), "pv"), ("pv", ("pv", "pvh"), "pv"), ("", (), "")],
)
def test_kind_of_xen_guest(wanted: str, guests: tuple[str, ...], found: str) -> None:
    room = replace(a_room("a", accelerator="xen", guests=guests), host=Host("a", "xen:///system", wanted))
    assert assign(a_request(1), [room])[0].guest == found


def test_a_kind_of_guest_that_the_host_cannot_run() -> None:
    room = replace(a_room("a", accelerator="xen", guests=("pv",)), host=Host("a", "xen:///system", "pvh"))
    with pytest.raises(CapacityError, match="runs pv guests, vclust_xen_guest says pvh"):
        assign(a_request(1), [room])
