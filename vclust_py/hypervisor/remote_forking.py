"""Freezing and starting clones on a host that is another machine, where libvirt passes on no file descriptors.

libvirt saves the state into a file of the host, which begins with a header of its own; with `x-ignore-shared` set
there is no memory in it.  For loading, such a machine has one virtio port more, which nothing in it uses: QEMU is told
to wait for the state at the socket of that port, to which libvirt connects us as to any port.  So nothing of ours runs
on the host, and QEMU's sandbox stays as it is.
"""

import hashlib
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vclust_py.errors import VclustError
from vclust_py.hypervisor import HOST_ROOT, Domain, Host
from vclust_py.hypervisor.agent import add_port
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import Element, parsed
from vclust_py.hypervisor.forking import QemuForking
from vclust_py.hypervisor.remote_files import RemoteFiles
from vclust_py.hypervisor.storage import Pool, send_all

_SAVED = "saved"
_MAGIC = b"LibvirtQemudSave"
_HEADER = struct.Struct(f"={len(_MAGIC)}s5I56x")
"""libvirt's src/qemu/qemu_saveimage.h: version, length of the definition that follows, was running, compression."""
_QEMU = b"QEVM"
_MOST = 64 << 20
"""Bytes of a state; it has some 800,000."""
STATE_PORT = "vclust.state"
"""Name of the port through which the state comes."""


class RemoteForking(QemuForking):
    """`Forking` on another machine, by `qemu+tls`."""

    _poll = 0.2

    def __init__(
        self,
        host: Host,
        connection: Connection,
        accelerator: str,
        definition: Callable[[Domain, Path], Element],
        console: Callable[[Domain], Path],
        files: Callable[[str], RemoteFiles],
    ) -> None:
        """As `QemuForking`; `files`: of a folder of the host's."""
        super().__init__(host, connection, accelerator, definition, console)
        self._files = files

    def identity(self) -> str:
        # What is frozen stays on the host that has made it.
        return hashlib.sha256(f"{self.host.name} {super().identity()}".encode()).hexdigest()

    def workplace(self, folder: str) -> RemoteFiles:
        return self._files(folder)

    def workplaces(self) -> list[str]:
        return Pool(self._connection, self.host, "vclust-clusters", HOST_ROOT / "clusters").folders()

    def _xml(self, domain: Domain, console: Path, memory: Path, *, clone: bool) -> Element:
        xml = super()._xml(domain, console, memory, clone=clone)
        (devices,) = xml.findall("devices")
        add_port(devices, STATE_PORT)
        return xml

    def _make_memory(self, path: Path, size: int) -> None:
        owner = self._qemu_user() or (0, 0)
        self._files(path.parent.name).make_raw(path.name, size, owner=owner)

    def _said(self, console: Path) -> bytes:
        return self._files(console.parent.name).read(console.name, 0)

    def _save(self, domain: Domain, started: Any, folder: Path, state: Path) -> None:
        files = self._files(folder.name)
        self._connection.call(f"save {domain.name}", lambda _: started.save(str(files.path(_SAVED))))
        saved, count = b"", -1
        while len(saved) > count:
            count = len(saved)
            saved += files.read(_SAVED, count)
            if len(saved) > _MOST:
                raise VclustError(
                    f"{self.host.name}: {domain.name}: got a state of more than {_MOST >> 20} MB"
                )
        files.discard(_SAVED)
        state.write_bytes(self._without_header(domain, saved))

    def _without_header(self, domain: Domain, saved: bytes) -> bytes:
        if len(saved) < _HEADER.size or not saved.startswith(_MAGIC):
            raise VclustError(
                f"{self.host.name}: {domain.name}: got a saved machine in a form of another libvirt"
            )
        _, _, length, _, compression, _ = _HEADER.unpack_from(saved)
        data = saved[_HEADER.size + length :]
        if compression or not data.startswith(_QEMU):
            raise VclustError(
                f"{self.host.name}: {domain.name}: libvirt compresses saved machines",
                "in /etc/libvirt/qemu.conf there leave save_image_format at raw",
            )
        return data

    def _load(self, domain: Domain, started: Any, state: Path) -> None:
        self._ignore_shared(started)
        # In the place of the socket that QEMU has made there for the port.
        self._monitor(started, "migrate-incoming", {"uri": f"unix:{self._socket(domain, started)}"})

        def send(connection: Any) -> None:
            stream = connection.newStream()
            started.openChannel(STATE_PORT, stream, 0)
            with open(state, "rb") as source:
                send_all(stream, source)

        self._connection.call(f"load {domain.name}", send)
        self._await_loaded(domain, started)

    def _socket(self, domain: Domain, started: Any) -> str:
        """Path on the host, chosen by libvirt."""
        xml = parsed(self._connection.call(f"look at {domain.name}", lambda _: started.XMLDesc()))
        for channel in xml.findall("devices/channel"):
            target, source = channel.find("target"), channel.find("source")
            if target is not None and source is not None and target.get("name") == STATE_PORT:
                return source.get("path", "")
        raise VclustError(f"{self.host.name}: {domain.name}: got no port {STATE_PORT}")
