"""What vclust needs of a hypervisor host.  One file for each driver; `connect` picks it by the connection URI.

qemu        QEMU: KVM where it works, emulation where not
xen         Xen, PV and PVH
driver      what the drivers do alike with a host: the site manager itself, or another machine
domains     what they do alike with a domain
segments    a cluster's segment on another machine
local       files of a cluster on the site manager itself
remote_files  and on a host that is another machine, in folders of its storage
forking     templates, suspended installers, and clones of them
remote_forking  the same on another machine
xen_forking  suspended installers of a Xen host, and nodes that go on from them
cloning     what these do alike: what is said to such a machine, and what it says
agent       scripts for nodes that run
connection  libvirt calls that end: each in a bounded time, in an error that names the host
certificates  why TLS to a host fails
daemon, kvm libvirt's daemons where no systemd looks after them; whether KVM works
"""

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from vclust_py.errors import VclustError
from vclust_py.network_hook import MTU
from vclust_py.site import Site

ROLL_OUT = "run the roll-out: ansible-playbook playbooks/site.yml"
"""What people are told to do about a host."""
HOST_ROOT = Path("/var/lib/vclust")
"""Where a host that is not the site manager keeps its files; the roll-out makes it (role vm_host)."""

MEMORY, CONSOLE = "memory", "console"
"""Names of files in the folder in which a machine is frozen."""


def console_file(domain: str) -> str:
    """Name of the file in its cluster's folder that has what a domain of QEMU has written to its console."""
    return f"{domain}.console"


@dataclass(frozen=True)
class Host:
    """A hypervisor machine of the inventory: its name there and its libvirt URI (`vclust_libvirt_uri`)."""

    name: str
    uri: str = "qemu:///system"
    guest: str = ""
    """Xen: `pv` or `pvh` (`vclust_xen_guest`); empty: pvh where the host can, else pv."""
    rack: str = ""
    """The rack or switch it is at (`vclust_rack`): the chain visits one after the other."""
    state: str = "active"
    """`active`, or `drain`: no new nodes (`vclust_host_state`)."""
    cpu_overcommit: int = 0
    """Virtual CPUs for each of its own (`vclust_cpu_overcommit`); 0: as the site's setting says."""

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Host":
        return cls(
            str(mapping["name"]),
            str(mapping.get("uri") or cls.uri),
            str(mapping.get("guest") or cls.guest),
            str(mapping.get("rack") or cls.rack),
            str(mapping.get("state") or cls.state),
            int(mapping.get("cpu_overcommit") or cls.cpu_overcommit),
        )

    @property
    def machine(self) -> str | None:
        """Name or address in the URI; None when the host is the site manager itself."""
        return urlsplit(self.uri).hostname


@dataclass(frozen=True)
class Capacity:
    """What a host has and what is free of it now.  Bytes, Hz."""

    architecture: str
    cpus: int
    cpu_speed: int
    memory: int
    memory_free: int
    """With Xen the hypervisor's, as dom0's own memory is not for guests."""
    resident: Mapping[str, int]
    """Memory that running domains hold already, by UUID."""
    disk_free: int
    """Of the file system for the nodes' disks."""
    accelerator: str
    """kvm, tcg (emulation) or xen."""
    guests: tuple[str, ...] = ()
    """Xen: pv, pvh, or both."""
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Virtual CPUs and memory that running domains may use at most, by UUID."""


@dataclass(frozen=True)
class Disk:
    """`path` is on the host.  `shared`: a read-only file of the cluster's that its other domains have too."""

    path: Path
    format: str  # qcow2 | raw
    readonly: bool = False
    shared: bool = False


@dataclass(frozen=True)
class Domain:
    """A node as the hypervisor sees it; memory in bytes, disks in the order the guest sees them.

    Paths are on the host.  `folder` is the name of the cluster's folder (see `Files`).
    """

    name: str
    uuid: str
    architecture: str
    cpus: int
    memory: int
    kernel: Path
    initrd: Path
    command_line: str
    disks: tuple[Disk, ...]
    mac: str
    bridge: str
    folder: str
    guest: str = ""


def memory_bytes(memory: int) -> int:
    """What a domain that asks for `memory` bytes gets: libvirt counts whole MiB."""
    return -(-memory // 2**20) * 2**20


@dataclass(frozen=True)
class Segment:
    """A cluster's layer-2 segment as one host sees it: its bridge's name, VXLAN number and the other members."""

    name: str
    vni: int
    local: IPv4Address
    peers: Mapping[IPv4Address, tuple[str, ...]]
    """Addresses of the other machines: hardware addresses of what is there (nodes; on the site manager the router)."""
    mtu: int = MTU
    """Bytes of a packet in it."""


class Files(Protocol):
    """The files of one cluster on one host, and the images there.

    Every call raises VclustError naming the host when it is refused or not answered; a full disk is said as such.
    """

    def path(self, name: str) -> Path:
        """Where the cluster's file `name` is, or would be."""
        ...

    def image(self, name: str) -> Path:
        """Where the image file `name` is, or would be."""
        ...

    def images(self) -> dict[str, int]:
        """Image files that are there, whole: name → bytes."""
        ...

    def discard_image(self, name: str) -> None:
        """Remove one image file, if it is there."""
        ...

    def put(self, source: Path) -> None:
        """Bring the site manager's file `source` here under its own name; what is there already is replaced."""
        ...

    def overlay(self, name: str, backing: str, size: int, backing_format: str = "qcow2") -> None:
        """Make the qcow2 overlay `name`, for root only, over the image `backing` or the file of that path; no change
        when it is there.
        """
        ...

    def virtual_size(self, name: str) -> int:
        """Bytes of the disk that the cluster's qcow2 file `name` is to a guest; it may be in use."""
        ...

    def grow(self, name: str, size: int) -> None:
        """Make the disk that the cluster's qcow2 file `name` is, which nobody uses, `size` bytes long.

        No change when it is as long already.
        """
        ...

    def blank(self, name: str, size: int) -> None:
        """Make the empty qcow2 file `name`, for root only; no change when it is there."""
        ...

    def copy(self, source: str, target: str) -> None:
        """Copy the cluster's qcow2 file `source`, that nobody writes, to `target`; what is there already is replaced.

        On the site manager the copy stands on the same image, elsewhere it has all that is in it.
        """
        ...

    def length(self, name: str) -> int:
        """Bytes of a file of the cluster; 0 when it is not there."""
        ...

    def read(self, name: str, position: int) -> bytes:
        """A file of the cluster from byte `position` on, a negative one counted from its end; empty when it is not
        there.  At most 1 MiB: more is for the next look.
        """
        ...

    def allocated(self) -> dict[str, int]:
        """Files of the cluster: name → bytes on disk."""
        ...

    def discard(self, *names: str) -> None:
        """Remove those of these files of the cluster that are there."""
        ...

    def remove(self) -> None:
        """Remove the cluster's folder and all in it, if it is there."""
        ...


class Workplace(Files, Protocol):
    """A folder on a host that is another machine, for what is frozen there."""

    def make_raw(self, name: str, size: int, data: bytes = b"", owner: tuple[int, int] = (0, 0)) -> None:
        """Make the file `name` of `size` bytes, which begins with `data`; `owner` is its user and group."""
        ...

    def free(self) -> int:
        """Bytes left on the folder's file system."""
        ...

    def stamp(self, name: str) -> str:
        """The file's bytes and the time of its last change, in words; empty when it is not there."""
        ...


class Forking(Protocol):
    """Templates and clones on one host.  Every call raises VclustError, naming the host, for what does not work.

    A `state` is a file of the site manager's, other paths are on the host.
    """

    host: Host

    def identity(self) -> str:
        """Digest of what a frozen machine can go on with only: emulator, accelerator and processor of this host."""
        ...

    def workplace(self, folder: str) -> Workplace | None:
        """The host's folder of that name; None: it is the site manager itself, and has what is frozen in its images."""
        ...

    def workplaces(self) -> list[str]:
        """Names of all folders beside that; empty on the site manager itself."""
        ...

    def freeze(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        """Boot `domain` until its agent waits (at most `timeout` s each way), write its `memory` into `folder`, and
        the state of its devices.  The domain has gone when this returns, and goes if this process ends.
        """
        ...

    def fork(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        """Start `domain` as a clone of what was frozen, and wait at most `timeout` s for its identity.

        It is defined as one that boots: started again, it does.  Its disks must be like the template's.
        """
        ...

    def suspend(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        """As `freeze`, of an installer that waits before it looks at any disk."""
        ...

    def resume(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        """Start `domain` from a suspended installer, and wait at most `timeout` s until that has seen disks and network
        card.  Of disks it must have as many as the frozen one had.

        It is defined as one that boots: started again, it does.
        """
        ...

    def clear(self, uuids: Iterable[str]) -> list[str]:
        """Remove those of these domains, new nodes, that are clones cut off before they ran."""
        ...


class Hypervisor(Protocol):
    """One host.  Every call raises VclustError naming the host when the hypervisor refuses or does not answer."""

    accelerator: str
    """As in Capacity."""
    forking: Forking | None
    """How nodes start as clones there; None: they boot."""

    def capacity(self) -> Capacity: ...

    def versions(self) -> dict[str, str]:
        """Of `libvirt` on the host and of its `hypervisor`, that with its name."""
        ...

    def running(self) -> set[str]:
        """UUIDs of the domains that run."""
        ...

    def processor_seconds(self) -> dict[str, float]:
        """By UUID of each domain that runs what it has used of processors since its start."""
        ...

    def machine(self, uuid: str) -> tuple[int, int] | None:
        """Virtual CPUs and bytes of memory that the domain was started with; None when it does not run."""
        ...

    def files(self, folder: str) -> Files:
        """The files of the cluster whose folder is called `folder`."""
        ...

    def ensure_segment(self, segment: Segment) -> None:
        """Make the host a member of the segment; no change when it is one already.

        Called again with other members, it brings them into force while nodes run.
        """
        ...

    def remove_segment(self, name: str) -> None:
        """Take the segment away from the host, if it is there."""
        ...

    def start(self, domain: Domain) -> bool:
        """Define and start; False when a domain of that name and UUID runs already."""
        ...

    def shutdown(self, uuid: str) -> bool:
        """Ask the domain's system to end, which takes a while; False when the domain does not run."""
        ...

    def remove(self, uuid: str) -> bool:
        """Stop at once and forget the domain; False when there is none."""
        ...

    def console(self, folder: str, domain: str, position: int = 0) -> bytes:
        """What the domain's console has said, from byte `position` on; empty when there is nothing.

        A negative position counts from the end.  At most 1 MiB: more is for the next look.
        """
        ...

    def tell(self, uuid: str, script: str, timeout: float) -> str | None:
        """What `script`, run by root in the domain, prints, where an agent waits for it there; None: none does.

        It has `timeout` s.
        """
        ...

    def clear_consoles(self, folder: str, domains: Iterable[str]) -> None:
        """Forget what the consoles of these domains have said; none of them runs."""
        ...

    def close(self) -> None: ...


def connect(site: Site, host: Host) -> Hypervisor:
    """Open the host's hypervisor, starting its daemon where that is ours to do.

    Raises VclustError where that does not work, or this Python has no libvirt.
    """
    try:
        from vclust_py.hypervisor import qemu, xen
    except ModuleNotFoundError as error:
        if error.name != "libvirt":
            raise
        raise VclustError(
            f"{host.name}: libvirt cannot be used: {sys.executable} has no module 'libvirt'",
            "apt-get install python3-libvirt, and make the venv with --system-site-packages; or with the headers"
            " of libvirt (libvirt-dev, pkg-config, gcc) pip install libvirt-python",
        ) from None

    drivers: dict[str, Callable[[Site, Host], Hypervisor]] = {"qemu": qemu.Qemu, "xen": xen.Xen}
    scheme = urlsplit(host.uri).scheme.split("+")[0]
    if scheme not in drivers:
        raise VclustError(
            f"{host.name}: vclust_libvirt_uri: got '{host.uri}', expected a URI such as qemu:///system,"
            " qemu+tls://HOST/system or xen+tls://HOST/system"
        )
    return drivers[scheme](site, host)
