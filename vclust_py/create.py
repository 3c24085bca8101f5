"""Phases `image` and `create`: what the nodes start from, and the running domains."""

import contextlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from ipaddress import IPv4Address
from typing import Any

from vclust_py import hypervisor, metapackages, network, seed, state, timing
from vclust_py.cache.catalogue import hold
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Disk, Domain, Files, Host, Hypervisor, Segment
from vclust_py.image import Catalogue, Image, Report, installer
from vclust_py.image.base import ensure_base
from vclust_py.image.builder import Took, beyond, ensure_bundle, ensure_layer
from vclust_py.resolve import Lock
from vclust_py.site import Site
from vclust_py.state import Change, Cluster, Node

FAN_OUT = 16
"""Calls under way at once to one site's hosts."""
ACCELERATORS = ("tcg", "xen", "kvm")
"""Slowest first."""

Connect = Callable[[Site, Host], Hypervisor]


def domain_name(cluster: Cluster, node: Node) -> str:
    return f"{cluster.name}.{node.name}"


# Names of a node's files.  libvirt's AppArmor helper lets QEMU read those that end in .qcow2, .img or .iso.


def overlay(node: str) -> str:
    return f"{node}.qcow2"


def seed_disk(node: str) -> str:
    return f"{node}.iso"


def prepare_images(site: Site, name: str, *, check: bool = False) -> Change:
    """Make, or find, the base image and the request layer or bundle of a placed cluster.

    Raises VclustError when a build fails or the disk is full; finished images stay for the next try.
    """
    catalogue = Catalogue(site)
    with _placed(site, name) as cluster:
        if cluster.images and all(_there(catalogue, digest) for digest in cluster.images.values()):
            return Change({"images": cluster.images}, {"images": cluster.images})
        if any(node.state != "placed" for node in cluster.nodes):
            raise VclustError(
                f"{name}: an image its disks stand on is gone from {site.images}",
                f"put it back, or: vclust destroy {name}",
            )
        if check:
            return Change({"images": {}}, {"images": "to be made"})
        lock = Lock.load(site, cluster.lock)
        with timing.phase(site, cluster, "image") as record:
            known = {image.manifest.digest for image in catalogue.images()}
            record.report("base image")
            while True:
                images, took = _make(site, cluster, lock, record.report)
                digests = {role: image.manifest.digest for role, image in images.items()}
                if hold(site, cluster, digests):
                    break
            made = {role for role, image in images.items() if image.manifest.digest not in known}
            if made & {"root", "bundle"} and "base" not in made:
                # What `place` foretells from: only runs that built just the request's own part.
                new = images.get("bundle", images["root"])
                record.bytes, record.facts = new.manifest.installed_size, {"strategy": cluster.strategy}
                record.facts |= asdict(took)
            state.update(site, cluster, state="images")
    return Change({"images": cluster.images}, {"images": digests})


def _make(site: Site, cluster: Cluster, lock: Lock, report: Report) -> tuple[dict[str, Image], Took]:
    """The cluster's images by role, made where they are not there, and where the time of the layer went."""
    bundles = metapackages.expand(cluster.request, site)
    base, took = ensure_base(site, lock, report), Took()
    cache = _cache(site, cluster, report)
    root = cache or base.base
    images = {"base": base.base, "kernel": base.kernel, "installer": base.installer, "root": root}
    if root.manifest.state == "configured" and not beyond(lock, Catalogue(site), root):
        pass  # no packages to add to the base, or a configured cache of just these
    elif cluster.strategy == "once":
        images["root"] = ensure_layer(site, lock, base.base, bundles, report, cache=cache, took=took)
    else:
        images["bundle"] = ensure_bundle(site, lock, bundles, report, cache=cache)
    return images, took


def _cache(site: Site, cluster: Cluster, report: Report) -> Image | None:
    """The cluster's VD cache; one that is damaged is done without."""
    if not cluster.cache:
        return None
    catalogue = Catalogue(site)
    try:
        return catalogue.chain(catalogue.get(cluster.cache["digest"]))[0]
    except VclustError as error:
        report(f"without its VD cache: {error}", 0, 0)
        state.update(site, cluster, cache={})
        return None


def _there(catalogue: Catalogue, digest: str) -> bool:
    with contextlib.suppress(VclustError):
        catalogue.get(digest)
        return True
    return False


@contextlib.contextmanager
def _placed(site: Site, name: str) -> Iterator[Cluster]:
    with state.held(site, name) as cluster:
        if not cluster.nodes:
            raise VclustError(f"{name}: not placed", "run the phase `place` first")
        yield cluster


def create(
    site: Site,
    name: str,
    *,
    check: bool = False,
    connect: Connect = hypervisor.connect,
) -> Change:
    """Overlays, seeds, network and running domains for every node; what is there already stays.

    Raises VclustError naming host and node; what was made until then goes with `destroy`.
    """
    with _placed(site, name) as cluster, drivers_of(site, cluster, connect) as (drivers, errors):
        demand(cluster, errors)
        if not cluster.images:
            raise VclustError(f"{name}: its images are not made", "run the phase `image` first")
        running = {host: driver.running() for host, driver in drivers.items()}
        nodes = [node for node in cluster.nodes if node.host in drivers]
        up = {node.name for node in nodes if node.state != "failed" and node.uuid in running[node.host]}
        before = {node.name: "running" if node.name in up else "absent" for node in nodes}
        after = {node.name: "running" for node in nodes}
        if check:
            return Change(before, after)
        tunnels = _segments(cluster)
        if before == after:
            network.protect(cluster.segment, tunnels.get(None))
            return Change(before, after)
        with timing.phase(site, cluster, "create") as record:
            record.facts = facts(cluster, drivers)
            images = {role: Catalogue(site).get(digest) for role, digest in cluster.images.items()}
            folder = state.folder(site, cluster)
            network.ensure(
                cluster.segment, cluster.request.software.network, cluster.request.router, tunnels.get(None)
            )
            _identities(site, cluster, network.TUNNEL_MTU if tunnels else network.MTU)
            for node in cluster.nodes:
                if node.host in errors:  # MinNodes allows it
                    state.set_node_state(site, cluster, node.name, "failed")
                    record.node(node.name, time.time(), time.time(), str(errors[node.host]))
            total = len(nodes) - len(up)

            def start(node: Node) -> None:
                begun, driver = time.time(), drivers[node.host]
                files = driver.files(folder.name)
                if node.state == "failed":
                    driver.remove(node.uuid)
                if node.state in ("placed", "failed") and cluster.ready is None:
                    # Anew, from nothing; later a disk may hold a user's work.
                    files.discard(overlay(node.name))
                root = images["root"]
                # Larger only where an earlier version has placed the node.
                size = max(node.disk, root.manifest.virtual_size)
                files.overlay(overlay(node.name), root.path.name, size)
                files.put(folder / seed_disk(node.name))
                # What an earlier start wrote must not pass for this one's report.
                driver.clear_console(folder.name, domain_name(cluster, node))
                driver.start(_domain(site, cluster, node, images, files, folder.name, driver.accelerator))
                state.set_node_state(site, cluster, node.name, "started")
                record.node(node.name, begun, time.time())

            with ThreadPoolExecutor(FAN_OUT) as pool:
                if tunnels:
                    ends = {node.host: tunnels[node.machine] for node in nodes}
                    list(pool.map(lambda host: drivers[host].ensure_segment(ends[host]), ends))
                waiting = [node for node in nodes if node.name not in up]
                for done, _ in enumerate(pool.map(start, waiting), 1):
                    record.report("start", done, total)
            state.update(site, cluster, state="created")
    return Change(before, after)


@contextlib.contextmanager
def drivers_of(
    site: Site, cluster: Cluster, connect: Connect
) -> Iterator[tuple[dict[str, Hypervisor], dict[str, VclustError]]]:
    """The drivers of the cluster's hosts that answer, and why the others do not; by the hosts' names."""
    hosts = list({node.host: Host(node.host, node.uri, node.guest) for node in cluster.nodes}.values())
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(FAN_OUT) as pool:
        opened = [pool.submit(connect, site, host) for host in hosts]
        for one in opened:
            stack.callback(_close, one)
        drivers, errors = {}, {}
        for host, one in zip(hosts, opened, strict=True):
            try:
                drivers[host.name] = one.result()
            except VclustError as error:
                errors[host.name] = error
        yield drivers, errors


def _close(opened: Future[Hypervisor]) -> None:
    if opened.exception() is None:
        opened.result().close()


def demand(cluster: Cluster, errors: Mapping[str, VclustError]) -> None:
    """Raises VclustError when too few nodes are left (MinNodes) without those on hosts that do not answer."""
    left = sum(node.host not in errors for node in cluster.nodes)
    if errors and left < max(cluster.request.hardware.min_nodes, 1):
        raise VclustError("\n".join(map(str, errors.values())))


def facts(cluster: Cluster, drivers: Mapping[str, Hypervisor]) -> dict[str, Any]:
    """What a phase's duration depends on; `place` foretells from past runs with the same facts."""
    return {
        "nodes": len(cluster.nodes),
        "strategy": cluster.strategy,
        "accelerator": slowest(driver.accelerator for driver in drivers.values()),
    }


def slowest(accelerators: Iterable[str]) -> str:
    """The one that decides how long a cluster on such hosts takes."""
    return min(accelerators, key=ACCELERATORS.index)


def _segments(cluster: Cluster) -> dict[str | None, Segment]:
    nodes: dict[str | None, list[str]] = {}
    for node in cluster.nodes:
        nodes.setdefault(node.machine, []).append(node.mac)
    return network.segments(cluster.segment, cluster.request.router, nodes)


def _domain(
    site: Site,
    cluster: Cluster,
    node: Node,
    images: dict[str, Image],
    files: Files,
    folder: str,
    accelerator: str,
) -> Domain:
    disks = [
        Disk(files.path(overlay(node.name)), "qcow2"),
        Disk(files.path(seed_disk(node.name)), "raw", readonly=True),
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
        command_line=" ".join(
            [
                # A host that is busy may take long to connect a disk; the node says so before its time is up.
                installer.command_line(
                    cluster.request.hardware.architecture, accelerator, max(10, site.ready_timeout // 3)
                ),
                *site.kernel_options.split(),
            ]
        ),
        disks=tuple(disks),
        mac=node.mac,
        bridge=cluster.segment,
        folder=folder,
        guest=node.guest,
    )


def _identities(site: Site, cluster: Cluster, mtu: int) -> None:
    """Keys and seeds of all nodes, made once; `keys/known_hosts`, written last, says that they are whole."""
    folder = state.folder(site, cluster)
    known_hosts = folder / "keys" / "known_hosts"
    if known_hosts.exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # nothing can have started without whole seeds
    folder.mkdir()
    folder.chmod(0o711)  # whatever the umask: hypervisor processes walk through it as a user of their own
    known_hosts.parent.mkdir(mode=0o700)
    lock, bundles = Lock.load(site, cluster.lock), metapackages.expand(cluster.request, site)
    user_key, admin_key = seed.cluster_keys()
    identities = tuple(seed.new_node(node.name, IPv4Address(node.address)) for node in cluster.nodes)
    shared = seed.ClusterIdentity(
        request=cluster.request,
        nodes=identities,
        user_key=user_key,
        admin_key=admin_key.public,
        # A package of the base that the closure upgrades is there in its newer version only.
        packages=tuple(f"{name}={version}" for name, version in lock.installed().items()),
        meta_packages=bundles,
        secrets=seed.new_secrets(bundles),
        mtu=mtu,
    )
    seed.build_all(shared, folder)
    for name, key in (("user", user_key), ("admin", admin_key)):
        path = known_hosts.with_name(name)
        path.touch(mode=0o600)
        path.write_text(key.private, encoding="ascii")
    known_hosts.write_text(seed.known_hosts(identities), encoding="ascii")
