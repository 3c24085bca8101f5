"""What may stay: images that no cluster stands on go when their space is needed, damaged caches go at once."""

import contextlib
import time
from collections.abc import Collection, Mapping

from vclust_py.cache.status import is_rebuilding
from vclust_py.cache.stored import clusters_on
from vclust_py.image import RETIRED, Image, Report, file_digest
from vclust_py.image.builder import is_packed_with_zstd
from vclust_py.image.manifest import FROZEN
from vclust_py.site import learning
from vclust_py.site.session import Session

DERIVED = ("cache", "layer", "bundle", *FROZEN)
"""Kinds of images that can be made again at any time."""

_GRACE = 60.0
"""Seconds that an image stays for the cluster it was made for, which may not have written it down yet."""


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
    builds some over others.
    """
    rebuilding = is_rebuilding(session)
    return trim_kinds(session, [kind for kind in DERIVED if kind != "cache" or not rebuilding])


def trim_kinds(session: Session, kinds: Collection[str]) -> list[str]:
    """As `trim`, of these kinds of images alone."""
    catalogue, removed = session.images, []
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
        frozen = {digest for digest, image in images.items() if image.manifest.kind in FROZEN}
        now = time.time()
        for group, space, name in (
            (idle & frozen, session.site.template_space, "template_space"),
            (idle - chosen - frozen, session.site.layer_space, "layer_space"),
            (chosen, session.site.cache_space, "cache_space"),
        ):
            group = {digest for digest in group if images[digest].manifest.kind in kinds}
            size = sum(images[digest].disk_bytes for digest in group)
            while size > space:
                backing = {image.manifest.backing for image in images.values()}
                backing |= {refusal.backing for refusal in newer}
                removable = [digest for digest in group & idle - backing if last[digest] < now - _GRACE]
                if not removable:
                    break
                oldest = images.pop(min(removable, key=lambda digest: last[digest]))
                group.discard(oldest.manifest.digest)
                size -= oldest.disk_bytes
                catalogue.remove(oldest)
                removed.append(f"{oldest.path.name}: least recently used beyond {name}, {space >> 20} MB")
        # Images of a newer version have uses of their own; their files' names hold the beginning of their digests.
        kept = {refusal.path.stem.rpartition("-")[2] for refusal in newer}
        learning.forget_uses(
            session.store, [digest for digest in uses.keys() - images.keys() if digest[:24] not in kept]
        )
    return removed


def _last_used(image: Image, uses: Mapping[str, learning.Row]) -> float:
    """Unix time of the image's last use; at the least that of its making."""
    made, row = 0.0, uses.get(image.manifest.digest)
    with contextlib.suppress(FileNotFoundError):  # taken away meanwhile
        made = image.path.stat().st_mtime
    return max(row["used"] if row else 0.0, made)
