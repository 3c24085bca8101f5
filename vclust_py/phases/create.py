"""Phase `create`: overlays, seeds, the cluster's network, and running domains."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from vclust_py import clones, egress, homes, identities, ingress, network, timing
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk
from vclust_py.home_server import Share
from vclust_py.hypervisor import Disk, Domain, Files, Hypervisor, Segment
from vclust_py.image import Image
from vclust_py.life import lease
from vclust_py.nodes import (
    command_line,
    domain_name,
    drivers_of,
    facts,
    identity_disks,
    in_turns,
    overlay,
    placed_cluster,
    require_min_nodes,
)
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters, volumes
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.settings import Site
from vclust_py.site.states import SHOULD_RUN, ClusterState, NodeState
from vclust_py.starts import is_clone


def run(session: Session, inputs: Inputs) -> Result:
    """Overlays, seeds, network and running domains for every node; what is there already stays.

    Raises RequestError for a stopped cluster that is due to be removed (`vclust_py.life.lease`); VclustError naming
    host and node: what was made until then goes with `destroy`.
    """
    with placed_cluster(session, inputs.name) as cluster:
        drivers, errors = drivers_of(session, cluster)
        require_min_nodes(cluster, errors)
        if cluster.restoring:
            raise VclustError(
                f"{inputs.name}: its snapshot {cluster.restoring} is half restored",
                f"vclust restore {inputs.name} {cluster.restoring}",
            )
        if not cluster.images:
            raise VclustError(f"{inputs.name}: its images are not made", "run the phase `image` first")
        hosts = list(drivers)
        running = dict(
            zip(hosts, session.side_by_side(lambda host: drivers[host].running(), hosts), strict=True)
        )
        nodes = [node for node in cluster.nodes if node.host in drivers]
        up = {
            node.name
            for node in nodes
            if node.state is not NodeState.FAILED and node.uuid in running[node.host]
        }
        if not inputs.check:
            up -= clones.clear(drivers, [node for node in nodes if node.name in up])
        change = Change(
            {node.name: "running" if node.name in up else "absent" for node in nodes},
            {node.name: "running" for node in nodes},
        )
        if inputs.check:
            return Result(change)
        # A run that was killed may have started nodes and not written that down.
        unnoted = [node.name for node in nodes if node.name in up and node.state is NodeState.PLACED]
        clusters.observe_nodes(session.store, cluster, dict.fromkeys(unnoted, NodeState.STARTED))
        if not change.changed:
            session.networks.protect(cluster.segment, segments(cluster).get(None))
            warnings = open_ways(session, cluster)
            if cluster.state is ClusterState.IMAGES:
                clusters.update(session.store, cluster, state=ClusterState.CREATED)
            return Result(change, warnings=warnings)
        if cluster.state is ClusterState.STOPPED:  # not once a node of it runs again
            now = time.time()
            lease.require_kept(session.site, cluster, now)
            # Its grace time counts anew until it is ready: nobody is to take away what somebody is bringing back.
            ended = None if cluster.ended is None else now
            clusters.update(session.store, cluster, state=ClusterState.CREATED, ended=ended)
        with timing.phase(session.store, cluster, "create") as record:
            record.facts = facts(cluster, drivers)
            for node in cluster.nodes:
                if node.host in errors:  # MinNodes allows it
                    now, why = time.time(), str(errors[node.host])
                    record.node(node.name, now, now, why, state=NodeState.FAILED)
            waiting = [node for node in nodes if node.name not in up]
            warnings = start_nodes(session, cluster, waiting, drivers, record, fork=True)
            clusters.update(session.store, cluster, state=ClusterState.CREATED)
    return Result(change, warnings=warnings)


def start_nodes(
    session: Session,
    cluster: Cluster,
    nodes: Sequence[Node],
    drivers: Mapping[str, Hypervisor],
    record: timing.Recorder,
    *,
    fork: bool = False,
) -> tuple[str, ...]:
    """Make the cluster's network, and start these nodes of it, on their disks where they have some; warnings.

    `drivers` are those of the hosts, by name, that answer: all nodes are on some of them.  With `fork` new nodes may
    start as clones.
    """
    tunnels, out = segments(cluster), way_out(session.site, cluster)
    images = {role: session.images.get(digest) for role, digest in cluster.images.items()}
    folder, volume = clusters.folder(session.store, cluster), volumes.of(session.store, cluster)
    asked = cluster.request
    session.networks.ensure(
        cluster.segment, cluster.network, asked.software.network, asked.router, tunnels.get(None)
    )
    warnings = open_ways(session, cluster)
    identities.ensure(session, cluster, mtu(tunnels), out.files)
    if tunnels:
        ends = {node.host: tunnels[node.machine] for node in cluster.nodes if node.host in drivers}
        session.side_by_side(lambda host: drivers[host].ensure_segment(ends[host]), list(ends))
    # What does not change with the node is asked, and sent, once for each host.
    waiting = in_turns(nodes)
    files = {host: drivers[host].files(folder.name) for host in {node.host for node in waiting}}
    shared = folder / cluster_disk.FILE_NAME

    def prepare(host: str) -> None:
        driver, own = drivers[host], files[host]
        stopped = [node for node in waiting if node.host == host]
        for node in stopped:
            if node.state in (NodeState.FAILED, NodeState.STOPPED):
                driver.remove(node.uuid)
        if own.allocated():  # else none of its nodes was ever started there
            # Later the disk of a node that was ever started may hold a user's work.
            fresh = (NodeState.PLACED, NodeState.FAILED) if cluster.ready is None else (NodeState.PLACED,)
            own.discard(*(overlay(node.name) for node in stopped if node.state in fresh))
            # What an earlier start wrote must not pass for this one's report.
            driver.clear_consoles(folder.name, [domain_name(cluster, node) for node in stopped])
        if shared.exists():
            own.put(shared)

    session.side_by_side(prepare, sorted(files))
    offers = dict[str, clones.Offer]()
    if fork:
        offers = clones.offers(
            session,
            cluster,
            folder,
            images,
            drivers,
            files,
            waiting,
            record.report,
            volume=volume is not None,
        )
    outcomes = dict[str, str]()

    def start(node: Node) -> None:
        begun, driver, own = time.time(), drivers[node.host], files[node.host]
        root = images["root"]
        identity = identity_disks(folder, node.name)
        own.put(folder / identity[0])
        domain = _domain(session.site, cluster, node, images, identity, own, folder.name, driver.accelerator)
        if volume is not None and node.position == 0:
            kept = driver.files(volume.folder)
            kept.blank(volumes.FILE_NAME, volume.size)
            disk = Disk(kept.path(volumes.FILE_NAME), "qcow2")
            domain = replace(domain, disks=(*domain.disks, disk))
        outcome = clones.start(offers.get(node.name), driver, own, domain, node, root)
        if not is_clone(outcome):
            # Larger only where an earlier version has placed the node.
            size = max(node.disk, root.manifest.virtual_size)
            own.overlay(overlay(node.name), root.path.name, size)
            if node.state is not NodeState.PLACED:  # its disk was made before, perhaps for a smaller request
                own.grow(overlay(node.name), size)
            driver.start(domain)
        record.node(node.name, begun, time.time(), outcome, state=NodeState.STARTED)
        outcomes[node.name] = outcome
        record.report("start", len(outcomes), len(waiting))

    session.side_by_side(start, waiting, hosts=len(drivers))
    clones.drop_useless(session, offers, outcomes)
    record.facts["forked"] = sum(map(is_clone, outcomes.values()))
    return warnings


def open_ways(session: Session, cluster: Cluster) -> tuple[str, ...]:
    """The ways out of the cluster's network, which is there, and into it, and to the site's homes; warnings.

    Raises VclustError where it is to have such homes and they cannot be served.
    """
    networks, site = session.networks, session.site
    serve_homes(session, cluster)
    warnings = networks.let_out(cluster.segment, way_out(site, cluster))
    warnings += networks.let_in(cluster.segment, door(site, cluster))
    return warnings + networks.admit(session.store)


def serve_homes(session: Session, cluster: Cluster) -> bool:
    """Have the site's homes served in the cluster's network, which is there; False where nothing was to be done.

    Raises VclustError where they cannot be.
    """
    if not cluster.request.has_site_homes:
        return False
    homes.require(session.site)
    request, store = cluster.request, session.store
    owned = homes.prepare(session.site, cluster.owner, [user.name for user in request.software.users])
    share = Share(
        owned,
        request.software.network,
        cluster.id,
        tuple(one.id for one in clusters.live(store) if one.owner == cluster.owner),
        keep=any(node.state in SHOULD_RUN for node in cluster.nodes),
    )
    return session.networks.serve_homes(cluster.segment, share)


def segments(cluster: Cluster) -> dict[str | None, Segment]:
    """The ends of the cluster's segment by machine, as `network.segments` has them."""
    nodes: dict[str | None, list[str]] = {}
    for node in cluster.nodes:
        nodes.setdefault(node.machine, []).append(node.mac)
    return network.segments(cluster.segment, cluster.network, cluster.request.router, nodes)


def way_out(site: Site, cluster: Cluster) -> egress.Way:
    """The cluster's way out; its own hosts are none of the places that it leads to."""
    return egress.way(site, cluster.request, {node.machine for node in cluster.nodes if node.machine})


def door(site: Site, cluster: Cluster) -> ingress.Door:
    """The cluster's way in for those who are not root."""
    nodes = {node.name: node.address for node in cluster.nodes}
    return ingress.door(site, cluster.owner, cluster.project, nodes)


def mtu(tunnels: dict[str | None, Segment]) -> int:
    return next((end.mtu for end in tunnels.values()), network.MTU)


def _domain(
    site: Site,
    cluster: Cluster,
    node: Node,
    images: dict[str, Image],
    identity: list[str],
    files: Files,
    folder: str,
    accelerator: str,
) -> Domain:
    disks = [Disk(files.path(overlay(node.name)), "qcow2")]
    disks += [
        Disk(files.path(name), "raw", readonly=True, shared=name == cluster_disk.FILE_NAME)
        for name in identity
    ]
    if "bundle" in images:
        disks.append(Disk(files.image(images["bundle"].path.name), "raw", readonly=True))
    return Domain(
        name=domain_name(cluster, node),
        uuid=node.uuid,
        architecture=cluster.request.hardware.architecture,
        cpus=node.cpus,
        memory=node.memory,
        kernel=files.image(images["kernel"].path.name),
        initrd=files.image(images["installer"].path.name),
        command_line=command_line(site, cluster.request.hardware.architecture, accelerator),
        disks=tuple(disks),
        mac=node.mac,
        bridge=cluster.segment,
        folder=folder,
        guest=node.guest,
    )
