"""A cluster that is made gets another request: its spec and its places first, then phases do what that asks of nodes.

Nodes more or fewer, packages, users and their keys, lease and healing change in place; what else differs is refused.
"""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from vclust_py import metapackages
from vclust_py.access import ssh_options
from vclust_py.change import Change
from vclust_py.errors import RequestError
from vclust_py.image.builder import disk_size
from vclust_py.life import packages
from vclust_py.lock import Lock
from vclust_py.monitor import Survey, survey
from vclust_py.nodes import domain_name, drivers_for, overlay, seed_disk, snapshot_file
from vclust_py.phases import Inputs, Phase, Result
from vclust_py.phases.create import segments
from vclust_py.phases.place import more_nodes
from vclust_py.phases.resolve import package_names
from vclust_py.relock import relock
from vclust_py.request import Request
from vclust_py.request.differences import differences
from vclust_py.request.model import KEYS
from vclust_py.request.values import size_text
from vclust_py.site import changes, clusters, snapshots
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState

IN_PLACE = (
    "number_of_nodes", "min_nodes", "users", "ssh_keys", "packages", "meta_packages", "lease", "idle", "heal",
)  # fmt: skip
"""Keys of a request, by their YAML names, that can change while nodes run."""
_LOCK_TIMEOUT = 30.0
_DRAIN = 900.0
"""Seconds that nodes may take to be free of what they are at."""


@dataclass(frozen=True)
class _Plan:
    """What is to become of a cluster."""

    request: Request
    differences: tuple[str, ...]
    remove: tuple[Node, ...]
    add: Mapping[int, str]
    """Names of new nodes by their positions."""
    lock: Lock
    """What nodes are to hold."""
    packages: dict[str, list[str]]
    """`install`, with versions, and `remove`: the difference to what they hold."""


def resized(request: Request, number: int) -> Request:
    """The request for so many nodes; all must be good (MinNodes) where all had to be before."""
    hardware = request.hardware
    least = number if hardware.min_nodes == hardware.number_of_nodes else min(hardware.min_nodes, number)
    return replace(request, hardware=replace(hardware, number_of_nodes=number, min_nodes=least))


def run(session: Session, inputs: Inputs, *, number: int | None = None, remove: Sequence[str] = ()) -> Result:
    """Give the cluster the request of `inputs`, or the one it has with another `number` of nodes.

    `remove` names the nodes that go where there are to be fewer; default: those with the highest numbers.  They are
    gone when this ends, but for those on a host that does not answer, which the result warns of; new ones have their
    places, and are made by the phases from `image` on.  Given again it does nothing, but for what was interrupted.
    Raises RequestError for what cannot change in place, a cluster that is not there, not ready or somebody else's;
    CapacityError when there is no space.
    """
    store = session.store
    clusters.require_access(store, clusters.get(store, inputs.name))
    with clusters.locked(store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        require_running(cluster)
        request = resized(cluster.request, number) if number is not None else inputs.asked
        plan = _plan(session, cluster, request, remove)
        surveys = survey(session, inputs.hosts, write=not inputs.check) if plan.add else []
        change = Change(
            {"nodes": [node.name for node in cluster.nodes], "differences": [], "packages": {}},
            {
                "nodes": [
                    *(node.name for node in cluster.nodes if node not in plan.remove),
                    *plan.add.values(),
                ],
                "differences": list(plan.differences),
                "packages": plan.packages,
            },
        )
        warnings = list[str]()
        if inputs.check:
            add = _placed(session, cluster, plan, surveys)
        else:
            add = _change(session, cluster, plan, surveys) if change.changed else []
            warnings = remove_leaving(session, clusters.get(store, cluster.name))
    facts = {
        "add": {node.name: node.host for node in add},
        "remove": [node.name for node in plan.remove],
        "differences": list(plan.differences),
        "packages": plan.packages,
        "prove": _has_new_checks(session, cluster.request, request),
    }
    return Result(change, facts, tuple(warnings))


def require_running(cluster: Cluster) -> None:
    """Raises RequestError for a cluster that was never ready, or is stopped."""
    if cluster.ready is None or cluster.state is ClusterState.STOPPED:
        raise RequestError(
            [f"{cluster.name}: got the state {cluster.state}, expected a cluster that is ready"],
            f"vclust start {cluster.name}" if cluster.ready else "create with its request takes it up",
        )


def require_disks(cluster: Cluster, lock: Lock) -> None:
    """Raises RequestError where the nodes' disks are too small for the lock."""
    if (size := disk_size(lock)) > cluster.nodes[0].disk:
        raise RequestError(
            [
                f"{cluster.name}: Packages: need disks of {size_text(size)},"
                f" its nodes have {size_text(cluster.nodes[0].disk)}"
            ],
            f"vclust destroy {cluster.name}, then create",
        )


def to_request(remove: Sequence[str] = ()) -> Phase:
    """`run` as a phase: to the request of the inputs, without the nodes named."""
    return partial(run, remove=remove)


def to_number(number: int, remove: Sequence[str] = ()) -> Phase:
    """`run` as a phase: to so many nodes, without those named."""
    return partial(run, number=number, remove=remove)


def _plan(session: Session, cluster: Cluster, request: Request, remove: Sequence[str]) -> _Plan:
    problems = _refused(cluster.request, request)
    number, there = request.hardware.number_of_nodes, len(cluster.nodes)
    if remove and number != there - len(remove):
        problems.append(
            f"nodes: got {len(remove)} to remove, expected {max(there - number, 0)}:"
            f" {there} are there, {number} are to stay"
        )
    bundles = metapackages.expand(request, session.site)
    steps = [bundle.name for bundle in bundles if bundle.steps and bundle.change is None]
    if number != there and steps:
        problems.append(
            f"NumberOfNodes: is {there}, the request says {number}: the meta package {steps[0]} has told the nodes of"
            " each other when they were made"
        )
    lost = [
        name for name in cluster.request.software.meta_packages if name not in request.software.meta_packages
    ]
    if lost:
        problems.append(f"MetaPackages: {lost[0]} has set the nodes up; that cannot be undone in place")
    usable = request.software.network.num_addresses - 2
    if usable < number + 2:
        problems.append(f"Network: {request.software.network} has {usable} addresses, expected {number + 2}")
    if problems:
        raise RequestError(
            [f"{cluster.name}: {problem}" for problem in problems],
            f"for these: vclust destroy {cluster.name}, then create",
        )
    present = Lock.load(session.site, cluster.lock)
    lock = relock(present, package_names(request, bundles), session.site, lambda *_: None)
    require_disks(cluster, lock)
    install, gone = packages.between(present, lock)
    changed = {"install": [package.pinned for package in install], "remove": list(gone)}
    return _Plan(
        request,
        tuple(differences(cluster.request, request)),
        _leaving(cluster, number, remove),
        _coming(cluster, request, number - there),
        lock,
        changed if install or gone else {},
    )


def _has_new_checks(session: Session, present: Request, asked: Request) -> bool:
    """Whether a meta package is new that says how to see that it works."""
    return any(
        bundle.check and bundle.name not in present.software.meta_packages
        for bundle in metapackages.expand(asked, session.site)
    )


def _refused(present: Request, asked: Request) -> list[str]:
    """A line for each difference that is not for a running cluster."""
    fields = {key.ini: key.yaml for key in KEYS}
    return [
        f"{line}; that cannot change in place"
        for line in differences(present, asked)
        if fields[line.partition(":")[0]] not in IN_PLACE
    ]


def _leaving(cluster: Cluster, number: int, named: Sequence[str]) -> tuple[Node, ...]:
    known = {node.name: node for node in cluster.nodes}
    if unknown := [name for name in named if name not in known]:
        raise RequestError([f"{unknown[0]}: no such node of {cluster.name}; there are: {', '.join(known)}"])
    if cluster.nodes[0].name in named:
        raise RequestError(
            [f"{cluster.nodes[0].name}: is the first node of {cluster.name}, which leads: it stays"]
        )
    count = max(len(cluster.nodes) - number, 0)
    return tuple(known[name] for name in named) or cluster.nodes[len(cluster.nodes) - count :]


def _coming(cluster: Cluster, request: Request, count: int) -> dict[int, str]:
    """The smallest numbers that no node has."""
    first = int(request.software.network.network_address) + 1
    # Not those of nodes that may yet be there: nobody knows that they do not run.
    used = {int(IPv4Address(node.address)) - first for node in cluster.all_nodes}
    free = [position for position in range(len(used) + max(count, 0)) if position not in used]
    return {position: request.software.hostname % (position + 1) for position in free[: max(count, 0)]}


def _placed(session: Session, cluster: Cluster, plan: _Plan, surveys: Sequence[Survey]) -> list[Node]:
    return more_nodes(session, plan.request, cluster, surveys, plan.add) if plan.add else []


def _change(session: Session, cluster: Cluster, plan: _Plan, surveys: Sequence[Survey]) -> list[Node]:
    store, values = session.store, dict[str, Any]()
    lease = plan.request.software.lease
    if lease != cluster.request.software.lease:
        ends = None if lease is None else time.time() + lease
        values = {"ends": ends, "ended": None, "warned": lease}
    if plan.remove:
        _announce(session, cluster, plan.remove)
    if plan.packages:
        plan.lock.save(session.site)
        values["lock"] = plan.lock.digest
    meta_packages = plan.request.software.meta_packages
    packages.note(session, cluster, cluster.generation + 1, plan.lock.digest, meta_packages)
    with store.transaction():
        add = _placed(session, cluster, plan, surveys)
        leave, detail = [node.name for node in plan.remove], "; ".join(plan.differences)
        changes.change(store, cluster, plan.request, add=add, leave=leave, detail=detail, **values)
    return add


def _announce(session: Session, cluster: Cluster, nodes: Sequence[Node]) -> None:
    """Let the first node know, by the meta packages' `leave`, that these nodes go; wait until they may."""
    scripts = [
        bundle.leave
        for bundle in metapackages.expand(cluster.request, session.site)
        if bundle.leave is not None
    ]
    if not scripts:
        return
    first, access = cluster.nodes[0], way_in(session.store, cluster)
    reached = ssh_options({"ssh": access}, {"name": first.name, "address": first.address})
    argv = ["ssh", "-F", "/dev/null", *reached, "-o", "BatchMode=yes", "-o", "ConnectTimeout=30"]
    argv += ["-i", access["admin_key"], f"root@{first.name}", "sh", "-s"]
    names = ",".join(node.name for node in nodes)
    for script in scripts:
        text = f"set -eu\nexport VCLUST_LEAVING={shlex.quote(names)}\n{script}\n"
        session.run(argv, stdin=text, timeout=_DRAIN)


def remove_leaving(session: Session, cluster: Cluster) -> list[str]:
    """Take the nodes away that a cluster, which the caller has locked, is not to have any more; warnings.

    Those on a host that does not answer stay written down for the next time; the others do not take them for members
    of their network any more.
    """
    if not cluster.leaving:
        return []
    drivers, errors = drivers_for(session, cluster.all_nodes)
    folder = clusters.folder(session.store, cluster)
    going = [node for node in cluster.leaving if node.host in drivers]

    kept = snapshots.of(session.store, cluster)
    there = {(node.host, node.name) for node in cluster.nodes}
    names = {node.name for node in cluster.nodes}

    def remove(node: Node) -> None:
        driver = drivers[node.host]
        driver.remove(node.uuid)
        if (node.host, node.name) not in there:  # else the disk is another node's of that name
            driver.clear_consoles(folder.name, [domain_name(cluster, node)])
            copies = [snapshot_file(node.name, one.tag) for one in kept]
            driver.files(folder.name).discard(overlay(node.name), seed_disk(node.name), *copies)
        if node.name not in names:
            (folder / seed_disk(node.name)).unlink(missing_ok=True)

    session.side_by_side(remove, going, hosts=len(drivers))
    members = {node.host: node.machine for node in cluster.nodes}
    for host in {node.host for node in going} - members.keys():
        drivers[host].remove_segment(cluster.segment)
        drivers[host].files(folder.name).remove()
    if cluster.state is not ClusterState.STOPPED:  # which has no network
        tunnels, asked = segments(cluster), cluster.request
        session.networks.ensure(
            cluster.segment, cluster.network, asked.software.network, asked.router, tunnels.get(None)
        )
        for host, machine in members.items():
            if host in drivers and machine in tunnels:
                drivers[host].ensure_segment(tunnels[machine])
    changes.drop(session.store, cluster, going)
    return [
        f"{node.name}: {errors[node.host]}; it is removed when its host answers"
        for node in cluster.leaving
        if node.host in errors
    ]
