"""Phase `place` against hosts of a given size."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pastruns import add, node_facts
from test_placement import GB, a_capacity, a_request

from vclust_py.errors import CapacityError, VclustError
from vclust_py.hypervisor import Capacity, Host
from vclust_py.image.builder import disk_size
from vclust_py.lock import Lock, Package
from vclust_py.phases import Inputs, Result, place
from vclust_py.request import Request
from vclust_py.site import Site, clusters
from vclust_py.site.session import Session

LOCK = Lock("bookworm", "amd64", "linux-image-cloud-amd64", (), (), ())


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


class Sized(Session):
    """A session whose hosts all have one capacity, which may change; those called dead do not answer."""

    given = a_capacity()

    def __init__(self, site: Site) -> None:
        def connect(site: Site, host: Host) -> Any:
            if host.name == "dead":
                raise VclustError("dead: no route")
            return FixedHost(self.given)

        super().__init__(site, connect=connect)

    def has(self, **values: Any) -> None:
        self.close()
        self.given = a_capacity(**values)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Sized]:
    with Sized(Site(root=tmp_path / "site")) as session:
        session.site.make_directories()
        yield session


def placed(
    session: Session,
    request: Request,
    lock: Lock = LOCK,
    hosts: tuple[str, ...] = ("a",),
    *,
    check: bool = False,
) -> Result:
    lock.save(session.site)
    inputs = Inputs(
        request.name, check=check, request=request, lock=lock.digest, hosts=tuple(map(Host, hosts))
    )
    return place.run(session, inputs)


def placement(result: Result) -> dict[str, str]:
    found: dict[str, str] = result.facts["plan"]["placement"]
    return found


def named(request: Request, name: str) -> Request:
    return replace(request, software=replace(request.software, name=name))


def test_check_writes_nothing_and_a_second_place_keeps_the_first(session: Sized) -> None:
    request = a_request(2)
    clusters.register(session.store, request)
    assert placed(session, request, check=True).change.changed
    assert clusters.get(session.store, "test").nodes == ()
    assert placed(session, request).change.changed
    nodes = clusters.get(session.store, "test").nodes
    assert not placed(session, request, hosts=("a", "b")).change.changed
    assert clusters.get(session.store, "test").nodes == nodes


def test_a_cluster_without_images_takes_another_lock(session: Sized) -> None:
    request, newer = a_request(2), replace(LOCK, suite="trixie")
    clusters.register(session.store, request)

    def place_with(lock: Lock, *, check: bool = False) -> str:
        placed(session, request, lock, check=check)
        return clusters.get(session.store, "test").lock

    assert place_with(LOCK) == LOCK.digest
    assert place_with(newer, check=True) == LOCK.digest
    assert place_with(newer) == newer.digest
    clusters.update(session.store, clusters.get(session.store, "test"), images={"base": "0" * 64})
    assert place_with(LOCK) == newer.digest


def test_a_second_cluster_gets_only_what_the_first_left(session: Sized) -> None:
    first, second = a_request(10), named(a_request(10, ram="1GB"), "second")
    clusters.register(session.store, first)
    placed(session, first)
    clusters.register(session.store, second)
    with pytest.raises(CapacityError, match=r"only 4 of 10 nodes fit"):
        placed(session, second)
    assert [cluster.name for cluster in clusters.live(session.store)] == ["test"]


def test_memory_that_running_nodes_may_still_take_is_not_given_twice(session: Sized) -> None:
    """16 GB, of which 8 GB are other programs'; a node of 6 GB has touched 1 GB so far."""
    first = a_request(1, ram="6GB")
    clusters.register(session.store, first)
    session.has(memory_free=8 * GB)
    placed(session, first)
    uuid = clusters.get(session.store, "test").nodes[0].uuid
    session.has(memory_free=7 * GB, resident={uuid: 1 * GB})
    for ram, fits in (("3GB", False), ("1GB", True)):
        second = named(a_request(1, ram=ram), f"second-{ram.lower()}")
        clusters.register(session.store, second)
        try:
            placed(session, second)
        except CapacityError:
            assert not fits
        else:
            assert fits


def packages_of(gigabytes: int) -> Lock:
    return replace(LOCK, packages=(Package("large", "1", "amd64", installed_size=gigabytes * GB),))


def test_all_that_a_nodes_disk_may_take_is_reserved(session: Sized) -> None:
    """9 GB of packages need a disk of 11.8 GB, whatever was asked for: what a layer is made of, overlays are too."""
    request, large = a_request(3, disk="3GB"), packages_of(9)
    session.has(disk_free=30 * GB)
    clusters.register(session.store, request)
    with pytest.raises(CapacityError, match="has 6377 MB of disk left, a node takes 11811"):
        placed(session, request, large)
    two = a_request(2, disk="3GB")
    clusters.register(session.store, two)
    plan = placed(session, two, large).facts["plan"]
    assert (plan["disk"], plan["disk_asked"]) == (disk_size(large), 3 * GB)
    assert [node.disk for node in clusters.get(session.store, "test").nodes] == [disk_size(large)] * 2
    assert plan["disk"] > 11 * GB
    third = named(two, "third")
    clusters.register(session.store, third)
    with pytest.raises(CapacityError, match="has 6377 MB of disk left"):
        placed(session, third, large)


def test_a_larger_disk_than_packages_need_is_as_asked_for(session: Sized) -> None:
    request = a_request(1, disk="20GB")
    clusters.register(session.store, request)
    plan = placed(session, request, packages_of(1)).facts["plan"]
    assert plan["disk"] == plan["disk_asked"] == 20 * GB


def test_no_hosts(session: Sized) -> None:
    with pytest.raises(CapacityError, match="vm_hosts is empty"):
        placed(session, a_request(), hosts=(), check=True)


def test_a_host_that_does_not_answer_takes_no_node(session: Sized) -> None:
    request = a_request()
    result = placed(session, request, hosts=("dead", "a"), check=True)
    assert set(placement(result).values()) == {"a"}
    assert result.facts["plan"]["unreachable"] == {"dead": "dead: no route"}
    with pytest.raises(CapacityError, match="dead: does not answer: dead: no route"):
        placed(session, a_request(200), hosts=("dead", "a"), check=True)
    with pytest.raises(VclustError, match=r"^dead: no route$"):
        placed(session, request, hosts=("dead",), check=True)


def test_what_hosts_were_last_seen_to_be_is_written_down(session: Sized) -> None:
    clusters.register(session.store, a_request())
    placed(session, a_request(), hosts=("dead", "a"), check=True)
    assert session.store.rows("SELECT * FROM observed_hosts") == []
    placed(session, a_request(), hosts=("dead", "a"))
    rows = session.store.rows(
        "SELECT host, state, json_extract(facts, '$.accelerator') AS a FROM observed_hosts ORDER BY host"
    )
    assert [tuple(row) for row in rows] == [("a", "reachable", "kvm"), ("dead", "unreachable", None)]


def test_what_was_expected_is_kept_beside_what_comes(session: Sized) -> None:
    request = a_request(2)
    clusters.register(session.store, request)
    for seconds in (9.0, 10.0, 14.0):
        facts = {**node_facts(2), "accelerator": "kvm"}
        add(session.store, "ready", seconds, facts)
    assert placed(session, request, check=True).facts["plan"]["estimate"]["seconds"] == {"ready": 10.0}
    assert clusters.get(session.store, "test").estimate == {}
    plan = placed(session, request).facts["plan"]
    add(session.store, "ready", 100.0, {**node_facts(2), "accelerator": "kvm"})
    placed(session, request)
    kept = clusters.get(session.store, "test").estimate
    assert (kept["seconds"], kept["errors"]) == ({"ready": 10.0}, {"ready": 1.0})
    assert kept["unknown"] == list(plan["estimate"]["unknown"]) == ["image", "create", "install"]
