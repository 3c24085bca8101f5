"""Snapshots of a cluster: copies of all its nodes' disks, of one moment at which no node ran.

Each node is shut down for it, so its file systems are whole; memory and processes are not kept.  A copy is a file
beside the node's disk: it needs neither the disk nor other snapshots, and goes by itself.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial

from vclust_py import timing
from vclust_py.change import Change
from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.hypervisor import Hypervisor
from vclust_py.life import packages
from vclust_py.life.stop import stop
from vclust_py.lock import Lock
from vclust_py.nodes import drivers_of, in_turns, overlay, snapshot_file
from vclust_py.phases import Inputs, Phase, Result, phase
from vclust_py.site import clusters, snapshots, volumes
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.snapshots import Snapshot
from vclust_py.site.states import ClusterState, NodeState
from vclust_py.text import when

_LOCK_TIMEOUT = 30.0
_START = ("create", "install", "ready")
"""Phases that start a cluster which is stopped."""


def take(session: Session, inputs: Inputs, tag: str) -> Result:
    """Copy the disks of all nodes as the snapshot `tag`; nodes that ran are shut down before, and started after it.

    They are started, too, where the copying fails, and nothing of it stays.  Raises RequestError when there is no such
    cluster, it is somebody else's, was never ready, has a snapshot of that tag or as many as the site allows;
    CapacityError when a host has too little free disk beside what its nodes have reserved; VclustError when a host does
    not answer.
    """
    store = session.store
    failure: VclustError | None = None
    with _made(session, inputs.name) as cluster:
        there = {one.tag: one for one in snapshots.of(store, cluster)}
        _require_new(session, cluster, there, tag)
        change = _change(there, {*there, tag})
        drivers = _all_drivers(session, cluster)
        _require_space(session, cluster, drivers)
        up = cluster.state is not ClusterState.STOPPED
        if inputs.check:
            return Result(change, {"restarted": up})
        with timing.phase(store, cluster, "snapshot") as record:
            if up:
                record.report("shut the nodes down")
                stop(session, cluster)
            snapshot = snapshots.begin(store, clusters.get(store, cluster.name), tag)
            try:
                _copy(
                    session, cluster, drivers, lambda node: (overlay(node), snapshot_file(node, tag)), record
                )
                written = _written(session, cluster, drivers, snapshot)
                snapshots.finish(store, cluster, snapshot, written)
            except VclustError as error:
                failure = error
                _discard(session, cluster, drivers, snapshot)
                snapshots.drop(store, cluster, snapshot)
    if up:
        _start(session, inputs.name)
    if failure is not None:
        raise failure
    return Result(change, {"restarted": up})


def restore(session: Session, inputs: Inputs, tag: str) -> Result:
    """Give all nodes the disks of the snapshot `tag`; what was on theirs is lost.  Those that ran are started after it.

    Packages that were upgraded since are again what they were, for nodes that come later too.  Interrupted, the cluster
    is stopped, and starts no more until this is done again.  Raises RequestError when there is no such cluster or
    snapshot, the cluster is somebody else's, or has other nodes than the snapshot, or was asked for other packages;
    VclustError when a host does not answer, or a disk cannot be copied.
    """
    store = session.store
    with _made(session, inputs.name) as cluster:
        snapshot = _known(session, cluster, tag)
        _require_same(session, cluster, snapshot)
        drivers = _all_drivers(session, cluster)
        _require_files(session, cluster, drivers, snapshot)
        up = cluster.state is not ClusterState.STOPPED
        change = Change({"restored": ""}, {"restored": tag})
        if inputs.check:
            return Result(change, {"restarted": up})
        with timing.phase(store, cluster, "restore") as record:
            if up:
                record.report("shut the nodes down")
                stop(session, cluster)
            snapshots.begin_restore(store, cluster, snapshot)
            _copy(session, cluster, drivers, lambda node: (snapshot_file(node, tag), overlay(node)), record)
            if cluster.lock != snapshot.lock:
                meta_packages = cluster.request.software.meta_packages
                packages.note(session, cluster, cluster.generation + 1, snapshot.lock, meta_packages)
            snapshots.finish_restore(store, cluster, snapshot)
    if up:
        _start(session, inputs.name)
    return Result(change, {"restarted": up})


def remove(session: Session, inputs: Inputs, tag: str) -> Result:
    """Remove the snapshot `tag`, whatever the cluster is at; one that is not there changes nothing.

    Raises RequestError when there is no such cluster, or it is somebody else's; VclustError when a host does not
    answer.
    """
    store = session.store
    with _mine(session, inputs.name) as cluster:
        there = {one.tag: one for one in snapshots.of(store, cluster)}
        change = _change(there, there.keys() - {tag})
        if change.changed and cluster.restoring == tag:
            raise RequestError(
                [f"{cluster.name}: snapshot {tag}: is half restored"],
                f"first: vclust restore {cluster.name} {tag}",
            )
        if change.changed and not inputs.check:
            _discard(session, cluster, _all_drivers(session, cluster), there[tag])
            snapshots.drop(store, cluster, there[tag])
    return Result(change, {"restarted": False})


def to_state(state: str, tag: str) -> Phase:
    """`take` (present), `remove` (absent) or `restore` (restored) as a phase."""
    return partial({"present": take, "absent": remove, "restored": restore}[state], tag=tag)


def _change(before: Iterable[str], after: Iterable[str]) -> Change:
    return Change({"snapshots": sorted(before)}, {"snapshots": sorted(after)})


@contextlib.contextmanager
def _mine(session: Session, name: str) -> Iterator[Cluster]:
    clusters.require_access(session.store, clusters.get(session.store, name))
    with clusters.locked(session.store, name, timeout=_LOCK_TIMEOUT) as cluster:
        yield cluster


@contextlib.contextmanager
def _made(session: Session, name: str) -> Iterator[Cluster]:
    """The cluster, locked, whose nodes all have disks with a user's work."""
    with _mine(session, name) as cluster:
        fresh = [node.name for node in cluster.nodes if node.state is NodeState.PLACED]
        if cluster.ready is None or cluster.state not in (ClusterState.READY, ClusterState.STOPPED) or fresh:
            state = f"{', '.join(fresh)} never started" if cluster.ready and fresh else str(cluster.state)
            raise RequestError(
                [f"{cluster.name}: got the state {state}, expected a cluster that is ready or stopped"],
                f"vclust heal {cluster.name}" if cluster.ready else "create with its request takes it up",
            )
        yield cluster


def _require_new(session: Session, cluster: Cluster, there: Mapping[str, Snapshot], tag: str) -> None:
    if cluster.restoring:
        raise RequestError(
            [f"{cluster.name}: its snapshot {cluster.restoring} is half restored"],
            f"first: vclust restore {cluster.name} {cluster.restoring}",
        )
    if tag in there and there[tag].written is not None:
        raise RequestError(
            [f"{cluster.name}: snapshot {tag}: is there since {when(there[tag].created)}"],
            f"choose another tag, or first: vclust snapshot {cluster.name} {tag} --remove",
        )
    others, most = [one for one in there if one != tag], session.site.snapshots
    if len(others) >= most:
        raise RequestError(
            [
                f"{cluster.name}: has {len(others)} snapshots: {', '.join(others) or 'none'}; expected fewer than"
                f" {most} (vclust_site: snapshots)"
            ],
            f"first: vclust snapshot {cluster.name} {others[0]} --remove" if others else None,
        )


def _known(session: Session, cluster: Cluster, tag: str) -> Snapshot:
    there = {one.tag: one for one in snapshots.of(session.store, cluster)}
    if tag not in there:
        raise RequestError([f"{cluster.name}: no snapshot {tag}; there are: {', '.join(there) or 'none'}"])
    if there[tag].written is None:
        raise RequestError(
            [f"{cluster.name}: snapshot {tag}: its making was interrupted"],
            f"vclust snapshot {cluster.name} {tag} --remove",
        )
    return there[tag]


def _require_same(session: Session, cluster: Cluster, snapshot: Snapshot) -> None:
    """Raises RequestError unless the cluster consists of the same nodes, which were asked for the same packages."""
    now = {node.name: node.uuid for node in cluster.nodes}
    then = {name: uuid for name, (uuid, _) in snapshot.nodes.items()}
    if now != then:
        other = sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))
        raise RequestError(
            [
                f"{cluster.name}: snapshot {snapshot.tag}: has the disks of {', '.join(then)}; nodes that were added,"
                f" removed or replaced since: {', '.join(other)}"
            ]
        )
    now_asked, then_asked = (
        Lock.load(session.site, digest).requested for digest in (cluster.lock, snapshot.lock)
    )
    if now_asked != then_asked:
        raise RequestError(
            [f"{cluster.name}: snapshot {snapshot.tag}: the cluster has got other packages since it was made"]
        )


def _all_drivers(session: Session, cluster: Cluster) -> dict[str, Hypervisor]:
    drivers, errors = drivers_of(session, cluster)
    if errors:
        raise VclustError("\n".join(map(str, errors.values())), "again when it answers")
    return drivers


def _require_space(session: Session, cluster: Cluster, drivers: Mapping[str, Hypervisor]) -> None:
    """Raises CapacityError where a host's free disk would not hold the copies and what its nodes may still write."""
    store = session.store
    own, placed = clusters.folder(store, cluster).name, clusters.placed(store)
    kept = volumes.on_hosts(store)

    def look(host: str) -> str | None:
        nodes = placed[host]
        sizes = {
            folder: drivers[host].files(folder).allocated() for folder in {folder for folder, _ in nodes}
        }
        written = {(folder, node.name): sizes[folder].get(overlay(node.name), 0) for folder, node in nodes}
        # What a copy on another machine takes beside what the node has written, nobody knows before.
        needed = sum(
            written[folder, node.name] if node.machine is None else node.disk
            for folder, node in nodes
            if folder == own
        )
        reserved = sum(max(node.disk - written[folder, node.name], 0) for folder, node in nodes)
        for one in kept.get(host, ()):
            taken = drivers[host].files(one.folder).allocated().get(volumes.FILE_NAME, 0)
            reserved += max(one.size - taken, 0)
        free = drivers[host].capacity().disk_free - reserved
        if needed <= free:
            return None
        return f"{host}: {max(free, 0) >> 20} MB free beside what its nodes have reserved, {needed >> 20} MB needed"

    short = [line for line in session.side_by_side(look, list(drivers)) if line]
    if short:
        raise CapacityError("\n  ".join([f"{cluster.name}: no space for a snapshot:", *short]))


def _require_files(
    session: Session, cluster: Cluster, drivers: Mapping[str, Hypervisor], snapshot: Snapshot
) -> None:
    """Raises VclustError unless all its files are there: what it would replace must not be lost for nothing."""
    folder = clusters.folder(session.store, cluster).name

    def missing(node: Node) -> str | None:
        name = snapshot_file(node.name, snapshot.tag)
        there = drivers[node.host].files(folder).length(name)
        return None if there else f"{node.host}: {name} is not there"

    nodes = in_turns(cluster.nodes)
    lost = [line for line in session.side_by_side(missing, nodes, hosts=len(drivers)) if line]
    if lost:
        raise VclustError(
            "\n  ".join([f"{cluster.name}: snapshot {snapshot.tag}: a disk of it is lost:", *lost]),
            f"vclust snapshot {cluster.name} {snapshot.tag} --remove",
        )


def _copy(
    session: Session,
    cluster: Cluster,
    drivers: Mapping[str, Hypervisor],
    names: Callable[[str], tuple[str, str]],
    record: timing.Recorder,
) -> None:
    """Copy one file of each node, `names` being that and its copy's by the node's name."""
    folder, done = clusters.folder(session.store, cluster).name, list[str]()

    def copy(node: Node) -> None:
        drivers[node.host].files(folder).copy(*names(node.name))
        done.append(node.name)
        record.report("copy the disks", len(done), len(cluster.nodes))

    session.side_by_side(copy, in_turns(cluster.nodes), hosts=len(drivers))


def _written(
    session: Session, cluster: Cluster, drivers: Mapping[str, Hypervisor], snapshot: Snapshot
) -> int:
    folder = clusters.folder(session.store, cluster).name
    names = {snapshot_file(node, snapshot.tag) for node in snapshot.nodes}

    def look(host: str) -> int:
        return sum(size for name, size in drivers[host].files(folder).allocated().items() if name in names)

    return sum(session.side_by_side(look, list(drivers)))


def _discard(
    session: Session, cluster: Cluster, drivers: Mapping[str, Hypervisor], snapshot: Snapshot
) -> None:
    """Remove its files wherever they are: a node may have got another host."""
    folder = clusters.folder(session.store, cluster).name
    names = [snapshot_file(node, snapshot.tag) for node in snapshot.nodes]
    session.side_by_side(lambda host: drivers[host].files(folder).discard(*names), list(drivers))


def _start(session: Session, name: str) -> None:
    for word in _START:
        phase(word)(session, Inputs(name))
