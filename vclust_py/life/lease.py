"""A cluster's lease: it counts from when the cluster is ready; at its end nodes are shut down, and after a grace time
what is left of them is removed.
"""

import time
from dataclasses import dataclass
from typing import Any

from vclust_py import quotas
from vclust_py.change import Change
from vclust_py.errors import RequestError
from vclust_py.phases import Inputs, Result
from vclust_py.request import values
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState
from vclust_py.site.store import audit

_LOCK_TIMEOUT = 30.0


@dataclass(frozen=True)
class Due:
    """What a lease asks for now: `warn`, `end` (shut down), `remove` or nothing."""

    what: str = ""
    left: int = 0
    """Of a warning, the seconds of `lease_warnings` it is for."""


def due(site: Site, cluster: Cluster, now: float) -> Due:
    """What is to be done with a live cluster for its lease at the Unix time `now`."""
    if cluster.ends is None:
        return Due()
    if cluster.ended is not None:
        if not _grace_is_over(site, cluster, now):
            return Due()
        # Who brought it back did not come to the end: it has its grace time once more.
        return Due("remove" if cluster.state is ClusterState.STOPPED else "end")
    left = cluster.ends - now
    if left <= 0:
        return Due("end")
    reached = [one for one in site.lease_warnings if left <= one < (cluster.warned or left + one)]
    return Due("warn", min(reached)) if reached and cluster.state is ClusterState.READY else Due()


def _grace_is_over(site: Site, cluster: Cluster, now: float) -> bool:
    """Not from `ends` on: nobody loses the grace time because the site manager was off."""
    return cluster.ended is not None and now >= cluster.ended + site.lease_grace


def require_kept(site: Site, cluster: Cluster, now: float) -> None:
    """Raises RequestError once the cluster's grace time is over: some of its disks may be gone already."""
    if _grace_is_over(site, cluster, now):
        raise RequestError(
            [f"{cluster.name}: its lease has ended, and so has the time for which its disks were kept"],
            f"vclust destroy {cluster.name}, then create",
        )


def begun(cluster: Cluster, now: float) -> dict[str, Any]:
    """Columns of a cluster's row when it has become ready; a lease that has not ended goes on."""
    lease = cluster.request.software.lease
    if lease is not None and cluster.ends is not None and cluster.ends > now:
        return {}
    return until(now, lease)  # without a lease it may have ended idle


def until(now: float, seconds: float | None) -> dict[str, Any]:
    """Columns of a cluster's row whose lease counts from `now`; None: it has no end."""
    # Nobody is warned of a time that was never longer.
    return {"ends": None if seconds is None else now + seconds, "ended": None, "warned": seconds}


def renew(session: Session, inputs: Inputs, seconds: int) -> Result:
    """Let the cluster's lease end `seconds` from now, or later if it does already.

    Raises RequestError when there is no such cluster, it is somebody else's, has no lease that runs or is due to be
    removed; CapacityError when that is longer than a quota of its owner allows.
    """
    store = session.store
    clusters.require_access(store, clusters.get(store, inputs.name))
    with clusters.locked(store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        if cluster.ends is None:
            why, hint = "was not ready yet", "it counts from when the cluster is ready"
            if not cluster.request.software.lease:
                why, hint = (
                    "has none: nothing ends it",
                    "to give it an end: Lease in its request, vclust apply REQUEST",
                )
            raise RequestError([f"{cluster.name}: Lease: {why}"], hint)
        now = time.time()
        require_kept(session.site, cluster, now)
        _require_quota(session.site, cluster, seconds)
        values_ = until(now, seconds) if now + seconds > cluster.ends else {}
        change = Change({"ends": cluster.ends}, {"ends": values_.get("ends", cluster.ends)})
        if change.changed and not inputs.check:
            with store.transaction():
                clusters.update(store, cluster, **values_)
                audit(store, "renew", cluster.name, values.lease.write(seconds))
    return Result(change, {"ends": change.after["ends"], "state": str(cluster.state)})


def _require_quota(site: Site, cluster: Cluster, seconds: int) -> None:
    if not site.has_quota(cluster.owner):
        return
    nodes = cluster.nodes
    holding = quotas.Holding(cluster.name, cluster.owner, cluster.project, len(nodes), 0, 0, 0)
    under = quotas.limits(holding, seconds, [], site.user_quota, site.project(cluster.project))
    quotas.require(cluster.name, [one for one in under if one.what == "lease"])
