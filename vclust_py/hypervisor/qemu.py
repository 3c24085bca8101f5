"""QEMU through libvirt: KVM where it really works, emulation (TCG) elsewhere; here or on another machine."""

import platform
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import HOST_ROOT, Capacity, Domain, Host, agent, console_file, daemon, kvm
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import ARCHITECTURES, QEMU_NAMESPACE, Element, add, as_text
from vclust_py.hypervisor.driver import Driver
from vclust_py.hypervisor.forking import LocalForking
from vclust_py.hypervisor.remote_forking import RemoteForking
from vclust_py.hypervisor.storage import Pool
from vclust_py.image import installer
from vclust_py.site import Site

_MACHINES = {"amd64": installer.MACHINE, "arm64": "virt"}
_NO_SUCH_KIND = (libvirt.VIR_ERR_INVALID_ARG, libvirt.VIR_ERR_CONFIG_UNSUPPORTED, libvirt.VIR_ERR_NO_SUPPORT)
"""How libvirt says that it has no emulator for a kind of domain."""
KVM_VERDICT = "kvm"
"""File in HOST_ROOT: `works`, or why KVM does not; the roll-out writes it (roles/vm_host/tasks/kvm.yml)."""


class Qemu(Driver):
    """libvirt's QEMU driver: `qemu:///system` on this machine, `qemu+tls://HOST/system` on another one."""

    bus, letters = "virtio", "vd"

    def __init__(self, site: Site, host: Host) -> None:
        """Raises VclustError when libvirt does not answer or there is no emulator."""
        self._site, self._host = site, host
        if host.machine is None:
            works = self._tried()
            self._connection = Connection(host, lambda: daemon.ensure(kvm=works))
        else:
            self._connection = Connection(host)
            works = self._probed()
        self.accelerator = "kvm" if works else "tcg"
        known = (host, self._connection, self.accelerator, self._definition, self._console)
        self.forking = (
            LocalForking(*known) if host.machine is None else RemoteForking(*known, self.remote_files)
        )

    def _tried(self) -> bool:
        """Whether KVM works on this machine, by a guest of our own."""
        if self._host.uri != "qemu:///system":
            raise VclustError(
                f"{self._host.name}: vclust_libvirt_uri: got '{self._host.uri}', expected qemu:///system,"
                " or for another machine qemu+tls://HOST/system"
            )
        if platform.machine() != "x86_64":
            raise VclustError(
                f"{self._host.name}: got a {platform.machine()} machine, expected x86_64 (amd64)"
            )
        emulator = f"qemu-system-{platform.machine()}"
        if shutil.which(emulator) is None:
            raise VclustError(
                f"{self._host.name}: {emulator} not found", "install it: apt-get install qemu-system"
            )
        return kvm.works(emulator)

    def _probed(self) -> bool:
        """Whether KVM works on another machine: its libvirt says so, and the roll-out has found nothing else.

        libvirt has started QEMU with KVM, as the user that nodes run as, and does so again when /dev/kvm has come, gone
        or changed its owner.  It runs no guest, which the roll-out does (`vclust_host_info`).
        """

        def work(connection: Any) -> bool:
            try:
                connection.getDomainCapabilities(None, None, None, "kvm")
            except libvirt.libvirtError as error:
                if error.get_error_code() not in _NO_SUCH_KIND:
                    raise
                return False
            return True

        if not self._connection.call("capabilities", work):
            return False
        found = Pool(self._connection, self._host, "vclust-host", HOST_ROOT).read(KVM_VERDICT, 0)
        return found.strip() in (b"", b"works")

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
            disk_free=self.disk_free(),
            accelerator=self.accelerator,
            sizes={
                domain.UUIDString(): (stats.get("vcpu.maximum", 0), stats.get("balloon.maximum", 0) * 1024)
                for domain, stats in domains
            },
        )

    def start(self, domain: Domain) -> bool:
        xml = as_text(self._definition(domain, self._console(domain)))

        def work(connection: Any) -> bool:
            found = self._found(connection, domain)
            if found is None:
                found = connection.defineXML(xml)
            elif found.isActive():
                return False
            found.create()
            return True

        return self._connection.call(f"start {domain.name}", work)

    def tell(self, uuid: str, script: str, timeout: float) -> str | None:
        return agent.tell(self._connection, uuid, script, timeout)

    def _console(self, domain: Domain) -> Path:
        return self.files(domain.folder).path(console_file(domain.name))

    def _definition(self, domain: Domain, console: Path) -> Element:
        return self.domain_xml(domain, self.accelerator, console)

    def console(self, folder: str, domain: str, position: int = 0) -> bytes:
        return self.files(folder).read(console_file(domain), position)

    def clear_consoles(self, folder: str, domains: Iterable[str]) -> None:
        self.files(folder).discard(*map(console_file, domains))

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
        # A balloon gives pages back by punching holes into the file of a clone's memory, which is that of all others.
        add(devices, "memballoon", model="none")
        agent.add_port(devices)
        # Else libvirt asks for 400 properties of the processor, one by one: two thirds of what a start takes.
        capabilities = add(xml, f"{{{QEMU_NAMESPACE}}}capabilities")
        add(capabilities, f"{{{QEMU_NAMESPACE}}}del", capability="cpu-unavailable-features")
        return xml

    @classmethod
    def nic_xml(cls, parent: Element, mac: str, bridge: str) -> Element:
        interface = super().nic_xml(parent, mac, bridge)
        add(interface, "model", type="virtio")
        return interface
