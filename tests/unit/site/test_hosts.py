"""What the site knows of hosts, and since when."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import request as requests
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Node
from vclust_py.site.describe import describe
from vclust_py.site.hosts import KnownHost, known_hosts, observe_hosts
from vclust_py.site.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Site(root=tmp_path / "site"))
    yield store
    store.close()


def reserve(store: Store, name: str, hosts: list[str]) -> None:
    """A cluster with a node of 1 CPU, 2 bytes of memory and 3 of disk on each of the hosts."""
    asked = {"hardware": {"number_of_nodes": len(hosts)}, "software": {"name": name}}
    clusters.register(store, requests.from_mapping(asked, "test"))
    nodes = [
        Node(number, f"n{number}", host, "", f"ip {number}", f"mac {number}", f"{name} {number}", 1, 2, 3)
        for number, host in enumerate(hosts)
    ]
    clusters.place(store, clusters.get(store, name), nodes)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=12))
def test_hosts_are_as_they_were_last_seen(
    tmp_path_factory: pytest.TempPathFactory, looks: list[tuple[str, bool]]
) -> None:
    """Against a twin: what a host that is away had when it last answered stays known, and so does its age."""
    store = Store(Site(root=tmp_path_factory.mktemp("hosts") / "site"))
    twin: dict[str, KnownHost] = {}
    for number, (name, answers) in enumerate(looks):
        before = time.time()
        if answers:
            observe_hosts(store, {name: {"cpus": number}}, {})
        else:
            observe_hosts(store, {}, {name: f"no route {number}"})
        (host,) = (one for one in known_hosts(store) if one.name == name)
        assert before <= host.seen <= time.time()
        earlier = twin.get(name)
        if answers:
            assert (host.state, host.error, host.facts) == ("reachable", "", {"cpus": number})
            assert host.answered == host.seen
        else:
            assert (host.state, host.error) == ("unreachable", f"no route {number}")
            assert host.facts == (earlier.facts if earlier else {})
            assert host.answered == (earlier.answered if earlier else None)
        twin[name] = host
    assert known_hosts(store) == [twin[name] for name in sorted(twin)]
    store.close()


def test_what_is_reserved_on_a_host_is_of_now(store: Store) -> None:
    observe_hosts(store, {"a": {"cpus": 4}}, {"b": "no route"})
    reserve(store, "one", ["a", "b"])
    reserve(store, "two", ["a", "a", "b"])
    first, second = known_hosts(store)
    assert (first.clusters, first.nodes) == ({"one": 1, "two": 2}, 3)
    assert (first.cpus, first.memory, first.disk) == (3, 6, 9)
    assert (second.clusters, second.facts, second.answered) == ({"one": 1, "two": 1}, {}, None)
    clusters.forget(store, clusters.get(store, "two"))
    assert [host.clusters for host in known_hosts(store)] == [{"one": 1}, {"one": 1}]


def test_a_look_makes_no_store(store: Store) -> None:
    assert known_hosts(store) == []
    assert not store.exists


def test_what_runs_a_clusters_nodes(store: Store) -> None:
    reserve(store, "one", ["a", "b", "c"])
    observe_hosts(store, {"a": {"accelerator": "kvm"}, "b": {"accelerator": "tcg"}}, {"c": "it is off"})
    observe_hosts(store, {}, {"a": "it is off"})
    nodes = describe(store, "one")[0]["nodes"]
    assert [node["accelerator"] for node in nodes] == ["kvm", "tcg", ""]
