"""What a site has and did, as plain data: what its report and its metrics are made of."""

import contextlib
import time
from collections import Counter
from dataclasses import asdict
from typing import Any

from vclust_py.cache import describe as caches
from vclust_py.errors import VclustError
from vclust_py.image.space import free_bytes
from vclust_py.site import clusters
from vclust_py.site.condition import condition
from vclust_py.site.hosts import known_hosts, sightings
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState


def overview(session: Session, *, history: bool = False) -> dict[str, Any]:
    """Hosts, clusters, caches and space of a site, from its state alone; no host is asked.

    With `history` the past requests as well, as `vclust_py.cache.describe` has them; where these cannot be had
    `history_error` says why; a site that was never used has none.  Bytes and Unix times.
    """
    error, told = "", None
    if history and session.store.exists:
        try:
            told = caches.describe(session, history=True)
        except VclustError as why:  # the package index, mostly
            error = str(why)
    return {
        "time": time.time(),
        "hosts": [asdict(host) | {"nodes": host.nodes} for host in known_hosts(session.store)],
        "cpu_overcommit": session.site.cpu_overcommit,
        "clusters": _clusters(session),
        "caches": told or caches.describe(session),
        "history_error": error,
        "space": _space(session),
    }


def _clusters(session: Session) -> list[dict[str, Any]]:
    known, now = sightings(session.store), time.time()
    found = [(cluster, condition(cluster, known, now)) for cluster in clusters.live(session.store)]
    return [
        {
            "name": cluster.name,
            "owner": cluster.owner,
            "state": str(is_now.state),
            "detail": cluster.detail,
            "created": cluster.created,
            "nodes": len(cluster.nodes),
            "failed": sum(node.state == NodeState.FAILED for node in is_now.nodes),
            "node_states": dict(Counter(str(node.state) for node in is_now.nodes)),
            "cpus": sum(node.cpus for node in cluster.nodes),
            "memory": sum(node.memory for node in cluster.nodes),
        }
        for cluster, is_now in found
    ]


def _space(session: Session) -> dict[str, Any]:
    """Bytes of images by kind, and what is free beside them; a site that was never used has none."""
    kinds: dict[str, int] = {}
    free = None
    with contextlib.suppress(OSError):
        free = free_bytes(session.site.root)
        for image in session.images.images():
            kinds[image.manifest.kind] = kinds.get(image.manifest.kind, 0) + image.disk_bytes
    return {
        "root": str(session.site.root),
        "free": free,
        "images": kinds,
        "cache_space": session.site.cache_space,
        "layer_space": session.site.layer_space,
    }
