"""`destroy`: takes away what the phases made, whatever state it is in.

Images stay while the site has space for them.
"""

import contextlib
import logging
import shutil
from collections.abc import Iterator

from vclust_py import leftovers
from vclust_py.cache import retention
from vclust_py.change import Change
from vclust_py.errors import RequestError, VclustError
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

    Raises VclustError when a host does not answer: the cluster stays in the store and can be destroyed again.  Such a
    host is written off if `inputs.forget` names it: the result warns of what may still be there, and it is removed
    when the host answers again (`vclust_py.leftovers`).  Raises RequestError where none of the nodes is on such a
    host, and where the cluster is somebody else's.
    """
    name, store = inputs.name, session.store
    cluster = clusters.find(store, name)
    if cluster is None:
        return Result(Change({}, {}), {"written_off": []})
    clusters.require_access(store, cluster)
    change = Change(
        {"name": name, "state": str(cluster.state), "nodes": [node.name for node in cluster.nodes]}, {}
    )
    if strangers := inputs.forget - {node.host for node in cluster.nodes}:
        known = ", ".join(sorted({node.host for node in cluster.nodes})) or "none"
        raise RequestError([f"{name}: has no node on {', '.join(sorted(strangers))}; its hosts: {known}"])
    if inputs.check:
        return Result(change, {"written_off": []})
    warnings = list[str]()
    with clusters.locked(store, name, timeout=TIMEOUT) as cluster:
        folder = clusters.folder(store, cluster)

        def stop(node: Node) -> None:
            with unless_forgotten(node.host):
                drivers[node.host].remove(node.uuid)

        def leave(host: str) -> None:
            driver, stopped = drivers[host], [node for node in nodes if node.host == host]
            with unless_forgotten(host):
                driver.clear_consoles(folder.name, [domain_name(cluster, node) for node in stopped])
                driver.remove_segment(cluster.segment)
                driver.files(folder.name).remove()

        @contextlib.contextmanager
        def unless_forgotten(host: str) -> Iterator[None]:
            try:
                yield
            except VclustError as error:  # it answered at first
                if host not in inputs.forget:
                    raise
                errors[host] = error

        drivers, errors = drivers_of(session, cluster)
        nodes = in_turns(node for node in cluster.nodes if node.host in drivers)
        session.side_by_side(stop, nodes, hosts=len(drivers))
        session.side_by_side(leave, [host for host in drivers if host not in errors])
        if awaited := errors.keys() - inputs.forget:
            # The others are free already; what is on these must not be forgotten.
            raise VclustError(
                "\n".join(str(errors[host]) for host in sorted(awaited)),
                "again when it answers; if it never will:"
                f" vclust destroy {name} {' '.join(f'--forget-host {host}' for host in sorted(awaited))}",
            )
        session.networks.remove(cluster.segment, cluster.network)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise VclustError(f"{error.filename}: cannot be removed: {error.strerror}") from error
        clusters.forget(store, cluster, errors)
        warnings += leftovers.told(store, cluster.id)
    leftovers.clear(session, {host: driver for host, driver in drivers.items() if host not in errors})
    try:
        retention.trim(session)
    except VclustError as error:  # the cluster is gone all the same
        _log.warning("images without use are not taken away: %s", error)
    if not clusters.names(store):
        session.stop_daemons()
    return Result(change, {"written_off": sorted(errors)}, tuple(warnings))
