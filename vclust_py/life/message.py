"""Words on the terminals of those who are logged in to a cluster's nodes."""

import contextlib

from vclust_py.access import ssh_options
from vclust_py.errors import VclustError
from vclust_py.guest.proof import KEY_EXCHANGE
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState

_TIMEOUT = 60.0


def say(session: Session, cluster: Cluster, text: str) -> None:
    """Show one line of ours, best effort, to everybody who is logged in to a node (wall(1))."""
    access = way_in(session.store, cluster)

    def tell(node: Node) -> None:
        reached = ssh_options({"ssh": access}, {"name": node.name, "address": node.address})
        options = ["BatchMode=yes", "ConnectTimeout=20", KEY_EXCHANGE]
        argv = ["ssh", "-F", "/dev/null", *reached, *(word for option in options for word in ("-o", option))]
        argv += ["-i", access["admin_key"], f"root@{node.name}", "wall"]
        with contextlib.suppress(VclustError):
            session.run(argv, stdin=f"{text}\n", timeout=_TIMEOUT)

    nodes = [node for node in cluster.nodes if node.state is NodeState.READY]
    session.side_by_side(tell, nodes, hosts=len({node.host for node in nodes}))
