"""Takes away what `create` made, whatever state it is in; images stay while the site has space for them."""

import logging
import shutil
from concurrent.futures import ThreadPoolExecutor

from vclust_py import hypervisor, network, state
from vclust_py.cache import retention
from vclust_py.create import FAN_OUT, Connect, domain_name, drivers_of
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Hypervisor, daemon
from vclust_py.site import Site
from vclust_py.state import Change, Node

_log = logging.getLogger(__name__)

PATIENCE = 30.0
"""Seconds to wait for others at work on the cluster: modules whose controller was killed clean up first."""


def destroy(
    site: Site,
    name: str,
    *,
    check: bool = False,
    connect: Connect = hypervisor.connect,
) -> Change:
    """Remove domains, disks, keys and network of the live cluster `name`; an unknown name changes nothing.

    Raises VclustError when a host does not answer: the cluster stays in the state and can be destroyed again.
    """
    cluster = state.find(site, name)
    if cluster is None:
        return Change({}, {})
    before = {"name": name, "state": cluster.state, "nodes": [node.name for node in cluster.nodes]}
    if check:
        return Change(before, {})
    with state.held(site, name, patience=PATIENCE) as cluster:
        folder = state.folder(site, cluster)

        def clear(node: Node) -> None:
            driver = drivers[node.host]
            driver.remove(node.uuid)
            driver.clear_console(folder.name, domain_name(cluster, node))

        def leave(driver: Hypervisor) -> None:
            driver.remove_segment(cluster.segment)
            driver.files(folder.name).remove()

        with drivers_of(site, cluster, connect) as (drivers, errors):
            nodes = [node for node in cluster.nodes if node.host in drivers]
            with ThreadPoolExecutor(FAN_OUT) as pool:
                list(pool.map(clear, nodes))
                list(pool.map(leave, drivers.values()))
            if errors:  # the others are free already; what is on these must not be forgotten
                raise VclustError("\n".join(map(str, errors.values())))
            here = [drivers[node.host] for node in nodes if node.machine is None]
            idle = not any(driver.running() for driver in here)
        network.remove(cluster.segment)
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise VclustError(f"{error.filename}: cannot be removed: {error.strerror}") from error
        state.forget(site, cluster)
    try:
        retention.trim(site)
    except VclustError as error:  # the cluster is gone all the same
        _log.warning("images without use are not taken away: %s", error)
    if (here or not cluster.nodes) and idle and not state.clusters(site):
        daemon.stop()
    return Change(before, {})
