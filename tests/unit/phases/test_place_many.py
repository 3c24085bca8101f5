"""Many creates at once, each in a process of its own as several controllers have it, against one store."""

import multiprocessing
from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest
from test_place import FixedHost, named, placed
from test_placement import GB, NODE, a_capacity, a_request

from vclust_py.errors import CapacityError
from vclust_py.hypervisor import Capacity
from vclust_py.network import check_free
from vclust_py.site import Site, clusters
from vclust_py.site.session import Session

HOSTS = ("a", "b", "c", "d")


class Gate:
    """The networks of this machine; they are looked at after the hosts were surveyed and before the reservation."""

    def __init__(self, barrier: Any) -> None:
        self._barrier = barrier

    def check_free(self, network: IPv4Network) -> None:
        check_free(network)
        self._barrier.wait(60)


def creates_at_once(
    root: Path, number: int, capacity: Capacity, users: Sequence[str] = ("",), **settings: Any
) -> Counter[int]:
    """Exit codes of `number` creates of one node: all know what the hosts have before the first one reserves.

    They are of the `users` in turn.
    """
    site = Site.from_mapping({"root": str(root), **settings})
    context = multiprocessing.get_context("fork")
    barrier, codes = context.Barrier(number), context.SimpleQueue()

    def create(index: int) -> None:
        networks: Any = Gate(barrier)
        who = users[index % len(users)]
        with Session(site, connect=lambda *_: FixedHost(capacity), networks=networks, who=who) as session:  # type: ignore[arg-type,return-value]
            request = named(a_request(1), f"c{index}")
            clusters.register(session.store, request)
            try:
                placed(session, request, hosts=HOSTS)
                codes.put(0)
            except CapacityError as error:
                codes.put(error.exit_code)

    processes = [context.Process(target=create, args=(index,)) for index in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * number
    return Counter(codes.get() for _ in processes)


def nodes_by_host(root: Path) -> Counter[str]:
    with Session(Site(root=root)) as session:
        return Counter(node.host for cluster in clusters.live(session.store) for node in cluster.nodes)


def test_of_32_creates_at_once_20_find_room_for_20(tmp_path: Path) -> None:
    codes = creates_at_once(tmp_path / "site", 32, a_capacity(memory=5 * NODE + GB // 2))
    assert codes == {0: 20, 3: 12}
    assert nodes_by_host(tmp_path / "site") == dict.fromkeys(HOSTS, 5)


@pytest.mark.parametrize(
    "limited",
    [{"memory_free": 2 * NODE}, {"disk_free": 2 * 4 * GB}, {"cpus": 1}],
    ids=["memory that is free", "disk", "processors, four times over-committed"],
)
def test_what_was_free_at_the_survey_is_given_once(tmp_path: Path, limited: dict[str, int]) -> None:
    """The nodes placed since then have taken nothing of it yet."""
    room = 4 if "cpus" in limited else 2
    codes = creates_at_once(tmp_path / "site", room * 4 + 2, a_capacity(**limited))
    assert codes == {0: room * 4, 3: 2}
    assert nodes_by_host(tmp_path / "site") == dict.fromkeys(HOSTS, room)


def test_quotas_are_not_exceeded_by_creates_at_once(tmp_path: Path) -> None:
    """There is space for all 18; two users may have 5 each, and their project 8; a third user has 5 alone."""
    codes = creates_at_once(
        tmp_path / "site",
        18,
        a_capacity(),
        ("alice", "bob", "erin"),
        projects={"bio": {"users": ["alice", "bob"], "quota": {"nodes": 8}}},
        user_quota={"nodes": 5},
    )
    assert codes == {0: 13, 3: 5}
    with Session(Site(root=tmp_path / "site")) as session:
        owners = Counter(cluster.owner for cluster in clusters.live(session.store) if cluster.nodes)
    assert owners["erin"] == 5
    assert owners["alice"] + owners["bob"] == 8
    assert max(owners.values()) == 5
