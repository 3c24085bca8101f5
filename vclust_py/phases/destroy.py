"""`destroy`: takes away what the phases made, whatever state it is in.

Images stay while the site has space for them.
"""

import logging
import shutil

from vclust_py.cache import retention
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.nodes import domain_name, drivers_of, in_turns
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.clusters import Node
from vclust_py.site.session import Session

_log = logging.getLogger(__name__)

TIMEOUT = 30.0
"""Seconds to wait for others at work on the cluster: modules whose controller was killed clean up first."""


def run(session: Session, inputs: Inputs) -> Result:
    """Remove domains, disks, keys and network of the live cluster; an unknown name changes nothing.

    Raises VclustError when a host does not answer: the cluster stays in the store and can be destroyed again.
    """
    name, store = inputs.name, session.store
    cluster = clusters.find(store, name)
    if cluster is None:
        return Result(Change({}, {}))
    change = Change(
        {"name": name, "state": str(cluster.state), "nodes": [node.name for node in cluster.nodes]}, {}
    )
    if inputs.check:
        return Result(change)
    with clusters.locked(store, name, timeout=TIMEOUT) as cluster:
        folder = clusters.folder(store, cluster)

        def stop(node: Node) -> None:
            drivers[node.host].remove(node.uuid)

        def leave(host: str) -> None:
            driver, stopped = drivers[host], [node for node in nodes if node.host == host]
            driver.clear_consoles(folder.name, [domain_name(cluster, node) for node in stopped])
            driver.remove_segment(cluster.segment)
            driver.files(folder.name).remove()

        drivers, errors = drivers_of(session, cluster)
        nodes = in_turns(node for node in cluster.nodes if node.host in drivers)
        session.side_by_side(stop, nodes, hosts=len(drivers))
        session.side_by_side(leave, list(drivers))
        if errors:  # the others are free already; what is on these must not be forgotten
            raise VclustError("\n".join(map(str, errors.values())))
        session.networks.remove(cluster.segment, cluster.network)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise VclustError(f"{error.filename}: cannot be removed: {error.strerror}") from error
        clusters.forget(store, cluster)
    try:
        retention.trim(session)
    except VclustError as error:  # the cluster is gone all the same
        _log.warning("images without use are not taken away: %s", error)
    if not clusters.names(store):
        session.stop_daemons()
    return Result(change)
