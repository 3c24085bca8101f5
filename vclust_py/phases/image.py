"""Phase `image`: what the nodes start from: base image, and request layer or package bundle."""

import contextlib
from dataclasses import asdict

from vclust_py import metapackages, templates, timing
from vclust_py.cache.pin import pin
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image, Report
from vclust_py.image.base import ensure_base
from vclust_py.image.builder import Took, ensure_bundle, ensure_layer, missing_from
from vclust_py.lock import Lock
from vclust_py.nodes import placed_cluster
from vclust_py.phases import Inputs, Result
from vclust_py.run import CommandError
from vclust_py.site import clusters, kept_logs
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState, NodeState

_EARLIER = "earlier"
"""Roles of images that disks of older nodes stand on, with numbers."""


def run(session: Session, inputs: Inputs) -> Result:
    """Make, or find, the base image and the request layer or bundle of a placed cluster.

    Also for new nodes of one whose packages were changed: the older nodes' disks stand on what they stood on.  Raises
    VclustError when a build fails or the disk is full; finished images stay for the next try.
    """
    name, site = inputs.name, session.site
    with placed_cluster(session, name) as cluster:
        there = bool(cluster.images) and all(
            _there(session.images, digest) for digest in cluster.images.values()
        )
        if there and not is_outdated(session, cluster):
            return Result(Change({"images": cluster.images}, {"images": cluster.images}))
        if not there and any(node.state is not NodeState.PLACED for node in cluster.nodes):
            raise VclustError(
                f"{name}: an image its disks stand on is gone from {site.images}",
                f"put it back, or: vclust destroy {name}",
            )
        if inputs.check:
            return Result(Change({"images": {}}, {"images": "to be made"}))
        lock = Lock.load(site, cluster.lock)
        with timing.phase(session.store, cluster, "image") as record:
            known = {image.manifest.digest for image in session.images.images()}
            record.report("base image")
            while True:
                try:
                    images, took = _make(session, cluster, lock, record.report)
                except CommandError as error:  # dpkg, in a layer that is gone then
                    raise kept_logs.failure(session.store, cluster, "image", error) from error
                digests = {role: image.manifest.digest for role, image in images.items()}
                digests |= _earlier(cluster, digests)
                if pin(session, cluster, digests):
                    break
            made = {role for role, image in images.items() if image.manifest.digest not in known}
            if made & {"root", "bundle"} and "base" not in made and cluster.ready is None:
                # What estimates are made from: only runs that built just the request's own part.
                new = images.get("bundle", images["root"])
                record.bytes, record.facts = new.manifest.installed_size, {"strategy": cluster.strategy}
                record.facts |= asdict(took)
            if cluster.ready is None:
                clusters.update(session.store, cluster, state=ClusterState.IMAGES)
    return Result(Change({"images": cluster.images}, {"images": digests}))


def is_outdated(session: Session, cluster: Cluster) -> bool:
    """Whether the cluster has new nodes, and its images are not what they are to start from."""
    if not cluster.images or all(node.state is not NodeState.PLACED for node in cluster.nodes):
        return False
    images = session.images
    held = _held(images, images.get(cluster.images["root"]))
    if "bundle" in cluster.images:
        bundle = images.get(cluster.images["bundle"])
        held |= dict(name.split("=", 1) for name in bundle.manifest.pinned)
    lock = Lock.load(session.site, cluster.lock)
    return held != {package.name: package.version for package in lock.packages}


def _held(images: Catalogue, root: Image) -> dict[str, str]:
    """What the layers over the base have, by name the version."""
    held: dict[str, str] = {}
    for image in reversed(images.chain(root)):
        if image.manifest.kind != "base":
            held |= dict(name.split("=", 1) for name in image.manifest.pinned)
    return held


def _earlier(cluster: Cluster, images: dict[str, str]) -> dict[str, str]:
    """What nodes that are there stand on, which is to stay as long as the cluster."""
    old = [
        cluster.images[role] for role in sorted(cluster.images) if role == "root" or role.startswith(_EARLIER)
    ]
    kept = [digest for digest in dict.fromkeys(old) if digest != images["root"]]
    earlier = {f"{_EARLIER}-{number:03d}": digest for number, digest in enumerate(kept)}
    if any(node.state is not NodeState.PLACED for node in cluster.nodes):
        earlier |= {
            role: digest for role, digest in cluster.images.items() if role.startswith(templates.ROLE)
        }
    return earlier


def _make(session: Session, cluster: Cluster, lock: Lock, report: Report) -> tuple[dict[str, Image], Took]:
    """The cluster's images by role, made where they are not there, and where the time of the layer went."""
    site = session.site
    bundles = metapackages.expand(cluster.request, site)
    base, took = ensure_base(site, lock, report), Took()
    cache = _layer_below(session, cluster, lock) or _cache(session, cluster, lock, report)
    root = cache or base.base
    images = {"base": base.base, "kernel": base.kernel, "installer": base.installer, "root": root}
    if root.manifest.state == "configured" and not missing_from(lock, session.images, root):
        pass  # no packages to add to the base, or a configured cache of just these
    elif cluster.strategy == "once":
        images["root"] = ensure_layer(site, lock, base.base, bundles, report, cache=cache, took=took)
    else:
        images["bundle"] = ensure_bundle(site, lock, bundles, report, cache=cache)
    return images, took


def _layer_below(session: Session, cluster: Cluster, lock: Lock) -> Image | None:
    """The layer that the cluster's nodes stand on, where another one over it makes it what the lock says."""
    if cluster.strategy != "once" or "root" not in cluster.images:
        return None
    root = session.images.get(cluster.images["root"])
    return root if root.manifest.kind == "layer" and _is_part(session.images, root, lock) else None


def _is_part(images: Catalogue, image: Image, lock: Lock) -> bool:
    """Whether the layers have nothing that the lock has not, but for versions that it replaces."""
    return _held(images, image).keys() <= {package.name for package in lock.packages}


def _cache(session: Session, cluster: Cluster, lock: Lock, report: Report) -> Image | None:
    """The cluster's VD cache; one that is damaged, or has what the lock has not any more, is done without."""
    if not cluster.cache:
        return None
    try:
        cache = session.images.chain(session.images.get(cluster.cache["digest"]))[0]
        return cache if _is_part(session.images, cache, lock) else None
    except VclustError as error:
        report(f"without its VD cache: {error}", 0, 0)
        clusters.update(session.store, cluster, cache={})
        return None


def _there(images: Catalogue, digest: str) -> bool:
    with contextlib.suppress(VclustError):
        images.get(digest)
        return True
    return False
