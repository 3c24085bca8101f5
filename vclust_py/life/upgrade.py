"""A running cluster comes to the versions of its packages that the site's archives have today.

It is a change of the spec as `vclust_py.life.apply` makes one: another lock, another generation.  Nodes are told of it
by `vclust_py.life.teach`; those that are away then are told when they are back.
"""

import time
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from vclust_py import timing
from vclust_py.change import Change
from vclust_py.errors import RequestError
from vclust_py.image.store import fetch
from vclust_py.life import packages, restart
from vclust_py.life.apply import require_disks, require_running
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, Phase, Result
from vclust_py.relock import Upgraded, upgraded
from vclust_py.site import changes, clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState

_LOCK_TIMEOUT = 30.0
_SHOWN = 20
"""Packages that the audit names."""


def run(session: Session, inputs: Inputs, *, security: bool = False) -> Result:
    """Give the cluster a lock with today's versions, where the archives have later ones; its packages are fetched.

    With `security` those that are there for security alone.  The result warns of nodes that are not ready, and come to
    that later.  Raises RequestError for a cluster that is not there, not ready or somebody else's, and for disks that
    are too small; VclustError where packages cannot be had.
    """
    store = session.store
    clusters.require_access(store, clusters.get(store, inputs.name))
    with clusters.locked(store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        require_running(cluster)
        if waiting := restart.pending(session, cluster):
            listed = ", ".join(node.name for node in waiting)
            raise RequestError(
                [f"{cluster.name}: yet to be restarted for an earlier change: {listed}"],
                "first: vclust apply --restart REQUEST",
            )
        present = Lock.load(session.site, cluster.lock)
        found = upgraded(present, session.site, _silent, security=security)
        install, _ = packages.between(present, found.lock)
        require_disks(cluster, found.lock, cluster.nodes[0].disk)
        before, after = present.installed(), found.lock.installed()
        names = [package.name for package in install]
        change = Change({name: before.get(name, "") for name in names}, {name: after[name] for name in names})
        if install and not inputs.check:
            with timing.phase(store, cluster, "upgrade") as record:
                # Before it is written down: an archive may not have them any more when the next try comes.
                fetch(session.site, replace(found.lock, packages=install), record.report)
                _write(session, cluster, found, names)
        absent = [node.name for node in cluster.nodes if node.state is not NodeState.READY]
    # apt leaves these by itself: they need what conflicts with a package that is there.
    kept = [f"{name}={found.lacking[name][0]}" for name in sorted(found.lacking.keys() - found.held)]
    facts = {
        "packages": [package.pinned for package in install],
        "kept": kept,
        "kernel": found.kernel,
        "absent": absent,
    }
    warnings = tuple(f"{name}: is not ready; it comes to this when it is again" for name in absent)
    return Result(change, facts, warnings)


def phase(*, security: bool) -> Phase:
    """`run` as a phase."""
    return partial(run, security=security)


def _write(session: Session, cluster: Cluster, found: Upgraded, names: Iterable[str]) -> None:
    """Make it the cluster's next generation."""
    found.lock.save(session.site)
    meta_packages = cluster.request.software.meta_packages
    packages.note(session, cluster, cluster.generation + 1, found.lock.digest, meta_packages)
    shown = sorted(names)
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    updates = {
        "updates": sorted(found.lacking),
        "security": sorted(name for name, (_, security) in found.lacking.items() if security),
        "time": time.time(),
    }
    changes.change(
        session.store,
        cluster,
        cluster.request,
        action="upgrade",
        detail=", ".join(shown[:_SHOWN]) + more,
        lock=found.lock.digest,
        updates=updates,
    )


def _silent(message: str, done: int, total: int) -> None:
    pass
