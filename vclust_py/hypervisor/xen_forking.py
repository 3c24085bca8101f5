"""Suspending an installer and starting nodes from it: Xen on another machine, through libvirt.

libvirt's Xen driver saves a domain into a file of the host, and restores what the head of that file defines: it takes
no other definition ("xml modification unsupported").  So a node's definition is written over the one in the head before
each start, and the memory behind it stays where it is.  For that what is saved has a description that is longer than
any node's definition.

Xen's drivers of disks and network card are loaded in the node and find what it has, in the places where the frozen
domain had something: as many disks, and one card.
"""

import hashlib
import secrets
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import HOST_ROOT, MEMORY, Domain, Host
from vclust_py.hypervisor.cloning import SETTLE, Cloning
from vclust_py.hypervisor.connection import CALL_TIMEOUT, Connection
from vclust_py.hypervisor.domains import Element, absent, add, as_text
from vclust_py.hypervisor.remote_files import RemoteFiles
from vclust_py.hypervisor.storage import Pool
from vclust_py.site import Site

_HEAD = struct.Struct("=16sII40x")
"""libvirt's src/libxl/libxl_conf.h: magic, version, bytes of the definition that follows with the zero at its end."""
_MAGIC = b"libvirt-xml\n \0 \r"
_VERSION = 2
_SLOWEST = 10_000_000
"""Bytes of memory a second below which saving and restoring count as hung."""
_ROOM = 16 << 10
"""Bytes for a node's definition: with five disks it has some 2,000."""


class XenForking(Cloning):
    """`Forking` on another machine, by `xen+tls`: suspended installers alone."""

    clone_mark = "vclust: goes on from a suspended installer"
    _poll = 0.2

    def __init__(
        self,
        site: Site,
        host: Host,
        connection: Connection,
        guest: str,
        definition: Callable[[Domain], Element],
        consoles: Pool,
        files: Callable[[str], RemoteFiles],
        starting: Callable[[Domain], AbstractContextManager[None]],
    ) -> None:
        """`guest`: pv or pvh, as all nodes of the host are; `definition`: of a domain that boots, with its own disks;
        `files`: of a folder of the host's; `starting`: around each start, for its errors.
        """
        super().__init__(host, connection, f"xen {guest}")
        self._site, self._definition, self._consoles, self._starting = site, definition, consoles, starting
        self._files = files

    def identity(self) -> str:
        # What is frozen stays on the host that has made it.
        return hashlib.sha256(f"{self.host.name} {super().identity()}".encode()).hexdigest()

    def workplace(self, folder: str) -> "Saved":
        return Saved(self._connection, self.host, folder)

    def workplaces(self) -> list[str]:
        return Pool(self._connection, self.host, "vclust-clusters", HOST_ROOT / "clusters").folders()

    def freeze(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        raise VclustError(f"{self.host.name}: with Xen nodes are no clones of others")

    def fork(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        raise VclustError(f"{self.host.name}: with Xen nodes are no clones of others")

    def suspend(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        xml = self._definition(domain)
        # Random, as no two images are the same.
        xml.insert(2, description := Element("description"))
        description.text = secrets.token_hex(_ROOM // 2)
        # Connected to nothing: its back end waits for a driver, and has no bridge.
        (interface,) = xml.findall("devices/interface")
        interface.set("type", "ethernet")
        for source in interface.findall("source"):
            interface.remove(source)
        add(interface, "script", path="/bin/true")
        console, memory = self._console(domain), folder / MEMORY

        def start(connection: Any) -> Any:
            with absent(
                libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID
            ):  # of a try that was cut off
                connection.lookupByUUIDString(domain.uuid).destroy()
            return connection.createXML(as_text(xml))

        with self._starting(domain):
            started = self._connection.call(f"start {domain.name}", start)
        try:
            self._hear(domain, console, "waiting", timeout)
            time.sleep(SETTLE)
            self._connection.call(
                f"save {domain.name}",
                lambda _: started.save(str(memory)),
                timeout=CALL_TIMEOUT + domain.memory / _SLOWEST,
            )
        finally:
            self._destroy(started)
            self._consoles.discard(console.name)
        state.write_bytes(self._head(domain, self._files(folder.name).read(MEMORY, 0)))

    def resume(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        xml = self._definition(domain)
        booting = as_text(xml)
        xml.insert(2, mark := Element("description"))
        mark.text = self.clone_mark
        head, folder = self._headed(domain, state.read_bytes(), as_text(xml)), memory.parent.name

        def restore(connection: Any) -> Any:
            connection.defineXML(booting)
            connection.restoreFlags(str(memory), None, libvirt.VIR_DOMAIN_SAVE_PAUSED)
            return connection.lookupByUUIDString(domain.uuid)

        # The lock under which the folder is made and removed: one node after the other writes the head.
        with self._site.file_lock(f"image-{folder.rpartition('-')[0]}"), self._starting(domain):
            self._files(folder).overwrite(memory.name, head)
            started = self._connection.call(
                f"start {domain.name}", restore, CALL_TIMEOUT + domain.memory / _SLOWEST
            )
        self._go_on(domain, started, self._console(domain), timeout)

    def _head(self, domain: Domain, saved: bytes) -> bytes:
        """The head of what was saved, with its definition."""
        if len(saved) >= _HEAD.size:
            magic, version, length = _HEAD.unpack_from(saved)
            if (magic, version) == (_MAGIC, _VERSION) and _ROOM < length <= len(saved) - _HEAD.size:
                return saved[: _HEAD.size + length]
        raise VclustError(
            f"{self.host.name}: {domain.name}: got a saved machine in a form of another libvirt"
        )

    def _headed(self, domain: Domain, head: bytes, definition: str) -> bytes:
        """The head with another definition, of the same length: zeros come behind it."""
        text, length = definition.encode(), len(head) - _HEAD.size
        if len(text) >= length:
            raise VclustError(
                f"{self.host.name}: {domain.name}: got a definition of {len(text)} bytes, expected less than {length}"
            )
        return head[: _HEAD.size] + text.ljust(length, b"\0")

    def _console(self, domain: Domain) -> Path:
        return self._consoles.folder / console_log(domain.name)

    def _said(self, console: Path) -> bytes:
        return self._consoles.read(console.name, 0)


def console_log(domain: str) -> str:
    """Name of the file, in the folder of consoles, with what the domain has said."""
    return f"guest-{domain}.log"


class Saved(RemoteFiles):
    """The folder of a suspended installer."""

    def __init__(self, connection: Connection, host: Host, folder: str) -> None:
        super().__init__(connection, host, folder)
        self._connection = connection

    def stamp(self, name: str) -> str:
        """Without the time: the head of what is saved is written at each start."""
        return super().stamp(name).partition(" of ")[0]

    def remove(self) -> None:
        """With the domain that was to be frozen there, where that was cut off: Xen's driver ends none by itself."""

        def work(connection: Any) -> None:
            for found in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                with absent(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                    if f"{self.path('')}/" in found.XMLDesc():
                        found.destroy()

        self._connection.call(f"remove {self.path('')}", work)
        super().remove()
