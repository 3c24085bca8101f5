"""Templates of this machine: frozen nodes without identity, of which nodes of clusters start as clones.

A template is an image like others: its disk stands on a layer (or cache, or base), its memory and the state of its
devices lie beside it, and it is found by a key that names all that it fixes.  It is kept, pinned and taken away as they
are.
"""

import hashlib
import json
import logging
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from vclust_py.guest import template
from vclust_py.hypervisor import Disk, Domain, Forking, memory_bytes
from vclust_py.image import Image, Report
from vclust_py.image.builder import create_over
from vclust_py.image.recipe import RECIPES
from vclust_py.image.space import naming_full_disk, require_space
from vclust_py.site.session import Session

_log = logging.getLogger(__name__)

ROLE = "template-"
"""How the roles of templates among a cluster's images begin; it may stand on several."""
ROLES = ("root", "kernel", "installer")
"""Of a cluster's images those that a template is made from."""


@dataclass(frozen=True)
class Shape:
    """What a template fixes of its clones; bytes."""

    digests: tuple[str, ...]
    """Of the images in the order of ROLES."""
    command_line: str
    architecture: str
    cpus: int
    memory: int
    disk: int

    def key(self, forking: Forking) -> str:
        """The key of its template on that host."""
        fixed = [*self.digests, self.command_line, self.architecture, self.cpus, self.memory, self.disk]
        parts = [RECIPES["template"], fixed, forking.identity(), template.version()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def find(session: Session, shape: Shape, forking: Forking) -> Image | None:
    """The template of that shape, whole; one that is not is never found again."""
    return whole(session, "template", shape.key(forking), shape.memory)


def whole(session: Session, kind: str, key: str, memory: int) -> Image | None:
    """The image of frozen machines of that kind and key, of so many bytes of memory; a damaged one is retired."""
    image = session.images.find(kind, key)
    if image is not None and (why := _damage(image, memory)):
        _log.warning("%s: %s", image.path.name, why)
        session.images.retire(image)
        return None
    return image


def _damage(image: Image, memory: int) -> str:
    """What is wrong with the image's further files; empty: nothing."""
    made = image.path.with_suffix(".json").stat().st_mtime_ns
    for path in image.companions.values():
        try:
            status = path.stat()
        except FileNotFoundError:
            return f"{path.name} is not there"
        if status.st_mtime_ns > made:
            return f"{path.name} was written to since it was frozen"
    size = image.companions["memory"].stat().st_size
    if size != memory_bytes(memory):
        return f"its memory has {size} bytes, expected {memory_bytes(memory)}"
    return ""


def ensure(session: Session, shape: Shape, forking: Forking, report: Report) -> Image:
    """The template of that shape, made now if it is not there: a node boots until it waits to be somebody.

    Raises VclustError when that does not work, or there is no space for it.
    """
    if image := find(session, shape, forking):
        return image
    catalogue, key = session.images, shape.key(forking)
    with catalogue.building("template", key) as folder, naming_full_disk(session.site.images):
        if image := find(session, shape, forking):
            return image
        started = time.monotonic()
        report("freezing a node for others to start from", 0, 0)
        require_space(session.site.images, 2 * memory_bytes(shape.memory))
        folder.chmod(0o711)  # QEMU runs as a user of its own
        root, kernel, initrd = map(catalogue.get, shape.digests)
        disk = create_over(catalogue, folder, root, shape.disk)
        disks = [Disk(disk, "qcow2")]
        for name, data in template.disks().items():
            path = folder / f"{name}.img"
            path.write_bytes(data)
            os.truncate(path, template.ROOM[name])
            disks.append(Disk(path, "raw", readonly=True))
        domain = _domain(shape, key, kernel.path, initrd.path, tuple(disks))
        forking.freeze(domain, folder, session.site.ready_timeout)
        return catalogue.add(
            disk,
            kind="template",
            key=key,
            suite=root.manifest.suite,
            architecture=root.manifest.architecture,
            backing=root,
            virtual_size=shape.disk,
            build_seconds=time.monotonic() - started,
            companions={name: folder / name for name in ("memory", "state")},
        )


def _domain(shape: Shape, key: str, kernel: Path, initrd: Path, disks: tuple[Disk, ...]) -> Domain:
    return Domain(
        name=f"vclust-template-{key[:16]}",
        uuid=str(uuid.UUID(key[:32], version=4)),
        architecture=shape.architecture,
        cpus=shape.cpus,
        memory=shape.memory,
        kernel=kernel,
        initrd=initrd,
        command_line=shape.command_line,
        disks=disks,
        mac=template.mac(),
        bridge="",
        folder="",
    )
