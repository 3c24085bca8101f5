"""What nodes that run lack of their cluster's packages, and how that comes to them.

Each generation of a cluster's spec has a lock, meta packages, CPUs and memory; the file `keys/installed.json` says
which, so that a node that was told of an earlier generation is given the difference, and nothing else.
"""

import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

from vclust_py.guest import fat
from vclust_py.image import Report
from vclust_py.image.store import fetch
from vclust_py.lock import Lock, Package
from vclust_py.metapackages import MetaPackage
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session

_FILE = "installed.json"


Machine = tuple[int, int, int]
"""Virtual CPUs of a node, bytes of its memory and of its disk."""


class _Held(NamedTuple):
    lock: str
    meta_packages: tuple[str, ...]
    machine: Machine | None = None
    """None: an earlier version has not noted it."""


@dataclass(frozen=True)
class Difference:
    """What a node lacks, and what it has that goes; `new` are names of meta packages that it has not been told of.

    `resized`: nor of its CPUs and memory.
    """

    install: tuple[Package, ...] = ()
    remove: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    resized: bool = False
    replaces: bool = False
    """Whether some of `install` take the place of other versions, which services may be running."""

    @property
    def packages(self) -> bool:
        return bool(self.install or self.remove)


def between(old: Lock, new: Lock) -> tuple[tuple[Package, ...], tuple[str, ...]]:
    """What nodes of the lock `old` are to install to become those of `new`, and the names of what they remove."""
    before, after = old.installed(), new.installed()
    install = tuple(package for package in new.packages if before.get(package.name) != package.version)
    return install, tuple(name for name in before if name not in after)


def note(
    session: Session,
    cluster: Cluster,
    generation: int,
    lock: str,
    meta_packages: Sequence[str],
    *,
    machine: Machine | None = None,
) -> None:
    """Write down what nodes of a generation, the cluster's next, hold: digest of the lock, names of meta packages.

    `machine`: what each is to be, where that is another than now.
    """
    hardware, present = cluster.request.hardware, cluster.request.software.meta_packages
    now = (hardware.cpus, hardware.ram, cluster.nodes[0].disk)
    known = {cluster.generation: _Held(cluster.lock, present, now)}
    # What an earlier version has noted is from before machines could change.
    known |= {
        number: held._replace(machine=held.machine or now)
        for number, held in _noted(session, cluster).items()
    }
    known[generation] = _Held(lock, tuple(meta_packages), machine or now)
    data = {number: held._asdict() for number, held in known.items()}
    fat.write_all({_path(session, cluster): json.dumps(data).encode()})


def has_resized(session: Session, cluster: Cluster) -> bool:
    """Whether the cluster's nodes had other CPUs, memory or disks in an earlier generation."""
    machines = {held.machine for held in _noted(session, cluster).values()} - {None}
    return len(machines) > 1


def difference(session: Session, cluster: Cluster, node: Node) -> Difference:
    """From what the node has been told to what its cluster is now."""
    noted = _noted(session, cluster)
    if not noted:
        return Difference()
    told = noted[max((one for one in noted if one <= node.generation), default=min(noted))]
    new = [name for name in cluster.request.software.meta_packages if name not in told.meta_packages]
    hardware = cluster.request.hardware
    resized = told.machine is not None and told.machine[:2] != (hardware.cpus, hardware.ram)
    if told.lock == cluster.lock:
        return Difference(new=tuple(new), resized=resized)
    old, now = (Lock.load(session.site, digest) for digest in (told.lock, cluster.lock))
    install, remove = between(old, now)
    replaces = not old.installed().keys().isdisjoint(package.name for package in install)
    return Difference(install, remove, tuple(new), resized, replaces)


def write(
    site: Site,
    lock: Lock,
    wanted: Difference,
    meta_packages: Sequence[MetaPackage],
    path: Path,
    report: Report,
) -> None:
    """Write the tar file that a node installs from, as `guest/install-packages` wants it.

    Beside the .debs, the fast copies: `debconf`, the answers of the meta packages; `remove`, names of packages that go,
    one a line; and `replaces`, empty, where services may run what other versions take the place of.  Raises VclustError
    for a package that neither the store nor its source has.
    """
    copies = fetch(site, replace(lock, packages=wanted.install), report)
    answers = "".join(f"{line}\n" for meta in meta_packages for line in meta.debconf)
    texts = {"debconf": answers, "remove": "".join(f"{name}\n" for name in wanted.remove)}
    if wanted.replaces:
        texts["replaces"] = ""
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, text in texts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, BytesIO(text.encode()))
        for package, copy in zip(wanted.install, copies, strict=True):
            archive.add(copy, f"{package.name}_{package.architecture}.deb")


def _path(session: Session, cluster: Cluster) -> Path:
    return clusters.folder(session.store, cluster) / "keys" / _FILE


def _noted(session: Session, cluster: Cluster) -> dict[int, _Held]:
    """By the generation from which on they hold it; nothing before the first change."""
    try:
        found = json.loads(_path(session, cluster).read_bytes())
    except FileNotFoundError:
        return {}
    return {
        int(number): _Held(
            held["lock"],
            tuple(held["meta_packages"]),
            tuple(held["machine"]) if held.get("machine") else None,
        )
        for number, held in found.items()
    }
