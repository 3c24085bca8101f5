"""The VD caches that a site has, as data: what is in each, what it stands on, and who uses it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vclust_py.image import RETIRED, Image
from vclust_py.image.builder import is_packed_with_zstd
from vclust_py.site import clusters, learning
from vclust_py.site.session import Session
from vclust_py.site.store import Store


@dataclass(frozen=True, eq=False)
class Stored:
    """A VD cache that is there.  Sizes in bytes, `used` in Unix time (0: never)."""

    digest: str
    packages: frozenset[str]
    """All in it, those of the caches below included, each `name=version`."""
    size: int
    """Installed bytes of all in it."""
    bytes: int
    """Of its own file."""
    parent: str
    """Digest of the cache it stands on; empty: the base."""
    base: str
    """Digest of its base image."""
    contents: str
    """Digest of the .deb files that it has beyond its parent (`vclust_py.image.manifest.contents`)."""
    suite: str
    architecture: str
    state: str
    """`unpacked` or `configured`."""
    depth: int
    used: float
    uses: int
    chosen: bool
    """By the last recomputation; others stay until their space is needed."""
    clusters: tuple[str, ...]
    """Live clusters that stand on it."""


def caches(session: Session) -> list[Stored]:
    """All valid VD caches that a cluster may start from, oldest first."""
    catalogue = session.images
    images = {image.manifest.digest: image for image in catalogue.images()}
    if not any(image.manifest.kind == "cache" for image in images.values()):
        return []
    uses = learning.uses(session.store)
    users = clusters_on(images, session.store)
    known: dict[str, Stored] = {}

    def add(image: Image) -> Stored | None:
        manifest = image.manifest
        if manifest.digest in known:
            return known[manifest.digest]
        below = images.get(manifest.backing or "")
        parent = add(below) if below is not None and below.manifest.kind == "cache" else None
        if below is None or (below.manifest.kind == "cache") != (parent is not None):
            return None
        row = uses.get(manifest.digest)
        known[manifest.digest] = Stored(
            digest=manifest.digest,
            packages=frozenset(manifest.pinned) | (parent.packages if parent else frozenset()),
            size=manifest.installed_size + (parent.size if parent else 0),
            bytes=manifest.bytes,
            parent=parent.digest if parent else "",
            base=parent.base if parent else below.manifest.digest,
            contents=manifest.contents,
            suite=manifest.suite,
            architecture=manifest.architecture,
            state=manifest.state,
            depth=parent.depth + 1 if parent else 1,
            used=row["used"] if row else 0.0,
            uses=row["count"] if row else 0,
            chosen=bool(row and row["chosen"]),
            clusters=tuple(sorted(users.get(manifest.digest, ()))),
        )
        return known[manifest.digest]

    for image in images.values():
        if image.manifest.kind == "cache":
            add(image)
    return [cache for cache in known.values() if not _retired(images, cache.digest)]


def _retired(images: Mapping[str, Image], digest: str) -> bool:
    """Whether the cache, or one that it stands on, has been retired, or not every host can read it."""
    below: str | None = digest
    while below:
        if images[below].manifest.key == RETIRED or is_packed_with_zstd(images[below].path):
            return True
        below = images[below].manifest.backing
    return False


def clusters_on(images: Mapping[str, Image], store: Store) -> dict[str, set[str]]:
    """Names of the live clusters that stand on each image, or have reserved it; by digest."""
    names: dict[str, set[str]] = {}
    reserved = clusters.reserved_caches(store)
    for name, digests in clusters.images_in_use(store).items():
        for digest in {*digests, reserved.get(name, "")}:
            below: str | None = digest
            while below:
                names.setdefault(below, set()).add(name)
                image = images.get(below)
                below = image.manifest.backing if image else None
    return names


def to_dict(cache: Stored) -> dict[str, Any]:
    """Plain data, for Ansible."""
    return asdict(cache) | {"packages": sorted(cache.packages), "clusters": list(cache.clusters)}
