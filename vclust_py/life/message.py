"""Words on the terminals of those who are logged in to a cluster's nodes."""

import contextlib

from vclust_py.access import program_login
from vclust_py.errors import VclustError
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState

_TIMEOUT = 60.0


def say(session: Session, cluster: Cluster, text: str) -> None:
    """Show one line of ours, best effort, to everybody who is logged in to a node (wall(1))."""
    access = way_in(session.store, cluster)

    def tell(node: Node) -> None:
        argv = program_login(access, node.name, node.address, "wall", patience=20)
        with contextlib.suppress(VclustError):
            session.run(argv, stdin=f"{text}\n", timeout=_TIMEOUT)

    nodes = [node for node in cluster.nodes if node.state is NodeState.READY]
    session.side_by_side(tell, nodes, hosts=len({node.host for node in nodes}))
