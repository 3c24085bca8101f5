"""What a site manager has for its running clusters, made again: its machine was restarted, or is a new one.

That is the way in: router namespaces, bridges, packet filter rules, ends of tunnels.  Nodes on hosts run on without.
"""

from dataclasses import dataclass, field

from vclust_py import frozen
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Hypervisor
from vclust_py.nodes import drivers_of, overlay
from vclust_py.phases import Result
from vclust_py.phases.create import door, segments, serve_homes, way_out
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.states import SHOULD_RUN, NodeState

_LOCK_TIMEOUT = 10.0
_NOT_STARTED = (NodeState.PLACED, NodeState.STOPPED)


@dataclass
class Found:
    """What is wrong with a cluster; sentences in `closed` and `warnings`."""

    network: bool = False
    """Its network on this machine is not there, or not the site's homes in it."""
    stopped: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    """Why its ways in and out are not open."""
    warnings: list[str] = field(default_factory=list)
    """Of hosts and nodes."""


def run(session: Session, *, check: bool = False) -> Result:
    """Networks of all clusters with started nodes; nodes that do not run any more are noted as failed.  Networks of
    this site that are no cluster's are taken away (`vclust_py.leftover_networks`).

    A cluster that somebody works on, and a host that does not answer, is warned of and left as it is.  In check mode
    nothing is changed.
    """
    before, after, warnings = dict[str, str](), dict[str, str](), list[str]()
    for name in clusters.names(session.store):
        try:
            with clusters.locked(session.store, name, timeout=_LOCK_TIMEOUT) as cluster:
                if all(node.state in _NOT_STARTED for node in cluster.nodes):
                    continue  # `create` makes everything
                found = repair(session, cluster, check=check)
        except VclustError as error:
            warnings.append(f"{name}: {error}")
            continue
        warnings += [f"{name}: {line}" for line in (*found.closed, *found.warnings)]
        if found.network or found.stopped:
            before[name] = _words("not there" if found.network else "there", [])
            after[name] = _words("there", found.stopped)
    repaired = sorted(after)
    left = [one for one in session.networks.leftovers(session.store) if one.ours]
    for one in left:
        before[one.segment], after[one.segment] = f"of no cluster: {', '.join(one.parts)}", "not there"
        if not check:
            session.networks.remove(one.segment, one.number)
    for folder in frozen.clear(session, _drivers(session), check=check):
        before[folder], after[folder] = "of no image", "not there"
    if not check:
        warnings += session.networks.admit(session.store)
    return Result(
        Change(before, after),
        {"repaired": repaired, "removed": [one.segment for one in left]},
        tuple(warnings),
    )


def _drivers(session: Session) -> list[Hypervisor]:
    """Of those hosts that answer and are known to have clusters' nodes, or templates."""
    nodes = [node for there in clusters.placed(session.store).values() for _, node in there]
    hosts = {Host(node.host, node.uri, node.guest) for node in nodes}
    drivers, _ = session.drivers(hosts | frozen.hosts_of(session.images.images()))
    return list(drivers.values())


def _words(network: str, stopped: list[str]) -> str:
    return f"network {network}{', failed: ' + ', '.join(stopped) if stopped else ''}"


def has_homes(session: Session, cluster: Cluster) -> bool:
    """Whether the site's homes are served to the cluster, or it has none of these."""
    return not cluster.request.has_site_homes or session.networks.has_homes(cluster.segment)


def repair(session: Session, cluster: Cluster, *, check: bool = False) -> Found:
    """What `run` does, for one cluster that the caller has locked."""
    software, tunnels = cluster.request.software, segments(cluster)
    whole = session.networks.is_whole(cluster.segment) and has_homes(session, cluster)
    found = Found(network=not whole)
    if not check:
        session.networks.ensure(
            cluster.segment, cluster.network, software.network, cluster.request.router, tunnels.get(None)
        )
        try:
            serve_homes(session, cluster)
        except VclustError as error:  # the rest is mended all the same
            found.closed.append(str(error))
        found.closed += session.networks.let_out(cluster.segment, way_out(session.site, cluster))
        found.closed += session.networks.let_in(cluster.segment, door(session.site, cluster))
    drivers, errors = drivers_of(session, cluster)
    found.warnings += [f"as it was there: {error}" for error in errors.values()]
    if tunnels and not check:
        ends = {node.host: tunnels[node.machine] for node in cluster.nodes if node.host in drivers}
        for host, end in ends.items():
            try:
                drivers[host].ensure_segment(end)
            except VclustError as error:
                found.warnings.append(f"its network there is as it was: {error}")
    hosts = list(drivers)
    running = session.side_by_side(lambda host: drivers[host].running(), hosts)
    up = dict(zip(hosts, running, strict=True))
    stopped = [
        node
        for node in cluster.nodes
        if node.host in up and node.state in SHOULD_RUN and node.uuid not in up[node.host]
    ]
    found.stopped = [node.name for node in stopped]
    found.warnings += [_stopped(session, cluster, node, drivers[node.host]) for node in stopped]
    if not check:
        clusters.observe_nodes(session.store, cluster, dict.fromkeys(found.stopped, NodeState.FAILED))
    return found


def _stopped(session: Session, cluster: Cluster, node: Node, driver: Hypervisor) -> str:
    folder = clusters.folder(session.store, cluster).name
    if driver.files(folder).length(overlay(node.name)):
        return f"{node.name} does not run on {node.host}; create with the cluster's request starts it again"
    return f"{node.name} does not run on {node.host}, and its disk is not there any more"
