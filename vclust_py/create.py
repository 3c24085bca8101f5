"""Phases `image` and `create`: what the nodes start from, and the running domains."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from vclust_py import hypervisor, metapackages, network, seed, state, timing
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Disk, Domain, Host, Hypervisor
from vclust_py.image import Catalogue, Image, installer
from vclust_py.image.base import ensure_base
from vclust_py.image.builder import ensure_bundle, ensure_layer
from vclust_py.place import installed_bytes
from vclust_py.resolve import Lock
from vclust_py.run import run
from vclust_py.site import Site
from vclust_py.state import Change, Cluster, Node

FAN_OUT = 16
"""Calls under way at once to one site's hosts."""


def domain_name(cluster: Cluster, node: Node) -> str:
    return f"{cluster.name}.{node.name}"


def overlay(site: Site, cluster: Cluster, node: Node) -> Path:
    return state.overlay_path(site, cluster.name, cluster.id, node.name)


def seed_disk(site: Site, cluster: Cluster, node: Node) -> Path:
    # Names that libvirt's AppArmor helper may read end in .qcow2, .img or .iso.
    return state.folder(site, cluster) / f"{node.name}.iso"


def console(site: Site, cluster: Cluster, node: Node) -> Path:
    return state.folder(site, cluster) / f"{node.name}.console"


def prepare_images(site: Site, name: str, *, check: bool = False) -> Change:
    """Make, or find, the base image and the request layer or bundle of a placed cluster.

    Raises VclustError when a build fails or the disk is full; finished images stay for the next try.
    """
    catalogue = Catalogue(site)
    with _placed(site, name) as cluster:
        if cluster.images and all(_there(catalogue, digest) for digest in cluster.images.values()):
            return Change({"images": cluster.images}, {"images": cluster.images})
        if any(overlay(site, cluster, node).exists() for node in cluster.nodes):
            raise VclustError(
                f"{name}: an image its disks stand on is gone from {site.images}",
                f"put it back, or: vclust destroy {name}",
            )
        if check:
            return Change({"images": {}}, {"images": "to be made"})
        lock = Lock.load(site, cluster.lock)
        bundles = metapackages.expand(cluster.request, site)
        with timing.phase(site, cluster, "image") as record:
            known = {image.manifest.digest for image in catalogue.images()}
            record.report("base image")
            base = ensure_base(site, lock, record.report)
            images = {
                "base": base.base, "kernel": base.kernel, "installer": base.installer, "root": base.base
            }  # fmt: skip
            if lock.packages and cluster.strategy == "once":
                images["root"] = ensure_layer(site, lock, base.base, bundles, record.report)
            elif lock.packages:
                images["bundle"] = ensure_bundle(site, lock, bundles, record.report)
            made = {role for role, image in images.items() if image.manifest.digest not in known}
            if made & {"root", "bundle"} and "base" not in made:
                # What `place` foretells from: only runs that built just the request's own part.
                record.bytes, record.facts = installed_bytes(lock), {"strategy": cluster.strategy}
            digests = {role: image.manifest.digest for role, image in images.items()}
            state.update(site, cluster, images=digests, state="images")
    return Change({"images": cluster.images}, {"images": digests})


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
    connect: Callable[[Host], Hypervisor] = hypervisor.connect,
) -> Change:
    """Overlays, seeds, network and running domains for every node; what is there already stays.

    Raises VclustError naming host and node; what was made until then goes with `destroy`.
    """
    with _placed(site, name) as cluster, drivers_of(cluster, connect) as drivers:
        if not cluster.images:
            raise VclustError(f"{name}: its images are not made", "run the phase `image` first")
        running = {host: driver.running() for host, driver in drivers.items()}
        up = {
            node.name for node in cluster.nodes if node.state != "failed" and node.uuid in running[node.host]
        }
        before = {node.name: "running" if node.name in up else "absent" for node in cluster.nodes}
        after = {node.name: "running" for node in cluster.nodes}
        if check or before == after:
            return Change(before, after)
        with timing.phase(site, cluster, "create") as record:
            record.facts = facts(cluster, drivers)
            emulated = record.facts["accelerator"] == "tcg"
            network.ensure(cluster.segment, cluster.request.software.network, cluster.request.router)
            images = {role: Catalogue(site).get(digest) for role, digest in cluster.images.items()}
            _identities(site, cluster)
            total = len(cluster.nodes) - len(up)

            def start(node: Node) -> None:
                begun = time.time()
                if node.state == "failed":
                    drivers[node.host].remove(node.uuid)
                    if cluster.ready is None:  # anew, from nothing; later a disk may hold a user's work
                        overlay(site, cluster, node).unlink(missing_ok=True)
                _overlay(site, cluster, node, images["root"])
                log = console(site, cluster, node)
                with contextlib.suppress(FileNotFoundError):
                    os.truncate(log, 0)  # what an earlier start wrote must not pass for this one's report
                drivers[node.host].start(_domain(site, cluster, node, images, emulated))
                state.set_node_state(site, cluster, node.name, "started")
                record.node(node.name, begun, time.time())

            with ThreadPoolExecutor(FAN_OUT) as pool:
                waiting = [node for node in cluster.nodes if node.name not in up]
                for done, _ in enumerate(pool.map(start, waiting), 1):
                    record.report("start", done, total)
            state.update(site, cluster, state="created")
    return Change(before, after)


@contextlib.contextmanager
def drivers_of(cluster: Cluster, connect: Callable[[Host], Hypervisor]) -> Iterator[dict[str, Hypervisor]]:
    with contextlib.ExitStack() as stack:
        drivers: dict[str, Hypervisor] = {}
        for host in {node.host: Host(node.host, node.uri) for node in cluster.nodes}.values():
            drivers[host.name] = connect(host)
            stack.callback(drivers[host.name].close)
        yield drivers


def facts(cluster: Cluster, drivers: Mapping[str, Hypervisor]) -> dict[str, Any]:
    """What a phase's duration depends on; `place` foretells from past runs with the same facts."""
    accelerators = {driver.capacity().accelerator for driver in drivers.values()}
    return {
        "nodes": len(cluster.nodes),
        "strategy": cluster.strategy,
        "accelerator": "tcg" if "tcg" in accelerators else "kvm",
    }


def _overlay(site: Site, cluster: Cluster, node: Node, root: Image) -> None:
    path = overlay(site, cluster, node)
    if path.exists():
        return
    draft = path.with_suffix(".tmp")
    size = max(node.disk, root.manifest.virtual_size)
    # qemu-img takes the size in bytes; the format of the backing file is named so that it is never guessed.
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", root.path, "-F", "qcow2", draft, str(size)])
    draft.chmod(0o600)  # it will hold keys and hashes; libvirt changes its owner, not its mode
    draft.rename(path)


def _domain(site: Site, cluster: Cluster, node: Node, images: dict[str, Image], emulated: bool) -> Domain:
    disks = [
        Disk(overlay(site, cluster, node), "qcow2"),
        Disk(seed_disk(site, cluster, node), "raw", readonly=True),
    ]
    if "bundle" in images:
        disks.append(Disk(images["bundle"].path, "raw", readonly=True))
    return Domain(
        name=domain_name(cluster, node),
        uuid=node.uuid,
        architecture=cluster.request.hardware.architecture,
        cpus=node.cpus,
        memory=node.memory,
        kernel=images["kernel"].path,
        initrd=images["installer"].path,
        command_line=installer.command_line(cluster.request.hardware.architecture, emulated=emulated),
        disks=tuple(disks),
        mac=node.mac,
        bridge=cluster.segment,
        console=console(site, cluster, node),
    )


def _identities(site: Site, cluster: Cluster) -> None:
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
    )
    seed.build_all(shared, folder)
    for name, key in (("user", user_key), ("admin", admin_key)):
        path = known_hosts.with_name(name)
        path.touch(mode=0o600)
        path.write_text(key.private, encoding="ascii")
    known_hosts.write_text(seed.known_hosts(identities), encoding="ascii")
