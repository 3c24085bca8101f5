"""Phase `image`: what the nodes start from: base image, and request layer or package bundle."""

import contextlib
from dataclasses import asdict

from vclust_py import metapackages, timing
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


def run(session: Session, inputs: Inputs) -> Result:
    """Make, or find, the base image and the request layer or bundle of a placed cluster.

    Raises VclustError when a build fails or the disk is full; finished images stay for the next try.
    """
    name, site = inputs.name, session.site
    with placed_cluster(session, name) as cluster:
        if cluster.images and all(_there(session.images, digest) for digest in cluster.images.values()):
            return Result(Change({"images": cluster.images}, {"images": cluster.images}))
        if any(node.state is not NodeState.PLACED for node in cluster.nodes):
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
                if pin(session, cluster, digests):
                    break
            made = {role for role, image in images.items() if image.manifest.digest not in known}
            if made & {"root", "bundle"} and "base" not in made:
                # What estimates are made from: only runs that built just the request's own part.
                new = images.get("bundle", images["root"])
                record.bytes, record.facts = new.manifest.installed_size, {"strategy": cluster.strategy}
                record.facts |= asdict(took)
            clusters.update(session.store, cluster, state=ClusterState.IMAGES)
    return Result(Change({"images": cluster.images}, {"images": digests}))


def _make(session: Session, cluster: Cluster, lock: Lock, report: Report) -> tuple[dict[str, Image], Took]:
    """The cluster's images by role, made where they are not there, and where the time of the layer went."""
    site = session.site
    bundles = metapackages.expand(cluster.request, site)
    base, took = ensure_base(site, lock, report), Took()
    cache = _cache(session, cluster, report)
    root = cache or base.base
    images = {"base": base.base, "kernel": base.kernel, "installer": base.installer, "root": root}
    if root.manifest.state == "configured" and not missing_from(lock, session.images, root):
        pass  # no packages to add to the base, or a configured cache of just these
    elif cluster.strategy == "once":
        images["root"] = ensure_layer(site, lock, base.base, bundles, report, cache=cache, took=took)
    else:
        images["bundle"] = ensure_bundle(site, lock, bundles, report, cache=cache)
    return images, took


def _cache(session: Session, cluster: Cluster, report: Report) -> Image | None:
    """The cluster's VD cache; one that is damaged is done without."""
    if not cluster.cache:
        return None
    try:
        return session.images.chain(session.images.get(cluster.cache["digest"]))[0]
    except VclustError as error:
        report(f"without its VD cache: {error}", 0, 0)
        clusters.update(session.store, cluster, cache={})
        return None


def _there(images: Catalogue, digest: str) -> bool:
    with contextlib.suppress(VclustError):
        images.get(digest)
        return True
    return False
