"""Phase `ready`: every node checks itself, then the cluster is proved from outside.

Logging in to every node from outside would cost an emulated node seconds of CPU; so every node checks itself, and one
login to the first node tries the way to all others.
"""

import contextlib
import time
from collections.abc import Sequence

from vclust_py import clones, metapackages, report, timing
from vclust_py.access import program_login
from vclust_py.cache import background
from vclust_py.errors import VclustError
from vclust_py.guest import console, proof
from vclust_py.life import lease, teach
from vclust_py.nodes import drivers_of, facts, require_min_nodes, require_started
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters, kept_logs
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState, NodeState


def run(session: Session, inputs: Inputs) -> Result:
    """Wait for every node's own check, then log in as a user would, and run MPI across the nodes if there is one.

    Then its report is written, beside its disks.  A cluster that is ready is left alone, or tried once more where
    `inputs.again` says so; that is in no record.  Raises VclustError with what did not work.
    """
    store = session.store
    with clusters.locked(store, inputs.name) as cluster:
        change = console.expected(cluster, NodeState.READY)
        if inputs.check or (not change.changed and cluster.state is ClusterState.READY):
            nodes = [node for node in cluster.nodes if node.state is NodeState.READY]
            if inputs.again and nodes and not inputs.check:
                _prove(session, cluster, nodes)
            return Result(change, {"lost": _lost(cluster), "report": _report(session, cluster)})
        require_started(cluster)
        with timing.phase(store, cluster, "ready") as record:
            fresh = [node.name for node in cluster.nodes if node.state is not NodeState.READY]
            drivers, errors = drivers_of(session, cluster)
            require_min_nodes(cluster, errors)
            record.facts = facts(cluster, drivers)
            console.follow(session, cluster, NodeState.READY, drivers, errors, record)
            cluster = clusters.get(store, inputs.name)
            if behind := teach.late(cluster):  # they did not run when the others were told
                for error in teach.teach(session, cluster, behind).values():
                    raise error
            first, *others = [node for node in cluster.nodes if node.state is NodeState.READY]
            # A login costs an emulated node seconds of CPU: those that were proved before are left alone.
            nodes = [first, *(node for node in others if cluster.ready is None or node.name in fresh)]
            record.report("log in, try the way to every node")
            begun = time.time()
            record.facts |= _prove(session, cluster, nodes) | {"proof_seconds": time.time() - begun}
        lost = _lost(cluster)
        detail = f"without {', '.join(lost)}, which failed (MinNodes allows it)" if lost else ""
        now = time.time()
        clusters.update(
            store, cluster, state=ClusterState.READY, ready=now, detail=detail, **lease.begun(cluster, now)
        )
        with contextlib.suppress(OSError):  # the cluster works, with or without a page
            report.write(store, cluster)
    background.start_if_due(session, cluster.name if clones.wanted(session, cluster, drivers) else "")
    said = {"lost": lost, "report": _report(session, cluster)}
    return Result(console.reached(change, cluster), said)


def _report(session: Session, cluster: Cluster) -> str:
    page = report.path(session.store, cluster)
    return str(page) if page.is_file() else ""


def _lost(cluster: Cluster) -> list[str]:
    return [node.name for node in cluster.nodes if node.state is NodeState.FAILED]


def _prove(session: Session, cluster: Cluster, nodes: Sequence[Node]) -> dict[str, object]:
    """One login to the first node that tries everything; what it says must hold for every node."""
    names = [node.name for node in nodes]
    bundles = metapackages.expand(cluster.request, session.site)
    checks = [bundle for bundle in bundles if bundle.check]
    output = ""
    try:
        output = _login(session, cluster, nodes[0], proof.script(names, checks), proof.timeout(names))
        return proof.judge(cluster.name, output, names, checks)
    except VclustError as error:
        raise kept_logs.failure(session.store, cluster, "ready", error, output) from error


def _login(session: Session, cluster: Cluster, node: Node, script: str, timeout: float) -> str:
    access = way_in(session.store, cluster)
    argv = program_login(access, node.name, node.address, "sh", "-s", user=access["user"], patience=60)
    return session.run(argv, stdin=script, timeout=timeout, limit=proof.OUTPUT_LIMIT)
