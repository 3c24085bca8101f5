"""Rows of clusters and nodes; what is written is read back with sqlite3 itself."""

import itertools
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from vclust_py import request as requests
from vclust_py.errors import RequestError, VclustError
from vclust_py.request import Request, User
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Node
from vclust_py.site.describe import describe
from vclust_py.site.states import TRANSITIONS, ClusterState, HostState, NodeState, follow
from vclust_py.site.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Site(root=tmp_path / "site"))
    yield store
    store.close()


def a_request(name: str = "one", nodes: int = 2) -> Request:
    asked = {"hardware": {"number_of_nodes": nodes}, "software": {"name": name}}
    request = requests.from_mapping(asked, "test")
    users = (User("alice", "$6$salt$" + "x" * 86),)
    return replace(request, software=replace(request.software, users=users))


def some_nodes(request: Request, host: str = "a") -> list[Node]:
    return [
        Node(
            position,
            name,
            host,
            "qemu:///system",
            str(address),
            f"mac {position}",
            f"{name} {position}",
            1,
            2,
            3,
        )
        for position, (name, address) in enumerate(zip(request.hostnames, request.addresses, strict=True))
    ]


def read(store: Store, statement: str) -> list[tuple[object, ...]]:
    with sqlite3.connect(store.site.database) as connection:
        return connection.execute(statement).fetchall()


def test_register_is_idempotent_and_refuses_another_request(store: Store) -> None:
    request = a_request()
    assert clusters.register(store, request, check=True).changed
    assert clusters.live(store) == []
    assert clusters.register(store, request).changed
    assert not clusters.register(store, request).changed
    assert not clusters.register(store, request, check=True).changed
    clusters.place(store, clusters.get(store, "one"), some_nodes(request))
    other = replace(request, hardware=replace(request.hardware, cpus=2))
    with pytest.raises(RequestError, match="exists with a different request"):
        clusters.register(store, other)
    assert clusters.get(store, "one").request == request
    assert clusters.get(store, "one").generation == 1


def test_a_request_that_was_never_placed_gives_way(store: Store) -> None:
    request = a_request()
    clusters.register(store, request)
    other = replace(request, hardware=replace(request.hardware, cpus=2))
    assert clusters.register(store, other).changed
    assert [cluster.request for cluster in clusters.live(store)] == [other]


def test_unknown_cluster_names_those_there_are(store: Store) -> None:
    clusters.register(store, a_request())
    with pytest.raises(RequestError, match=r"two: no such cluster; there are: one"):
        clusters.get(store, "two")


def test_describe_leaves_hashes_out(store: Store) -> None:
    clusters.register(store, a_request())
    assert "$6$" not in repr(describe(store))
    way_in = describe(store)[0]["ssh"]
    assert way_in["user"] == "alice"
    assert way_in["user_keys"]["alice"] == way_in["key"]
    assert way_in["gateway"] == {}


def test_a_forgotten_cluster_frees_its_name_and_leaves_no_hash(store: Store) -> None:
    clusters.register(store, a_request())
    clusters.place(store, clusters.get(store, "one"), some_nodes(a_request()))
    clusters.forget(store, clusters.get(store, "one"))
    assert clusters.live(store) == []
    assert clusters.register(store, a_request()).changed
    gone = read(store, "SELECT spec, segment, network, state FROM clusters WHERE destroyed IS NOT NULL")
    assert gone == [("", None, None, "destroyed")]
    assert (
        read(store, "SELECT count(*) FROM nodes")
        == read(store, "SELECT count(*) FROM observed_nodes")
        == [(0,)]
    )
    actions = read(store, "SELECT action, cluster FROM audit ORDER BY id")
    assert actions == [("create", "one"), ("destroy", "one"), ("create", "one")]


def test_network_numbers_are_never_given_twice(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """All clusters want the same number, the last one there is; the next ones begin again at the first."""
    monkeypatch.setattr(clusters, "NETWORKS", 0xABCDEF)
    numbers_of_segments = itertools.count()
    monkeypatch.setattr(clusters.hashlib, "sha256", lambda data: _Hash(next(numbers_of_segments)))
    for number in range(4):
        clusters.register(store, a_request(f"c{number}"))
    numbers = [cluster.network for cluster in clusters.live(store)]
    assert numbers == [0xABCDEF, 1, 2, 3]
    clusters.forget(store, clusters.get(store, "c1"))
    clusters.register(store, a_request("c4"))
    assert clusters.get(store, "c4").network == 1


class _Hash:
    """A digest of which the segment's name differs and the network number does not."""

    def __init__(self, number: int) -> None:
        self._text = f"abcdef{number:04d}" + "0" * 54

    def hexdigest(self) -> str:
        return self._text


def test_what_must_be_unique_is_refused_by_the_database(store: Store) -> None:
    request = a_request()
    clusters.register(store, request)
    cluster, (first, second) = clusters.get(store, "one"), some_nodes(request)
    for column in ("name", "address", "mac", "uuid"):
        twice = replace(second, **{column: getattr(first, column)})
        with pytest.raises(VclustError, match="UNIQUE constraint failed"):
            clusters.place(store, cluster, [first, twice])
        assert clusters.get(store, "one").nodes == ()
    with pytest.raises(VclustError, match="UNIQUE constraint failed"):
        store.execute(
            "INSERT INTO clusters (name, spec, digest, state, created, network) VALUES ('x', '', '', '', 0, ?)",
            (cluster.network,),
        )


def test_a_stored_request_is_not_judged_by_todays_rules(store: Store) -> None:
    """A node of one byte of memory: no request asks for that any more, and the site goes on working."""
    clusters.register(store, a_request("old"))
    clusters.register(store, a_request("new"))
    store.execute("UPDATE clusters SET spec = json_set(spec, '$.hardware.ram', '1B') WHERE name = 'old'")
    assert clusters.get(store, "old").request.hardware.ram == 1
    assert [cluster.name for cluster in clusters.live(store)] == ["new", "old"]
    with pytest.raises(RequestError):
        requests.from_mapping(
            {"hardware": {"number_of_nodes": 1, "ram": "1B"}, "software": {"name": "old"}}, "test"
        )


def test_placement_and_what_was_seen_are_apart(store: Store) -> None:
    request = a_request()
    clusters.register(store, request)
    clusters.place(
        store, clusters.get(store, "one"), some_nodes(request), strategy="once", cache={"digest": "d"}
    )
    cluster = clusters.get(store, "one")
    assert (cluster.state, cluster.strategy, cluster.cache) == ("placed", "once", {"digest": "d"})
    assert [replace(node, seen=0) for node in cluster.nodes] == some_nodes(request)
    before = time.time()
    clusters.observe_nodes(store, cluster, {cluster.nodes[1].name: NodeState.STARTED})
    first, second = clusters.get(store, "one").nodes
    assert (first.state, second.state) == ("placed", "started")
    assert first.seen < before <= second.seen
    assert "state" not in {row[1] for row in read(store, "PRAGMA table_info(nodes)")}
    assert clusters.placed(store) == {"a": [(f"one.{cluster.id}", node) for node in (first, second)]}


def test_a_state_that_may_not_follow_is_refused(store: Store) -> None:
    request = a_request()
    clusters.register(store, request)
    cluster = clusters.get(store, "one")
    with pytest.raises(VclustError, match="one: got ready after requested, expected destroyed, placed"):
        clusters.update(store, cluster, state=ClusterState.READY)
    clusters.place(store, cluster, some_nodes(request))
    cluster = clusters.get(store, "one")
    with pytest.raises(VclustError, match="got ready after placed, expected failed, started"):
        clusters.observe_nodes(store, cluster, {cluster.nodes[0].name: NodeState.READY})
    assert {node.state for node in clusters.get(store, "one").nodes} == {"placed"}


def test_every_state_has_a_row_in_the_table_and_the_way_there() -> None:
    for kind, first in ((ClusterState, "requested"), (NodeState, "placed"), (HostState, "reachable")):
        seen, front = set[str](), [str(first)]
        while front:
            state = front.pop()
            if state not in seen:
                seen.add(state)
                front += TRANSITIONS[kind][state]
                assert follow("x", kind(state), kind(state)) == state
        assert seen == set(kind) == TRANSITIONS[kind].keys()
