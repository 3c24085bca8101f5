"""A cluster is stopped on purpose: its nodes are shut down; their places, disks and keys stay.

The phases `create`, `install` and `ready` start it again.
"""

import itertools
import time
from collections.abc import Mapping, Sequence

from vclust_py.change import Change
from vclust_py.errors import RequestError, VclustError
from vclust_py.hypervisor import Hypervisor
from vclust_py.nodes import drivers_of, in_turns
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState, NodeState
from vclust_py.site.store import audit

_LOCK_TIMEOUT = 30.0
_SHUTDOWN = 60.0
"""Seconds that nodes have to end; who is not done then is ended like by a power cut."""
_POLL = 0.5
_STARTED = (ClusterState.CREATED, ClusterState.READY)


def run(session: Session, inputs: Inputs) -> Result:
    """Shut the nodes of the cluster down; a cluster that is stopped stays so.

    Raises RequestError when there is no such cluster, it was never started or is somebody else's; VclustError when a
    host does not answer, as nodes may run on there: the others are shut down then, and it can be said again.
    """
    clusters.require_access(session.store, clusters.get(session.store, inputs.name))
    with clusters.locked(session.store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        change = Change({"state": str(cluster.state)}, {"state": str(ClusterState.STOPPED)})
        if cluster.state not in (*_STARTED, ClusterState.STOPPED):
            raise RequestError(
                [
                    f"{cluster.name}: got the state {cluster.state}, expected a cluster whose nodes were started"
                ],
                f"vclust destroy {cluster.name} removes it",
            )
        if change.changed and not inputs.check:
            stop(session, cluster)
            audit(session.store, "stop", cluster.name)
    return Result(change)


def stop(session: Session, cluster: Cluster, **values: object) -> None:
    """Shut the nodes of a cluster down that the caller has locked, and write that and more columns of its row down.

    Raises VclustError when a host does not answer; what is on the others is stopped then.
    """
    drivers, errors = drivers_of(session, cluster)
    nodes = [node for node in in_turns(cluster.nodes) if node.host in drivers]
    shut_down(session, nodes, drivers)
    stopped = [node.name for node in nodes if node.state is not NodeState.PLACED]
    clusters.observe_nodes(session.store, cluster, dict.fromkeys(stopped, NodeState.STOPPED))
    if errors:
        raise VclustError(
            "\n".join(map(str, errors.values())), f"again when it answers: vclust stop {cluster.name}"
        )
    session.side_by_side(lambda host: drivers[host].remove_segment(cluster.segment), list(drivers))
    session.networks.remove(cluster.segment, cluster.network)
    clusters.update(session.store, cluster, state=ClusterState.STOPPED, detail="", **values)


def shut_down(session: Session, nodes: Sequence[Node], drivers: Mapping[str, Hypervisor]) -> None:
    """Have these nodes end, all of whose hosts answer; their disks stay."""
    session.side_by_side(lambda node: drivers[node.host].shutdown(node.uuid), nodes, hosts=len(drivers))
    _wait(session, {node.uuid for node in nodes}, {node.host: drivers[node.host] for node in nodes})
    # Also the definitions: what a node starts with may be another thing next time.
    session.side_by_side(lambda node: drivers[node.host].remove(node.uuid), nodes, hosts=len(drivers))


def _wait(session: Session, uuids: set[str], drivers: Mapping[str, Hypervisor]) -> None:
    """Until none of these domains runs, or their time is over."""
    hosts, deadline = list(drivers), time.monotonic() + _SHUTDOWN
    while time.monotonic() < deadline:
        running = session.side_by_side(lambda host: drivers[host].running(), hosts)
        if uuids.isdisjoint(itertools.chain.from_iterable(running)):
            return
        time.sleep(_POLL)
