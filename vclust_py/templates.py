"""Templates: frozen nodes without identity, of which nodes of clusters start as clones.

A template is an image like others: its disk stands on a layer (or cache, or base), it has its memory and the state of
its devices, and it is found by a key that names all that it fixes.  It is kept, pinned and taken away as they are;
`vclust_py.frozen` says where it lies.
"""

import hashlib
import json
import time
import uuid
from dataclasses import dataclass

from vclust_py import frozen
from vclust_py.guest import template
from vclust_py.hypervisor import Disk, Domain, Forking, memory_bytes
from vclust_py.image import Image, Report
from vclust_py.image.recipe import RECIPES
from vclust_py.site.session import Session

KIND = "template"
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
    return frozen.find(session, KIND, shape.key(forking), shape.memory, forking)


def ensure(session: Session, shape: Shape, forking: Forking, report: Report) -> Image:
    """The template of that shape, made now if it is not there: a node boots until it waits to be somebody.

    Raises VclustError when that does not work, or there is no space for it.
    """
    key = shape.key(forking)

    def make(bench: frozen.Bench) -> Image:
        started = time.monotonic()
        report("freezing a node for others to start from", 0, 0)
        root, kernel, initrd = map(session.images.get, shape.digests)
        disks = [Disk(bench.disk(root, shape.disk), "qcow2")]
        for name, data in template.disks().items():
            disks.append(Disk(bench.small(name, template.ROOM[name], data), "raw", readonly=True))
        domain = Domain(
            name=f"vclust-template-{key[:16]}",
            uuid=str(uuid.UUID(key[:32], version=4)),
            architecture=shape.architecture,
            cpus=shape.cpus,
            memory=shape.memory,
            kernel=bench.image(kernel),
            initrd=bench.image(initrd),
            command_line=shape.command_line,
            disks=tuple(disks),
            mac=template.mac(),
            bridge="",
            folder=bench.folder,
        )
        forking.freeze(domain, bench.path, bench.state, session.site.ready_timeout)
        return bench.take_in(
            suite=root.manifest.suite,
            architecture=root.manifest.architecture,
            backing=root,
            virtual_size=shape.disk,
            build_seconds=time.monotonic() - started,
        )

    return frozen.ensure(session, KIND, key, shape.memory, forking, make, disk=memory_bytes(shape.memory))
