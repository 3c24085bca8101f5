"""Suspended installers of this machine (paper 4.4): frozen before they look at any disk.

An image like others: the state of the devices, with the memory beside it.  It serves nodes of every layer, with disks
of any size; its key names what it fixes.  It is kept, pinned and taken away as templates are.
"""

import hashlib
import json
import os
import time
import uuid
from dataclasses import astuple, dataclass

from vclust_py import templates
from vclust_py.guest import template
from vclust_py.hypervisor import Disk, Domain, Forking, memory_bytes
from vclust_py.image import Image, Report
from vclust_py.image.installer import SUSPEND
from vclust_py.image.recipe import RECIPES
from vclust_py.image.space import naming_full_disk, require_space
from vclust_py.site.session import Session

KIND = "suspended"
_BLANK = 1 << 20
"""Bytes of the disks in the places of a node's: nobody reads them."""


@dataclass(frozen=True)
class Shape:
    """What a suspended installer fixes of the nodes that go on from it; bytes."""

    kernel: str
    """Digest, as `installer` is."""
    installer: str
    command_line: str
    architecture: str
    cpus: int
    memory: int
    disks: int
    """How many."""

    def key(self, forking: Forking) -> str:
        """The key of its image on that host."""
        parts = [RECIPES[KIND], astuple(self), forking.identity()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def find(session: Session, shape: Shape, forking: Forking) -> Image | None:
    """The image of that shape, whole; one that is not is never found again."""
    return templates.whole(session, KIND, shape.key(forking), shape.memory)


def ensure(session: Session, shape: Shape, forking: Forking, report: Report) -> Image:
    """The image of that shape, made now if it is not there: an installer boots until it waits to be a node's.

    Raises VclustError when that does not work, or there is no space for it.
    """
    if image := find(session, shape, forking):
        return image
    catalogue, key = session.images, shape.key(forking)
    with catalogue.building(KIND, key) as folder, naming_full_disk(session.site.images):
        if image := find(session, shape, forking):
            return image
        started = time.monotonic()
        report("suspending an installer for nodes to start from", 0, 0)
        require_space(session.site.images, memory_bytes(shape.memory))
        folder.chmod(0o711)  # QEMU runs as a user of its own
        kernel, installer = catalogue.get(shape.kernel), catalogue.get(shape.installer)
        disks = [folder / f"{number}.img" for number in range(shape.disks)]
        for path in disks:
            path.touch()
            os.truncate(path, _BLANK)
        domain = Domain(
            name=f"vclust-suspended-{key[:16]}",
            uuid=str(uuid.UUID(key[:32], version=4)),
            architecture=shape.architecture,
            cpus=shape.cpus,
            memory=shape.memory,
            kernel=kernel.path,
            initrd=installer.path,
            command_line=f"{shape.command_line} {SUSPEND}",
            disks=tuple(Disk(path, "raw", readonly=True) for path in disks),
            mac=template.mac(),
            bridge="",
            folder="",
        )
        forking.suspend(domain, folder, session.site.ready_timeout)
        return catalogue.add(
            folder / "state",
            kind=KIND,
            key=key,
            suite=kernel.manifest.suite,
            architecture=kernel.manifest.architecture,
            build_seconds=time.monotonic() - started,
            companions={"memory": folder / "memory"},
        )
