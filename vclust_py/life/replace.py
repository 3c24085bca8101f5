"""Nodes whose host is dead get another host: the same names, addresses and keys of users, on new disks.

Never while the old ones may still run: whoever asks for it knows that the host is off (fencing).  What is there all the
same is no member of the cluster's network any more, and is removed when the host answers again.
"""

from collections.abc import Collection, Sequence

from vclust_py.errors import RequestError
from vclust_py.hypervisor import Host
from vclust_py.monitor import survey
from vclust_py.nodes import drivers_for, seed_disk
from vclust_py.phases.place import more_nodes
from vclust_py.site import changes, clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session


def lost_nodes(cluster: Cluster, lost: Collection[str]) -> list[Node]:
    """Nodes of the cluster on these hosts."""
    return [node for node in cluster.nodes if node.host in lost]


def give_places(
    session: Session, cluster: Cluster, lost: Collection[str], hosts: Sequence[Host], *, check: bool = False
) -> list[Node]:
    """Other places for the nodes on hosts that are `lost`, of a cluster that the caller has locked; `hosts` the site's.

    They are to be started there (`vclust_py.life.heal`).  Raises RequestError for a host that answers, CapacityError
    when not all have space elsewhere: then nothing is changed.
    """
    nodes = lost_nodes(cluster, lost)
    if not nodes:
        return []
    drivers, _ = drivers_for(session, nodes)
    if drivers:
        raise RequestError(
            [f"{', '.join(sorted(drivers))}: got an answer, expected a host that is off"],
            f"its nodes may run: vclust heal {cluster.name} starts those there that do not",
        )
    others = [host for host in hosts if host.name not in lost]
    surveys = survey(session, others, write=not check)
    names = {node.position: node.name for node in nodes}
    if check:
        return more_nodes(session, cluster.request, cluster, surveys, names)
    with session.store.transaction():
        placed = more_nodes(session, cluster.request, cluster, surveys, names)
        moved = ", ".join(
            f"{new.name} from {old.host} to {new.host}" for old, new in zip(nodes, placed, strict=True)
        )
        changes.replace_nodes(session.store, cluster, placed, moved)
    folder = clusters.folder(session.store, cluster)
    for node in placed:  # who it was to others ends with the old one
        (folder / seed_disk(node.name)).unlink(missing_ok=True)
    return placed
