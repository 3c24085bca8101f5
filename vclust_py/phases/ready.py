"""Phase `ready`: every node checks itself, meanwhile the cluster is proved from outside.

Logging in to every node from outside would cost an emulated node seconds of CPU; so every node checks itself, and one
login to the first node tries the way to all others.
"""

import contextlib
import time
from collections.abc import Mapping, Sequence

from vclust_py import clones, metapackages, report, timing
from vclust_py.access import program_login
from vclust_py.cache import background
from vclust_py.conversation import Talk
from vclust_py.errors import VclustError
from vclust_py.guest import console, proof
from vclust_py.guest.prover import Prover
from vclust_py.hypervisor import Hypervisor
from vclust_py.life import lease, teach
from vclust_py.metapackages import MetaPackage
from vclust_py.nodes import drivers_of, facts, require_min_nodes, require_started
from vclust_py.phases import Inputs, Result
from vclust_py.phases.create import start_nodes
from vclust_py.site import clusters, kept_logs
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState, NodeState


def run(session: Session, inputs: Inputs) -> Result:
    """Wait for every node's own check, log in as a user would, and run MPI across the nodes if there is one.

    What of that can be done before the last node has reported is done meanwhile.  Then the cluster's report is
    written, beside its disks.  A cluster that is ready is left alone, or tried once more where `inputs.again` says so;
    that is in no record.  Raises VclustError with what did not work.
    """
    store = session.store
    with clusters.locked(store, inputs.name) as cluster:
        change = console.expected(cluster, NodeState.READY)
        if inputs.check or (not change.changed and cluster.state is ClusterState.READY):
            nodes = [node for node in cluster.nodes if node.state is NodeState.READY]
            if inputs.again and nodes and not inputs.check:
                with _prover(session, cluster, nodes) as prover:
                    _finish(session, cluster, prover, nodes)
            return Result(change, {"lost": _lost(cluster), "report": _report(session, cluster)})
        require_started(cluster)
        with timing.phase(store, cluster, "ready") as record:
            fresh = [node.name for node in cluster.nodes if node.state is not NodeState.READY]
            drivers, errors = drivers_of(session, cluster)
            require_min_nodes(cluster, errors)
            record.facts = facts(cluster, drivers)
            prove = _to_prove(session, cluster, fresh, errors)
            with _prover(session, cluster, prove, _known(cluster, fresh, errors)) as prover:
                _follow(session, cluster, drivers, errors, record, prover)
                cluster = clusters.get(store, inputs.name)
                if behind := teach.late(cluster):  # they did not run when the others were told
                    for error in teach.teach(session, cluster, behind).values():
                        raise error
                record.report("log in, try the way to every node")
                begun = time.time()
                record.facts |= _finish(session, cluster, prover, _to_prove(session, cluster, fresh, {}))
                record.facts["proof_seconds"] = time.time() - begun
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


def _follow(
    session: Session,
    cluster: Cluster,
    drivers: Mapping[str, Hypervisor],
    errors: Mapping[str, VclustError],
    record: timing.Recorder,
    prover: Prover,
) -> None:
    """Wait for the nodes' reports.  A clone that does not report boots instead, once."""
    clones_to_come, given_up = clones.unreported(session, cluster), set[str]()

    def boot(watch: console.Watch) -> bool:
        node = watch.node
        if node.name not in clones_to_come or node.name in given_up or node.host not in drivers:
            return False
        given_up.add(node.name)
        if given_up == clones_to_come.keys():
            clones.retire_templates(session, cluster)
        clones.give_up(session, cluster, node, watch.detail, drivers[node.host])
        start_nodes(session, cluster, [node], drivers, record)
        return True

    console.follow(
        session,
        cluster,
        NodeState.READY,
        drivers,
        errors,
        record,
        timeouts=clones_to_come,
        instead=boot,
        meanwhile=prover,
    )


def _to_prove(
    session: Session, cluster: Cluster, fresh: Sequence[str], errors: Mapping[str, VclustError]
) -> list[Node]:
    """The nodes to be proven, the one that tries the others first; none that has failed, or is on a host with `errors`.

    A login costs an emulated node seconds of CPU: those that were proved before are left alone.  But checks of meta
    packages are for the first node.
    """
    working = [node for node in cluster.nodes if node.state is not NodeState.FAILED]
    there = [node for node in working if node.host not in errors] or list(cluster.nodes)
    if cluster.ready is None:
        return there
    new = [node for node in there if node.name in fresh]
    return new if new and not _checks(session, cluster) else [there[0], *(n for n in new if n != there[0])]


def _known(cluster: Cluster, fresh: Sequence[str], errors: Mapping[str, VclustError]) -> str:
    """A node that was proved before, by name; empty: there is none."""
    names = (
        node.name
        for node in cluster.nodes
        if node.state is NodeState.READY and node.name not in fresh and node.host not in errors
    )
    return next(names, "")


def _checks(session: Session, cluster: Cluster) -> list[MetaPackage]:
    return [bundle for bundle in metapackages.expand(cluster.request, session.site) if bundle.check]


def _prover(session: Session, cluster: Cluster, nodes: Sequence[Node], known: str = "") -> Prover:
    """One login, to the first of these nodes, that tries everything; what it says must hold for every node.

    `known`: a node that was proved before.
    """

    def log_in(node: Node, wait: bool) -> Talk:
        access = way_in(session.store, cluster)
        login = program_login(
            access, node.name, node.address, "sh", "-s", user=access["user"], patience=60, wait=wait
        )
        return session.talk(login, limit=proof.OUTPUT_LIMIT)

    return Prover(cluster.name, nodes, _checks(session, cluster), log_in, known)


def _finish(session: Session, cluster: Cluster, prover: Prover, nodes: Sequence[Node]) -> dict[str, object]:
    """What is left of the proof; the log of one that fails is kept."""
    try:
        return prover.finish(nodes)
    except VclustError as error:
        raise kept_logs.failure(session.store, cluster, "ready", error, prover.output) from error
