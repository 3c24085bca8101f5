"""Phase `place`: which node runs on which host, all or nothing, in one transaction; the plan people see first."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from vclust_py import egress, homes, metapackages, quotas, timing
from vclust_py.addresses import mac_of
from vclust_py.cache.matching import savings
from vclust_py.cache.stored import Stored, caches
from vclust_py.change import Change
from vclust_py.errors import CapacityError, RequestError
from vclust_py.estimate import Estimate, choose_strategy, estimate, saved_seconds
from vclust_py.free_capacity import CPUS, DISK, MEMORY, FreeCapacity, free_capacity
from vclust_py.hypervisor import Capacity
from vclust_py.image import Image
from vclust_py.image.base import BaseImages, find_base
from vclust_py.image.builder import disk_size, installed_size, layer_key
from vclust_py.image.store import missing
from vclust_py.lock import PYTHON, Lock
from vclust_py.monitor import Survey, survey
from vclust_py.nodes import facts_of, overlay
from vclust_py.phases import Inputs, Result
from vclust_py.placement import assign, assign_with_volume
from vclust_py.request import Request, Volume, values
from vclust_py.shortage import amounts
from vclust_py.site import clusters, learning, volumes
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.hosts import known_hosts
from vclust_py.site.session import Session


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
    hosts: dict[str, dict[str, Any]]
    """By host its `state` in the inventory, whether it `answers`, what it said of itself (`facts`, as in
    `site.hosts.KnownHost`), the `age` of that in seconds (None: it has never answered) and how many `nodes` of the site
    were there before these.
    """
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
    python: bool
    """Whether nodes will have the Python that Ansible needs there."""
    estimate: Estimate
    quota: tuple[quotas.Limit, ...]
    """Limits that the cluster comes under, with what others of its owner and project use."""


def run(session: Session, inputs: Inputs) -> Result:
    """Give every node of the request a host and write it down, unless `check`.

    The cluster starts from the VD cache that phase `cache` has written down, in check mode from `inputs.cache`.  A
    cluster that is placed already keeps its placement.  A host that does not answer takes no node.  Raises
    CapacityError, with what each host lacks, when not all nodes fit, or with who uses what of a quota that they would
    exceed; and RequestError when the network is in use.
    """
    request = inputs.asked
    lock = Lock.load(session.site, inputs.lock)
    with timing.trial(session.store, request, "place", check=inputs.check) as (cluster, _):
        digest = inputs.cache if cluster is None else cluster.cache.get("digest", "")
        start = next((one for one in caches(session) if one.digest == digest), None) if digest else None
        plan, changed = _place(session, inputs, request, lock, cluster, start)
        if changed and cluster is not None and not inputs.check:
            clusters.update(session.store, cluster, estimate=asdict(plan.estimate))
    change = Change({} if changed else plan.placement, plan.placement)
    # Said by a plan; a create says it when it has tried.
    warnings = egress.missing(session.site) if inputs.check else ()
    return Result(change, {"plan": asdict(plan)}, warnings)


def _place(
    session: Session,
    inputs: Inputs,
    request: Request,
    lock: Lock,
    cluster: Cluster | None,
    start: Stored | None,
) -> tuple[Plan, bool]:
    store = session.store
    cache = session.images.get(start.digest) if start is not None else None
    # What the layer or the packages need may be more than was asked for, and all of it is reserved.
    least_disk = disk_size(lock, cache)
    hardware = request.hardware
    disk = max(hardware.disk, least_disk) if cluster is None or not cluster.nodes else 0

    def disk_wanted(capacity: Capacity) -> int:
        return disk * min(hardware.number_of_nodes, capacity.memory // hardware.ram)

    surveys = survey(session, inputs.hosts, disk_wanted, write=not inputs.check)
    strategy, base = cluster.strategy if cluster else "", find_base(session.site, lock)
    layer = _layer(session, request, lock, base)
    if not strategy and request.software.install == "auto" and layer is not None:
        strategy = "once"  # which has nothing to build any more
    strategy = strategy or choose_strategy(
        store, request, lock, start, [one.capacity.accelerator for one in surveys if one.capacity]
    )
    made = _made(session, base, layer if strategy == "once" else None, start)
    saved = _saved(session, lock, start, strategy)
    if cluster is not None and cluster.nodes:
        if lock.digest != cluster.lock and not cluster.images and not inputs.check:
            clusters.update(store, cluster, lock=lock.digest)  # resolved once more: see phase `resolve`
        under = _limits(session, request, cluster, cluster.nodes[0].disk)
        return _plan(
            session, request, lock, strategy, start, saved, made, cluster.nodes, surveys, under
        ), False
    session.networks.check_free(request.software.network)
    if request.has_site_homes:
        homes.require(session.site)
    errors = {one.host.name: one.error for one in surveys if one.error}
    # The reservation: nobody places between the look at what is placed and the writing down.  A plan reserves nothing.
    with contextlib.nullcontext() if inputs.check else store.transaction():
        under = _limits(session, request, cluster, disk)
        quotas.require(request.name, under)
        free, asked = _free(session, surveys, made), hardware.volume
        if asked is None:
            nodes = assign(request, free, errors, least_disk=least_disk)
        else:
            volume = _volume(session, request, cluster, asked)
            there = None if volume is None else volume.host
            nodes = assign_with_volume(
                request, free, errors, least_disk=least_disk, size=asked.size, there=there
            )
        if not inputs.check and cluster is not None:
            clusters.place(store, cluster, nodes, lock=lock.digest, strategy=strategy, cache=saved)
            if asked is not None:
                volumes.take(store, cluster, asked, nodes[0])
            learning.remember(store, cluster.id, lock)
    return _plan(session, request, lock, strategy, start, saved, made, nodes, surveys, under), True


def _volume(
    session: Session, request: Request, cluster: Cluster | None, asked: Volume
) -> volumes.Volume | None:
    """The owner's volume that the request names, if there is one; raises RequestError when it cannot be had."""
    owner = session.store.user.name if cluster is None else cluster.owner
    found = volumes.find(session.store, owner, asked.name)
    if found is None:
        return None
    if found.user and (cluster is None or found.cluster != cluster.id):
        raise RequestError(
            [f"{request.name}: Volume: {found.name} is in use by the cluster {found.user}"],
            f"name another one, or first: vclust destroy {found.user}",
        )
    if found.size != asked.size:
        there, wanted = values.size_text(found.size), values.size_text(asked.size)
        raise RequestError(
            [f"{request.name}: Volume: {found.name} has {there}, the request says {wanted}"],
            f"say {there}, or first, which loses what is on it: vclust volume remove {found.name}",
        )
    return found


def _limits(session: Session, request: Request, cluster: Cluster | None, disk: int) -> list[quotas.Limit]:
    """The limits that the cluster comes under with nodes of so much disk: those of its owner and the project."""
    site, user, hardware = session.site, session.store.user, request.hardware
    owner, project = (user.name, user.project) if cluster is None else (cluster.owner, cluster.project)
    if not site.has_quota(owner):
        return []
    number = hardware.number_of_nodes
    wanted = quotas.Holding(
        request.name, owner, project, number, number * hardware.cpus, number * hardware.ram, number * disk
    )
    asked = hardware.volume
    if asked is not None and volumes.find(session.store, owner, asked.name) is None:
        wanted = replace(wanted, disk=wanted.disk + asked.size)
    others = [*clusters.holdings(session.store, without=request.name), *volumes.holdings(session.store)]
    return quotas.limits(wanted, request.software.lease, others, site.user_quota, site.project(project))


def _free(
    session: Session, surveys: Sequence[Survey], made: "_Made", changed: Sequence[Node] = ()
) -> list[FreeCapacity]:
    """What each host that has answered has left, of what it had then, with all that is placed there now.

    `changed` are nodes as they are to be, in place of what is written down of them.
    """
    placed, kept = clusters.placed(session.store), volumes.on_hosts(session.store)
    new = {node.uuid: node for node in changed}
    return [
        free_capacity(
            one.host,
            one.capacity,
            [
                (new.get(node.uuid, node), one.written.get((folder, overlay(node.name)), 0))
                for folder, node in placed.get(one.host.name, ())
            ],
            one.host.cpu_overcommit or session.site.cpu_overcommit,
            foreign=one.foreign,
            volumes=[
                (volume.size, one.written.get((volume.folder, volumes.FILE_NAME), 0))
                for volume in kept.get(one.host.name, ())
            ],
            lacks=made.missing_from(one),
        )
        for one in surveys
        if one.capacity
    ]


def require_machines(
    session: Session, request: Request, cluster: Cluster, surveys: Sequence[Survey], nodes: Sequence[Node]
) -> None:
    """Raises CapacityError, with what is missing, unless the hosts of a cluster that is made have space for its `nodes`
    as they are to be: where they are, with other CPUs, memory and disks.

    Within the transaction that writes them down; `request` is for all of them.
    """
    quotas.require(request.name, _limits(session, request, cluster, nodes[0].disk))
    present = {node.uuid: node for node in cluster.nodes}
    errors = {one.host.name: one.error for one in surveys}
    free = {one.host.name: one for one in _free(session, surveys, _Made(None, None, ()), nodes)}
    lines = []
    for host in sorted({node.host for node in nodes}):
        if host not in free:
            lines.append(errors.get(host, f"{host}: is no host of the site any more"))
            continue
        changed = [(node, present[node.uuid]) for node in nodes if node.host == host]
        more = {
            CPUS: sum(new.cpus - old.cpus for new, old in changed),
            MEMORY: sum(new.memory - old.memory for new, old in changed),
            DISK: sum(new.disk - old.disk for new, old in changed),
        }
        left, cpus = free[host].left, free[host].capacity.cpus
        lacks = {what: -left[what] for what, amount in more.items() if amount > 0 and left[what] < 0}
        if more[CPUS] > 0 and request.hardware.cpus > cpus:
            lines.append(f"{host}: {cpus} CPUs, asked for {request.hardware.cpus} in one node")
        elif lacks:
            lines.append(f"{host}: lacks {amounts(lacks)}")
    if lines:
        raise CapacityError(
            "\n  ".join([f"{request.name}: its nodes do not fit where they are:", *lines]),
            "ask for less, or destroy a cluster (`vclust list`)",
        )


def more_nodes(
    session: Session, request: Request, cluster: Cluster, surveys: Sequence[Survey], names: Mapping[int, str]
) -> list[Node]:
    """Hosts for more nodes of a cluster that is made, by their positions; within the transaction that writes them down.

    `request` is for all its nodes; those of `cluster` are as they are to be.  Raises CapacityError as `run` does.
    """
    disk = cluster.nodes[0].disk
    quotas.require(request.name, _limits(session, request, cluster, disk))
    upper = session.images.get(cluster.images["root"])
    stack = [image for image in session.images.chain(upper) if image.manifest.kind != "base"]
    free = _free(session, surveys, _Made(None, None, stack), cluster.nodes)
    if request.hardware.spread == "hosts":
        used = {node.host for node in cluster.nodes}
        free = [one for one in free if one.host.name not in used]
    hardware = replace(request.hardware, number_of_nodes=len(names), disk=disk)
    errors = {one.host.name: one.error for one in surveys if one.error}
    nodes = assign(replace(request, hardware=hardware), free, errors)
    found = []
    for node, (position, name) in zip(nodes, names.items(), strict=True):
        address = request.software.network.network_address + 1 + position
        found.append(replace(node, position=position, name=name, address=str(address), mac=mac_of(address)))
    return found


@dataclass(frozen=True)
class _Made:
    """The images of the cluster that are there already."""

    base: BaseImages | None
    layer: Image | None
    stack: Sequence[Image]
    """The disk layers over the base that its nodes' disks stand on, the upper one first."""

    @property
    def all(self) -> list[Image]:
        return [*((self.base.base, self.base.kernel, self.base.installer) if self.base else ()), *self.stack]

    def missing_from(self, surveyed: Survey) -> int:
        """How many of the upper layers the host lacks; the site manager has them all."""
        if surveyed.host.machine is None:
            return 0
        return sum(image.path.name not in surveyed.images for image in self.stack)


def _layer(session: Session, request: Request, lock: Lock, base: BaseImages | None) -> Image | None:
    """The request's layer, if it is there."""
    if base is None:
        return None
    key = layer_key(lock, base.base, metapackages.expand(request, session.site))
    return session.images.find("layer", key)


def _made(session: Session, base: BaseImages | None, layer: Image | None, start: Stored | None) -> _Made:
    images = session.images
    upper = layer or (images.get(start.digest) if start is not None else None)
    stack = [image for image in images.chain(upper) if image.manifest.kind != "base"] if upper else []
    return _Made(base, layer, stack)


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
    saved: dict[str, Any],
    made: _Made,
    nodes: Sequence[Node],
    surveys: Sequence[Survey],
    under: Sequence[quotas.Limit],
) -> Plan:
    held = start.packages if start is not None else frozenset()
    left = tuple(package for package in lock.packages if package.pinned not in held)
    build = 0 if made.layer is not None else installed_size(left)
    accelerators = {one.host.name: one.capacity.accelerator for one in surveys if one.capacity}
    placement = {node.name: node.host for node in nodes}
    used = set(placement.values())
    receivers = _receivers(made.all, build, [one for one in surveys if one.host.name in used])
    send = sum(receivers.values())
    to_fetch = (*missing(session.site, left if build else ()), *(() if made.base else lock.base))
    return Plan(
        name=request.name,
        lock=lock.digest,
        strategy=strategy,
        placement=placement,
        addresses=dict(zip(request.hostnames, map(str, request.addresses), strict=True)),
        accelerators=accelerators,
        unreachable={one.host.name: one.error for one in surveys if one.error},
        hosts=_hosts(session, surveys),
        disk=nodes[0].disk,
        disk_asked=request.hardware.disk,
        packages=len(lock.packages),
        cache=saved,
        download=sum(package.size for package in to_fetch),
        build=build,
        send=send,
        base_there=made.base is not None,
        layer_there=made.layer is not None,
        python=PYTHON in lock.installed(),
        estimate=estimate(
            session.store,
            lock,
            start,
            strategy,
            facts_of(
                len(nodes), strategy, [accelerators[host] for host in used if host in accelerators], len(used)
            ),
            base_there=made.base is not None,
            layer_there=made.layer is not None,
            send=send,
            receivers=sum(count > 0 for count in receivers.values()),
        ),
        quota=tuple(under),
    )


def _hosts(session: Session, surveys: Sequence[Survey]) -> dict[str, dict[str, Any]]:
    """What is known of each host, also of one that does not answer: as said now, or when it answered last."""
    known = {host.name: host for host in known_hosts(session.store)}
    now = time.time()

    def facts(one: Survey) -> tuple[Mapping[str, Any], float | None]:
        if not one.error:
            return one.facts, 0.0
        earlier = known.get(one.host.name)
        if earlier is None or earlier.answered is None:
            return {}, None
        return earlier.facts, now - earlier.answered

    return {
        one.host.name: {
            "state": one.host.state,
            "answers": not one.error,
            "facts": said,
            "age": age,
            "nodes": known[one.host.name].nodes if one.host.name in known else 0,
        }
        for one, (said, age) in ((one, facts(one)) for one in surveys)
    }


def _receivers(made: Sequence[Image], build: int, surveys: Sequence[Survey]) -> dict[str, int]:
    """By host on another machine the bytes of image files that it lacks; what is yet to be built counts as `build`."""
    sizes = {image.path.name: image.manifest.bytes for image in made}
    return {
        one.host.name: build + sum(size for name, size in sizes.items() if name not in one.images)
        for one in surveys
        if one.host.machine
    }
