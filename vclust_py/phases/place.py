"""Phase `place`: which node runs on which host, all or nothing, in one transaction; the plan people see first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vclust_py import leftovers, metapackages, timing
from vclust_py.cache.matching import savings
from vclust_py.cache.stored import Stored, caches
from vclust_py.change import Change
from vclust_py.errors import CapacityError, VclustError
from vclust_py.estimate import Estimate, choose_strategy, estimate, saved_seconds
from vclust_py.hypervisor import Capacity, Host
from vclust_py.image import Image
from vclust_py.image.base import find_base
from vclust_py.image.builder import disk_size, installed_size, layer_key
from vclust_py.image.store import missing
from vclust_py.lock import Lock
from vclust_py.nodes import facts_of, overlay
from vclust_py.phases import Inputs, Result
from vclust_py.placement import assign, free_capacity
from vclust_py.request import Request
from vclust_py.site import clusters, learning
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session
from vclust_py.site.states import HostState


@dataclass(frozen=True)
class Plan:
    """What a create would do.  Bytes; `build` and `send` are installed and transferred bytes."""

    name: str
    lock: str
    strategy: str
    placement: dict[str, str]
    addresses: dict[str, str]
    accelerators: dict[str, str]
    unreachable: dict[str, str]
    """Hosts that did not answer, and what went wrong."""
    disk: int
    """Of each node: as asked for, or more where base and packages need it."""
    disk_asked: int
    packages: int
    cache: dict[str, Any]
    """The VD cache the cluster starts from and what that saves, as in `Cluster.cache`."""
    download: int
    build: int
    send: int
    base_there: bool
    layer_there: bool
    estimate: Estimate


@dataclass(frozen=True)
class _Survey:
    """What a host says of itself; no capacity when it does not answer, and then why."""

    host: Host
    capacity: Capacity | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    written: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Bytes on disk of files of live clusters, by folder and name."""
    error: str = ""


def run(session: Session, inputs: Inputs) -> Result:
    """Give every node of the request a host and write it down, unless `check`.

    The cluster starts from the VD cache that phase `cache` has written down, in check mode from `inputs.cache`.  A
    cluster that is placed already keeps its placement.  A host that does not answer takes no node.  Raises
    CapacityError, with what each host lacks, when not all nodes fit, and RequestError when the network is in use.
    """
    request = inputs.asked
    lock = Lock.load(session.site, inputs.lock)
    with timing.trial(session.store, request, "place", check=inputs.check) as (cluster, _):
        digest = inputs.cache if cluster is None else cluster.cache.get("digest", "")
        start = next((one for one in caches(session) if one.digest == digest), None) if digest else None
        plan, changed = _place(session, inputs, request, lock, cluster, start)
    change = Change({} if changed else plan.placement, plan.placement)
    return Result(change, {"plan": asdict(plan)})


def _place(
    session: Session,
    inputs: Inputs,
    request: Request,
    lock: Lock,
    cluster: Cluster | None,
    start: Stored | None,
) -> tuple[Plan, bool]:
    surveys = _surveys(session, inputs.hosts, write=not inputs.check)
    strategy = cluster.strategy if cluster else ""
    strategy = strategy or choose_strategy(session.store, request, lock, start)
    if cluster is not None and cluster.nodes:
        if lock.digest != cluster.lock and not cluster.images and not inputs.check:
            clusters.update(
                session.store, cluster, lock=lock.digest
            )  # resolved once more: see phase `resolve`
        placement = {node.name: node.host for node in cluster.nodes}
        disk = cluster.nodes[0].disk
        return _plan(session, request, lock, strategy, start, placement, disk, surveys), False
    session.networks.check_free(request.software.network)
    # What the layer or the packages need may be more than was asked for, and all of it is reserved.
    cache = session.images.get(start.digest) if start is not None else None
    least_disk = disk_size(lock, cache)
    errors = {survey.host.name: survey.error for survey in surveys if survey.error}
    holders = frozenset(
        survey.host.name
        for survey in surveys
        if cache is not None and (not survey.host.machine or cache.path.name in survey.images)
    )
    with session.store.transaction():
        placed = clusters.placed(session.store)
        left = [
            free_capacity(
                survey.host,
                survey.capacity,
                [
                    (node, survey.written.get((folder, overlay(node.name)), 0))
                    for folder, node in placed.get(survey.host.name, ())
                ],
                survey.host.cpu_overcommit or session.site.cpu_overcommit,
            )
            for survey in surveys
            if survey.capacity
        ]
        nodes = assign(request, left, errors, holders=holders, least_disk=least_disk)
        if not inputs.check and cluster is not None:
            saved = _saved(session, lock, start, strategy)
            clusters.place(session.store, cluster, nodes, lock=lock.digest, strategy=strategy, cache=saved)
            learning.remember(session.store, cluster.id, lock)
    placement = {node.name: node.host for node in nodes}
    return _plan(session, request, lock, strategy, start, placement, nodes[0].disk, surveys), True


def _surveys(session: Session, hosts: Sequence[Host], *, write: bool) -> list[_Survey]:
    """Ask all hosts, side by side, and write down what they say.  Raises VclustError when none answers."""
    if not hosts:
        raise CapacityError("the site has no hosts: its inventory group vm_hosts is empty")
    folders = {
        host: {folder for folder, _ in nodes} for host, nodes in clusters.placed(session.store).items()
    }
    drivers, errors = session.drivers(hosts)
    if write:
        leftovers.clear(session, drivers)  # it takes memory and disk

    def survey(host: Host) -> _Survey:
        if host.name in errors:
            return _Survey(host, error=str(errors[host.name]))
        driver = drivers[host.name]
        try:
            written = {
                (folder, name): count
                for folder in folders.get(host.name, ())
                for name, count in driver.files(folder).allocated().items()
            }
            images = driver.files("").images() if host.machine else {}
            return _Survey(host, driver.capacity(), images, written)
        except VclustError as error:
            return _Survey(host, error=str(error))

    found = session.side_by_side(survey, hosts)
    if write:
        clusters.observe_hosts(session.store, {one.host.name: _observed(one) for one in found})
    if all(one.error for one in found):
        raise VclustError("\n".join(one.error for one in found))
    return found


def _observed(survey: _Survey) -> tuple[HostState, dict[str, Any]]:
    capacity = survey.capacity
    if capacity is None:
        return HostState.UNREACHABLE, {}
    facts = {name: value for name, value in asdict(capacity).items() if name != "resident"}
    return HostState.REACHABLE, facts


def _saved(session: Session, lock: Lock, start: Stored | None, strategy: str) -> dict[str, Any]:
    """What starting from the cache saves, with the seconds that past unpacking lets expect; None: no past runs."""
    saves = savings(lock, start)
    if start is not None:
        saves["seconds"] = saved_seconds(session.store, start, strategy)
    return saves


def _plan(
    session: Session,
    request: Request,
    lock: Lock,
    strategy: str,
    start: Stored | None,
    placement: dict[str, str],
    disk: int,
    surveys: Sequence[_Survey],
) -> Plan:
    site, images = session.site, session.images
    base = find_base(site, lock)
    layer = (
        None
        if base is None or strategy != "once"
        else images.find("layer", layer_key(lock, base.base, metapackages.expand(request, site)))
    )
    held = start.packages if start is not None else frozenset()
    left = tuple(package for package in lock.packages if package.pinned not in held)
    build = 0 if layer is not None else installed_size(left)
    accelerators = {one.host.name: one.capacity.accelerator for one in surveys if one.capacity}
    used = [accelerators[host] for host in placement.values() if host in accelerators]
    facts = facts_of(len(placement), strategy, used)
    made = [base.base, base.kernel, base.installer] if base else []
    if layer is not None:
        made += images.chain(layer)
    elif start is not None:
        made += images.chain(images.get(start.digest))
    to_fetch = (*missing(site, left if build else ()), *(() if base else lock.base))
    return Plan(
        name=request.name,
        lock=lock.digest,
        strategy=strategy,
        placement=placement,
        addresses=dict(zip(request.hostnames, map(str, request.addresses), strict=True)),
        accelerators=accelerators,
        unreachable={one.host.name: one.error for one in surveys if one.error},
        disk=disk,
        disk_asked=request.hardware.disk,
        packages=len(lock.packages),
        cache=_saved(session, lock, start, strategy),
        download=sum(package.size for package in to_fetch),
        build=build,
        send=_to_send(made, build, [one for one in surveys if one.host.name in placement.values()]),
        base_there=base is not None,
        layer_there=layer is not None,
        estimate=estimate(
            session.store,
            lock,
            start,
            strategy,
            facts,
            base_there=base is not None,
            layer_there=layer is not None,
        ),
    )


def _to_send(made: Sequence[Image], build: int, surveys: Sequence[_Survey]) -> int:
    """Bytes of image files that hosts on other machines lack; what is yet to be built counts as `build` bytes."""
    sizes = {image.path.name: image.manifest.bytes for image in made}
    return sum(
        build + sum(size for name, size in sizes.items() if name not in survey.images)
        for survey in surveys
        if survey.host.machine
    )
