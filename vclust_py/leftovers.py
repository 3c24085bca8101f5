"""What destroyed clusters may have left on hosts that were written off, and its removal when these answer again."""

import logging
from collections.abc import Mapping

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Hypervisor
from vclust_py.nodes import domain_of
from vclust_py.site import clusters
from vclust_py.site.session import Session
from vclust_py.site.store import Store

_log = logging.getLogger(__name__)


def told(store: Store, cluster: int) -> list[str]:
    """A sentence for each host that may still have some of the destroyed cluster with that number."""
    return [
        f"{left.host} is written off: there may still be the domains"
        f" {', '.join(domain_of(left.name, node) for node in left.nodes)}, the disks in clusters/{left.folder} and the"
        f" network {left.segment}; they are removed when the host answers again"
        for left in clusters.leftovers(store)
        if left.cluster == cluster
    ]


def clear(session: Session, drivers: Mapping[str, Hypervisor]) -> None:
    """Remove what these hosts, by name, still have; where that fails it is for the next time."""
    for left in clusters.leftovers(session.store):
        if left.host not in drivers:
            continue
        driver = drivers[left.host]
        try:
            for node in left.nodes:
                driver.remove(node.uuid)
            driver.clear_consoles(left.folder, [domain_of(left.name, node) for node in left.nodes])
            driver.remove_segment(left.segment)
            driver.files(left.folder).remove()
        except VclustError as error:
            _log.warning("%s: what %s has left there is not removed: %s", left.host, left.name, error)
        else:
            clusters.forget_leftover(session.store, left)
            _log.info("%s: what %s had left there is removed", left.host, left.name)
