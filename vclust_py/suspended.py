"""Suspended installers (paper 4.4): frozen before they look at any disk.

An image like others: the state of the devices, with the memory beside it.  It serves nodes of every layer, with disks
of any size; its key names what it fixes.  It is kept, pinned and taken away as templates are.
"""

import hashlib
import json
import time
import uuid
from dataclasses import astuple, dataclass

from vclust_py import frozen
from vclust_py.guest import template
from vclust_py.hypervisor import Disk, Domain, Forking
from vclust_py.image import Image, Report
from vclust_py.image.installer import SUSPEND
from vclust_py.image.recipe import RECIPES
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
    return frozen.find(session, KIND, shape.key(forking), shape.memory, forking)


def ensure(session: Session, shape: Shape, forking: Forking, report: Report) -> Image:
    """The image of that shape, made now if it is not there: an installer boots until it waits to be a node's.

    Raises VclustError when that does not work, or there is no space for it.
    """
    key = shape.key(forking)

    def make(bench: frozen.Bench) -> Image:
        started = time.monotonic()
        report("suspending an installer for nodes to start from", 0, 0)
        kernel, installer = map(session.images.get, (shape.kernel, shape.installer))
        disks = [bench.small(str(number), _BLANK) for number in range(shape.disks)]
        domain = Domain(
            name=f"vclust-suspended-{key[:16]}",
            uuid=str(uuid.UUID(key[:32], version=4)),
            architecture=shape.architecture,
            cpus=shape.cpus,
            memory=shape.memory,
            kernel=bench.image(kernel),
            initrd=bench.image(installer),
            command_line=f"{shape.command_line} {SUSPEND}",
            disks=tuple(Disk(path, "raw", readonly=True) for path in disks),
            mac=template.mac(),
            bridge="",
            folder=bench.folder,
        )
        forking.suspend(domain, bench.path, bench.state, session.site.ready_timeout)
        return bench.take_in(
            suite=kernel.manifest.suite,
            architecture=kernel.manifest.architecture,
            build_seconds=time.monotonic() - started,
        )

    return frozen.ensure(session, KIND, key, shape.memory, forking, make)
