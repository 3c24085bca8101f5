"""What past runs let expect, and which strategy that chooses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pastruns import add, node_facts

from vclust_py import estimate
from vclust_py import request as requests
from vclust_py.estimate import Model
from vclust_py.lock import Lock, Package
from vclust_py.request import Request
from vclust_py.site import Site
from vclust_py.site.store import Store

PACKAGE = Package("gcc", "12", "amd64", size=10**6, installed_size=10**8)
LOCK = Lock("bookworm", "amd64", "linux-image-cloud-amd64", (), (PACKAGE,), ())


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Site(root=tmp_path / "site"))
    yield store
    store.close()


def a_request(install: str = "auto", nodes: int = 2) -> Request:
    software = {"name": "x", "install": install}
    return requests.from_mapping({"hardware": {"number_of_nodes": nodes}, "software": software}, "test")


def told(store: Store, strategy: str = "once", **options: Any) -> estimate.Estimate:
    there = {"base_there": True, "layer_there": False} | options
    return estimate.estimate(store, LOCK, None, strategy, node_facts(2, strategy=strategy), **there)


def test_without_runs_nothing_is_known_and_no_database_is_made(store: Store) -> None:
    assert told(store) == estimate.Estimate({}, ("image", "create", "install", "ready"))
    assert told(store, receivers=1, send=5).unknown == estimate.PHASES
    assert told(store, layer_there=True).seconds == {"image": 0.0}
    assert estimate.choose_strategy(store, a_request(), LOCK) == "once"
    assert not store.exists


def test_medians_of_like_runs_serve_before_there_is_a_model(store: Store) -> None:
    for seconds in (9.0, 10.0, 14.0):
        add(store, "ready", seconds, node_facts(2))
    add(store, "ready", 50.0, node_facts(3))
    add(store, "create", 0.5, node_facts(2))
    rates = {"unpack": 2.0, "configure": 4.0, "unpack_bytes": 2 * 10**8, "configure_bytes": 2 * 10**8}
    add(store, "image", 7.0, {"strategy": "once", **rates}, 2 * 10**8)
    found = told(store)
    # Half the bytes take half of unpacking and configuring, and all of the rest.
    assert found.seconds == {"image": 4.0, "create": 0.5, "ready": 10.0}
    assert found.errors == {"ready": 1.0}
    assert found.medians == ("image", "create", "ready")
    assert found.unknown == ("install",)
    assert "image" in told(store, base_there=False).unknown


MODELS = {
    "image once": Model({"base": 1.0, "unpack_mb": 0.01, "configure_mb": 0.02}, 0.1, 20),
    "image each": Model({"base": 0.5}, 0.1, 20),
    "distribute": Model({"base": 1.0, "hosts": 0.0, "mb_per_host": 0.1}, 0.5, 20),
    "create tcg": Model({"base": 0.0, "nodes": 0.2, "nodes_per_host": 0.0}, 0.1, 20),
    "install tcg": Model(
        {"base": 0.0, "nodes_per_host": 1.0, "unpack_mb": 0.02, "configure_mb": 0.0}, 0.2, 20
    ),
    "ready tcg": Model({"base": 5.0, "nodes": 2.0, "nodes_per_host": 0.0, "installed_mb": 0.01}, 0.1, 20),
}


def test_models_serve_where_there_are_some(store: Store) -> None:
    add(store, "ready", 500.0, node_facts(2))
    estimate.write_models(store, MODELS, 1)
    found = told(store, send=4 * 10**7, receivers=2)
    assert found.seconds == {"image": 4.0, "distribute": 3.0, "create": 0.4, "install": 2.0, "ready": 10.0}
    assert found.errors == {"image": 0.4, "distribute": 1.5, "create": 0.04, "install": 0.4, "ready": 1.0}
    assert (found.unknown, found.medians) == ((), ())


def test_a_part_without_an_error_is_none_that_is_known(store: Store) -> None:
    """`each` has a bundle's bytes, of which no past run knows."""
    estimate.write_models(store, MODELS, 0)
    assert "image" in told(store, "each").unknown


def test_the_sooner_strategy_is_chosen(store: Store) -> None:
    models = MODELS | {"image each": Model({"base": 0.5, "mb": 0.001}, 0.1, 20)}
    estimate.write_models(store, models, 0)
    # once: 1 + 1 + 2 for the layer, each: 0.6 for the bundle and 2 for each node that shares the host.
    for nodes, hosts, chosen in ((1, 1, "each"), (2, 1, "once"), (2, 2, "each"), (8, 2, "once")):
        request = a_request(nodes=nodes)
        assert estimate.choose_strategy(store, request, LOCK, None, ["tcg"] * hosts) == chosen
    assert estimate.choose_strategy(store, a_request("each", 8), LOCK, None, ["tcg"]) == "each"
    # Of hosts that nothing is known of, nothing is expected.
    assert estimate.choose_strategy(store, a_request(nodes=1), LOCK, None, ["kvm"]) == "once"
