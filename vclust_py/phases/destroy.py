"""`destroy`: takes away what the phases made, whatever state it is in.

Images stay while the site has space for them.
"""

import logging
import shutil

from vclust_py import frozen, leftovers
from vclust_py.cache import retention
from vclust_py.change import Change
from vclust_py.errors import RequestError, VclustError
from vclust_py.life import stop
from vclust_py.nodes import drivers_for
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters, volumes
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState, NodeState

_log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds to wait for others at work on the cluster: modules whose controller was killed clean up first."""


def run(session: Session, inputs: Inputs) -> Result:
    """Remove domains, disks, keys and network of the live cluster; an unknown name changes nothing.

    Raises VclustError when a host does not answer, or not all can be removed from it: the cluster stays in the store
    and can be destroyed again.  Such a host is written off if `inputs.forget` names it: the result warns of what may
    still be there, and it is removed when the host answers again (`vclust_py.leftovers`).  Raises RequestError where
    `inputs.forget` names a host without nodes of the cluster, and where the cluster is somebody else's.
    """
    name, store = inputs.name, session.store
    cluster = clusters.find(store, name)
    if cluster is None:
        return Result(Change({}, {}), {"written_off": []})
    clusters.require_access(store, cluster)
    change = Change(
        {"name": name, "state": str(cluster.state), "nodes": [node.name for node in cluster.nodes]}, {}
    )
    if strangers := inputs.forget - {node.host for node in cluster.all_nodes}:
        known = ", ".join(sorted({node.host for node in cluster.all_nodes})) or "none"
        raise RequestError([f"{name}: has no node on {', '.join(sorted(strangers))}; its hosts: {known}"])
    if inputs.check:
        return Result(change, {"written_off": []})
    warnings = list[str]()
    with clusters.locked(store, name, timeout=TIMEOUT) as cluster:
        folder = clusters.folder(store, cluster)
        if cluster.state in (ClusterState.CREATED, ClusterState.READY):
            # Should it not come to its end: nobody is to start again what was taken away.
            clusters.update(store, cluster, state=ClusterState.STOPPED)
        drivers, errors = drivers_for(session, cluster.all_nodes)
        volume = volumes.of(store, cluster)
        if volume is not None and volume.keep and cluster.ready is not None:
            # What was written to it may still be in the memory of its node, which is the first.
            first = [node for node in cluster.nodes if node.position == 0 and node.host in drivers]
            try:
                stop.shut_down(session, first, drivers)
            except VclustError as error:
                _log.warning("the node of the volume %s is not shut down: %s", volume.name, error)
        parts = [part for part in clusters.parts(cluster) if part.host in drivers]
        for part, failure in zip(parts, leftovers.remove(session, parts, drivers), strict=True):
            if failure is not None:  # the host answered at first
                errors[part.host] = failure
        gone = [
            node.name
            for node in cluster.nodes
            if node.host not in errors and node.state is not NodeState.PLACED
        ]
        clusters.observe_nodes(store, cluster, dict.fromkeys(gone, NodeState.STOPPED))
        if awaited := errors.keys() - inputs.forget:
            # The others are free already; what is on these must not be forgotten.
            raise VclustError(
                "\n".join(str(errors[host]) for host in sorted(awaited)),
                "again when the host is well; if it never will be:"
                f" vclust destroy {name} {' '.join(f'--forget-host {host}' for host in sorted(awaited))}",
            )
        if volume is not None:
            if not volume.keep and volume.host in drivers and volume.host not in errors:
                drivers[volume.host].files(volume.folder).remove()
                volumes.drop(store, volume)
            else:  # what a host that is written off has of it stays written down as well
                volumes.release(store, volume)
        session.networks.remove(cluster.segment, cluster.network)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise VclustError(f"{error.filename}: cannot be removed: {error.strerror}") from error
        clusters.forget(store, cluster, errors)
        warnings += session.networks.admit(store)
        warnings += leftovers.told(store, cluster.id)
    answering = {host: driver for host, driver in drivers.items() if host not in errors}
    leftovers.clear(session, answering)
    frozen.clear(session, answering.values())
    try:
        retention.trim(session)
    except VclustError as error:  # the cluster is gone all the same
        _log.warning("images without use are not taken away: %s", error)
    if not clusters.names(store):
        session.stop_daemons()
    return Result(change, {"written_off": sorted(errors)}, tuple(warnings))
