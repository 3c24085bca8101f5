"""Taking clusters off their hosts, and what destroyed ones have left on hosts that were written off."""

import logging
from collections.abc import Callable, Mapping, Sequence

from vclust_py.errors import NoAnswerError, VclustError
from vclust_py.hypervisor import Hypervisor
from vclust_py.nodes import domain_of, in_turns
from vclust_py.site import clusters
from vclust_py.site.clusters import Node, Part
from vclust_py.site.session import Session
from vclust_py.site.store import Store

_log = logging.getLogger(__name__)


def remove(
    session: Session, parts: Sequence[Part], drivers: Mapping[str, Hypervisor]
) -> list[VclustError | None]:
    """Remove parts of clusters from their hosts, whose drivers these are: all hosts side by side.

    In the parts' order None, or why something of it may still be there.  A node that cannot be removed holds up no
    other one; a host that does not answer any more is not asked again.
    """
    errors: list[VclustError | None] = [None] * len(parts)
    owners = {node.uuid: number for number, part in enumerate(parts) for node in part.nodes}
    silent = dict[str, NoAnswerError]()

    def attempt(number: int, work: Callable[[Hypervisor], object]) -> None:
        host = parts[number].host
        error: VclustError | None = silent.get(host)
        if error is None:
            try:
                work(drivers[host])
            except NoAnswerError as no_answer:
                error = silent[host] = no_answer
            except VclustError as failure:
                error = failure
        errors[number] = errors[number] or error

    def stop(node: Node) -> None:
        attempt(owners[node.uuid], lambda driver: driver.remove(node.uuid))

    def leave(number: int) -> None:
        part = parts[number]

        def work(driver: Hypervisor) -> None:
            driver.clear_consoles(part.folder, [domain_of(part.name, node) for node in part.nodes])
            driver.remove_segment(part.segment)
            driver.files(part.folder).remove()

        attempt(number, work)

    hosts = len({part.host for part in parts})
    session.side_by_side(stop, in_turns(node for part in parts for node in part.nodes), hosts=hosts)
    stopped = [number for number, error in enumerate(errors) if error is None]
    session.side_by_side(leave, stopped, hosts=hosts)
    return errors


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
    """Remove what destroyed clusters have left on these hosts; where that fails it is for the next time."""
    found = [left for left in clusters.leftovers(session.store) if left.host in drivers]
    for left, error in zip(found, remove(session, found, drivers), strict=True):
        if error is not None:
            _log.warning("%s: what %s has left there is not removed: %s", left.host, left.name, error)
        else:
            clusters.forget_leftover(session.store, left)
            _log.info("%s: what %s had left there is removed", left.host, left.name)
