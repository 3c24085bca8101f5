"""Phase `create`: overlays, seeds, the cluster's network, and running domains."""

import shutil
import time
from ipaddress import IPv4Address

from vclust_py import clones, egress, ingress, metapackages, network, seed, timing
from vclust_py.access import user_key
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk, fat, trust
from vclust_py.hypervisor import Disk, Domain, Files, Segment
from vclust_py.image import Image
from vclust_py.image.space import naming_full_disk
from vclust_py.lock import Lock
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
    seed_disk,
)
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.settings import Site
from vclust_py.site.states import ClusterState, NodeState
from vclust_py.starts import FORKED


def run(session: Session, inputs: Inputs) -> Result:
    """Overlays, seeds, network and running domains for every node; what is there already stays.

    Raises VclustError naming host and node; what was made until then goes with `destroy`.
    """
    with placed_cluster(session, inputs.name) as cluster:
        drivers, errors = drivers_of(session, cluster)
        require_min_nodes(cluster, errors)
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
        tunnels, out = segments(cluster), way_out(session.site, cluster)
        # A run that was killed may have started nodes and not written that down.
        unnoted = [node.name for node in nodes if node.name in up and node.state is NodeState.PLACED]
        clusters.observe_nodes(session.store, cluster, dict.fromkeys(unnoted, NodeState.STARTED))
        if not change.changed:
            session.networks.protect(cluster.segment, tunnels.get(None))
            warnings = session.networks.let_out(cluster.segment, out)
            warnings += session.networks.let_in(cluster.segment, door(session.site, cluster))
            warnings += session.networks.admit(session.store)
            if cluster.state is ClusterState.IMAGES:
                clusters.update(session.store, cluster, state=ClusterState.CREATED)
            return Result(change, warnings=warnings)
        with timing.phase(session.store, cluster, "create") as record:
            record.facts = facts(cluster, drivers)
            images = {role: session.images.get(digest) for role, digest in cluster.images.items()}
            folder = clusters.folder(session.store, cluster)
            asked = cluster.request
            session.networks.ensure(
                cluster.segment, cluster.network, asked.software.network, asked.router, tunnels.get(None)
            )
            warnings = session.networks.let_out(cluster.segment, out)
            warnings += session.networks.let_in(cluster.segment, door(session.site, cluster))
            warnings += session.networks.admit(session.store)
            _identities(session, cluster, _mtu(tunnels), out)
            for node in cluster.nodes:
                if node.host in errors:  # MinNodes allows it
                    now, why = time.time(), str(errors[node.host])
                    record.node(node.name, now, now, why, state=NodeState.FAILED)
            if tunnels:
                ends = {node.host: tunnels[node.machine] for node in nodes}
                session.side_by_side(lambda host: drivers[host].ensure_segment(ends[host]), list(ends))
            # What does not change with the node is asked, and sent, once for each host.
            files = {host: driver.files(folder.name) for host, driver in drivers.items()}
            waiting = in_turns(node for node in nodes if node.name not in up)
            shared = folder / cluster_disk.FILE_NAME

            def prepare(host: str) -> None:
                driver, own = drivers[host], files[host]
                stopped = [node for node in waiting if node.host == host]
                for node in stopped:
                    if node.state is NodeState.FAILED:
                        driver.remove(node.uuid)
                if own.allocated():  # else none of its nodes was ever started there
                    if cluster.ready is None:  # later a disk may hold a user's work
                        fresh = (NodeState.PLACED, NodeState.FAILED)
                        own.discard(*(overlay(node.name) for node in stopped if node.state in fresh))
                    # What an earlier start wrote must not pass for this one's report.
                    driver.clear_consoles(folder.name, [domain_name(cluster, node) for node in stopped])
                if shared.exists():
                    own.put(shared)

            session.side_by_side(prepare, sorted({node.host for node in waiting}))

            offers = clones.offers(session, cluster, folder, images, drivers, files, waiting, record.report)
            outcomes = dict[str, str]()

            def start(node: Node) -> None:
                begun, driver, own = time.time(), drivers[node.host], files[node.host]
                root = images["root"]
                identity = identity_disks(folder, node.name)
                own.put(folder / identity[0])
                domain = _domain(
                    session.site, cluster, node, images, identity, own, folder.name, driver.accelerator
                )
                outcome = clones.start(offers.get(node.name), driver, own, domain, node)
                if outcome != FORKED:
                    # Larger only where an earlier version has placed the node.
                    size = max(node.disk, root.manifest.virtual_size)
                    own.overlay(overlay(node.name), root.path.name, size)
                    driver.start(domain)
                record.node(node.name, begun, time.time(), outcome, state=NodeState.STARTED)
                outcomes[node.name] = outcome
                record.report("start", len(outcomes), len(waiting))

            session.side_by_side(start, waiting, hosts=len(drivers))
            clones.drop_useless(session, offers, outcomes)
            record.facts["forked"] = sum(outcome == FORKED for outcome in outcomes.values())
            clusters.update(session.store, cluster, state=ClusterState.CREATED)
    return Result(change, warnings=warnings)


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


def _mtu(tunnels: dict[str | None, Segment]) -> int:
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


def _identities(session: Session, cluster: Cluster, mtu: int, out: egress.Way) -> None:
    """Keys, seeds and the cluster's disk, made once; `keys/known_hosts`, written last, says that they are whole."""
    folder, site = clusters.folder(session.store, cluster), session.site
    known_hosts = folder / "keys" / "known_hosts"
    if known_hosts.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # nothing can have started without whole seeds
    folder.mkdir()
    folder.chmod(0o711)  # whatever the umask: hypervisor processes walk through it as a user of their own
    known_hosts.parent.mkdir(mode=0o700)
    lock, bundles = Lock.load(site, cluster.lock), metapackages.expand(cluster.request, site)
    authority, admin_key = trust.Authority(), trust.new_key()
    users = cluster_disk.logins(cluster.request)
    addresses = {node.name: IPv4Address(node.address) for node in cluster.nodes}
    shared = cluster_disk.ClusterIdentity(
        generation=cluster.generation,
        request=cluster.request,
        nodes=addresses,
        authority=authority,
        user_keys={user: authority.new_user_key(user) for user in users},
        admin_key=admin_key.public,
        # A package of the base that the closure upgrades is there in its newer version only.
        packages=tuple(f"{name}={version}" for name, version in lock.installed().items()),
        meta_packages=bundles,
        secrets=cluster_disk.new_secrets(bundles),
        files=out.files,
    )
    disks = {cluster_disk.FILE_NAME: cluster_disk.build(shared)}
    for name, address in addresses.items():
        disks[seed_disk(name)] = seed.build(seed.new_node(name, address, authority), cluster.request, mtu)
    # Signs for nodes and users that come later.
    keys = {"authority": authority.key.private, "admin": admin_key.private}
    for user in users:
        name, key = user_key(cluster.request, user), shared.user_keys[user]
        keys |= {name: key.private, f"{name}-cert.pub": f"{key.certificate}\n"}
    files = {folder / name: data for name, data in disks.items()}
    files |= {known_hosts.with_name(name): text.encode() for name, text in keys.items()}
    with naming_full_disk(folder):
        fat.write_all(files)
        fat.write_all({known_hosts: authority.known_hosts.encode()})
