"""QEMU through libvirt: KVM where it really works, emulation (TCG) elsewhere."""

import contextlib
import os
import platform
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Capacity, Domain, Host, Segment, daemon, kvm
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import ARCHITECTURES, Domains, Element, add, as_text
from vclust_py.hypervisor.storage import LocalFiles, read_from
from vclust_py.image import installer
from vclust_py.site import Site

_MACHINES = {"amd64": installer.MACHINE, "arm64": "virt"}


class Qemu(Domains):
    """The QEMU driver of libvirt on this machine (`qemu:///system`)."""

    bus, letters = "virtio", "vd"

    def __init__(self, site: Site, host: Host) -> None:
        """Raises VclustError when libvirt does not answer or there is no emulator."""
        if host.uri != "qemu:///system":
            raise VclustError(
                f"{host.name}: vclust_libvirt_uri: got '{host.uri}', expected qemu:///system",
                "so far a QEMU host is the machine that vclust runs on",
            )
        self._site, self._host = site, host
        if platform.machine() != "x86_64":
            raise VclustError(f"{host.name}: got a {platform.machine()} machine, expected x86_64 (amd64)")
        emulator = f"qemu-system-{platform.machine()}"
        if shutil.which(emulator) is None:
            raise VclustError(f"{host.name}: {emulator} not found", "install it: apt-get install qemu-system")
        works = kvm.works(emulator)
        self.accelerator = "kvm" if works else "tcg"
        self._connection = Connection(host, lambda: daemon.ensure(kvm=works))

    def capacity(self) -> Capacity:
        def work(connection: Any) -> tuple[list[Any], dict[str, int], list[Any]]:
            flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
            kinds = libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_VCPU
            # Before the free memory: what a domain takes between the two must not count as free.
            domains = connection.getAllDomainStats(kinds, flags)
            # Not getInfo's memory: it counts the first NUMA cell's boot-time memory only.
            memory = connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)
            return connection.getInfo(), memory, domains

        info, memory, domains = self._connection.call("capacity", work)
        return Capacity(
            architecture=ARCHITECTURES.get(info[0], info[0]),
            cpus=info[2],
            cpu_speed=info[3] * 10**6,
            memory=memory["total"] * 1024,
            memory_free=sum(memory.get(kind, 0) for kind in ("free", "buffers", "cached")) * 1024,
            resident={domain.UUIDString(): stats.get("balloon.rss", 0) * 1024 for domain, stats in domains},
            disk_free=shutil.disk_usage(self._site.clusters).free,
            accelerator=self.accelerator,
            sizes={
                domain.UUIDString(): (stats.get("vcpu.maximum", 0), stats.get("balloon.maximum", 0) * 1024)
                for domain, stats in domains
            },
        )

    def files(self, folder: str) -> LocalFiles:
        return LocalFiles(self._site, folder)

    def ensure_segment(self, segment: Segment) -> None:
        """Nothing: the site manager makes its own bridge (`vclust_py.network`)."""

    def remove_segment(self, name: str) -> None:
        """Nothing, as above."""

    def start(self, domain: Domain) -> bool:
        def work(connection: Any) -> bool:
            found = self._found(connection, domain)
            if found is None:
                found = connection.defineXML(
                    as_text(
                        self.domain_xml(domain, self.accelerator, self._console(domain.folder, domain.name))
                    )
                )
            if found.isActive():
                return False
            found.create()
            return True

        return self._connection.call(f"start {domain.name}", work)

    def console(self, folder: str, domain: str, position: int = 0) -> bytes:
        return read_from(self._console(folder, domain), position)

    def clear_console(self, folder: str, domain: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.truncate(self._console(folder, domain), 0)

    def _console(self, folder: str, domain: str) -> Path:
        return self.files(folder).path(f"{domain}.console")

    @classmethod
    def domain_xml(cls, domain: Domain, accelerator: str, console: Path) -> Element:
        """The domain's definition (libvirt formatdomain)."""
        xml = ElementTree.Element("domain", type="kvm" if accelerator == "kvm" else "qemu")
        add(xml, "name", domain.name)
        add(xml, "uuid", domain.uuid)
        add(xml, "memory", domain.memory // 1024, unit="KiB")
        add(xml, "vcpu", domain.cpus)
        system = add(xml, "os")
        machine = {name: libvirt_name for libvirt_name, name in ARCHITECTURES.items()}[domain.architecture]
        add(system, "type", "hvm", arch=machine, machine=_MACHINES[domain.architecture])
        add(system, "kernel", domain.kernel)
        add(system, "initrd", domain.initrd)
        add(system, "cmdline", domain.command_line)
        features = add(xml, "features")
        add(features, "acpi")
        if accelerator == "kvm":
            add(xml, "cpu", mode="host-passthrough")
        else:
            add(add(features, "tcg"), "tb-cache", installer.TB_CACHE, unit="MiB")
            cpu = add(xml, "cpu", mode="maximum")
            for feature in installer.EMULATED_CPU_WITHOUT:
                add(cpu, "feature", policy="disable", name=feature)
        devices = cls.devices_xml(xml, domain)
        serial = add(devices, "serial", type="pty")
        add(serial, "log", file=str(console), append="on")
        add(devices, "controller", type="usb", model="none")
        return xml

    @classmethod
    def nic_xml(cls, parent: Element, mac: str, bridge: str) -> Element:
        interface = super().nic_xml(parent, mac, bridge)
        add(interface, "model", type="virtio")
        return interface
