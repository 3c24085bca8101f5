"""Rows of phases and nodes while they come; an error of a write in the background is not lost."""

import time
from pathlib import Path

import pytest

from vclust_py import request as requests
from vclust_py import timing
from vclust_py.errors import VclustError
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Node
from vclust_py.site.states import NodeState
from vclust_py.site.store import Store


def test_what_could_not_be_written_in_the_background_fails_the_phase(tmp_path: Path) -> None:
    store = Store(Site(root=tmp_path / "site"))
    request = requests.from_mapping(
        {"hardware": {"number_of_nodes": 1}, "software": {"name": "one", "hostname": "n%02d"}}, "test"
    )
    clusters.register(store, request)
    node = Node(0, "n01", "a", "qemu:///system", "192.168.1.2", "mac", "uuid", 1, 2, 3)
    clusters.place(store, clusters.get(store, "one"), [node])
    refused = r"^n01: got ready after placed, expected failed, started$"
    with pytest.raises(VclustError, match=refused):
        ready_before_it_is_started(store)
    (cluster,) = clusters.live(store)
    assert cluster.nodes[0].state is NodeState.PLACED
    assert cluster.detail == "ready failed: n01: got ready after placed, expected failed, started"
    store.close()


def ready_before_it_is_started(store: Store) -> None:
    with timing.phase(store, clusters.get(store, "one"), "ready") as record:
        record.node("n01", time.time(), time.time(), state=NodeState.READY)
        deadline = time.monotonic() + 30
        while record._timer is not None:  # until the rows are taken for writing
            assert time.monotonic() < deadline
            time.sleep(0.01)
        # Nothing waits to be written any more; whoever goes on would take the node for ready.
        record.flush()
        pytest.fail("the phase goes on")
