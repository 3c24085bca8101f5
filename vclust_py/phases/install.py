"""Phase `install`: every node's installer hands over to the installed system."""

from vclust_py import clones, timing
from vclust_py.guest import console
from vclust_py.lock import Lock
from vclust_py.nodes import drivers_of, facts, require_min_nodes, require_started
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState


def run(session: Session, inputs: Inputs) -> Result:
    """Wait until every node's installer has handed over to the installed system.

    Raises VclustError naming the nodes that failed, when fewer than the request's MinNodes are left.
    """
    with clusters.locked(session.store, inputs.name) as cluster:
        change = console.expected(cluster, NodeState.INSTALLED)
        if inputs.check or not change.changed:
            return Result(change)
        require_started(cluster)
        with timing.phase(session.store, cluster, "install") as record:
            # Clones have their identity since they run, and that is all; what else they say is for phase `ready`.
            if forked := clones.unreported(session, cluster):
                clusters.observe_nodes(session.store, cluster, dict.fromkeys(forked, NodeState.INSTALLED))
                cluster = clusters.get(session.store, inputs.name)
            drivers, errors = drivers_of(session, cluster)
            require_min_nodes(cluster, errors)
            record.facts = facts(cluster, drivers)
            watches = console.follow(session, cluster, NodeState.INSTALLED, drivers, errors, record)
            if "bundle" in cluster.images:  # what estimates are made from
                bundle = session.images.get(cluster.images["bundle"])
                record.bytes = bundle.manifest.installed_size
                record.facts |= console.steps(watches) | {
                    "unpack_bytes": record.bytes,
                    "configure_bytes": Lock.load(session.site, cluster.lock).installed_bytes,
                }
        return Result(console.reached(change, clusters.get(session.store, inputs.name)))
