"""Snapshots of clusters' disks, as the store knows them (`vclust_py.life.snapshot` makes them)."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vclust_py.site.clusters import Cluster, update
from vclust_py.site.store import Store, audit


@dataclass(frozen=True)
class Snapshot:
    """The disks of all nodes of a cluster at one time."""

    cluster: int
    tag: str
    created: float
    lock: str
    """Digest of the lock that the nodes were installed by."""
    nodes: Mapping[str, tuple[str, int]]
    """By name of each node its UUID, and the generation of the cluster's spec that it was told of."""
    written: int | None
    """Bytes of its files on all hosts together; None while it is made, or where that was interrupted."""


def of(store: Store, cluster: Cluster) -> list[Snapshot]:
    """The cluster's snapshots, oldest first."""
    rows = store.rows("SELECT * FROM snapshots WHERE cluster = ? ORDER BY created, tag", (cluster.id,))
    return [
        Snapshot(
            row["cluster"],
            row["tag"],
            row["created"],
            row["lock"],
            {name: (uuid, generation) for name, (uuid, generation) in json.loads(row["nodes"]).items()},
            row["written"],
        )
        for row in rows
    ]


def begin(store: Store, cluster: Cluster, tag: str) -> Snapshot:
    """Write down that files of this snapshot may be there from now on."""
    nodes = {node.name: (node.uuid, node.generation) for node in cluster.nodes}
    snapshot = Snapshot(cluster.id, tag, time.time(), cluster.lock, nodes, None)
    store.execute(
        "INSERT OR REPLACE INTO snapshots (cluster, tag, created, lock, nodes) VALUES (?, ?, ?, ?, ?)",
        (cluster.id, tag, snapshot.created, cluster.lock, json.dumps(nodes)),
    )
    return snapshot


def finish(store: Store, cluster: Cluster, snapshot: Snapshot, written: int) -> None:
    """Its files are all there, and have so many bytes."""
    with store.transaction():
        store.execute(
            "UPDATE snapshots SET written = ? WHERE cluster = ? AND tag = ?",
            (written, cluster.id, snapshot.tag),
        )
        audit(store, "snapshot", cluster.name, snapshot.tag)


def drop(store: Store, cluster: Cluster, snapshot: Snapshot) -> None:
    """Its files are gone."""
    with store.transaction():
        store.execute("DELETE FROM snapshots WHERE cluster = ? AND tag = ?", (cluster.id, snapshot.tag))
        if snapshot.written is not None:
            audit(store, "remove snapshot", cluster.name, snapshot.tag)


def begin_restore(store: Store, cluster: Cluster, snapshot: Snapshot) -> None:
    """Write down that the nodes' disks are not to be started from now on."""
    update(store, cluster, restoring=snapshot.tag)


def finish_restore(store: Store, cluster: Cluster, snapshot: Snapshot) -> None:
    """The nodes' disks are those of the snapshot, and know what these knew.

    Where the cluster has another lock since, that of the snapshot is its next generation's.
    """
    changed: dict[str, Any] = {}
    if cluster.lock != snapshot.lock:
        # Which updates it lacks is looked up again.
        changed = {"lock": snapshot.lock, "generation": cluster.generation + 1, "updates": {}}
    with store.transaction():
        store.executemany(
            "UPDATE observed_nodes SET generation = ? WHERE cluster = ? AND position = ?",
            [(snapshot.nodes[node.name][1], cluster.id, node.position) for node in cluster.nodes],
        )
        update(store, cluster, restoring="", **changed)
        audit(store, "restore", cluster.name, snapshot.tag)
