"""What may stay: images that no cluster stands on go when their space is needed, damaged caches go at once, and so do
base images in whose place newer ones are, with what is over them.
"""

import contextlib
import time
from collections.abc import Collection, Mapping, Sequence

from vclust_py import frozen
from vclust_py.cache.status import is_rebuilding
from vclust_py.cache.stored import clusters_on
from vclust_py.errors import VclustError
from vclust_py.image import RETIRED, Image, Report, file_digest
from vclust_py.image.builder import is_packed_with_zstd
from vclust_py.image.manifest import FROZEN
from vclust_py.image.recipe import installer_key, kernel_key
from vclust_py.lock import Lock
from vclust_py.site import clusters, learning
from vclust_py.site.session import Session

DERIVED = ("cache", "layer", "bundle", *FROZEN)
"""Kinds of images that can be made again at any time."""

_GRACE = 60.0
"""Seconds that an image stays for the cluster it was made for, which may not have written it down yet."""
_SETTLED = 3600.0
"""Seconds that an old base image stays for requests which were resolved against it before there was a newer one."""


def drop_damaged(session: Session, report: Report) -> list[str]:
    """Read every cache once.  What is not as its manifest says goes; if a cluster stands on it, once that has gone."""
    catalogue = session.images
    removed = catalogue.clean()
    images = {image.manifest.digest: image for image in catalogue.images()}
    users = clusters_on(images, session.store)
    for number, (digest, image) in enumerate(images.items()):
        if image.manifest.kind != "cache":
            continue
        report("checking the caches", number, len(images))
        why = _damage(image)
        if why and digest in users and image.manifest.key != RETIRED:
            catalogue.retire(image)
            why += f"; create these clusters again: {', '.join(sorted(users[digest]))}"
        elif why and digest not in users:
            catalogue.remove(image)
        if why:
            removed.append(f"{image.path.name}: {why}")
    return removed


def _damage(image: Image) -> str:
    """What is wrong with the image's file; empty: nothing."""
    try:
        if is_packed_with_zstd(image.path):
            return "it is packed with zstd, which not every host can read"
        if file_digest(image.path) == image.manifest.digest:
            return ""
    except FileNotFoundError:  # somebody has taken it away meanwhile
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "its content is not what its manifest says"


def trim(session: Session) -> list[str]:
    """Take away what is too much for the site's spaces, least recently used first; why, a line for each.

    What a live cluster stands on stays, and so does what another image stands on; and caches, while a recomputation
    builds some over others.  Before that, what `drop_superseded` takes away.
    """
    rebuilding = is_rebuilding(session)
    removed = [] if rebuilding else drop_superseded(session)
    return removed + trim_kinds(session, [kind for kind in DERIVED if kind != "cache" or not rebuilding])


def drop_superseded(session: Session) -> list[str]:
    """Take away base images in whose place newer ones are, and what is over them, where no cluster stands on it; why, a
    line for each.

    What was used within the last hour stays, so that no request loses what it was resolved against.
    """
    catalogue, store, settled = session.images, session.store, time.time() - _SETTLED
    with store.transaction():  # as in `trim_kinds`
        view = catalogue.look()
        images = {image.manifest.digest: image for image in view.images}
        bases = [image for image in view.images if image.manifest.kind == "base"]
        newest = {image.manifest.key: image for image in bases}  # the oldest come first
        superseded = {
            base.manifest.digest
            for base in bases
            if newest[base.manifest.key] is not base and made_at(newest[base.manifest.key]) < settled
        }
        chains = [chain for digest in images if (chain := _chain(images, digest))[-1] in superseded]
        if not chains:
            return []
        uses = learning.uses(store)
        kept = {digest for digest, image in images.items() if _last_used(image, uses) >= settled}
        kept |= clusters_on(images, store).keys() | _awaited(session, bases)
        kept |= {refusal.backing for refusal in view.refusals if refusal.newer and refusal.backing}
        gone = []
        for digest, *below in sorted(chains, key=len, reverse=True):  # what is above goes first
            if digest in kept:
                kept.update(below)
            else:
                catalogue.remove(images[digest])
                gone.append(images[digest])
        _drop_boot_images(session, gone, bases)
    frozen.clear_hosts(session, gone)
    return [f"{image.path.name}: there is a newer base image" for image in gone]


def _chain(images: Mapping[str, Image], digest: str) -> list[str]:
    """Digests of the image and of all that it stands on, the lowest last."""
    chain = [digest]
    while (below := images[chain[-1]].manifest.backing) and below in images:
        chain.append(below)
    return chain


def _awaited(session: Session, bases: Sequence[Image]) -> set[str]:
    """Digests of those of these base images that are named by the locks of clusters which have no images yet."""
    wanted = []
    for cluster in clusters.live(session.store):
        if cluster.lock and not cluster.images:
            with contextlib.suppress(VclustError):  # nothing can be made by a lock that is gone
                lock = Lock.load(session.site, cluster.lock)
                wanted.append({package.pinned for package in lock.base})
    return {base.manifest.digest for base in bases if set(base.manifest.pinned) in wanted}


def _drop_boot_images(session: Session, gone: Sequence[Image], bases: Sequence[Image]) -> None:
    """Take away the kernels and installers of base images that are gone, but those that others of `bases` share."""
    left = [base for base in bases if base not in gone]
    for kind, key in (("kernel", kernel_key), ("installer", installer_key)):
        shared = {key(base.manifest.pinned) for base in left}
        for name in {key(image.manifest.pinned) for image in gone if image in bases} - shared:
            if (image := session.images.find(kind, name)) is not None:
                session.images.remove(image)


def trim_kinds(session: Session, kinds: Collection[str]) -> list[str]:
    """As `trim`, of these kinds of images alone."""
    catalogue, removed, gone = session.images, [], list[Image]()
    with session.store.transaction():
        # Whoever takes up an image does so in a transaction as well, after a look whether it is there.
        view = catalogue.look()
        images = {image.manifest.digest: image for image in view.images}
        newer = [refusal for refusal in view.refusals if refusal.newer]
        uses = learning.uses(session.store)
        idle = images.keys() - clusters_on(images, session.store).keys()
        last = {digest: _last_used(image, uses) for digest, image in images.items()}
        chosen = {
            digest
            for digest, row in uses.items()
            if row["chosen"] and digest in images and images[digest].manifest.kind == "cache"
        }
        by_host: dict[str, set[str]] = {}
        for digest, image in images.items():
            if image.manifest.kind in FROZEN:
                by_host.setdefault(image.manifest.place.host if image.manifest.place else "", set()).add(
                    digest
                )
        now = time.time()
        for group, space, name in (
            *((idle & there, session.site.template_space, "template_space") for there in by_host.values()),
            (idle - chosen - set().union(*by_host.values()), session.site.layer_space, "layer_space"),
            (chosen, session.site.cache_space, "cache_space"),
        ):
            group = {digest for digest in group if images[digest].manifest.kind in kinds}
            size = sum(_size(images[digest]) for digest in group)
            while size > space:
                backing = {image.manifest.backing for image in images.values()}
                backing |= {refusal.backing for refusal in newer}
                removable = [digest for digest in group & idle - backing if last[digest] < now - _GRACE]
                if not removable:
                    break
                oldest = images.pop(min(removable, key=lambda digest: last[digest]))
                group.discard(oldest.manifest.digest)
                size -= _size(oldest)
                catalogue.remove(oldest)
                gone.append(oldest)
                removed.append(f"{oldest.path.name}: least recently used beyond {name}, {space >> 20} MB")
        # Images of a newer version have uses of their own; their files' names hold the beginning of their digests.
        kept = {refusal.path.stem.rpartition("-")[2] for refusal in newer}
        learning.forget_uses(
            session.store, [digest for digest in uses.keys() - images.keys() if digest[:24] not in kept]
        )
    frozen.clear_hosts(session, gone)
    return removed


def _size(image: Image) -> int:
    """Bytes that it takes where it lies."""
    return image.manifest.place.bytes if image.manifest.place else image.disk_bytes


def made_at(image: Image) -> float:
    """Unix time at which the image was made; 0 where it has been taken away."""
    with contextlib.suppress(FileNotFoundError):
        return image.path.stat().st_mtime
    return 0.0


def _last_used(image: Image, uses: Mapping[str, learning.Row]) -> float:
    """Unix time of the image's last use; at the least that of its making."""
    row = uses.get(image.manifest.digest)
    return max(row["used"] if row else 0.0, made_at(image))
