"""Nodes that run with other CPUs, memory or disk than their cluster's request says, restarted one after the other.

What a node runs with, its host says: so whoever was interrupted, or has started a node meanwhile, needs no books.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from vclust_py import timing
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.guest import console
from vclust_py.hypervisor import Hypervisor, memory_bytes
from vclust_py.life import leave, packages, stop, teach
from vclust_py.nodes import drivers_of, in_turns, overlay
from vclust_py.phases import Inputs, Result
from vclust_py.phases.create import start_nodes
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState
from vclust_py.site.store import audit

_LOCK_TIMEOUT = 30.0


def run(session: Session, inputs: Inputs) -> Result:
    """Restart each node that runs with another machine than it is to have, the next one when it is ready again.

    A node that does not run has its new machine when it is started.  Raises RequestError when there is no such cluster,
    or it is somebody else's; VclustError for a host that does not answer, before anything is done, and for a node that
    is not ready again: those after it run as before.
    """
    store = session.store
    clusters.require_access(store, clusters.get(store, inputs.name))
    with clusters.locked(store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        waiting = list[Node]()
        if packages.has_resized(session, cluster):
            drivers, errors = drivers_of(session, cluster)
            if errors:
                raise VclustError("\n".join(map(str, errors.values())), "again when it answers")
            waiting = outdated(session, cluster, drivers)
        names = [node.name for node in waiting]
        change = Change({"restart": names}, {"restart": []})
        if waiting and not inputs.check:
            with timing.phase(store, cluster, "restart") as record:
                for number, node in enumerate(_in_order(waiting, drivers)):
                    record.report(f"restart {node.name}", number, len(waiting))
                    _restart(session, inputs.name, node, drivers, record)
    return Result(change, {"restarted": names})


def pending(session: Session, cluster: Cluster) -> list[Node]:
    """Nodes that are yet to be restarted, as far as hosts answer; these are only asked where there may be some."""
    if not packages.has_resized(session, cluster):
        return []
    return outdated(session, cluster, drivers_of(session, cluster)[0])


def outdated(session: Session, cluster: Cluster, drivers: Mapping[str, Hypervisor]) -> list[Node]:
    """Nodes that run with another machine than they are to have, on the hosts of these drivers."""
    folder = clusters.folder(session.store, cluster).name

    def is_outdated(node: Node) -> bool:
        driver = drivers[node.host]
        found = driver.machine(node.uuid)
        if found is None:
            return False
        cpus, memory = found
        if (cpus, memory_bytes(memory)) != (node.cpus, memory_bytes(node.memory)):
            return True
        return driver.files(folder).virtual_size(overlay(node.name)) < node.disk

    nodes = [node for node in in_turns(cluster.nodes) if node.host in drivers]
    found = session.side_by_side(is_outdated, nodes, hosts=len(drivers))
    names = {node.name for node, old in zip(nodes, found, strict=True) if old}
    return [node for node in cluster.nodes if node.name in names]


def _in_order(nodes: Sequence[Node], drivers: Mapping[str, Hypervisor]) -> list[Node]:
    """The first node leads: it is the last to promise more of the others than they have, the first to promise less."""
    first, *others = nodes
    found = drivers[first.host].machine(first.uuid)
    if first.position == 0 and found is not None and found < (first.cpus, first.memory):
        return [*others, first]
    return list(nodes)


def _restart(
    session: Session, name: str, node: Node, drivers: Mapping[str, Hypervisor], record: timing.Recorder
) -> None:
    """One node of a cluster that the caller has locked.  Whoever is interrupted leaves one that has crashed."""
    store = session.store
    leave.announce(session, clusters.get(store, name), [node], back=True)
    stop.shut_down(session, [node], drivers)
    clusters.observe_nodes(store, clusters.get(store, name), {node.name: NodeState.FAILED})
    cluster, ended = _now(session, name, node)
    start_nodes(session, cluster, [ended], drivers, record)
    record.flush()
    audit(store, "restart", name, node.name)
    cluster, started = _now(session, name, node)
    alone = dataclasses.replace(cluster, nodes=(started,))
    console.follow(session, alone, NodeState.READY, drivers, {}, record, least=0)
    cluster, ready = _now(session, name, node)
    if ready.state is not NodeState.READY:
        raise VclustError(
            f"{node.name}: not ready after its restart; nodes that were yet to be restarted run as before",
            f"vclust logs {name}; then the same again",
        )
    if ready in teach.late(cluster):
        for error in teach.teach(session, cluster, [ready]).values():
            raise error


def _now(session: Session, name: str, node: Node) -> tuple[Cluster, Node]:
    cluster = clusters.get(session.store, name)
    return cluster, next(one for one in cluster.nodes if one.uuid == node.uuid)
