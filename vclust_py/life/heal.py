"""What has ended, though it should run, is started again: nodes, on their disks."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from vclust_py import timing
from vclust_py.change import Change
from vclust_py.errors import RequestError
from vclust_py.guest import console
from vclust_py.hypervisor import Host, Hypervisor
from vclust_py.life import replace, teach
from vclust_py.nodes import drivers_of
from vclust_py.phases import Inputs, Result, distribute, image
from vclust_py.phases.create import start_nodes
from vclust_py.site import changes, clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.states import SHOULD_RUN, ClusterState, NodeState
from vclust_py.site.store import Store, audit

DELAYS = (0.0, 30.0, 120.0, 600.0)
"""Seconds from one start of a node that crashes again and again to the next; then it is given up."""
_CALM = 3600.0
"""Seconds without a crash after which the earlier ones are forgotten."""
_LOCK_TIMEOUT = 30.0


def run(session: Session, inputs: Inputs) -> Result:
    """Start each node of a ready cluster that does not run, and wait until it is ready; the others are not touched.

    Also those that were given up, and whatever `Heal` of the request says.  A node on a host that does not answer may
    run: the result warns of it, but for hosts that `inputs.forget` names: whoever does knows that they are off, and
    their nodes are made anew on others of `inputs.hosts`.  Raises RequestError when there is no such cluster, it is
    somebody else's, stopped or was never ready; for a host to forget that answers; and where somebody else than an
    administrator forgets one.  Raises CapacityError when there is no space for new ones.
    """
    store = session.store
    clusters.require_access(store, clusters.get(store, inputs.name))
    moved = _replace(session, inputs) if inputs.forget else {}
    with clusters.locked(store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        require_ready(cluster)
        drivers, errors = drivers_of(session, cluster)
        hosts = list(drivers)
        up = dict(zip(hosts, session.side_by_side(lambda host: drivers[host].running(), hosts), strict=True))
        if not inputs.check:
            note_started(store, cluster, up)
        down = not_running(cluster, up)
        warnings = [
            f"{error}: what is there stays as it is: {', '.join(_on(cluster, host))}"
            for host, error in errors.items()
            if host not in inputs.forget
        ]
        if inputs.check:
            down += [node for node in replace.lost_nodes(cluster, inputs.forget) if node not in down]
        before = {node.name: str(NodeState.FAILED) for node in down}
        change = Change(before, dict.fromkeys(before, str(NodeState.READY)))
        if inputs.check:
            return Result(change, {"started": list(before), "not_ready": [], "moved": moved}, tuple(warnings))
        # By hand: what the site has tried before does not count.
        changes.count_restarts(store, cluster, dict.fromkeys(before, 0))
        with timing.phase(store, cluster, "heal") as record:
            warnings += restart(session, cluster, down, drivers, record)
            cluster = clusters.get(store, cluster.name)
            there = dataclasses.replace(
                cluster, nodes=tuple(node for node in cluster.nodes if node.host in drivers)
            )
            console.follow(session, there, NodeState.READY, drivers, errors, record, least=0)
            cluster = clusters.get(store, cluster.name)
            behind = [node for node in teach.late(cluster) if node.name in before]
            warnings += (
                [str(error) for error in teach.teach(session, cluster, behind).values()] if behind else []
            )
        cluster = clusters.get(store, cluster.name)
    after = {node.name: str(node.state) for node in cluster.nodes if node.name in before}
    failed = [name for name, state in after.items() if state != NodeState.READY]
    return Result(
        Change(before, after),
        {"started": [name for name in before if name not in failed], "not_ready": failed, "moved": moved},
        tuple(warnings),
    )


def _replace(session: Session, inputs: Inputs) -> dict[str, str]:
    """Other places for the nodes on hosts that are given up, with the images they need; by name the new host."""
    if not session.store.user.administrator:
        raise RequestError(["forget_hosts: only administrators of the site may say that a host is off"])
    with clusters.locked(session.store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        require_ready(cluster)
        moved = replace.give_places(session, cluster, inputs.forget, inputs.hosts, check=inputs.check)
    if moved and not inputs.check:
        bring_images(session, inputs.name, inputs.hosts)
    return {node.name: node.host for node in moved}


def bring_images(session: Session, name: str, hosts: Sequence[Host]) -> None:
    """What new nodes of the cluster start from, to the hosts where they are."""
    image.run(session, Inputs(name))
    distribute.run(session, Inputs(name, hosts=tuple(hosts)))


def require_ready(cluster: Cluster) -> None:
    """Raises RequestError unless the cluster is one that should run."""
    if cluster.state is not ClusterState.READY:
        hint = f"vclust start {cluster.name}" if cluster.state is ClusterState.STOPPED else None
        raise RequestError(
            [f"{cluster.name}: got the state {cluster.state}, expected a cluster that was ready"],
            hint or "create with its request takes it up",
        )


def not_running(cluster: Cluster, running: Mapping[str, Collection[str]]) -> list[Node]:
    """Nodes that should run and do not, by the UUIDs of what runs on the hosts that have answered."""
    return [
        node
        for node in cluster.nodes
        if node.host in running
        and node.state in (*SHOULD_RUN, NodeState.PLACED, NodeState.FAILED)
        and (node.state is NodeState.FAILED or node.uuid not in running[node.host])
    ]


def note_started(store: Store, cluster: Cluster, running: Mapping[str, Collection[str]]) -> None:
    """Write down that nodes run which somebody has started, who was killed before that was written down."""
    unnoted = [
        node.name
        for node in cluster.nodes
        if node.state is NodeState.PLACED and node.uuid in running.get(node.host, ())
    ]
    clusters.observe_nodes(store, cluster, dict.fromkeys(unnoted, NodeState.STARTED))


def _on(cluster: Cluster, host: str) -> list[str]:
    return [node.name for node in cluster.nodes if node.host == host]


def restart(
    session: Session,
    cluster: Cluster,
    nodes: Sequence[Node],
    drivers: Mapping[str, Hypervisor],
    record: timing.Recorder,
) -> list[str]:
    """Start nodes that do not run, of a cluster that the caller has locked, and its network; warnings.

    They are written down as failed before, so that whoever is interrupted here leaves the truth.
    """
    store, names = session.store, [node.name for node in nodes]
    ended = [node.name for node in nodes if node.state is not NodeState.PLACED]
    clusters.observe_nodes(store, cluster, dict.fromkeys(ended, NodeState.FAILED))
    fresh = clusters.get(store, cluster.name)
    failed = [node for node in fresh.nodes if node.name in names]
    warnings = start_nodes(session, fresh, failed, drivers, record)
    record.flush()  # whoever reads the nodes next must find them started
    if names:
        audit(store, "heal", cluster.name, f"started again: {', '.join(names)}")
    return list(warnings)


def may_restart(node: Node, now: float) -> bool:
    """Whether the site may start the node again by itself at the Unix time `now`, after so many crashes."""
    if node.restarted is None or node.restarted > now:  # the clock was set back
        return True
    crashes, calm = node.restarts, now - node.restarted
    if calm >= _CALM:
        return True
    return crashes < len(DELAYS) and calm >= DELAYS[crashes]


def restarts(node: Node, now: float) -> int:
    """How often the node was started again, when that is done now."""
    calm = node.restarted is None or not 0 <= now - node.restarted < _CALM
    return 1 if calm else node.restarts + 1


def given_up(node: Node, now: float) -> bool:
    """Whether the site leaves the node as it is for now."""
    return node.restarts >= len(DELAYS) and not may_restart(node, now)
