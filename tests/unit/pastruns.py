"""Past runs of phases, written into a site's store as the phases write them."""

from collections.abc import Mapping
from typing import Any

from vclust_py import request as requests
from vclust_py.site import clusters, records
from vclust_py.site.store import Store

WANTED = {"hardware": {"number_of_nodes": 1}, "software": {"name": "past"}}


def add(store: Store, phase: str, seconds: float, facts: Mapping[str, Any], count: int = 0) -> None:
    """One finished run of that many seconds."""
    clusters.register(store, requests.from_mapping(WANTED, "test"))
    row = records.begin(store, clusters.get(store, "past").id, phase)
    records.end(store, row, count, "done", dict(facts))
    store.execute("UPDATE phases SET end = start + ? WHERE id = ?", (seconds, row))


def node_facts(nodes: int, hosts: int = 1, *, strategy: str = "once", **more: Any) -> dict[str, Any]:
    return {"nodes": nodes, "hosts": hosts, "strategy": strategy, "accelerator": "tcg", **more}
