"""Nodes that run are told of their cluster's generation: names of other nodes, users and keys."""

from vclust_py import identities, timing
from vclust_py.access import ssh_options
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk, update
from vclust_py.guest.proof import KEY_EXCHANGE
from vclust_py.phases import Inputs, Result
from vclust_py.phases.create import mtu, segments, way_out
from vclust_py.site import changes, clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState

_LOCK_TIMEOUT = 30.0
_TIMEOUT = 300.0


def run(session: Session, inputs: Inputs) -> Result:
    """Tell each ready node that has an earlier generation; the result warns of those that cannot be told now.

    Raises RequestError when there is no such cluster, or it is somebody else's.
    """
    store = session.store
    clusters.require_access(store, clusters.get(store, inputs.name))
    with clusters.locked(store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        behind = late(cluster)
        change = Change(
            {node.name: node.generation for node in behind},
            {node.name: cluster.generation for node in behind},
        )
        if inputs.check or not behind:
            return Result(change, {"told": [node.name for node in behind], "late": []})
        with timing.phase(store, cluster, "teach"):
            failures = teach(session, cluster, behind)
    told = [node.name for node in behind if node.name not in failures]
    after = {node.name: node.generation if node.name in failures else cluster.generation for node in behind}
    warnings = tuple(f"{error}; it is told when it can be" for error in failures.values())
    return Result(Change(change.before, after), {"told": told, "late": sorted(failures)}, warnings)


def late(cluster: Cluster) -> list[Node]:
    """Nodes that run and have an earlier generation than their cluster's."""
    return [
        node
        for node in cluster.nodes
        if node.state is NodeState.READY and node.generation < cluster.generation
    ]


def teach(session: Session, cluster: Cluster, nodes: list[Node]) -> dict[str, VclustError]:
    """Tell these nodes of a cluster that the caller has locked; by name why some could not be."""
    out = way_out(session.site, cluster)
    identities.ensure(session, cluster, mtu(segments(cluster)), out.files)
    shared = identities.shared(session, cluster, out.files)
    script = update.script(cluster_disk.parts(shared), cluster_disk.changes(shared), cluster.generation)
    access = way_in(session.store, cluster)

    def tell(node: Node) -> VclustError | None:
        reached = ssh_options({"ssh": access}, {"name": node.name, "address": node.address})
        options = ["BatchMode=yes", "ConnectTimeout=30", KEY_EXCHANGE]
        argv = ["ssh", "-F", "/dev/null", *reached, *(word for option in options for word in ("-o", option))]
        argv += ["-i", access["admin_key"], f"root@{node.name}", "sh", "-s"]
        try:
            update.judge(node.name, session.run(argv, stdin=script, timeout=_TIMEOUT), cluster.generation)
        except VclustError as error:
            return error
        return None

    found = session.side_by_side(tell, nodes, hosts=len({node.host for node in nodes}))
    failures = {node.name: error for node, error in zip(nodes, found, strict=True) if error is not None}
    changes.told(session.store, cluster, [node.name for node in nodes if node.name not in failures])
    return failures
