"""The site's state: one SQLite database on the site manager (clusters, nodes, timings, past requests, audit).

Several processes work on it at once; every change is one short `BEGIN IMMEDIATE` transaction.  It holds password
hashes, so it is for root only.
"""

import contextlib
import getpass
import hashlib
import json
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from vclust_py import request as requests
from vclust_py.arguments import checked
from vclust_py.errors import RequestError, VclustError
from vclust_py.image.space import free_bytes, full_disk
from vclust_py.request import Request
from vclust_py.site import Site

if TYPE_CHECKING:
    from vclust_py.resolve import Lock

_LEAST_FREE = 1 << 20  # bytes without which the database cannot work

_SCHEMA = """
CREATE TABLE IF NOT EXISTS clusters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL,
    request TEXT NOT NULL,
    digest TEXT NOT NULL,
    state TEXT NOT NULL,
    lock TEXT NOT NULL DEFAULT '',
    strategy TEXT NOT NULL DEFAULT '',
    cache TEXT NOT NULL DEFAULT '{}',
    images TEXT NOT NULL DEFAULT '{}',
    detail TEXT NOT NULL DEFAULT '',
    created REAL NOT NULL,
    ready REAL,
    destroyed REAL
);
CREATE UNIQUE INDEX IF NOT EXISTS live ON clusters (name) WHERE destroyed IS NULL;
CREATE TABLE IF NOT EXISTS nodes (
    cluster INTEGER NOT NULL REFERENCES clusters (id),
    position INTEGER NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    uri TEXT NOT NULL,
    address TEXT NOT NULL,
    mac TEXT NOT NULL,
    uuid TEXT NOT NULL,
    cpus INTEGER NOT NULL,
    memory INTEGER NOT NULL,
    disk INTEGER NOT NULL,
    state TEXT NOT NULL,
    guest TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (cluster, position)
);
CREATE TABLE IF NOT EXISTS phases (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster INTEGER NOT NULL REFERENCES clusters (id),
    phase TEXT NOT NULL,
    node TEXT NOT NULL DEFAULT '',
    start REAL NOT NULL,
    end REAL,
    bytes INTEGER NOT NULL DEFAULT 0,
    outcome TEXT NOT NULL DEFAULT 'running',
    facts TEXT NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS progress (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cluster INTEGER NOT NULL REFERENCES clusters (id),
    phase TEXT NOT NULL,
    node TEXT NOT NULL,
    message TEXT NOT NULL,
    done INTEGER NOT NULL,
    total INTEGER NOT NULL,
    time REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS audit (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    time REAL NOT NULL,
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    cluster TEXT NOT NULL,
    detail TEXT NOT NULL
);
"""

_CACHES = """
CREATE TABLE IF NOT EXISTS history (
    cluster INTEGER PRIMARY KEY REFERENCES clusters (id),
    time REAL NOT NULL,
    suite TEXT NOT NULL,
    architecture TEXT NOT NULL,
    kernel TEXT NOT NULL,
    packages TEXT NOT NULL,
    bytes INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS uses (
    digest TEXT PRIMARY KEY,
    used REAL NOT NULL DEFAULT 0,
    count INTEGER NOT NULL DEFAULT 0,
    chosen INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS rebuilds (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    start REAL NOT NULL,
    end REAL,
    seen INTEGER NOT NULL,
    outcome TEXT NOT NULL DEFAULT 'running',
    message TEXT NOT NULL DEFAULT '',
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    facts TEXT NOT NULL DEFAULT '{}'
);
"""
"""History, uses of images, and what the cache manager has done (`vclust_py.cache`)."""

_SENT = """
CREATE TABLE IF NOT EXISTS sent (
    host TEXT NOT NULL,
    name TEXT NOT NULL,
    digest TEXT NOT NULL,
    backing TEXT,
    PRIMARY KEY (host, name)
);
"""
"""Image files that were sent to hosts, or were about to be, and what each stands on (`vclust_py.distribute`)."""

_VERSION = 4


@dataclass(frozen=True)
class Change:
    """What an operation found and what it left (or would leave): the pair behind Ansible's `changed` and diff."""

    before: dict[str, Any]
    after: dict[str, Any]

    @property
    def changed(self) -> bool:
        return self.before != self.after


@dataclass(frozen=True)
class Node:
    """One node as placed; memory and disk in bytes."""

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
    state: str
    guest: str = ""
    """Xen: pv or pvh."""

    @property
    def machine(self) -> str | None:
        """The host's name or address; None when it is the site manager itself."""
        return urlsplit(self.uri).hostname


@dataclass(frozen=True)
class Cluster:
    """One live virtual cluster.  `images` maps a role (base, kernel, installer, root, bundle) to an image digest."""

    id: int
    name: str
    request: Request
    state: str
    lock: str
    strategy: str
    images: dict[str, str]
    detail: str
    created: float
    ready: float | None
    nodes: tuple[Node, ...]
    cache: dict[str, Any]
    """The VD cache it starts from and what that spares it (`vclust_py.cache.reserve.savings`); {}: none."""

    @property
    def segment(self) -> str:
        """Name of the cluster's bridge and router namespace; an interface name holds 15 bytes (IFNAMSIZ).

        Not its number alone: several sites may be on one machine.
        """
        return "vc" + hashlib.sha256(f"{self.id} {self.name} {self.created!r}".encode()).hexdigest()[:10]


@contextlib.contextmanager
def connect(site: Site) -> Iterator[sqlite3.Connection]:
    """A connection in autocommit mode; use `transaction` to change more than one row.

    Raises VclustError when the database cannot be opened or written.
    """
    site.make_directories()
    try:
        if not site.database.exists():
            site.database.touch(mode=0o600)
        connection = sqlite3.connect(site.database, timeout=30, isolation_level=None)
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.executescript(f"{_SCHEMA}{_CACHES}{_SENT}PRAGMA user_version = {_VERSION};")
            elif version < _VERSION:
                _upgrade(connection)
            yield connection
        finally:
            connection.close()
    except (sqlite3.Error, OSError) as error:
        code = getattr(error, "sqlite_errorcode", None)
        # Some of SQLite's errors on a full disk do not say so.
        if code == sqlite3.SQLITE_FULL or free_bytes(site.root) < _LEAST_FREE:
            raise full_disk(site.root) from error
        hint = (
            "the site's state is damaged: put a copy back, or move it away and remove its domains with virsh"
            if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT)
            else "are you root, and is the disk in order?"
        )
        raise VclustError(f"{site.database}: {error}", hint) from error


def _upgrade(connection: sqlite3.Connection) -> None:
    """From version 1 of the database, which knew no Xen, 2, which knew no caches, or 3, which did not know what hosts
    were sent; whoever comes first does it.
    """
    with transaction(connection):
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 1:
            connection.execute("ALTER TABLE nodes ADD COLUMN guest TEXT NOT NULL DEFAULT ''")
        if version < 3:
            connection.execute("ALTER TABLE clusters ADD COLUMN cache TEXT NOT NULL DEFAULT '{}'")
        if version < _VERSION:
            for statement in (_CACHES + _SENT).split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {_VERSION}")


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _cluster(connection: sqlite3.Connection, row: sqlite3.Row) -> Cluster:
    nodes = connection.execute("SELECT * FROM nodes WHERE cluster = ? ORDER BY position", (row["id"],))
    return Cluster(
        id=row["id"],
        name=row["name"],
        request=requests.from_mapping(json.loads(row["request"]), row["name"]),
        state=row["state"],
        lock=row["lock"],
        strategy=row["strategy"],
        images=json.loads(row["images"]),
        detail=row["detail"],
        created=row["created"],
        ready=row["ready"],
        nodes=tuple(
            Node(**{key: value for key, value in dict(node).items() if key != "cluster"}) for node in nodes
        ),
        cache=json.loads(row["cache"]),
    )


def find(site: Site, name: str) -> Cluster | None:
    """The live cluster of that name.  Raises RequestError when it is no name of a cluster, as an empty one."""
    checked("name", "cluster", name)
    if not site.database.exists():
        return None
    with connect(site) as connection:
        row = connection.execute(
            "SELECT * FROM clusters WHERE name = ? AND destroyed IS NULL", (name,)
        ).fetchone()
        return None if row is None else _cluster(connection, row)


def get(site: Site, name: str) -> Cluster:
    """Like `find`; raises RequestError when there is none."""
    cluster = find(site, name)
    if cluster is None:
        known = ", ".join(live.name for live in clusters(site)) or "none"
        raise RequestError([f"{name}: no such cluster; there are: {known}"])
    return cluster


def clusters(site: Site) -> list[Cluster]:
    """All live clusters, by name."""
    if not site.database.exists():
        return []
    with connect(site) as connection:
        rows = connection.execute("SELECT * FROM clusters WHERE destroyed IS NULL ORDER BY name").fetchall()
        return [_cluster(connection, row) for row in rows]


@contextlib.contextmanager
def held(site: Site, name: str, *, patience: float = math.inf) -> Iterator[Cluster]:
    """The live cluster `name` as it is once nobody else works on it, and nobody else does until the end.

    Raises RequestError when there is none, VclustError when somebody still works on it after `patience` seconds.
    """
    get(site, name)  # only names that are clusters become names of locks
    with site.hold(_lock_name(name), patience=patience):
        try:
            yield get(site, name)
        finally:
            with contextlib.suppress(VclustError):
                if find(site, name) is None:
                    site.drop(_lock_name(name))


def _lock_name(name: str) -> str:
    return f"cluster-{name}"


def _who() -> str:
    return os.environ.get("SUDO_USER") or getpass.getuser()


def audit(connection: sqlite3.Connection, action: str, cluster: str, detail: str = "") -> None:
    connection.execute(
        "INSERT INTO audit (time, who, action, cluster, detail) VALUES (?, ?, ?, ?, ?)",
        (time.time(), _who(), action, cluster, detail),
    )


def register(site: Site, request: Request, *, check: bool = False) -> Change:
    """Write the request into the state, so that nothing that was accepted is lost.

    Registering an equal request again changes nothing.  Raises RequestError when a cluster of that name exists with
    a different request.
    """
    present = find(site, request.name)
    after = {"name": request.name, "digest": request.digest}
    if present is not None and present.request.digest != request.digest and present.nodes:
        raise RequestError(
            [f"{request.name}: a cluster of that name exists with a different request"],
            f"choose another name, or first: vclust destroy {request.name}",
        )
    if check or (present is not None and present.request.digest == request.digest):
        before = {} if present is None else {"name": present.name, "digest": present.request.digest}
        return Change(before, after)
    with site.hold(_lock_name(request.name)):
        if find(site, request.name) == present:
            if present is not None:
                forget(site, present)  # a create of another request ended before anything was made
            _insert(site, request)
            return Change({}, after)
    return register(site, request)  # somebody else was quicker: what is there now decides


def _insert(site: Site, request: Request) -> None:
    with connect(site) as connection, transaction(connection):
        connection.execute(
            "INSERT INTO clusters (name, request, digest, state, created) VALUES (?, ?, ?, 'requested', ?)",
            (request.name, json.dumps(requests.to_mapping(request)), request.digest, time.time()),
        )
        audit(connection, "create", request.name, request.digest)


def update(site: Site, cluster: Cluster, **values: Any) -> None:
    """Set columns of the cluster's row; mappings become JSON."""
    values = {name: json.dumps(value) if isinstance(value, dict) else value for name, value in values.items()}
    assignments = ", ".join(f"{column} = ?" for column in values)
    with connect(site) as connection:
        connection.execute(
            f"UPDATE clusters SET {assignments} WHERE id = ?",  # noqa: S608 - columns are named by our own code
            (*values.values(), cluster.id),
        )


def remember(connection: sqlite3.Connection, cluster: int, lock: "Lock") -> None:
    """Note which packages a cluster takes beyond the base, for learning; once for each cluster."""
    names = " ".join(package.name for package in lock.packages)
    connection.execute(
        "INSERT OR IGNORE INTO history (cluster, time, suite, architecture, kernel, packages, bytes)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        (cluster, time.time(), lock.suite, lock.architecture, lock.kernel, names, lock.installed_bytes),
    )


def set_node_state(site: Site, cluster: Cluster, node: str, state: str) -> None:
    with connect(site) as connection:
        connection.execute(
            "UPDATE nodes SET state = ? WHERE cluster = ? AND name = ?", (state, cluster.id, node)
        )


def forget(site: Site, cluster: Cluster) -> None:
    """The cluster is destroyed: its name is free again; its timings stay, to foretell later ones."""
    with connect(site) as connection, transaction(connection):
        connection.execute("UPDATE clusters SET destroyed = ? WHERE id = ?", (time.time(), cluster.id))
        connection.execute("DELETE FROM progress WHERE cluster = ?", (cluster.id,))
        connection.execute("DELETE FROM nodes WHERE cluster = ?", (cluster.id,))
        # The request holds password hashes, which are nobody's business any more.
        connection.execute("UPDATE clusters SET request = '' WHERE id = ?", (cluster.id,))
        audit(connection, "destroy", cluster.name)


def folder(site: Site, cluster: Cluster) -> Path:
    """The cluster's own folder; the number keeps a new cluster apart from a destroyed one of the same name."""
    return site.clusters / f"{cluster.name}.{cluster.id}"


def progress(site: Site, name: str, after: int = 0) -> list[dict[str, Any]]:
    """Progress rows of the live cluster `name` with an id above `after`, oldest first; for live displays."""
    if not site.database.exists():
        return []
    with connect(site) as connection:
        rows = connection.execute(
            "SELECT progress.* FROM progress JOIN clusters ON clusters.id = progress.cluster"
            " WHERE name = ? AND destroyed IS NULL AND progress.id > ? ORDER BY progress.id",
            (name, after),
        )
        return [dict(row) for row in rows]


def describe(site: Site, name: str | None = None) -> list[dict[str, Any]]:
    """Live clusters as plain data for people and scripts; password hashes are left out.

    Seconds and bytes; times are Unix times.  Raises RequestError when `name` is given and unknown.
    """
    return [_describe(site, cluster) for cluster in (clusters(site) if name is None else [get(site, name)])]


def _describe(site: Site, cluster: Cluster) -> dict[str, Any]:
    with connect(site) as connection:
        rows = connection.execute(
            "SELECT phase, node, start, end, bytes, outcome FROM phases WHERE cluster = ? ORDER BY id",
            (cluster.id,),
        )
        records = [dict(row) | {"seconds": (row["end"] or time.time()) - row["start"]} for row in rows]
    per_node = [record for record in records if record["node"]]
    mapping = requests.to_mapping(cluster.request)
    mapping["software"]["users"] = [user.name for user in cluster.request.software.users]
    started = [record for record in per_node if record["phase"] == "ready"]
    keys = folder(site, cluster) / "keys"
    users = cluster.request.software.users
    return {
        "name": cluster.name,
        "state": cluster.state,
        "detail": cluster.detail,
        "created": cluster.created,
        "ready": cluster.ready,
        "strategy": cluster.strategy,
        "lock": cluster.lock,
        "cache": cluster.cache,
        "images": cluster.images,
        "request": mapping,
        "nodes": [
            {
                "name": node.name,
                "address": node.address,
                "host": node.host,
                "state": node.state,
                "mac": node.mac,
            }
            for node in cluster.nodes
        ],
        "phases": [record for record in records if not record["node"]],
        "node_phases": per_node,
        "slowest_node": max(started, key=lambda record: record["seconds"])["node"] if started else None,
        "ssh": {
            "user": users[0].name if users else "root",
            "netns": cluster.segment,
            "key": str(keys / "user"),
            "admin_key": str(keys / "admin"),
            "known_hosts": str(keys / "known_hosts"),
        },
    }
