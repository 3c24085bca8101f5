"""Clusters as plain data for people and scripts; password hashes are left out."""

import contextlib
import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vclust_py import request as requests
from vclust_py.access import SOCKETS, user_key
from vclust_py.site import clusters, hosts, kept_logs, records, snapshots, volumes
from vclust_py.site.clusters import Cluster
from vclust_py.site.condition import Sighting, condition
from vclust_py.site.settings import Site
from vclust_py.site.states import NodeState
from vclust_py.site.store import Store, audit_of
from vclust_py.site.volumes import Volume
from vclust_py.starts import how
from vclust_py.text import LINE, plain

_VOLUME = ("name", "owner", "project", "host", "size", "keep", "created")
_CONSOLES = 20
"""Failed nodes whose consoles are told of."""
_CONSOLE_BYTES = 1 << 14
_CONSOLE_LINES = 15
"""Lines at a console's end, and the bytes that these are looked for in."""


def describe(
    store: Store, name: str | None = None, sightings: Mapping[str, Sighting] | None = None
) -> list[dict[str, Any]]:
    """Live clusters, or the one of that name if there is one.  Seconds and bytes; times are Unix times.

    What they are now is by `sightings` of their hosts, without these by what is written down of them; `seen` is the
    time of that knowledge (`vclust_py.site.condition`).  `logs` are those that were kept of failures
    (`vclust_py.site.kept_logs`), with their text for one cluster.  They are empty, as is `ssh`, where they are not for
    whom this process works for.  Raises RequestError when `name` is no name of a cluster.
    """
    found = clusters.live(store) if name is None else [clusters.find(store, name)]
    known = hosts.sightings(store) if sightings is None else sightings
    return [
        _describe(store, cluster, known, texts=name is not None) for cluster in found if cluster is not None
    ]


def summary(store: Store, name: str) -> dict[str, Any]:
    """What the user of the live cluster `name` wants to know of it, short enough to be kept with a job.

    `seconds` by phase, as they took last; `cache` is the digest of the VD cache it started from, or empty.
    """
    cluster = clusters.get(store, name)
    rows = records.phases(store, cluster.id)
    return {
        "name": cluster.name,
        "state": str(cluster.state),
        "user": way_in(store, cluster)["user"],
        "login": f"vclust ssh {cluster.name}",
        "addresses": {node.name: node.address for node in cluster.nodes},
        "seconds": {
            row["phase"]: round(row["seconds"], 3)
            for row in rows
            if not row["node"] and row["outcome"] == "done"
        },
        "cache": cluster.cache,
    }


def way_in(store: Store, cluster: Cluster) -> dict[str, Any]:
    """How ssh(1) reaches the nodes: first user, network namespace, and the files with keys and known hosts."""
    keys = clusters.folder(store, cluster) / "keys"
    users = cluster.request.software.users
    return {
        "user": users[0].name if users else "root",
        "netns": cluster.segment,
        "key": str(keys / "user"),
        "user_keys": {user.name: str(keys / user_key(cluster.request, user.name)) for user in users},
        "admin_key": str(keys / "admin"),
        "known_hosts": str(keys / "known_hosts"),
        "sockets": str(SOCKETS / cluster.segment),
        "gateway": _gateway(store.site),
    }


def _gateway(site: Site) -> dict[str, Any]:
    """Where the site's gateway is: `host`, `port` and its public `key`; {}: there is none."""
    public = site.gateway_folder / "host_key.pub"
    if site.gateway is None or not public.exists():
        return {}
    return {
        "host": site.gateway.host or socket.gethostname(),
        "port": site.gateway.port,
        "key": public.read_text(encoding="ascii").strip(),
    }


def _describe(
    store: Store, cluster: Cluster, sightings: Mapping[str, Sighting], *, texts: bool
) -> dict[str, Any]:
    now = condition(cluster, sightings, time.time())
    rows = records.phases(store, cluster.id)
    per_node = [row for row in rows if row["node"]]
    mapping = requests.to_mapping(cluster.request)
    mapping["software"]["users"] = [user.name for user in cluster.request.software.users]
    accelerators = hosts.accelerators(store)
    # Of a cluster that was taken up again the last start counts.
    starts = {
        row["node"]: how(row["outcome"]) for row in per_node if row["phase"] in ("create", "heal", "restart")
    }
    started = [row for row in per_node if row["phase"] == "ready"]
    allowed = store.user.may(cluster.owner, cluster.project)
    return {
        "name": cluster.name,
        "owner": cluster.owner,
        "project": cluster.project,
        "state": str(now.state),
        "seen": now.seen,
        "ready_nodes": now.ready,
        "generation": cluster.generation,
        "detail": cluster.detail,
        "created": cluster.created,
        "ready": cluster.ready,
        "ends": cluster.ends,
        "removed": None if cluster.ended is None else cluster.ended + store.site.lease_grace,
        "strategy": cluster.strategy,
        "lock": cluster.lock,
        "cache": cluster.cache,
        "estimate": cluster.estimate,
        "reason": cluster.reason,
        "images": cluster.images,
        "request": mapping,
        "nodes": [
            {
                "name": node.name,
                "address": node.address,
                "host": node.host,
                "accelerator": accelerators.get(node.host, ""),
                "state": str(known.state),
                "seen": known.seen,
                "mac": node.mac,
                "start": starts.get(node.name, ("", ""))[0],
                "start_detail": starts.get(node.name, ("", ""))[1],
            }
            for node, known in zip(cluster.nodes, now.nodes, strict=True)
        ],
        "updates": cluster.updates,
        "volume": _volume(volumes.of(store, cluster)),
        "homes": cluster.request.has_site_homes,
        "snapshots": [
            {
                "tag": one.tag,
                "created": one.created,
                "nodes": list(one.nodes),
                "bytes": one.written,
            }
            for one in snapshots.of(store, cluster)
        ],
        "phases": [row for row in rows if not row["node"]],
        "node_phases": per_node,
        "slowest_node": max(started, key=lambda row: row["seconds"])["node"] if started else None,
        "events": _events(store, cluster, rows) if allowed else [],
        "consoles": _consoles(store, cluster) if allowed else {},
        "logs": kept_logs.kept(store, cluster, texts=texts) if allowed else [],
        "ssh": way_in(store, cluster) if allowed else {},
    }


def describe_volumes(store: Store) -> list[dict[str, Any]]:
    """The site's volumes that are for whom this process works for; sizes in bytes, times are Unix times."""
    return [
        {name: getattr(one, name) for name in _VOLUME} | {"cluster": one.user}
        for one in volumes.every(store)
        if store.user.may(one.owner, one.project)
    ]


def describe_homes(store: Store) -> list[dict[str, Any]]:
    """Homes that the site keeps, of those owners whom this process may act for; bytes, and users' numbers by name."""
    # Imported here: a list of clusters need not wait for it.
    from vclust_py import homes
    from vclust_py.life.homes import using

    return [
        {"owner": one.owner, "users": one.users, "size": one.size, "clusters": using(store, one.owner)}
        for one in homes.every(store.site)
        if store.user.may(one.owner, "")
    ]


def _volume(volume: Volume | None) -> dict[str, Any]:
    """What a cluster tells of its volume; {}: it has none."""
    if volume is None:
        return {}
    return {"name": volume.name, "size": volume.size, "keep": volume.keep, "host": volume.host}


def _events(store: Store, cluster: Cluster, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What has happened to it since it was made, oldest first: what somebody did, and phases that have ended."""
    ended = [
        {
            "time": row["end"],
            "who": "",
            "via": "",
            "action": row["phase"],
            "detail": f"{row['outcome']} after {row['seconds']:.1f} s",
        }
        for row in rows
        if not row["node"] and row["end"] is not None
    ]
    return sorted(
        [*audit_of(store, cluster.name, cluster.created), *ended], key=lambda event: float(event["time"])
    )


def _consoles(store: Store, cluster: Cluster) -> dict[str, str]:
    """The end of the console of each failed node that ran on the site manager; of the first of them, where many are."""
    failed = [node for node in cluster.nodes if node.state is NodeState.FAILED and node.machine is None]
    if not failed:
        return {}
    # Imported here: a list of clusters in order need not wait for it.
    from vclust_py.hypervisor import console_file
    from vclust_py.nodes import domain_of

    folder, found = clusters.folder(store, cluster), dict[str, str]()
    for node in failed[:_CONSOLES]:
        with contextlib.suppress(OSError):
            end = _end(folder / console_file(domain_of(cluster.name, node)))
            lines = [plain(line.strip(), LINE) for line in end.decode(errors="replace").splitlines()]
            found[node.name] = "\n".join([line for line in lines if line][-_CONSOLE_LINES:])
    return {name: text for name, text in found.items() if text}


def _end(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(file.seek(0, 2) - _CONSOLE_BYTES, 0))
        return file.read(_CONSOLE_BYTES)
