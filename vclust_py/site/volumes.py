"""Volumes: data disks of clusters, that may outlive them.  Each is on one host, and of one cluster at a time."""

import sqlite3
import time
from dataclasses import dataclass

from vclust_py.quotas import Holding
from vclust_py.request import volumes as requested
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.store import Store, audit

FILE_NAME = "volume.qcow2"
"""In the volume's own folder."""
_VOLUME = (
    "SELECT volumes.*, clusters.name AS user FROM volumes LEFT JOIN clusters ON clusters.id = volumes.cluster"
)


@dataclass(frozen=True)
class Volume:
    """`size` in bytes, as the guest sees it."""

    id: int
    name: str
    owner: str
    project: str
    host: str
    uri: str
    size: int
    keep: bool
    created: float
    cluster: int | None
    """The live cluster that has it, by its number."""
    user: str
    """And by its name; empty: none."""

    @property
    def folder(self) -> str:
        """Among those of clusters; no cluster's name has a dot."""
        return f"{self.name}.volume.{self.id}"


def _read(rows: list[sqlite3.Row]) -> list[Volume]:
    names = ("id", "name", "owner", "project", "host", "uri", "size", "created", "cluster")
    return [
        Volume(**{name: row[name] for name in names}, keep=bool(row["keep"]), user=row["user"] or "")
        for row in rows
    ]


def every(store: Store) -> list[Volume]:
    """All of the site, by owner and name."""
    return _read(store.rows(f"{_VOLUME} ORDER BY volumes.owner, volumes.name")) if store.exists else []


def find(store: Store, owner: str, name: str) -> Volume | None:
    """The owner's volume of that name."""
    return next((one for one in every(store) if (one.owner, one.name) == (owner, name)), None)


def of(store: Store, cluster: Cluster) -> Volume | None:
    """The volume that the cluster has."""
    return next(iter(_read(store.rows(f"{_VOLUME} WHERE volumes.cluster = ?", (cluster.id,)))), None)


def on_hosts(store: Store) -> dict[str, list[Volume]]:
    """The site's volumes by their hosts."""
    found: dict[str, list[Volume]] = {}
    for volume in every(store):
        found.setdefault(volume.host, []).append(volume)
    return found


def take(store: Store, cluster: Cluster, asked: requested.Volume, first: Node) -> None:
    """Write down that the cluster has its owner's volume, which is new or of nobody; part of its placement.

    `first` is the node that it is for.  A volume that is kept stays so, whatever this request says.
    """
    if find(store, cluster.owner, asked.name) is None:
        store.execute(
            "INSERT INTO volumes (name, owner, project, host, uri, size, keep, created)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (
                asked.name,
                cluster.owner,
                cluster.project,
                first.host,
                first.uri,
                asked.size,
                asked.keep,
                time.time(),
            ),
        )
        audit(store, "make volume", cluster.name, asked.name)
    store.execute(
        "UPDATE volumes SET cluster = ?, keep = max(keep, ?), host = ?, uri = ? WHERE owner = ? AND name = ?",
        (cluster.id, asked.keep, first.host, first.uri, cluster.owner, asked.name),
    )


def release(store: Store, volume: Volume) -> None:
    """No cluster has it any more."""
    store.execute("UPDATE volumes SET cluster = NULL WHERE id = ?", (volume.id,))


def drop(store: Store, volume: Volume) -> None:
    """It is gone."""
    with store.transaction():
        store.execute("DELETE FROM volumes WHERE id = ?", (volume.id,))
        audit(store, "remove volume", volume.user, volume.name)


def holdings(store: Store) -> list[Holding]:
    """What each volume has reserved of disks."""
    return [Holding(f"volume {one.name}", one.owner, one.project, 0, 0, 0, one.size) for one in every(store)]
