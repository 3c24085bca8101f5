"""Changes of clusters that are made: another request, nodes more, fewer and elsewhere, and what they were told."""

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vclust_py import request as requests
from vclust_py.request import Request
from vclust_py.site.clusters import Cluster, Node, insert_nodes, update
from vclust_py.site.store import Store, audit


def change(
    store: Store,
    cluster: Cluster,
    request: Request,
    *,
    add: Sequence[Node] = (),
    leave: Collection[str] = (),
    machines: Sequence[Node] = (),
    action: str = "apply",
    detail: str = "",
    **values: Any,
) -> None:
    """Give a cluster that is made another request, and so its next generation, with nodes more and, by name, fewer.

    `machines` are nodes of it with other CPUs, memory and disks.  With more columns of its row, in one transaction;
    `action` and `detail` say in the audit what is different.
    """
    generation = cluster.generation + 1
    with store.transaction():
        _leave(store, cluster, leave)
        insert_nodes(store, cluster, add, generation)
        store.executemany(
            "UPDATE nodes SET cpus = ?, memory = ?, disk = ? WHERE cluster = ? AND uuid = ?",
            [(node.cpus, node.memory, node.disk, cluster.id, node.uuid) for node in machines],
        )
        spec: dict[str, Any] = {
            "spec": requests.stored(request),
            "digest": request.digest,
            "generation": generation,
        }
        update(store, cluster, **spec, **values)
        audit(store, action, cluster.name, detail)


def replace_nodes(store: Store, cluster: Cluster, nodes: Sequence[Node], detail: str) -> None:
    """Give nodes other places, in one transaction: what is at the old ones, under the same names, is leaving."""
    with store.transaction():
        _leave(store, cluster, [node.name for node in nodes])
        insert_nodes(store, cluster, nodes, cluster.generation)
        audit(store, "replace", cluster.name, detail)


def drop(store: Store, cluster: Cluster, nodes: Collection[Node]) -> None:
    """These nodes are gone."""
    store.executemany(
        "DELETE FROM nodes WHERE cluster = ? AND position = ?",
        [(cluster.id, node.position) for node in nodes],
    )


def told(store: Store, cluster: Cluster, nodes: Collection[str]) -> None:
    """Write down that these nodes, by name, have been told of the cluster's generation."""
    positions = {node.name: node.position for node in cluster.nodes}
    store.executemany(
        "UPDATE observed_nodes SET generation = ? WHERE cluster = ? AND position = ?",
        [(cluster.generation, cluster.id, positions[name]) for name in nodes],
    )


def count_restarts(store: Store, cluster: Cluster, nodes: Mapping[str, int]) -> None:
    """Write down that these nodes, by name, are started again now, and how often that was."""
    positions = {node.name: node.position for node in cluster.nodes}
    store.executemany(
        "UPDATE observed_nodes SET restarts = ?, restarted = ? WHERE cluster = ? AND position = ?",
        [(count, time.time(), cluster.id, positions[name]) for name, count in nodes.items()],
    )


def _leave(store: Store, cluster: Cluster, names: Collection[str]) -> None:
    """Nodes of these names are none of the cluster's any more, and are yet to be taken away."""
    going = [node for node in cluster.nodes if node.name in names]
    last = min((node.position for node in cluster.leaving), default=0)
    drop(store, cluster, going)
    left = [replace(node, position=last - count) for count, node in enumerate(going, 1)]
    insert_nodes(store, cluster, left, cluster.generation, leaving=True)
