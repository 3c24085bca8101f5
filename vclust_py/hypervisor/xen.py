"""Xen through libvirt (libxl): PV and PVH guests, on the site manager itself or on another machine.

Domains are defined, then started: a definition keeps its name when the domain has stopped, so that `remove` finds all
that is its own; a start that fails takes its definition away again.  Either way libvirt finds the running domains again
when its daemon was restarted.
"""

import contextlib
import errno
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Capacity, Disk, Domain, Host
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import ARCHITECTURES, Element, absent, add, as_text, parsed
from vclust_py.hypervisor.driver import Driver
from vclust_py.hypervisor.local import LocalFiles
from vclust_py.hypervisor.storage import Pool
from vclust_py.hypervisor.xen_forking import XenForking, console_log
from vclust_py.site import Site

CONSOLES = Path("/var/log/xen/console")
"""Where xenconsoled writes what guests say; the roll-out tells it to."""
_LOGS, _LOG = Path("/var/log/libvirt/libxl"), "libxl-driver.log"
_MACHINES = {"pvh": "xenpvh", "pv": "xenpv"}  # the better one first
_TYPES = {"pvh": "xenpvh", "pv": "linux"}
_DOM0 = 0
_STARTS_AT_ONCE = 2
"""Starting a domain keeps dom0's few processors busy: more at once would only each take longer."""


class Xen(Driver):
    """libvirt's Xen driver: `xen:///system` on this machine, `xen+tls://HOST/system` on another one."""

    bus, letters = "xen", "xvd"
    accelerator = "xen"

    def __init__(self, site: Site, host: Host) -> None:
        """Raises VclustError when libvirt does not answer."""
        self._site, self._host = site, host
        self._connection = Connection(host)
        self._starting = threading.Semaphore(_STARTS_AT_ONCE)
        self._consoles = Pool(self._connection, host, "vclust-consoles", CONSOLES)
        self._logs = Pool(self._connection, host, "vclust-logs", _LOGS)
        found = parsed(self._connection.call("capabilities", lambda connection: connection.getCapabilities()))
        machines = {element.text for element in found.iterfind("guest/arch/machine")}
        self._guests = tuple(guest for guest, machine in _MACHINES.items() if machine in machines)
        if host.machine is not None:
            self.forking = XenForking(
                site,
                host,
                self._connection,
                self._guest(host.guest),
                self._definition,
                self._consoles,
                self.remote_files,
                self._at_once,
            )

    def capacity(self) -> Capacity:
        def work(connection: Any) -> tuple[list[Any], int, dict[str, list[int]]]:
            flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
            domains = {}
            for domain in connection.listAllDomains(flags):
                if domain.ID() != _DOM0:
                    with absent(libvirt.VIR_ERR_NO_DOMAIN):
                        domains[domain.UUIDString()] = domain.info()
            # The free memory last: what a domain takes meanwhile must not count as free.
            return connection.getInfo(), connection.getFreeMemory(), domains

        info, free, domains = self._connection.call("capacity", work)
        return Capacity(
            architecture=ARCHITECTURES.get(info[0], info[0]),
            cpus=info[2],
            cpu_speed=info[3] * 10**6,
            memory=info[1] << 20,
            memory_free=free,
            resident={uuid: of_domain[2] * 1024 for uuid, of_domain in domains.items()},
            disk_free=self.disk_free(),
            accelerator=self.accelerator,
            guests=self._guests,
            sizes={uuid: (of_domain[3], of_domain[1] * 1024) for uuid, of_domain in domains.items()},
        )

    def running(self) -> set[str]:
        return super().running() - {"00000000-0000-0000-0000-000000000000"}  # dom0

    def start(self, domain: Domain) -> bool:
        xml = as_text(self._definition(domain))

        def work(connection: Any) -> bool:
            found = self._found(connection, domain)
            if found is not None and found.isActive():
                return False
            found = connection.defineXML(xml)
            try:
                found.create()
            except libvirt.libvirtError:
                with absent(libvirt.VIR_ERR_OPERATION_INVALID, libvirt.VIR_ERR_NO_DOMAIN):
                    found.destroy()
                with absent(libvirt.VIR_ERR_NO_DOMAIN):
                    found.undefine()
                raise
            return True

        with self._at_once(domain):
            return self._connection.call(f"start {domain.name}", work)

    @contextlib.contextmanager
    def _at_once(self, domain: Domain) -> Iterator[None]:
        """Around the start of a domain: not too many at once, and libxl's reason when it fails."""
        with self._starting:
            said = self._logs.length(_LOG)
            try:
                yield
            except VclustError as error:
                cause = error.__cause__
                if not isinstance(cause, libvirt.libvirtError):
                    raise
                if cause.get_error_code() != libvirt.VIR_ERR_INTERNAL_ERROR:
                    raise
                # libvirt's own words are that libxl failed.
                raise self._reason(domain, self._logs.read(_LOG, said).decode(errors="replace")) from error

    def _guest(self, asked: str) -> str:
        """The kind of guest where `asked` is wanted, or none in particular."""
        return asked or self._host.guest or next(iter(self._guests), "pv")

    def _possible(self, guest: str) -> str:
        """Raises VclustError where the host cannot have such guests."""
        if guest not in self._guests:
            raise VclustError(
                f"{self._host.name}: guest: got '{guest}', expected one of {', '.join(self._guests)}, which that"
                " host can",
                "pvh needs a processor with VMX or SVM" if guest == "pvh" else None,
            )
        return guest

    def _definition(self, domain: Domain) -> Element:
        """Of the domain, whose disks are files of its own then; raises VclustError where one is not there."""
        guest = self._possible(self._guest(domain.guest))
        # Xen starts a domain whose disk is not there, and the guest waits for it for ever.
        if lacking := self._lacking(domain):
            raise VclustError(
                f"{self._host.name}: start {domain.name}: not there: {', '.join(map(str, lacking))}",
                "run the phase `distribute` again",
            )
        return self.domain_xml(
            replace(domain, disks=tuple(self._own(domain, disk) for disk in domain.disks)), guest
        )

    def _own(self, domain: Domain, disk: Disk) -> Disk:
        """The disk as a guest may have it, which is never read-only: QEMU 7.2 does not serve that to Xen ("Block node
        is read-only"), but for CD-ROMs, which Linux as a PVH guest does not look at.

        What the guest might write goes into its own file: an overlay, where the disk is others' too.
        """
        files = self.files(domain.folder)
        if not disk.readonly or (not disk.shared and disk.path == files.path(disk.path.name)):
            return replace(disk, readonly=False)
        size = files.length(disk.path.name) or files.images()[disk.path.name]
        name = f"{domain.name}.{disk.path.stem}.qcow2"
        files.overlay(name, str(disk.path), size, disk.format)
        return Disk(files.path(name), "qcow2")

    def _lacking(self, domain: Domain) -> list[Path]:
        paths = [domain.kernel, domain.initrd, *(disk.path for disk in domain.disks)]
        files = self.files(domain.folder)
        if isinstance(files, LocalFiles):
            return [path for path in paths if not path.exists()]
        return files.lacking(paths)

    def _reason(self, domain: Domain, log: str) -> VclustError:
        """Why a start failed, from what libxl has logged meanwhile."""
        what, on = f"{self._host.name}: start {domain.name}", f"on {self._host.name}: "
        if f'"{domain.name}" already exists' in log:
            return VclustError(
                f"{what}: Xen has a domain of that name which libvirt does not know: made by xl, or left"
                " by a start that was cut off",
                f"{on}xl list; if nobody needs it: xl destroy {domain.name}",
            )
        if "Out of memory" in log:
            free = self._connection.call("free memory", lambda connection: connection.getFreeMemory())
            return VclustError(
                f"{what}: the hypervisor is out of memory: {free >> 20} MB free, the node takes"
                f" {domain.memory >> 20} MB and some more for itself",
                "destroy a cluster, or see who has it: xl list",
            )
        lines = "".join(f"\n  {line.partition(': ')[2]}" for line in log.splitlines()[-6:])
        if "device model did not start" in log or os.strerror(errno.ENOMEM) in log:
            return VclustError(
                f"{what}: dom0 could not start what serves the node's disks; is it out of memory, or too busy?{lines}",
                f"{on}free -m; more memory for dom0: vm_host_dom0_memory, then the roll-out; if there is enough:"
                " create again when that machine has less to do",
            )
        return VclustError(f"{what}: libxl refused it:{lines}", f"{on}{_LOGS / _LOG}")

    def tell(self, uuid: str, script: str, timeout: float) -> str | None:
        return None  # nodes are told by a login

    def console(self, folder: str, domain: str, position: int = 0) -> bytes:
        return self._consoles.read(console_log(domain), position)

    def clear_consoles(self, folder: str, domains: Iterable[str]) -> None:
        self._consoles.discard(*map(console_log, domains))

    @classmethod
    def domain_xml(cls, domain: Domain, guest: str) -> Element:
        """The domain's definition (libvirt formatdomain)."""
        xml = ElementTree.Element("domain", type="xen")
        add(xml, "name", domain.name)
        add(xml, "uuid", domain.uuid)
        add(xml, "memory", domain.memory // 1024, unit="KiB")
        add(xml, "vcpu", domain.cpus)
        system = add(xml, "os")
        add(system, "type", _TYPES[guest], arch="x86_64", machine=_MACHINES[guest])
        add(system, "kernel", domain.kernel)
        add(system, "initrd", domain.initrd)
        add(system, "cmdline", domain.command_line)
        devices = cls.devices_xml(xml, domain)
        console = add(devices, "console", type="pty")
        add(console, "target", type="xen")
        return xml
