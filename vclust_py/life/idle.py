"""Whether anybody uses a cluster: what its nodes' processors have done, and who is logged in."""

from collections.abc import Mapping
from dataclasses import dataclass

from vclust_py.access import program_login
from vclust_py.errors import VclustError
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session

BUSY = 0.05
"""Of a processor: a node that uses more of it does something."""
_TIMEOUT = 60.0


@dataclass(frozen=True)
class Use:
    """What a cluster's nodes had used of processors, in seconds by UUID, and since when they have not worked.

    Both times are monotonic; `since` is None where they worked until `measured`.
    """

    measured: float
    seconds: Mapping[str, float]
    since: float | None = None


def after(before: Use | None, measured: float, seconds: Mapping[str, float]) -> Use:
    """The next measurement: idle where it was so all the time since the last one."""
    if before is None or before.seconds.keys() != seconds.keys():
        return Use(measured, seconds)
    most = BUSY * (measured - before.measured)
    if any(used - before.seconds[uuid] > most for uuid, used in seconds.items()):
        return Use(measured, seconds)
    return Use(measured, seconds, before.measured if before.since is None else before.since)


def is_deserted(session: Session, cluster: Cluster) -> bool:
    """Whether no terminal is open in any of the cluster's nodes; one that cannot be asked may have some."""
    access = way_in(session.store, cluster)

    def empty(node: Node) -> bool:
        argv = program_login(access, node.name, node.address, "ls /dev/pts", patience=20)
        try:
            return session.run(argv, timeout=_TIMEOUT).split() in ([], ["ptmx"])
        except VclustError:
            return False

    return all(session.side_by_side(empty, cluster.nodes, hosts=len({node.host for node in cluster.nodes})))
