"""Nodes that run are told of their cluster's generation: names of other nodes, users and keys, packages.

By the agent in each, through its host's hypervisor; by a login where none answers, as that is what costs.
"""

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from vclust_py import identities, timing
from vclust_py.access import program_login
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk, update
from vclust_py.guest.cluster_disk import ClusterIdentity
from vclust_py.image.space import naming_full_disk
from vclust_py.life import packages
from vclust_py.lock import Lock
from vclust_py.nodes import drivers_for
from vclust_py.phases import Inputs, Phase, Result
from vclust_py.phases.create import mtu, segments, way_out
from vclust_py.run import CommandError
from vclust_py.serving import offered
from vclust_py.site import changes, clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState
from vclust_py.text import DETAIL, plain

_LOCK_TIMEOUT = 30.0
_TIMEOUT = 300.0
_INSTALL_TIMEOUT = 3600.0
"""Seconds that a node may take where packages come with it."""


def run(session: Session, inputs: Inputs, *, in_turn: bool = False) -> Result:
    """Tell each ready node that has an earlier generation; the result warns of those that cannot be told now.

    With `in_turn` one after the other, as `teach` does.  Raises RequestError when there is no such cluster, or it is
    somebody else's.
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
        with timing.phase(store, cluster, "teach") as record:
            failures = teach(session, cluster, behind, in_turn=in_turn, report=record.report)
    told = [node.name for node in behind if node.name not in failures]
    after = {node.name: node.generation if node.name in failures else cluster.generation for node in behind}
    warnings = tuple(f"{error}; it is told when it can be" for error in failures.values())
    return Result(Change(change.before, after), {"told": told, "late": sorted(failures)}, warnings)


def phase(*, in_turn: bool) -> Phase:
    """`run` as a phase."""
    return partial(run, in_turn=in_turn)


def late(cluster: Cluster) -> list[Node]:
    """Nodes that run and have an earlier generation than their cluster's."""
    return [
        node
        for node in cluster.nodes
        if node.state is NodeState.READY and node.generation < cluster.generation
    ]


def teach(
    session: Session,
    cluster: Cluster,
    nodes: Sequence[Node],
    *,
    in_turn: bool = False,
    report: timing.Report = lambda message, done, total: None,
) -> dict[str, VclustError]:
    """Tell these nodes of a cluster that the caller has locked; by name why some could not be.

    Packages that a node lacks come with it.  With `in_turn` each node is told when the one before has been; after one
    that was reached and does not bear it no other is.
    """
    out = way_out(session.site, cluster)
    identities.ensure(session, cluster, mtu(segments(cluster)), out.files)
    shared = identities.shared(session, cluster, out.files)
    failures: dict[str, VclustError] = {}
    lacking: dict[packages.Difference, list[Node]] = {}
    for node in nodes:
        lacking.setdefault(packages.difference(session, cluster, node), []).append(node)
    halted, done = "", 0
    for difference, alike in lacking.items():
        timeout = _INSTALL_TIMEOUT if difference.packages else _TIMEOUT
        with _given(session, cluster, shared, difference) as script:
            for some in [[node] for node in alike] if in_turn else [alike]:
                if halted:
                    failures |= {one.name: VclustError(f"{one.name}: waits for {halted}") for one in some}
                    continue
                report("told", done, len(nodes))
                failed = _tell(session, cluster, some, script, timeout)
                # At once: who is interrupted goes on with the next one.
                told = [node.name for node in some if node.name not in failed]
                changes.told(session.store, cluster, told)
                failures |= failed
                done += len(some)
                if in_turn:
                    halted = next((name for name, error in failed.items() if _was_reached(error)), "")
    return failures


@contextlib.contextmanager
def _given(
    session: Session, cluster: Cluster, shared: ClusterIdentity, difference: packages.Difference
) -> Iterator[str]:
    """What a node's shell is given on standard input; within the block it can fetch the packages that this says."""
    changes, new = cluster_disk.changes(shared), cluster_disk.steps_of(shared, difference.new)
    if difference.resized:
        changes, new = {}, new | cluster_disk.resized(shared)
    script = update.script(shared, changes, new)
    if not difference.packages:
        yield f"echo {update.REACHED}\n{script}"
        return
    folder = clusters.folder(session.store, cluster)
    with naming_full_disk(folder), tempfile.NamedTemporaryFile(prefix=".packages-", dir=folder) as file:
        path, lock = Path(file.name), Lock.load(session.site, cluster.lock)
        packages.write(session.site, lock, difference, shared.meta_packages, path, lambda *_: None)
        with offered(path, lambda: session.networks.listen(cluster.segment, cluster.request.router)) as offer:
            yield f"{update.fetch(offer)}echo {update.REACHED}\n{script}"


def _tell(
    session: Session, cluster: Cluster, nodes: list[Node], script: str, timeout: float
) -> dict[str, VclustError]:
    access = way_in(session.store, cluster)
    drivers, _ = drivers_for(session, nodes)

    def tell(node: Node) -> VclustError | None:
        said = None
        if node.host in drivers:
            try:
                said = drivers[node.host].tell(node.uuid, script, timeout)
            except VclustError as error:
                return VclustError(f"{node.name}: {error}")
        try:
            if said is None:
                argv = program_login(access, node.name, node.address, "sh", "-s")
                said = session.run(argv, stdin=script, timeout=timeout)
            update.judge(node.name, said, cluster.generation)
        except VclustError as error:
            return _why(node, error)
        return None

    found = session.at_work(tell, nodes)
    return {node.name: error for node, error in zip(nodes, found, strict=True) if error is not None}


def _was_reached(error: VclustError) -> bool:
    """Whether the node may have been changed."""
    return not isinstance(error, CommandError) or update.REACHED in error.output


def _why(node: Node, error: VclustError) -> VclustError:
    """The error with what the node said was wrong, where it said something."""
    if isinstance(error, CommandError) and "vclust: failed " in error.output:
        said = error.output.rpartition("vclust: failed ")[2].splitlines()[0]
        return VclustError(f"{node.name}: was not changed: {plain(said, DETAIL)}")
    return error
