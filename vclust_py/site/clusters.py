"""Clusters and their nodes: what they should be, and apart from it what they were last seen to be.

A cluster's spec is its request with a generation number that grows with every change of it.  Rows are trusted data:
what was accepted once stays readable, whatever later versions accept.
"""

import contextlib
import hashlib
import json
import math
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vclust_py import request as requests
from vclust_py.arguments import checked
from vclust_py.change import Change
from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.quotas import Holding
from vclust_py.request import Request
from vclust_py.site.states import ClusterState, NodeState, follow
from vclust_py.site.store import Store, audit

NETWORKS = 2**24 - 1
"""VXLAN network numbers from 1 on (RFC 7348, section 5)."""


@dataclass(frozen=True)
class Node:
    """One node as placed, and the state it was last seen in; memory and disk in bytes."""

    position: int
    name: str
    host: str
    uri: str
    address: str
    mac: str
    uuid: str
    cpus: int
    memory: int
    disk: int
    guest: str = ""
    """Xen: pv or pvh."""
    domain: str = ""
    """Its domain's name where an earlier version of vclust has given it; else empty (`vclust_py.nodes.domain_of`)."""
    state: NodeState = NodeState.PLACED
    seen: float = 0.0
    """Unix time at which it was in that state."""
    restarts: int = 0
    """How often it was started again by itself, without an hour between two of these."""
    restarted: float | None = None
    """Unix time at which that was last."""
    generation: int = 1
    """Of the cluster's spec, that it was told of."""

    @property
    def machine(self) -> str | None:
        """The host's name or address; None when it is the site manager itself."""
        return urlsplit(self.uri).hostname


_OBSERVED = ("seen", "restarts", "restarted", "generation")
_PLACED = tuple(one.name for one in fields(Node) if one.name not in ("state", *_OBSERVED))
"""The columns of a node's placement."""
_NODE = ", ".join([f"nodes.{name}" for name in _PLACED if name != "position"])
_NODE += ", position, observed_nodes.state, seen, restarts, restarted, observed_nodes.generation"
"""The columns of `Node`, of both tables."""


def _node(row: sqlite3.Row) -> Node:
    values = {name: row[name] for name in (*_PLACED, *_OBSERVED)}
    return Node(state=NodeState(row["state"]), **values)


@dataclass(frozen=True)
class Cluster:
    """One live virtual cluster.  `images` maps a role (base, kernel, installer, root, bundle, and
    for each template a `template-…`) to an image digest."""

    id: int
    name: str
    request: Request
    generation: int
    """Grows with every change of the request."""
    segment: str
    """Name of the cluster's bridge and router namespace."""
    network: int
    """The VXLAN network number of the segment."""
    state: ClusterState
    lock: str
    strategy: str
    images: dict[str, str]
    detail: str
    created: float
    ready: float | None
    nodes: tuple[Node, ...]
    cache: dict[str, Any] = field(default_factory=dict)
    """The VD cache it starts from and what that saves; {}: none."""
    estimate: dict[str, Any] = field(default_factory=dict)
    """What it was expected to take when it was placed, as `vclust_py.estimate.Estimate` has it."""
    reason: str = ""
    """Why it is at this site; empty where there was nothing to choose."""
    owner: str = ""
    """Who has created it."""
    project: str = ""
    """The project that the owner was in then; empty: none."""
    ends: float | None = None
    """Unix time at which its lease ends; None: it has none, or was never ready."""
    ended: float | None = None
    """Unix time at which it was found that its lease had ended, from which on the grace time counts."""
    leaving: tuple[Node, ...] = ()
    """Nodes that it is not to have any more, and that may yet be there; none of `nodes`, and their positions are below
    zero.
    """
    warned: float | None = None
    """Seconds before the end of the lease at which its users were warned last."""
    updates: dict[str, Any] = field(default_factory=dict)
    """Updates that its lock lacks, as `vclust_py.life.updates` has found them; {}: nobody has looked."""
    restoring: str = ""
    """The snapshot that its disks are being made from: until that is done they are not to be started."""

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """With those that are leaving."""
        return (*self.nodes, *self.leaving)


def _read(store: Store, rows: Sequence[Any]) -> list[Cluster]:
    """The clusters of these rows with their nodes: two statements, however many there are."""
    nodes: dict[int, list[Node]] = {row["id"]: [] for row in rows}
    # Not by a list of numbers: SQLite takes so many only.
    low, high = min(nodes, default=0), max(nodes, default=0)
    for row in store.rows(
        f"SELECT {_NODE}, cluster FROM nodes JOIN observed_nodes USING (cluster, position)"  # noqa: S608
        " WHERE cluster BETWEEN ? AND ? ORDER BY cluster, position",
        (low, high),
    ):
        if row["cluster"] in nodes:  # others have been destroyed, and have leftovers
            nodes[row["cluster"]].append(_node(row))
    return [
        Cluster(
            id=row["id"],
            name=row["name"],
            request=requests.from_stored(json.loads(row["spec"])),
            generation=row["generation"],
            segment=row["segment"],
            network=row["network"],
            state=ClusterState(row["state"]),
            lock=row["lock"],
            strategy=row["strategy"],
            images=json.loads(row["images"]),
            detail=row["detail"],
            created=row["created"],
            ready=row["ready"],
            nodes=tuple(node for node in nodes[row["id"]] if node.position >= 0),
            leaving=tuple(node for node in nodes[row["id"]] if node.position < 0),
            cache=json.loads(row["cache"]),
            estimate=json.loads(row["estimate"]),
            reason=row["reason"],
            owner=row["owner"],
            project=row["project"],
            ends=row["ends"],
            ended=row["ended"],
            warned=row["warned"],
            updates=json.loads(row["updates"]),
            restoring=row["restoring"],
        )
        for row in rows
    ]


def find(store: Store, name: str) -> Cluster | None:
    """The live cluster of that name.  Raises RequestError when it is no name of a cluster, as an empty one."""
    checked("name", "cluster", name)
    if not store.exists:
        return None
    with store.reading():
        rows = store.rows("SELECT * FROM clusters WHERE name = ? AND destroyed IS NULL", (name,))
        return next(iter(_read(store, rows)), None)


def get(store: Store, name: str) -> Cluster:
    """Like `find`; raises RequestError when there is none."""
    cluster = find(store, name)
    if cluster is None:
        known = ", ".join(names(store)) or "none"
        raise RequestError([f"{name}: no such cluster; there are: {known}"])
    return cluster


def live(store: Store) -> list[Cluster]:
    """All live clusters, by name."""
    if not store.exists:
        return []
    with store.reading():
        return _read(store, store.rows("SELECT * FROM clusters WHERE destroyed IS NULL ORDER BY name"))


def any_ever(store: Store) -> bool:
    """Whether the site has, or has had, a cluster."""
    return store.exists and store.row("SELECT 1 FROM clusters LIMIT 1") is not None


def names(store: Store) -> list[str]:
    """The names of all live clusters."""
    if not store.exists:
        return []
    return [
        row["name"] for row in store.rows("SELECT name FROM clusters WHERE destroyed IS NULL ORDER BY name")
    ]


def live_in(database: Path) -> dict[str, str]:
    """By name of each live cluster in the database of this file the name of its folder."""
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("SELECT name, id FROM clusters WHERE destroyed IS NULL ORDER BY name")
        return {name: folder_name(name, number) for name, number in rows}


def segments(store: Store) -> dict[str, int]:
    """Segments with their network numbers: of all live clusters, and of others that hosts may still have some of."""
    if not store.exists:
        return {}
    rows = store.rows("SELECT segment, network FROM clusters WHERE segment IS NOT NULL")
    return {row["segment"]: row["network"] for row in rows}


def segments_in(database: Path) -> set[str]:
    """Those of another site, by its database; none where it is not there, or cannot be read."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            return {
                name
                for (name,) in connection.execute("SELECT segment FROM clusters WHERE segment IS NOT NULL")
            }
    except sqlite3.Error:
        return set()


_SKIPPED = 100_000
"""More than a site makes clusters between two backups."""


def skip_numbers(database: Path) -> None:
    """Let no new cluster have the number, and so the folder on hosts, of one made since this database was copied."""
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'clusters'", (_SKIPPED,))
        connection.execute(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'clusters', ?"
            " WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'clusters')",
            (_SKIPPED,),
        )


def images_in_use(store: Store) -> dict[str, set[str]]:
    """By name of each live cluster the digests of its images."""
    return {name: set(json.loads(images).values()) for name, images in _column(store, "images")}


def reserved_caches(store: Store) -> dict[str, str]:
    """By name of each live cluster the digest of the VD cache it has reserved, where it has."""
    found = {name: json.loads(cache).get("digest", "") for name, cache in _column(store, "cache")}
    return {name: digest for name, digest in found.items() if digest}


def _column(store: Store, column: str) -> list[tuple[str, str]]:
    if not store.exists:
        return []
    rows = store.rows(f"SELECT name, {column} FROM clusters WHERE destroyed IS NULL ORDER BY name")  # noqa: S608
    return [(row["name"], row[column]) for row in rows]


@contextlib.contextmanager
def locked(store: Store, name: str, *, timeout: float = math.inf) -> Iterator[Cluster]:
    """The live cluster `name` as it is once nobody else works on it, and nobody else does until the end.

    Raises RequestError when there is none, BusyError when somebody still works on it after `timeout` seconds.
    """
    get(store, name)  # only names that are clusters become names of file locks
    with store.site.file_lock(_lock_name(name), timeout=timeout):
        try:
            yield get(store, name)
        finally:
            with contextlib.suppress(VclustError):
                if find(store, name) is None:
                    store.site.remove_file_lock(_lock_name(name))


def _lock_name(name: str) -> str:
    return f"cluster-{name}"


def register(store: Store, request: Request, *, reason: str = "", check: bool = False) -> Change:
    """Write the request into the store, so that nothing that was accepted is lost; with the `reason` for this site.

    It belongs to whom this process works for.  Registering an equal request again changes nothing.  Raises RequestError
    when a cluster of that name exists with a different request, or is somebody else's.
    """
    present = find(store, request.name)
    if present is not None:
        require_access(store, present)
    after = {"name": request.name, "digest": request.digest}
    if present is not None and present.request.digest != request.digest and present.nodes:
        raise RequestError(
            [
                f"{request.name}: a cluster of that name exists with a different request",
                *(f"  {line}" for line in requests.differences(present.request, request)),
            ],
            "vclust apply changes it in place where it can; else choose another name, or first: vclust destroy"
            f" {request.name}",
        )
    if check or (present is not None and present.request.digest == request.digest):
        before = {} if present is None else {"name": present.name, "digest": present.request.digest}
        return Change(before, after)
    with store.site.file_lock(_lock_name(request.name)):
        if find(store, request.name) == present:
            with store.transaction():
                if present is not None:
                    forget(store, present)  # a create of another request ended before anything was made
                _insert(store, request, reason)
            return Change({}, after)
    return register(store, request, reason=reason)  # somebody else was quicker: what is there now decides


def _insert(store: Store, request: Request, reason: str) -> None:
    created = time.time()
    number = store.insert(
        "INSERT INTO clusters (name, spec, digest, state, created, reason, owner, project)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            request.name,
            json.dumps(requests.stored(request)),
            request.digest,
            ClusterState.REQUESTED,
            created,
            reason,
            store.user.name,
            store.user.project,
        ),
    )
    # Not the cluster's number alone: several sites may be on one machine, which takes each segment and each network
    # number once.  An interface name holds 15 bytes (IFNAMSIZ).
    segment = "vc" + hashlib.sha256(f"{number} {request.name} {created!r}".encode()).hexdigest()[:10]
    store.execute(
        "UPDATE clusters SET segment = ?, network = ? WHERE id = ?",
        (segment, _free_network(store, int(segment[2:8], 16) or 1), number),
    )
    audit(store, "create", request.name, request.digest)


def require_access(store: Store, cluster: Cluster) -> None:
    """Raises RequestError unless whom this process works for may change the cluster and see its keys."""
    if not store.user.may(cluster.owner, cluster.project):
        project = f" (project {cluster.project})" if cluster.project else ""
        raise RequestError(
            [
                f"{cluster.name}: belongs to {cluster.owner}{project}: got {store.user.name}, expected its owner,"
                " a member of its project or an administrator"
            ]
        )


def require_access_to_all(store: Store) -> None:
    """`require_access` to every live cluster, for what concerns the state as a whole."""
    for cluster in () if store.user.administrator else live(store):
        require_access(store, cluster)


def holdings(store: Store, *, without: str = "") -> list[Holding]:
    """What each placed live cluster has reserved, but the one of that name."""
    if not store.exists:
        return []
    rows = store.rows(
        "SELECT clusters.name AS cluster, owner, project, count(*) AS nodes, sum(cpus) AS cpus,"
        " sum(memory) AS memory, sum(disk) AS disk FROM nodes JOIN clusters ON clusters.id = nodes.cluster"
        " WHERE destroyed IS NULL AND clusters.name != ? GROUP BY clusters.id ORDER BY clusters.name",
        (without,),
    )
    return [Holding(**dict(row)) for row in rows]


def _free_network(store: Store, wanted: int) -> int:
    """`wanted`, or the next network number that no live cluster of the site has."""
    for first, last in ((wanted, NETWORKS), (1, wanted - 1)):
        taken = {
            row["network"]
            for row in store.rows(
                "SELECT network FROM clusters WHERE network BETWEEN ? AND ? ORDER BY network LIMIT 4096",
                (first, last),
            )
        }
        for number in range(first, last + 1):
            if number not in taken:
                return number
    raise CapacityError(f"all {NETWORKS} network numbers of the site are in use")


def update(store: Store, cluster: Cluster, *, state: ClusterState | None = None, **values: Any) -> None:
    """Set columns of the cluster's row; mappings become JSON.  Raises VclustError when `state` may not follow."""
    values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    with store.transaction():
        if state is not None:
            (row,) = store.rows("SELECT state FROM clusters WHERE id = ?", (cluster.id,))
            values["state"] = follow(cluster.name, ClusterState(row["state"]), state)
        assignments = ", ".join(f"{column} = ?" for column in values)
        store.execute(
            f"UPDATE clusters SET {assignments} WHERE id = ?",  # noqa: S608 - columns are named by our own code
            (*values.values(), cluster.id),
        )


def place(store: Store, cluster: Cluster, nodes: Sequence[Node], **values: Any) -> None:
    """Write down where all nodes of a cluster are to run, and more columns of its row, in one transaction."""
    with store.transaction():
        insert_nodes(store, cluster, nodes, cluster.generation)
        update(store, cluster, state=ClusterState.PLACED, **values)


def insert_nodes(
    store: Store, cluster: Cluster, nodes: Sequence[Node], generation: int, *, leaving: bool = False
) -> None:
    """Write rows of nodes that are told of that generation; part of the transaction that gives them their places."""
    columns, marks = ", ".join(_PLACED), ", ".join("?" * len(_PLACED))
    store.executemany(
        f"INSERT INTO nodes (cluster, leaving, {columns}) VALUES (?, ?, {marks})",  # noqa: S608 - Node's own fields
        [(cluster.id, leaving, *(getattr(node, column) for column in _PLACED)) for node in nodes],
    )
    store.executemany(
        "INSERT INTO observed_nodes (cluster, position, state, seen, generation) VALUES (?, ?, ?, ?, ?)",
        [(cluster.id, node.position, node.state, time.time(), generation) for node in nodes],
    )


def placed(store: Store) -> dict[str, list[tuple[str, Node]]]:
    """By host the nodes of live clusters, each with the name of its cluster's folder."""
    found: dict[str, list[tuple[str, Node]]] = {}
    if store.exists:
        for row in store.rows(
            f"SELECT {_NODE}, cluster, clusters.name AS owner FROM nodes"  # noqa: S608 - Node's own fields
            " JOIN observed_nodes USING (cluster, position) JOIN clusters ON clusters.id = cluster"
            " WHERE destroyed IS NULL ORDER BY cluster, position"
        ):
            found.setdefault(row["host"], []).append((folder_name(row["owner"], row["cluster"]), _node(row)))
    return found


def observe_nodes(store: Store, cluster: Cluster, states: Mapping[str, NodeState]) -> None:
    """Write down what nodes, by name, are seen to be now.  Raises VclustError when a state may not follow."""
    if not states:
        return
    now, positions = time.time(), {node.name: node.position for node in cluster.nodes}
    with store.transaction():
        before = {
            row["position"]: NodeState(row["state"])
            for row in store.rows(
                "SELECT position, state FROM observed_nodes WHERE cluster = ?", (cluster.id,)
            )
        }
        store.executemany(
            "UPDATE observed_nodes SET state = ?, seen = ? WHERE cluster = ? AND position = ?",
            [
                (follow(name, before[positions[name]], state), now, cluster.id, positions[name])
                for name, state in states.items()
            ],
        )


def forget(store: Store, cluster: Cluster, written_off: Collection[str] = ()) -> None:
    """The cluster is destroyed: its name and network are free again; its timings stay, to estimate later ones.

    What hosts that are `written_off` may still have of it is kept, for `leftovers`; its network is in use until then.
    """
    with store.transaction():
        update(store, cluster, state=ClusterState.DESTROYED)
        # The request holds password hashes, which nobody needs any more.
        store.execute("UPDATE clusters SET destroyed = ?, spec = '' WHERE id = ?", (time.time(), cluster.id))
        for table in ("progress", "snapshots"):
            store.execute(f"DELETE FROM {table} WHERE cluster = ?", (cluster.id,))  # noqa: S608
        store.execute(
            "DELETE FROM nodes WHERE cluster = ? AND host NOT IN (SELECT value FROM json_each(?))",
            (cluster.id, json.dumps(sorted(written_off))),
        )
        _free_segment(store, cluster.id)
        audit(store, "destroy", cluster.name, ", ".join(f"without {host}" for host in sorted(written_off)))


def _free_segment(store: Store, cluster: int) -> None:
    """Of a destroyed cluster, once no host can have any of it."""
    store.execute(
        "UPDATE clusters SET segment = NULL, network = NULL"
        " WHERE id = ? AND NOT EXISTS (SELECT 1 FROM nodes WHERE cluster = clusters.id)",
        (cluster,),
    )


@dataclass(frozen=True)
class Part:
    """What one host has, or may have, of a cluster: domains and disks of these nodes, and an end of its network."""

    cluster: int
    name: str
    host: str
    folder: str
    segment: str
    nodes: tuple[Node, ...]


def parts(cluster: Cluster) -> list[Part]:
    """Of a live cluster, one for each host with nodes of it."""
    found: dict[str, list[Node]] = {}
    for node in cluster.all_nodes:
        found.setdefault(node.host, []).append(node)
    folder = folder_name(cluster.name, cluster.id)
    return [
        Part(cluster.id, cluster.name, host, folder, cluster.segment, tuple(nodes))
        for host, nodes in found.items()
    ]


def leftovers(store: Store) -> list[Part]:
    """Of destroyed clusters, on hosts that were written off; oldest cluster first."""
    found: dict[tuple[int, str], list[Node]] = {}
    owners: dict[int, sqlite3.Row] = {}
    if store.exists:
        for row in store.rows(
            f"SELECT {_NODE}, cluster, clusters.name AS owner, segment FROM nodes"  # noqa: S608 - Node's own fields
            " JOIN observed_nodes USING (cluster, position) JOIN clusters ON clusters.id = cluster"
            " WHERE destroyed IS NOT NULL ORDER BY cluster, host, position"
        ):
            owners[row["cluster"]] = row
            found.setdefault((row["cluster"], row["host"]), []).append(_node(row))
    return [
        Part(
            cluster,
            owners[cluster]["owner"],
            host,
            folder_name(owners[cluster]["owner"], cluster),
            owners[cluster]["segment"],
            tuple(nodes),
        )
        for (cluster, host), nodes in found.items()
    ]


def forget_leftover(store: Store, leftover: Part) -> None:
    """The host has nothing of the cluster any more."""
    with store.transaction():
        store.execute("DELETE FROM nodes WHERE cluster = ? AND host = ?", (leftover.cluster, leftover.host))
        _free_segment(store, leftover.cluster)
        audit(store, "clear", leftover.name, f"left on {leftover.host}")


def folder(store: Store, cluster: Cluster) -> Path:
    """The cluster's own folder; the number keeps a new cluster apart from a destroyed one of the same name."""
    return store.site.clusters / folder_name(cluster.name, cluster.id)


def folder_name(name: str, number: int) -> str:
    return f"{name}.{number}"


def sent_images(store: Store) -> list[dict[str, Any]]:
    """Image files that hosts were sent: host, name, digest, backing."""
    return [dict(row) for row in store.rows("SELECT * FROM sent")]


def record_sent(store: Store, rows: Iterable[tuple[str, str, str, str | None]]) -> None:
    """Write down what hosts are sent (host, name, digest, backing): only that may be removed there one day."""
    store.executemany("INSERT OR REPLACE INTO sent VALUES (?, ?, ?, ?)", rows)
