"""QEMU through libvirt: KVM where it really works, emulation (TCG) elsewhere."""

import contextlib
import platform
import shutil
import threading
from collections.abc import Callable
from typing import Any, TypeVar
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Capacity, Disk, Domain, Host, daemon, kvm
from vclust_py.image import installer

_T = TypeVar("_T")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_MACHINES = {"amd64": installer.MACHINE, "arm64": "virt"}
_CALL_TIMEOUT = 120.0
"""Seconds a host may take for one call before it counts as hung."""

libvirt.registerErrorHandler(lambda *_: None, None)  # every error is raised as well


def domain_xml(domain: Domain, accelerator: str) -> str:
    """The domain's definition (libvirt formatdomain); built as a tree, so that no value can break out of its place."""
    xml = ElementTree.Element("domain", type="kvm" if accelerator == "kvm" else "qemu")

    def add(
        parent: ElementTree.Element, tag: str, text: object = None, **attributes: str
    ) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, tag, attributes)
        element.text = None if text is None else str(text)
        return element

    add(xml, "name", domain.name)
    add(xml, "uuid", domain.uuid)
    add(xml, "memory", domain.memory // 1024, unit="KiB")
    add(xml, "vcpu", domain.cpus)
    system = add(xml, "os")
    machine = {name: libvirt_name for libvirt_name, name in _ARCHITECTURES.items()}[domain.architecture]
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
    add(xml, "clock", offset="utc")
    add(xml, "on_poweroff", "destroy")
    add(xml, "on_reboot", "restart")
    add(xml, "on_crash", "destroy")
    devices = add(xml, "devices")
    for letter, disk in zip("abcdefgh", domain.disks, strict=False):
        _add_disk(add, devices, f"vd{letter}", disk)
    interface = add(devices, "interface", type="bridge")
    add(interface, "mac", address=domain.mac)
    add(interface, "source", bridge=domain.bridge)
    add(interface, "model", type="virtio")
    serial = add(devices, "serial", type="pty")
    add(serial, "log", file=str(domain.console), append="on")
    add(devices, "controller", type="usb", model="none")
    return ElementTree.tostring(xml, encoding="unicode")


def _add_disk(
    add: Callable[..., ElementTree.Element], devices: ElementTree.Element, target: str, disk: Disk
) -> None:
    element = add(devices, "disk", type="file", device="disk")
    add(element, "driver", name="qemu", type=disk.format, discard="unmap")
    add(element, "source", file=str(disk.path))
    add(element, "target", dev=target, bus="virtio")
    if disk.readonly:
        add(element, "readonly")


class Qemu:
    """The QEMU driver of libvirt on this machine (`qemu:///system`)."""

    def __init__(self, host: Host) -> None:
        """Raises VclustError when libvirt does not answer or there is no emulator."""
        if host.uri != "qemu:///system":
            raise VclustError(
                f"{host.name}: vclust_libvirt_uri: got '{host.uri}', expected qemu:///system",
                "so far a QEMU host is the machine that vclust runs on",
            )
        self._host = host
        if platform.machine() != "x86_64":
            raise VclustError(f"{host.name}: got a {platform.machine()} machine, expected x86_64 (amd64)")
        emulator = f"qemu-system-{platform.machine()}"
        if shutil.which(emulator) is None:
            raise VclustError(f"{host.name}: {emulator} not found", "install it: apt-get install qemu-system")
        self._accelerator = "kvm" if kvm.works(emulator) else "tcg"
        self._connect()

    def _connect(self) -> None:
        for last in (False, True):
            daemon.ensure(kvm=self._accelerator == "kvm")
            try:
                self._connection: Any = self._bounded(lambda: libvirt.open(self._host.uri))
            except VclustError:
                # It may have ended just after it answered: idle, or killed.
                if last:
                    raise
            else:
                return

    def _call(self, function: Callable[[], _T]) -> _T:
        """Run a libvirt call, all of which here may be repeated: once more when the daemon ended meanwhile."""
        try:
            return self._bounded(function)
        except VclustError:
            if self._alive():
                raise
            self._connect()
            return self._bounded(function)

    def _alive(self) -> bool:
        try:
            return bool(self._connection.isAlive())
        except libvirt.libvirtError:
            return False

    def _bounded(self, function: Callable[[], _T]) -> _T:
        """Run a libvirt call; a hung daemon ends in an error after _CALL_TIMEOUT instead of a hang."""
        result: list[_T] = []
        failure: list[BaseException] = []

        def work() -> None:
            try:
                result.append(function())
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        thread.join(_CALL_TIMEOUT)
        if failure and isinstance(failure[0], libvirt.libvirtError):
            raise VclustError(f"{self._host.name}: libvirt: {failure[0]}") from failure[0]
        if failure:
            raise failure[0]
        if not result:
            raise VclustError(
                f"{self._host.name}: libvirt does not answer after {_CALL_TIMEOUT:g} s",
                "restart libvirtd there",
            )
        return result[0]

    def capacity(self) -> Capacity:
        info = self._call(lambda: self._connection.getInfo())
        # Not getInfo's memory: it counts the first NUMA cell's boot-time memory only.
        memory = self._call(lambda: self._connection.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS))
        free = sum(memory.get(kind, 0) for kind in ("free", "buffers", "cached"))
        return Capacity(
            architecture=_ARCHITECTURES.get(info[0], info[0]),
            cpus=info[2],
            cpu_speed=info[3] * 10**6,
            memory=memory["total"] * 1024,
            memory_free=free * 1024,
            resident=self._call(self._resident),
            accelerator=self._accelerator,
        )

    def _resident(self) -> dict[str, int]:
        flags = libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
        found = self._connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_BALLOON, flags)
        return {domain.UUIDString(): stats.get("balloon.rss", 0) * 1024 for domain, stats in found}

    def running(self) -> set[str]:
        domains = self._call(lambda: self._connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE))
        return {domain.UUIDString() for domain in domains}

    def start(self, domain: Domain) -> bool:
        def work() -> bool:
            found = self._lookup(self._connection.lookupByName, domain.name)
            if found is None:
                found = self._connection.defineXML(domain_xml(domain, self._accelerator))
            elif found.UUIDString() != domain.uuid:
                raise VclustError(
                    f"{self._host.name}: a domain {domain.name} exists that vclust did not make",
                    f"look at it with: virsh -c {self._host.uri} dominfo {domain.name}",
                )
            if found.isActive():
                return False
            found.create()
            return True

        return self._call(work)

    def remove(self, uuid: str) -> bool:
        def work() -> bool:
            found = self._lookup(self._connection.lookupByUUIDString, uuid)
            if found is None:
                return False
            try:
                found.destroy()
            except libvirt.libvirtError as error:
                if error.get_error_code() != libvirt.VIR_ERR_OPERATION_INVALID:  # it does not run
                    raise
            found.undefine()
            return True

        return self._call(work)

    @staticmethod
    def _lookup(find: Callable[[str], Any], key: str) -> Any | None:
        try:
            return find(key)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def close(self) -> None:
        with contextlib.suppress(libvirt.libvirtError):
            self._connection.close()
