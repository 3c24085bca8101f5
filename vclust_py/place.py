"""Phase `place`: which node runs on which host, all or nothing, in one transaction; the plan people see first."""

import json
import sqlite3
import statistics
import uuid
from collections.abc import Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from vclust_py import hypervisor, metapackages, network, seed, state, timing
from vclust_py.cache.reserve import matching, savings
from vclust_py.cache.stored import Stored
from vclust_py.create import FAN_OUT, Connect, overlay, slowest
from vclust_py.errors import CapacityError, VclustError
from vclust_py.hypervisor import Capacity, Host
from vclust_py.image import Catalogue, Image
from vclust_py.image.base import find_base
from vclust_py.image.builder import disk_size, installed_size, layer_key
from vclust_py.image.store import missing
from vclust_py.request import Request
from vclust_py.resolve import Lock
from vclust_py.site import Site
from vclust_py.state import Cluster, Node

OVERHEAD = {"kvm": 64 * 2**20, "tcg": 192 * 2**20, "xen": 16 * 2**20}
"""Host memory of a node beyond its own: QEMU itself, and for emulation its code cache too; with Xen what the
hypervisor keeps of each domain (the QEMU of its disks is in dom0's memory)."""
_NODE_PHASES = ("create", "install", "ready")


@dataclass(frozen=True)
class Room:
    """What a host has left for new nodes; bytes."""

    host: Host
    capacity: Capacity
    cpus: int
    memory: int
    disk: int


@dataclass(frozen=True)
class Estimate:
    """Seconds by phase as past runs of this site foretell them; a phase without past runs is left out."""

    seconds: dict[str, float]
    unknown: tuple[str, ...]


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
    """The VD cache the cluster starts from and what that spares it, as in `Cluster.cache`."""
    download: int
    build: int
    send: int
    base_there: bool
    layer_there: bool
    estimate: Estimate
    changed: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def place(
    site: Site,
    request: Request,
    lock: Lock,
    hosts: Sequence[Host],
    *,
    cache: str = "",
    check: bool = False,
    connect: Connect = hypervisor.connect,
) -> Plan:
    """Give every node of the request a host and write it down, unless `check`.

    `cache` is the digest of the VD cache that the cluster shall start from; what phase `cache` has written down for
    it counts more.  A cluster that is placed already keeps its placement.  A host that does not answer takes no
    node.  Raises CapacityError, with what each host lacks, when not all nodes fit, and RequestError when the network
    is in use.
    """
    with timing.trial(site, request, "place", check=check) as (cluster, _):
        if cluster is not None:
            cache = cluster.cache.get("digest", "")
        start = next((one for one in matching(site, lock, request) if one.digest == cache), None)
        return _place(site, request, lock, hosts, cluster, start, check, connect)


def _place(
    site: Site,
    request: Request,
    lock: Lock,
    hosts: Sequence[Host],
    cluster: Cluster | None,
    start: Stored | None,
    check: bool,
    connect: Connect,
) -> Plan:
    surveys = _surveys(site, hosts, connect)
    strategy = cluster.strategy if cluster else ""
    strategy = strategy or choose_strategy(site, request, lock, start)
    if cluster is not None and cluster.nodes:
        if lock.digest != cluster.lock and not cluster.images and not check:
            state.update(site, cluster, lock=lock.digest)  # resolved anew: see vclust_py.resolve
        chosen = {node.name: node.host for node in cluster.nodes}
        disk = cluster.nodes[0].disk
        return _plan(site, request, lock, strategy, start, chosen, disk, surveys, changed=False)
    network.check_free(request.software.network)
    # What the layer or the packages need may be more than was asked for, and all of it is reserved.
    cache = Catalogue(site).get(start.digest) if start is not None else None
    least_disk = disk_size(lock, cache)
    with state.connect(site) as connection, state.transaction(connection):
        rooms = [_room(site, connection, one, one.capacity) for one in surveys if one.capacity]
        errors = {survey.host.name: survey.error for survey in surveys if survey.error}
        nodes = assign(request, rooms, errors, holders=_holders(site, start, surveys), least_disk=least_disk)
        if not check and cluster is not None:
            _write(connection, cluster.id, nodes)
            foretold = json.dumps(_foretold(site, lock, start, strategy))
            connection.execute(
                "UPDATE clusters SET state = 'placed', lock = ?, strategy = ?, cache = ? WHERE id = ?",
                (lock.digest, strategy, foretold, cluster.id),
            )
            state.remember(connection, cluster.id, lock)
    chosen, disk = {node.name: node.host for node in nodes}, nodes[0].disk
    return _plan(site, request, lock, strategy, start, chosen, disk, surveys, changed=True)


@dataclass(frozen=True)
class _Survey:
    """What a host says of itself; no capacity when it does not answer, and then why."""

    host: Host
    capacity: Capacity | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    written: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Bytes on disk of files of live clusters, by folder and name."""
    error: str = ""


def _surveys(site: Site, hosts: Sequence[Host], connect: Connect) -> list[_Survey]:
    """Ask all hosts, side by side.  Raises VclustError when none answers."""
    if not hosts:
        raise CapacityError("the site has no hosts: its inventory group vm_hosts is empty")
    live: dict[str, set[str]] = {}
    for cluster in state.clusters(site):
        for node in cluster.nodes:
            live.setdefault(node.host, set()).add(state.folder(site, cluster).name)

    def survey(host: Host) -> _Survey:
        try:
            driver = connect(site, host)
            try:
                written = {
                    (folder, name): count
                    for folder in live.get(host.name, ())
                    for name, count in driver.files(folder).allocated().items()
                }
                images = driver.files("").images() if host.machine else {}
                return _Survey(host, driver.capacity(), images, written)
            finally:
                driver.close()
        except VclustError as error:
            return _Survey(host, error=str(error))

    with ThreadPoolExecutor(FAN_OUT) as pool:
        found = list(pool.map(survey, hosts))
    if all(one.error for one in found):
        raise VclustError("\n".join(one.error for one in found))
    return found


def _room(site: Site, connection: sqlite3.Connection, survey: _Survey, capacity: Capacity) -> Room:
    """What is left of a host when every node placed there uses all it asked for."""
    host, overhead = survey.host, OVERHEAD[capacity.accelerator]
    rows = connection.execute(
        "SELECT nodes.*, clusters.name AS cluster_name FROM nodes JOIN clusters ON clusters.id = nodes.cluster"
        " WHERE host = ? AND destroyed IS NULL",
        (host.name,),
    ).fetchall()
    promised = sum(row["memory"] + overhead for row in rows)
    # What is free now must hold what nodes may still take: of memory and disk alike they have taken a part only.
    untaken = sum(max(row["memory"] + overhead - capacity.resident.get(row["uuid"], 0), 0) for row in rows)
    unwritten = 0
    for row in rows:
        folder = f"{row['cluster_name']}.{row['cluster']}"
        unwritten += max(row["disk"] - survey.written.get((folder, overlay(row["name"])), 0), 0)
    return Room(
        host,
        capacity,
        cpus=capacity.cpus * site.cpu_overcommit - sum(row["cpus"] for row in rows),
        memory=min(capacity.memory - promised, capacity.memory_free - untaken),
        disk=capacity.disk_free - unwritten,
    )


def assign(
    request: Request,
    rooms: Sequence[Room],
    errors: Mapping[str, str] | None = None,
    *,
    holders: Set[str] = frozenset(),
    least_disk: int = 0,
) -> list[Node]:
    """Give each node a host: with `Spread: pack` the first one it fits on, else the one with most memory left.

    The `holders`, which have the VD cache, come before others.  `least_disk` are bytes that a node's disk has at least,
    however few were asked for.  Raises CapacityError when not all fit; it says for
    each host why it takes no more; `errors` are those of hosts that did not answer.  Cost: nodes times hosts.
    """
    hardware, left = request.hardware, sorted(rooms, key=lambda room: room.host.name not in holders)
    disk = max(hardware.disk, least_disk)
    nodes: list[Node] = []
    for position, (name, address) in enumerate(zip(request.hostnames, request.addresses, strict=True)):
        fitting = [index for index, room in enumerate(left) if _refusal(request, room, disk, nodes) is None]
        if not fitting:
            reasons = [f"  {room.host.name}: {_refusal(request, room, disk, nodes)}" for room in left]
            reasons += [f"  {host}: does not answer: {error}" for host, error in (errors or {}).items()]
            raise CapacityError(
                f"{request.name}: only {position} of {hardware.number_of_nodes} nodes fit:\n"
                + "\n".join(reasons),
                "ask for less, or destroy a cluster (`vclust list`)",
            )
        if hardware.spread == "pack":
            index = fitting[0]
        else:
            index = max(fitting, key=lambda i: (left[i].host.name in holders, left[i].memory, -i))
        room = left[index]
        left[index] = replace(
            room,
            cpus=room.cpus - hardware.cpus,
            memory=room.memory - hardware.ram - OVERHEAD[room.capacity.accelerator],
            disk=room.disk - disk,
        )
        nodes.append(
            Node(
                position=position,
                name=name,
                host=room.host.name,
                uri=room.host.uri,
                address=str(address),
                mac=seed.mac_of(address),
                uuid=str(uuid.uuid4()),
                cpus=hardware.cpus,
                memory=hardware.ram,
                disk=disk,
                state="placed",
                guest=_guest(room),
            )
        )
    return nodes


def _guest(room: Room) -> str:
    """Which kind of Xen guest a node on this host is."""
    return room.host.guest or next((kind for kind in ("pvh", "pv") if kind in room.capacity.guests), "")


def _refusal(request: Request, room: Room, disk: int, nodes: Sequence[Node]) -> str | None:
    """Why the host takes no further node of the request; None when it does."""
    hardware, capacity = request.hardware, room.capacity
    memory = hardware.ram + OVERHEAD[capacity.accelerator]
    if hardware.architecture != capacity.architecture:
        return f"is {capacity.architecture}, asked for {hardware.architecture}"
    if hardware.cpu_speed is not None and capacity.cpu_speed < hardware.cpu_speed:
        return f"runs at {capacity.cpu_speed / 1e9:.2f} GHz, asked for {hardware.cpu_speed / 1e9:.2f} GHz"
    if room.host.guest and room.host.guest not in capacity.guests:
        return f"runs {' and '.join(capacity.guests) or 'no Xen'} guests, vclust_xen_guest says {room.host.guest}"
    if hardware.spread == "hosts" and any(node.host == room.host.name for node in nodes):
        return "has a node of this cluster already (Spread: hosts)"
    if hardware.cpus > capacity.cpus:
        return f"has {capacity.cpus} CPUs, asked for {hardware.cpus} in one node"
    for what, unit, have, need in (
        ("virtual CPUs", 1, room.cpus, hardware.cpus),
        ("MB of memory", 10**6, room.memory, memory),
        ("MB of disk", 10**6, room.disk, disk),
    ):
        if have < need:
            return f"has {max(have, 0) // unit} {what} left, a node takes {need // unit}"
    return None


def _write(connection: sqlite3.Connection, cluster: int, nodes: Sequence[Node]) -> None:
    for node in nodes:
        values = {"cluster": cluster} | asdict(node)
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        connection.execute(
            f"INSERT INTO nodes ({columns}) VALUES ({marks})",  # noqa: S608 - the names are Node's own fields
            tuple(values.values()),
        )


def choose_strategy(site: Site, request: Request, lock: Lock, start: Stored | None = None) -> str:
    """`once` or `each`: as the request says, else whichever past runs foretell to be sooner.

    Without past runs of both it is `once`, whose work does not grow with the number of nodes.
    """
    asked = request.software.install
    if asked != "auto":
        return asked
    nodes = request.hardware.number_of_nodes
    once = _install_seconds(site, lock, start, "once")
    each = _install_seconds(site, lock, start, "each", nodes=nodes)
    return "each" if once is not None and each is not None and each < once else "once"


def _holders(site: Site, start: Stored | None, surveys: Sequence[_Survey]) -> frozenset[str]:
    """The hosts that have the VD cache already."""
    if start is None:
        return frozenset()
    name = Catalogue(site).get(start.digest).path.name
    return frozenset(one.host.name for one in surveys if not one.host.machine or name in one.images)


def _foretold(site: Site, lock: Lock, start: Stored | None, strategy: str) -> dict[str, Any]:
    """What starting from the cache spares, with the seconds that past unpacking foretells; None: no past runs."""
    spares = savings(lock, start)
    if start is not None:
        rate = _rate(site, "unpack", strategy)
        spares["seconds"] = None if rate is None else round(start.size / rate, 1)
    return spares


def _rate(site: Site, step: str, strategy: str, **facts: Any) -> float | None:
    """Bytes a second of unpacking or configuring, in the builder or in nodes."""
    return timing.median_rate(
        site, "image" if strategy == "once" else "install", step, strategy=strategy, **facts
    )


def _seconds(
    site: Site, lock: Lock, start: Stored | None, strategy: str, phase: str, facts: dict[str, Any]
) -> float | None:
    """Seconds of a phase as past runs foretell them: installing by its bytes, the rest of it by its median."""
    runs = timing.past(site, phase, **facts)
    if not runs:
        return None
    rest = float(
        statistics.median(
            run.seconds - run.facts.get("unpack", 0.0) - run.facts.get("configure", 0.0) for run in runs
        )
    )
    if phase != ("image" if strategy == "once" else "install"):
        return rest
    steps = _install_seconds(site, lock, start, strategy)
    return None if steps is None else rest + steps


def _install_seconds(
    site: Site, lock: Lock, start: Stored | None, strategy: str, **facts: Any
) -> float | None:
    """Seconds of unpacking and configuring that past runs foretell; None where there are none."""
    unpack, configure = (_rate(site, step, strategy, **facts) for step in ("unpack", "configure"))
    left = lock.installed_bytes - (start.size if start is not None else 0)
    if unpack is None or configure is None:
        return None
    configured = start is not None and start.state == "configured"
    return left / unpack + (left if configured else lock.installed_bytes) / configure


def _plan(
    site: Site,
    request: Request,
    lock: Lock,
    strategy: str,
    start: Stored | None,
    placement: dict[str, str],
    disk: int,
    surveys: Sequence[_Survey],
    *,
    changed: bool,
) -> Plan:
    catalogue = Catalogue(site)
    base = find_base(site, lock)
    layer = (
        None
        if base is None or strategy != "once"
        else catalogue.find("layer", layer_key(lock, base.base, metapackages.expand(request, site)))
    )
    held = start.packages if start is not None else frozenset()
    left = tuple(package for package in lock.packages if package.pinned not in held)
    build = 0 if layer is not None else installed_size(left)
    accelerators = {one.host.name: one.capacity.accelerator for one in surveys if one.capacity}
    used = [accelerators[host] for host in placement.values() if host in accelerators]
    facts = {"strategy": strategy, "accelerator": slowest(used) if used else ""}
    seconds: dict[str, float] = {}
    for phase in ("image", *_NODE_PHASES):
        of = {"strategy": strategy} if phase == "image" else {"nodes": len(placement), **facts}
        foretold = _seconds(site, lock, start, strategy, phase, of)
        if phase == "image" and base is not None and (layer is not None or not lock.packages):
            foretold = 0.0
        if foretold is not None and (phase != "image" or base is not None):
            seconds[phase] = foretold
    made = [base.base, base.kernel, base.installer] if base else []
    if layer is not None:
        made += catalogue.chain(layer)
    elif start is not None:
        made += catalogue.chain(catalogue.get(start.digest))
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
        cache=_foretold(site, lock, start, strategy),
        download=sum(package.size for package in to_fetch),
        build=build,
        send=_to_send(made, build, [one for one in surveys if one.host.name in placement.values()]),
        base_there=base is not None,
        layer_there=layer is not None,
        estimate=Estimate(seconds, tuple(name for name in ("image", *_NODE_PHASES) if name not in seconds)),
        changed=changed,
    )


def _to_send(made: Sequence[Image], build: int, surveys: Sequence[_Survey]) -> int:
    """Bytes of image files that hosts on other machines lack; what is yet to be built counts as `build` bytes."""
    sizes = {image.path.name: image.manifest.bytes for image in made}
    return sum(
        build + sum(size for name, size in sizes.items() if name not in survey.images)
        for survey in surveys
        if survey.host.machine
    )
