"""A cluster that is made gets another request: its spec and its places first, then phases do what that asks of nodes.

Nodes more or fewer, packages, users and their keys, lease and healing change in place; CPUs, memory and disk by a
restart of each node (`vclust_py.life.restart`), where that is allowed.  What else differs is refused.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Address
from typing import Any

from vclust_py import metapackages
from vclust_py.change import Change
from vclust_py.errors import RequestError
from vclust_py.image.builder import disk_size
from vclust_py.life import lease, leave, packages, restart
from vclust_py.lock import Lock
from vclust_py.monitor import Survey, survey
from vclust_py.nodes import domain_name, drivers_for, overlay, seed_disk, snapshot_file
from vclust_py.phases import Inputs, Phase, Result
from vclust_py.phases.create import segments
from vclust_py.phases.place import more_nodes, require_machines
from vclust_py.phases.resolve import package_names
from vclust_py.relock import relock
from vclust_py.request import Request
from vclust_py.request.differences import differences
from vclust_py.request.model import KEYS
from vclust_py.request.values import size_text
from vclust_py.site import changes, clusters, snapshots
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState

IN_PLACE = (
    "number_of_nodes", "min_nodes", "users", "ssh_keys", "packages", "meta_packages", "lease", "idle", "heal",
)  # fmt: skip
"""Keys of a request, by their YAML names, that can change while nodes run."""
BY_RESTART = ("cpus", "ram", "disk")
"""Keys that can change while a cluster is there, with a restart of its nodes."""
_LOCK_TIMEOUT = 30.0


@dataclass(frozen=True)
class _Plan:
    """What is to become of a cluster."""

    request: Request
    differences: tuple[str, ...]
    remove: tuple[Node, ...]
    add: Mapping[int, str]
    """Names of new nodes by their positions."""
    nodes: tuple[Node, ...]
    """Those that are there, with the CPUs, memory and disks that they are to have; those that go as they are."""
    machines: tuple[Node, ...]
    """Of these the ones that have others now."""
    outdated: tuple[Node, ...]
    """Those that run with others still, though that is written down: somebody was interrupted."""
    lock: Lock
    """What nodes are to hold."""
    packages: dict[str, list[str]]
    """`install`, with versions, and `remove`: the difference to what they hold."""

    @property
    def restart(self) -> list[str]:
        """Names of the nodes that are to be restarted."""
        wanted = {node.uuid for node in (*self.machines, *self.outdated)} - {
            node.uuid for node in self.remove
        }
        return [node.name for node in self.nodes if node.uuid in wanted]


def resized(request: Request, number: int) -> Request:
    """The request for so many nodes; all must be good (MinNodes) where all had to be before."""
    hardware = request.hardware
    least = number if hardware.min_nodes == hardware.number_of_nodes else min(hardware.min_nodes, number)
    return replace(request, hardware=replace(hardware, number_of_nodes=number, min_nodes=least))


def run(
    session: Session,
    inputs: Inputs,
    *,
    number: int | None = None,
    remove: Sequence[str] = (),
    restarts: bool = False,
) -> Result:
    """Give the cluster the request of `inputs`, or the one it has with another `number` of nodes.

    `remove` names the nodes that go where there are to be fewer; default: those with the highest numbers.  They are
    gone when this ends, but for those on a host that does not answer, which the result warns of; new ones have their
    places, and are made by the phases from `image` on.  With `restarts` nodes may get other CPUs, memory and disks,
    which `vclust_py.life.restart` then gives them.  Given again it does nothing, but for what was interrupted.  Raises
    RequestError for what cannot change in place, a restart that is not allowed, and a cluster that is not there, not
    ready or somebody else's; CapacityError when there is no space.
    """
    store = session.store
    clusters.require_access(store, clusters.get(store, inputs.name))
    with clusters.locked(store, inputs.name, timeout=_LOCK_TIMEOUT) as cluster:
        require_running(cluster)
        request = resized(cluster.request, number) if number is not None else inputs.asked
        plan = _plan(session, cluster, request, remove, restarts=restarts)
        surveys = _surveys(session, inputs, cluster, plan)
        change = Change(
            {
                "nodes": [node.name for node in cluster.nodes],
                "differences": [],
                "packages": {},
                "restart": [],
            },
            {
                "nodes": [
                    *(node.name for node in cluster.nodes if node not in plan.remove),
                    *plan.add.values(),
                ],
                "differences": list(plan.differences),
                "packages": plan.packages,
                "restart": plan.restart,
            },
        )
        warnings = list[str]()
        if inputs.check:
            add = _placed(session, cluster, plan, surveys)
        else:
            differs = plan.differences or plan.add or plan.remove or plan.packages
            add = _change(session, cluster, plan, surveys) if differs else []
            warnings = remove_leaving(session, clusters.get(store, cluster.name))
    facts = {
        "add": {node.name: node.host for node in add},
        "remove": [node.name for node in plan.remove],
        "differences": list(plan.differences),
        "packages": plan.packages,
        "restart": plan.restart,
        "prove": bool(plan.restart) or _has_new_checks(session, cluster.request, request),
    }
    return Result(change, facts, tuple(warnings))


def require_running(cluster: Cluster) -> None:
    """Raises RequestError for a cluster that was never ready, or is stopped."""
    if cluster.ready is None or cluster.state is ClusterState.STOPPED:
        raise RequestError(
            [f"{cluster.name}: got the state {cluster.state}, expected a cluster that is ready"],
            f"vclust start {cluster.name}" if cluster.ready else "create with its request takes it up",
        )


def require_disks(cluster: Cluster, lock: Lock, disk: int) -> None:
    """Raises RequestError where nodes' disks of `disk` bytes are too small for the lock."""
    if (size := disk_size(lock)) > disk:
        raise RequestError(
            [f"{cluster.name}: Packages: need disks of {size_text(size)}, its nodes have {size_text(disk)}"],
            f"vclust apply --restart with Disk: {size_text(size)} in the request",
        )


def to_request(remove: Sequence[str] = (), *, restarts: bool = False) -> Phase:
    """`run` as a phase: to the request of the inputs, without the nodes named."""
    return partial(run, remove=remove, restarts=restarts)


def to_number(number: int, remove: Sequence[str] = ()) -> Phase:
    """`run` as a phase: to so many nodes, without those named."""
    return partial(run, number=number, remove=remove)


def _plan(
    session: Session, cluster: Cluster, request: Request, remove: Sequence[str], *, restarts: bool
) -> _Plan:
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
    leaving = _leaving(cluster, number, remove)
    nodes = tuple(node if node in leaving else _with_machine(node, request) for node in cluster.nodes)
    machines = tuple(new for new, old in zip(nodes, cluster.nodes, strict=True) if new != old)
    hardware, present_hardware = request.hardware, cluster.request.hardware
    if hardware.disk < present_hardware.disk:
        problems.append(
            f"Disk: is {size_text(present_hardware.disk)}, the request says {size_text(hardware.disk)}: disks only grow"
        )
    if (hardware.cpus, hardware.ram) != (present_hardware.cpus, present_hardware.ram):
        problems += [
            f"CPUs, RAM: the meta package {bundle.name} has told the nodes of these when they were made"
            for bundle in bundles
            if bundle.change is None and any(_tells_size(step.run) for step in bundle.steps)
        ]
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
    outdated = restart.pending(session, cluster)
    if (machines or outdated) and not restarts:
        raise RequestError(
            _restarting(cluster, request, outdated),
            "nodes are restarted for that, one after the other, where you say so: vclust apply --restart REQUEST"
            " (-e vclust_restart=true)",
        )
    present = Lock.load(session.site, cluster.lock)
    lock = relock(present, package_names(request, bundles), session.site, lambda *_: None)
    require_disks(cluster, lock, nodes[0].disk)
    install, gone = packages.between(present, lock)
    changed = {"install": [package.pinned for package in install], "remove": list(gone)}
    return _Plan(
        request,
        tuple(differences(cluster.request, request)),
        leaving,
        _coming(cluster, request, number - there),
        nodes,
        machines,
        tuple(outdated),
        lock,
        changed if install or gone else {},
    )


def _with_machine(node: Node, request: Request) -> Node:
    """The node with the CPUs and memory of the request; its disk may be larger, as its packages need it."""
    hardware = request.hardware
    return replace(node, cpus=hardware.cpus, memory=hardware.ram, disk=max(node.disk, hardware.disk))


def _tells_size(script: str) -> bool:
    return "VCLUST_CPUS" in script or "VCLUST_RAM_MB" in script


def _restarting(cluster: Cluster, request: Request, outdated: Sequence[Node]) -> list[str]:
    """What nodes would be restarted for, a line each."""
    fields = {key.ini: key.yaml for key in KEYS}
    lines = [
        line for line in differences(cluster.request, request) if fields[line.partition(":")[0]] in BY_RESTART
    ]
    if outdated:
        lines.append(
            f"yet to be restarted for an earlier change: {', '.join(node.name for node in outdated)}"
        )
    return [f"{cluster.name}: {line}" for line in lines]


def _surveys(session: Session, inputs: Inputs, cluster: Cluster, plan: _Plan) -> list[Survey]:
    """What hosts say of themselves, where the plan needs space there."""
    if not (plan.add or plan.machines):
        return []
    more = sum(node.disk for node in plan.nodes) - sum(node.disk for node in cluster.nodes)
    return survey(session, inputs.hosts, lambda _: more, write=not inputs.check)


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
        if fields[line.partition(":")[0]] not in (*IN_PLACE, *BY_RESTART)
    ] + _moved_homes(present, asked)


def _moved_homes(present: Request, asked: Request) -> list[str]:
    """Users' numbers and keys would be others."""
    if present.software.home != asked.software.home:  # which is a difference already
        return []
    if present.has_site_homes == asked.has_site_homes:
        return []
    return ["MetaPackages: homes move to the site or from it; that cannot change in place"]


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
    """Space for what nodes are to have more, then places for new ones."""
    if plan.machines:
        require_machines(session, plan.request, cluster, surveys, plan.nodes)
    new = replace(cluster, nodes=plan.nodes)
    return more_nodes(session, plan.request, new, surveys, plan.add) if plan.add else []


def _change(session: Session, cluster: Cluster, plan: _Plan, surveys: Sequence[Survey]) -> list[Node]:
    store, values = session.store, dict[str, Any]()
    if plan.request.software.lease != cluster.request.software.lease:
        values = lease.until(time.time(), plan.request.software.lease)
    if plan.remove:
        leave.announce(session, cluster, plan.remove)
    if plan.packages:
        plan.lock.save(session.site)
        values["lock"] = plan.lock.digest
    meta_packages, first = plan.request.software.meta_packages, plan.nodes[0]
    machine = (first.cpus, first.memory, first.disk)
    packages.note(session, cluster, cluster.generation + 1, plan.lock.digest, meta_packages, machine=machine)
    with store.transaction():
        add = _placed(session, cluster, plan, surveys)
        changes.change(
            store,
            cluster,
            plan.request,
            add=add,
            leave=[node.name for node in plan.remove],
            machines=plan.machines,
            detail="; ".join(plan.differences),
            **values,
        )
    return add


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
