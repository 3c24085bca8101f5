"""What vclust needs of a hypervisor host.  One file for each driver; `connect` picks it by the connection URI."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from vclust_py.errors import VclustError


@dataclass(frozen=True)
class Host:
    """A hypervisor machine of the inventory: its name there and its libvirt URI (`vclust_libvirt_uri`)."""

    name: str
    uri: str = "qemu:///system"

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> "Host":
        return cls(str(mapping["name"]), str(mapping.get("uri") or cls.uri))


@dataclass(frozen=True)
class Capacity:
    """What a host has and what is free of it now.  Bytes, Hz; `accelerator` is kvm or tcg (emulation)."""

    architecture: str
    cpus: int
    cpu_speed: int
    memory: int
    memory_free: int
    resident: Mapping[str, int]
    """Memory that the processes of running domains hold, by UUID."""
    accelerator: str


@dataclass(frozen=True)
class Disk:
    path: Path
    format: str  # qcow2 | raw
    readonly: bool = False


@dataclass(frozen=True)
class Domain:
    """A node as the hypervisor sees it; memory in bytes, disks in the order the guest sees them."""

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
    console: Path


class Hypervisor(Protocol):
    """One host.  Every call raises VclustError naming the host when the hypervisor refuses or does not answer."""

    def capacity(self) -> Capacity: ...

    def running(self) -> set[str]:
        """UUIDs of the domains that run."""
        ...

    def start(self, domain: Domain) -> bool:
        """Define and start; False when a domain of that name and UUID runs already."""
        ...

    def remove(self, uuid: str) -> bool:
        """Stop at once and forget the domain; False when there is none."""
        ...

    def close(self) -> None: ...


def connect(host: Host) -> Hypervisor:
    """Open the host's hypervisor, starting its daemon where that is ours to do."""
    from vclust_py.hypervisor import qemu

    if urlsplit(host.uri).scheme.split("+")[0] == "qemu":
        return qemu.Qemu(host)
    raise VclustError(
        f"{host.name}: vclust_libvirt_uri: got '{host.uri}', expected a URI such as qemu:///system"
    )
