"""Which nodes of a cluster start as clones of a template, or from a suspended installer, and starting one.

What does not work boots, and says why.
"""

import contextlib
import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vclust_py import frozen, metapackages, suspended, templates
from vclust_py.cache.pin import pin
from vclust_py.errors import VclustError
from vclust_py.guest import template
from vclust_py.hypervisor import Domain, Files, Forking, Hypervisor
from vclust_py.image import Image, Report
from vclust_py.nodes import command_line, drivers_of, identity_disks, overlay
from vclust_py.site import Site, clusters, learning, records
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState
from vclust_py.starts import BOOTED, FORKED, RESUMED, instead, is_clone
from vclust_py.templates import Shape

_log = logging.getLogger(__name__)

_BOOT, _FREEZE, _CLONE = 10.0, 9.0, 2.0
"""CPU seconds (QEMU emulating) of a boot up to the node's report, of making a template, of a clone up to its report:
what tests/benchmarks/fork.py measures."""
_PROVEN = ("tcg",)
"""Accelerators that clones were tried with: elsewhere nodes are clones only where the request says so."""
_OFTEN = 2
"""Clusters that have stood on a layer until a template of it is made without being asked for."""
_FEWEST = 3
"""Nodes of each way to start that the site must have seen before it chooses between them."""
_LEAST_TIMEOUT = 30.0
"""Seconds that a clone has to its identity, and then (`unreported`) to its report, at least."""


@dataclass(frozen=True)
class Offer:
    """What a node may go on from, a template or a suspended installer, or not, and then why."""

    template: Image | None
    why: str = ""
    timeout: float = 0.0


def offers(
    session: Session,
    cluster: Cluster,
    folder: Path,
    images: Mapping[str, Image],
    drivers: Mapping[str, Hypervisor],
    files: Mapping[str, Files],
    nodes: Sequence[Node],
    report: Report,
    *,
    volume: bool = False,
) -> dict[str, Offer]:
    """By name of those of `nodes` that shall not boot what they go on from, made where that is the sooner way.

    With a `volume` the first node has a disk more than any template has.
    """
    asked = cluster.request.software.start
    fresh = [
        node
        for node in nodes
        if cluster.ready is None
        or not files[node.host].length(overlay(node.name))  # else it has a user's work
    ]
    # What a site that learns nothing starts nodes from does not depend on earlier requests.
    if asked == "boot" or not fresh or (asked == "auto" and session.site.cache_every == 0):
        return {}
    found = dict[str, Offer]()
    if asked != "resume":
        found = _forks(session, cluster, folder, images, drivers, fresh, report, volume=volume)
    if asked != "fork":
        rest = [node for node in fresh if node.name not in found]
        found |= _resumes(session, cluster, folder, images, drivers, rest, report, volume=volume)
    return found


def _forks(
    session: Session,
    cluster: Cluster,
    folder: Path,
    images: Mapping[str, Image],
    drivers: Mapping[str, Hypervisor],
    fresh: Sequence[Node],
    report: Report,
    *,
    volume: bool,
) -> dict[str, Offer]:
    """As `offers`, of new nodes, from templates alone."""
    asked, found = cluster.request.software.start, dict[str, Offer]()
    if why := _excluded(session, cluster, folder, images, fresh[0]):
        return dict.fromkeys((node.name for node in fresh), Offer(None, why)) if asked == "fork" else {}
    if volume and (first := [node for node in fresh if node.position == 0]):
        fresh = [node for node in fresh if node.position]
        if asked == "fork":
            found[first[0].name] = Offer(None, "it has a volume's disk")
    groups = _shapes(session, cluster, images, drivers, fresh)

    def offer(group: tuple[str, Shape]) -> Offer | None:
        host, shape = group
        return _offer(session, cluster, host, drivers[host], shape, len(groups[group]), report)

    return found | _pinned(session, cluster, groups, session.side_by_side(offer, list(groups)))


def wanted(session: Session, cluster: Cluster, drivers: Mapping[str, Hypervisor]) -> bool:
    """Whether later clusters would be sooner with a template that is not there: what this one stands on is asked often.

    A site that learns nothing (`cache_every`) makes none by itself.
    """
    if session.site.cache_every == 0 or cluster.request.software.start != "auto":
        return False
    used = learning.uses(session.store).get(cluster.images.get("root", ""))
    if used is None or used["count"] < _OFTEN:
        return False
    with contextlib.suppress(VclustError):  # whose cluster is ready shall not hear of it
        return bool(_missing(session, cluster, drivers))
    return False


def make(session: Session, name: str, report: Report) -> list[Image]:
    """Make the templates that nodes of the live cluster `name` could have started from, where there is memory for it.

    Raises VclustError as `templates.ensure` does.
    """
    cluster = clusters.get(session.store, name)
    drivers, _ = drivers_of(session, cluster)
    return [
        templates.ensure(session, shape, forking, report)
        for shape, forking, driver in _missing(session, cluster, drivers)
        if driver.capacity().memory_free > 2 * shape.memory
    ]


def _missing(
    session: Session, cluster: Cluster, drivers: Mapping[str, Hypervisor]
) -> list[tuple[Shape, Forking, Hypervisor]]:
    """Shapes of the cluster's nodes without a template, with the hosts that could make it."""
    nodes = [node for node in cluster.nodes if node.host in drivers]
    images = {
        role: session.images.get(digest)
        for role, digest in cluster.images.items()
        if not role.startswith(templates.ROLE)
    }
    folder = clusters.folder(session.store, cluster)
    if not nodes or _excluded(session, cluster, folder, images, nodes[0]):
        return []
    found = []
    for host, shape in _shapes(session, cluster, images, drivers, nodes):
        forking = drivers[host].forking
        if forking is None or drivers[host].accelerator not in _PROVEN:
            continue
        if templates.find(session, shape, forking) is None:
            found.append((shape, forking, drivers[host]))
    return found


def _shapes(
    session: Session,
    cluster: Cluster,
    images: Mapping[str, Image],
    drivers: Mapping[str, Hypervisor],
    nodes: Sequence[Node],
) -> dict[tuple[str, Shape], list[str]]:
    """By host and shape the names of the nodes."""
    shapes: dict[tuple[str, Shape], list[str]] = {}
    for node in nodes:
        architecture = cluster.request.hardware.architecture
        line = command_line(session.site, architecture, drivers[node.host].accelerator)
        # Larger only where an earlier version has placed the node.
        disk = max(node.disk, images["root"].manifest.virtual_size)
        digests = tuple(images[role].manifest.digest for role in templates.ROLES)
        shape = Shape(digests, line, architecture, node.cpus, node.memory, disk)
        shapes.setdefault((node.host, shape), []).append(node.name)
    return shapes


def _offer(
    session: Session,
    cluster: Cluster,
    host: str,
    driver: Hypervisor,
    shape: Shape,
    nodes: int,
    report: Report,
) -> Offer | None:
    """For so many nodes of one shape on one host; None: they boot, and nobody has asked for anything else."""
    forced, forking = cluster.request.software.start == "fork", driver.forking
    if forking is None:
        return Offer(None, f"{host}: nodes do not start as clones there") if forced else None
    if not forced and driver.accelerator not in _PROVEN:
        return None
    try:
        image = templates.find(session, shape, forking)
        if image is None and (forced or _gains(nodes, driver)):
            image = templates.ensure(session, shape, forking, report)
    except VclustError as error:
        _log.warning("no template: %s", error)
        return Offer(None, f"no template: {error}")
    return None if image is None else Offer(image, timeout=_timeout(session.site))


def _pinned(
    session: Session,
    cluster: Cluster,
    groups: Mapping[tuple[str, Any], Sequence[str]],
    offers: Sequence[Offer | None],
) -> dict[str, Offer]:
    """By name of the nodes what their group is offered, if it is there still; the cluster stands on it from now on."""
    found = dict[str, Offer]()
    for names, offer in zip(groups.values(), offers, strict=True):
        if offer is not None and (image := offer.template) is not None:
            # Beside those of other hosts and of earlier starts: disks of nodes stand on them.
            pinned, digest = clusters.get(session.store, cluster.name).images, image.manifest.digest
            if not pin(session, cluster, {**pinned, f"{templates.ROLE}{frozen.role(image)}": digest}):
                offer = Offer(None, f"{image.path.name} was taken away")
        if offer is not None:
            found |= dict.fromkeys(names, offer)
    return found


def _timeout(site: Site) -> float:
    return max(_LEAST_TIMEOUT, site.ready_timeout / 10)


def _resumes(
    session: Session,
    cluster: Cluster,
    folder: Path,
    images: Mapping[str, Image],
    drivers: Mapping[str, Hypervisor],
    nodes: Sequence[Node],
    report: Report,
    *,
    volume: bool,
) -> dict[str, Offer]:
    """As `offers`, of new nodes, from suspended installers alone."""
    groups: dict[tuple[str, suspended.Shape], list[str]] = {}
    for node in nodes:
        architecture = cluster.request.hardware.architecture
        line = command_line(session.site, architecture, drivers[node.host].accelerator)
        kernel, installer = (images[role].manifest.digest for role in ("kernel", "installer"))
        disks = 1 + len(identity_disks(folder, node.name))
        disks += ("bundle" in images) + (volume and node.position == 0)
        shape = suspended.Shape(kernel, installer, line, architecture, node.cpus, node.memory, disks)
        groups.setdefault((node.host, shape), []).append(node.name)

    def offer(group: tuple[str, suspended.Shape]) -> Offer | None:
        host, shape = group
        return _resume(session, cluster, host, drivers[host], shape, len(groups[group]), report)

    return _pinned(session, cluster, groups, session.side_by_side(offer, list(groups)))


def _resume(
    session: Session,
    cluster: Cluster,
    host: str,
    driver: Hypervisor,
    shape: suspended.Shape,
    nodes: int,
    report: Report,
) -> Offer | None:
    """For so many nodes of one shape on one host; None: they boot, and nobody has asked for anything else."""
    forced, forking = cluster.request.software.start == "resume", driver.forking
    if session.site.templates == "refuse":
        return Offer(None, "the site refuses templates") if forced else None
    if forking is None:
        return Offer(None, f"{host}: installers are not suspended there") if forced else None
    try:
        image = suspended.find(session, shape, forking)
        if not forced and not _resuming_gains(session, cluster, driver, nodes, made=image is not None):
            return None
        image = image or suspended.ensure(session, shape, forking, report)
        return Offer(image, timeout=_timeout(session.site))
    except VclustError as error:
        _log.warning("no suspended installer: %s", error)
        return Offer(None, f"no suspended installer: {error}")


def _resuming_gains(
    session: Session, cluster: Cluster, driver: Hypervisor, nodes: int, *, made: bool
) -> bool:
    """Whether so many nodes are sooner from a suspended installer, as like nodes were before; `made`: it is there.

    Else it is made first, which takes no longer than a node that boots until it is installed.
    """
    seconds = records.installed_seconds(
        session.store, len(cluster.nodes), cluster.strategy, driver.accelerator
    )
    booted, resumed = seconds.get(BOOTED, []), seconds.get(RESUMED, [])
    if min(len(booted), len(resumed)) < _FEWEST:
        return False
    booting = statistics.median(booted)
    gain = booting - statistics.median(resumed)
    return gain > 0 if made else gain * nodes / min(nodes, driver.capacity().cpus) > booting


def _excluded(
    session: Session, cluster: Cluster, folder: Path, images: Mapping[str, Image], node: Node
) -> str:
    """Why no node of this cluster can be a clone; empty: they can."""
    if session.site.templates == "refuse":
        return "the site refuses templates"
    if "bundle" in images:
        return "its packages are installed in each node"
    if any(bundle.steps for bundle in metapackages.expand(cluster.request, session.site)):
        # They enable units before systemd starts; a template's has started.
        return "its meta packages have steps, which come before systemd"
    disks = identity_disks(folder, node.name)
    if len(disks) != len(template.ROOM):
        return "its seeds are of an earlier version"
    return _too_large(folder, dict(zip(template.ROOM, disks, strict=True)))


def _too_large(folder: Path, disks: Mapping[str, str]) -> str:
    for name, file in disks.items():
        if (size := (folder / file).stat().st_size) > template.ROOM[name]:
            return f"its disk {file} has {size} bytes, a template's has {template.ROOM[name]}"
    return ""


def _gains(nodes: int, driver: Hypervisor) -> bool:
    """Whether so many nodes are sooner there with a template that is yet to be made."""
    cpus = driver.capacity().cpus
    at_once = min(nodes, cpus)
    return nodes * _BOOT / at_once > _FREEZE + nodes * _CLONE / at_once


def start(
    offer: Offer | None, driver: Hypervisor, files: Files, domain: Domain, node: Node, root: Image
) -> str:
    """Start the node from what it is offered; the outcome.  Unless that is a clone's, it is yet to boot.

    `root`: what the disk of a node stands on that is no clone of a template.
    """
    if offer is None:
        return BOOTED
    if offer.template is None or driver.forking is None:
        return instead(offer.why)
    image, lies = offer.template, frozen.files_of(offer.template)
    try:
        if image.manifest.backing is None:  # an installer
            size = max(node.disk, root.manifest.virtual_size)
            files.overlay(overlay(node.name), root.path.name, size)
            driver.forking.resume(domain, lies.memory, lies.state, offer.timeout)
            return RESUMED
        files.overlay(overlay(node.name), str(lies.disk), image.manifest.virtual_size)
        driver.forking.fork(domain, lies.memory, lies.state, offer.timeout)
        return FORKED
    except VclustError as error:
        _log.warning("%s boots: %s", node.name, error)
        driver.remove(domain.uuid)
        files.discard(overlay(node.name))
        driver.clear_consoles(domain.folder, [domain.name])
        return instead(str(error))


def unreported(session: Session, cluster: Cluster) -> dict[str, float]:
    """By name of the nodes that have started as clones, and are yet to report, the seconds that they have for it."""
    last = records.starts(session.store, cluster.id)
    coming = [node.name for node in cluster.nodes if node.state in (NodeState.STARTED, NodeState.INSTALLED)]
    return {name: _timeout(session.site) for name in coming if last.get(name) == FORKED}


def give_up(session: Session, cluster: Cluster, node: Node, why: str, driver: Hypervisor) -> None:
    """Take away what a clone that does not report has left, and write down why: the node boots instead."""
    _log.warning("%s boots: %s", node.name, why)
    driver.remove(node.uuid)
    driver.files(clusters.folder(session.store, cluster).name).discard(overlay(node.name))
    now = time.time()
    records.add(session.store, [], [(cluster.id, "create", node.name, now, now, 0, instead(why))])


def retire_templates(session: Session, cluster: Cluster) -> None:
    """Nobody finds the templates of this cluster again, of which no clone has reported."""
    for role, digest in cluster.images.items():
        if role.startswith(templates.ROLE):
            with contextlib.suppress(VclustError):  # taken away meanwhile
                session.images.retire(session.images.get(digest))


def clear(drivers: Mapping[str, Hypervisor], nodes: Sequence[Node]) -> set[str]:
    """Names of those of `nodes` that were cut off while they were made as clones; they are removed."""
    cut = set[str]()
    for host, driver in drivers.items():
        fresh = {
            node.uuid: node.name for node in nodes if node.host == host and node.state is NodeState.PLACED
        }
        if fresh and driver.forking is not None:
            cut |= {fresh[uuid] for uuid in driver.forking.clear(fresh)}
    return cut


def drop_useless(session: Session, offers: Mapping[str, Offer], outcomes: Mapping[str, str]) -> None:
    """Nobody finds what no clone has come up from again."""
    tried: dict[str, list[str]] = {}
    for name, offer in offers.items():
        if offer.template is not None and name in outcomes:
            tried.setdefault(offer.template.manifest.digest, []).append(outcomes[name])
    for digest, came in tried.items():
        if not any(map(is_clone, came)):
            with contextlib.suppress(VclustError):  # taken away meanwhile
                session.images.retire(session.images.get(digest))
