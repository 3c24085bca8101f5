"""What the drivers do alike with a domain, through libvirt."""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Disk, Domain, Forking, Host
from vclust_py.hypervisor.connection import Connection

Element = ElementTree.Element
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
"""libvirt's name: ours."""
QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
"""Of elements that only libvirt's QEMU driver knows (libvirt drvqemu)."""
ElementTree.register_namespace("qemu", QEMU_NAMESPACE)


def add(parent: Element, tag: str, text: object = None, **attributes: str) -> Element:
    """A new element of libvirt's XML.  Always as a tree: so no value can break out of its place."""
    element = ElementTree.SubElement(parent, tag, attributes)
    element.text = None if text is None else str(text)
    return element


def as_text(xml: Element) -> str:
    return ElementTree.tostring(xml, encoding="unicode")


_MOST_XML = 4 << 20  # characters; a domain's definition has some thousand


def parsed(text: str) -> Element:
    """XML that libvirt has written, perhaps on a host that means no good.  Raises VclustError when it is none."""
    # libvirt writes no document types; without them there are no entities that grow.
    if len(text) > _MOST_XML or "<!DOCTYPE" in text:
        raise VclustError(f"libvirt: got {len(text)} characters of XML, expected a plain definition")
    try:
        return ElementTree.fromstring(text)  # noqa: S314
    except ElementTree.ParseError as error:
        raise VclustError(f"libvirt: got XML that is not well formed: {error}") from error


@contextlib.contextmanager
def absent(*codes: int) -> Iterator[None]:
    """Around a call on something that may be gone: libvirt errors of these codes end the block, and no more."""
    try:
        yield
    except libvirt.libvirtError as error:
        if error.get_error_code() not in codes:
            raise


class Domains:
    """Domains of one host; a driver adds their definition and what else differs."""

    bus: ClassVar[str]
    """Of disks, as libvirt calls it."""
    letters: ClassVar[str]
    """What the guest's disk names begin with."""

    forking: Forking | None = None

    _host: Host
    _connection: Connection

    def running(self) -> set[str]:
        def work(connection: Any) -> set[str]:
            found = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return {domain.UUIDString() for domain in found}

        return self._connection.call("list domains", work)

    def processor_seconds(self) -> dict[str, float]:
        def work(connection: Any) -> dict[str, float]:
            seconds = dict[str, float]()
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                with absent(
                    libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN
                ):  # it has just ended
                    seconds[domain.UUIDString()] = domain.info()[4] / 1e9
            return seconds

        return self._connection.call("processor time", work)

    def machine(self, uuid: str) -> tuple[int, int] | None:
        def work(connection: Any) -> tuple[int, int] | None:
            found = _lookup(connection.lookupByUUIDString, uuid)
            if found is None or not found.isActive():
                return None
            xml = parsed(found.XMLDesc())
            numbers = [xml.findtext(name, "") for name in ("vcpu", "memory")]
            if not all(re.fullmatch("[0-9]{1,15}", number) for number in numbers):
                raise VclustError(f"{self._host.name}: domain {uuid}: got no numbers of CPUs and memory")
            cpus, memory = map(int, numbers)
            return cpus, memory * 1024  # libvirt writes KiB, whatever it was given

        return self._connection.call(f"look at domain {uuid}", work)

    def versions(self) -> dict[str, str]:
        def work(connection: Any) -> dict[str, str]:
            return {
                "libvirt": _version(connection.getLibVersion()),
                "hypervisor": f"{connection.getType()} {_version(connection.getVersion())}",
            }

        return self._connection.call("versions", work)

    def shutdown(self, uuid: str) -> bool:
        def work(connection: Any) -> bool:
            found = _lookup(connection.lookupByUUIDString, uuid)
            if found is None or not found.isActive():
                return False
            with absent(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):  # it has just ended
                found.shutdown()
            return True

        return self._connection.call(f"shut down domain {uuid}", work)

    def remove(self, uuid: str) -> bool:
        def work(connection: Any) -> bool:
            found = _lookup(connection.lookupByUUIDString, uuid)
            if found is None:
                return False
            with absent(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):  # it does not run
                found.destroy()
            with absent(libvirt.VIR_ERR_NO_DOMAIN):
                found.undefine()
            return True

        return self._connection.call(f"remove domain {uuid}", work)

    def _found(self, connection: Any, domain: Domain) -> Any | None:
        """libvirt's domain of that name and UUID; raises VclustError when it is somebody else's."""
        found = _lookup(connection.lookupByName, domain.name)
        if found is not None and found.UUIDString() != domain.uuid:
            raise VclustError(
                f"{self._host.name}: a domain {domain.name} exists that vclust did not make",
                f"look at it with: virsh -c {self._host.uri} dominfo {domain.name}",
            )
        return found

    def close(self) -> None:
        self._connection.close()

    @classmethod
    def disk_names(cls) -> list[str]:
        return [f"{cls.letters}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]

    @classmethod
    def devices_xml(cls, xml: Element, domain: Domain) -> Element:
        """What every definition has after its `os`; the element `devices`, for what differs."""
        add(xml, "clock", offset="utc")
        add(xml, "on_poweroff", "destroy")
        add(xml, "on_reboot", "restart")
        add(xml, "on_crash", "destroy")
        devices = add(xml, "devices")
        for name, disk in zip(cls.disk_names(), domain.disks, strict=False):
            cls.disk_xml(devices, name, disk)
        cls.nic_xml(devices, domain.mac, domain.bridge)
        return devices

    @classmethod
    def disk_xml(cls, parent: Element, name: str, disk: Disk) -> Element:
        element = add(parent, "disk", type="file", device="disk")
        add(element, "driver", name="qemu", type=disk.format, discard="unmap")
        add(element, "source", file=str(disk.path))
        add(element, "target", dev=name, bus=cls.bus)
        if disk.readonly:
            add(element, "readonly")
        return element

    @classmethod
    def nic_xml(cls, parent: Element, mac: str, bridge: str) -> Element:
        interface = add(parent, "interface", type="bridge")
        add(interface, "mac", address=mac)
        add(interface, "source", bridge=bridge)
        return interface


def _version(number: int) -> str:
    """libvirt counts 1,000,000 * major + 1,000 * minor + release."""
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"


def _lookup(find: Callable[[str], Any], key: str) -> Any | None:
    with absent(libvirt.VIR_ERR_NO_DOMAIN):
        return find(key)
    return None
