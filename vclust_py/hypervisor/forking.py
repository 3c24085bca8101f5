"""Freezing a template or an installer and starting clones of it: QEMU through libvirt.

The template's memory is a file that it maps shared and its clones map private: a page is copied when it is written.
What is saved beside it is the state of the devices, some hundred KB: the migration stream of QEMU with the capability
`x-ignore-shared`, which leaves out memory that is a shared file.  It is loaded through QEMU's monitor, as libvirt would
give a saved machine neither another name nor another disk.  `LocalForking` is for the site manager itself;
`remote_forking` for other machines.
"""

import contextlib
import json
import os
import re
import threading
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from vclust_py.errors import VclustError
from vclust_py.guest.agent import PORT
from vclust_py.hypervisor import CONSOLE, MEMORY, Domain, Host, memory_bytes
from vclust_py.hypervisor.cloning import SETTLE, Cloning
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import QEMU_NAMESPACE, Element, add, as_text, parsed

_CHUNK = 1 << 20
_POLL = 0.02
LOADS = 20.0
"""Seconds that saving or loading the state of devices may take; it takes 0.1 s."""


class QemuForking(Cloning):
    """What is alike on the site manager itself and on other machines."""

    clone_mark = "memory-backend=vclust"

    def __init__(
        self,
        host: Host,
        connection: Connection,
        accelerator: str,
        definition: Callable[[Domain, Path], Element],
        console: Callable[[Domain], Path],
    ) -> None:
        """`definition`: of a domain that boots, given where its console goes; `console`: where a node's does."""
        super().__init__(host, connection, accelerator)
        self._definition, self._console = definition, console

    @abstractmethod
    def _make_memory(self, path: Path, size: int) -> None:
        """A file of zeros that QEMU's user, and nobody else, may write."""

    @abstractmethod
    def _save(self, domain: Domain, started: Any, folder: Path, state: Path) -> None:
        """Write the state of the domain's devices into this machine's file `state`; `folder` is on the host."""

    @abstractmethod
    def _load(self, domain: Domain, started: Any, state: Path) -> None:
        """Have the paused domain take up that state."""

    def freeze(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        console = folder / CONSOLE
        xml = self._xml(domain, console, folder / MEMORY, clone=False)
        with self._frozen(domain, folder, state, xml) as started, self._port(started) as say:
            self._hear(domain, console, "waiting", timeout)
            say("prepare\n")
            self._hear(domain, console, "prepared", timeout)
            time.sleep(SETTLE)

    def suspend(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        console = folder / CONSOLE
        xml = self._xml(domain, console, folder / MEMORY, clone=False)
        with self._frozen(domain, folder, state, xml):
            self._hear(domain, console, "waiting", timeout)
            time.sleep(SETTLE)

    def fork(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        console = self._console(domain)
        xml = self._xml(domain, console, memory, clone=True)
        started = self._paused(domain, xml)
        self._load(domain, started, state)
        with self._port(started) as say:
            say(f"go {time.time():.6f}\n")
            self._connection.call(f"resume {domain.name}", lambda _: started.resume())
            self._hear(domain, console, "installed", timeout, wrong="installer")

    def resume(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        console = self._console(domain)
        started = self._paused(domain, self._xml(domain, console, memory, clone=True))
        self._load(domain, started, state)
        self._go_on(domain, started, console, timeout)

    def _xml(self, domain: Domain, console: Path, memory: Path, *, clone: bool) -> Element:
        """The domain with its memory in a file, and a generation of its own."""
        xml = self._definition(domain, console)
        add(xml, "genid")
        if not clone:
            # Connected to nothing, but a tap as a node's: what the card can do depends on it.
            (interface,) = xml.findall("devices/interface")
            interface.set("type", "ethernet")
            for source in interface.findall("source"):
                interface.remove(source)
        arguments = add(xml, f"{{{QEMU_NAMESPACE}}}commandline")
        options = [f"id=vclust,size={memory_bytes(domain.memory)},mem-path={memory}"]
        options.append("share=off" if clone else "share=on")
        words = ["-object", f"memory-backend-file,{','.join(options)}", "-machine", self.clone_mark]
        if clone:
            words += ["-incoming", "defer"]
        for word in words:
            add(arguments, f"{{{QEMU_NAMESPACE}}}arg", value=word)
        return xml

    def _paused(self, domain: Domain, xml: Element) -> Any:
        """Define the domain as one that boots, and start it as `xml`, paused until it has all that it needs.

        Whatever is cut off before that leaves a paused domain (`clear`).
        """
        booting = as_text(self._definition(domain, self._console(domain)))

        def start(connection: Any) -> Any:
            connection.defineXML(booting)
            return connection.createXML(as_text(xml), libvirt.VIR_DOMAIN_START_PAUSED)

        return self._connection.call(f"start {domain.name}", start)

    @contextlib.contextmanager
    def _frozen(self, domain: Domain, folder: Path, state: Path, xml: Element) -> Iterator[Any]:
        """Start the domain, and save its state when the block has come to its end."""
        self._make_memory(folder / MEMORY, memory_bytes(domain.memory))

        def start(connection: Any) -> Any:
            return connection.createXML(as_text(xml), libvirt.VIR_DOMAIN_START_AUTODESTROY)

        started = self._connection.call(f"start {domain.name}", start)
        try:
            yield started
            self._ignore_shared(started)
            self._save(domain, started, folder, state)
        finally:
            self._destroy(started)

    def _qemu_user(self) -> tuple[int, int] | None:
        """User and group that QEMU runs as; None: root."""

        def work(connection: Any) -> str:
            return str(
                parsed(connection.getCapabilities()).findtext("host/secmodel[model='dac']/baselabel", "")
            )

        label = self._connection.call("capabilities", work)
        found = re.fullmatch(r"\+(\d+):\+(\d+)", label)
        return (int(found[1]), int(found[2])) if found else None

    def _monitor(
        self, started: Any, command: str, arguments: Any = None, descriptor: int | None = None
    ) -> Any:
        """QEMU's answer to a command of its monitor (QMP), with a file descriptor if the command takes one."""
        text = json.dumps({"execute": command, "arguments": arguments or {}})

        def work(connection: Any) -> str:
            domain = connection.lookupByUUIDString(started.UUIDString())
            if descriptor is None:
                return str(libvirt_qemu.qemuMonitorCommand(domain, text, 0))
            answer = libvirt_qemu.qemuMonitorCommandWithFiles(domain, text, [descriptor], 0)
            return str(answer[0] if isinstance(answer, tuple) else answer)

        answer = json.loads(self._connection.call(f"{command} {started.name()}", work))
        if "error" in answer:
            raise VclustError(
                f"{self.host.name}: {started.name()}: QEMU refuses {command}: {answer['error'].get('desc', '')}"
            )
        return answer.get("return")

    def _ignore_shared(self, started: Any) -> None:
        capability = {"capability": "x-ignore-shared", "state": True}
        self._monitor(started, "migrate-set-capabilities", {"capabilities": [capability]})

    def _await_loaded(self, domain: Domain, started: Any) -> None:
        deadline = time.monotonic() + LOADS
        while (status := self._monitor(started, "query-status")["status"]) != "paused":
            if status != "inmigrate" or time.monotonic() > deadline:
                raise VclustError(
                    f"{self.host.name}: {domain.name}: the template's state does not load: {status}"
                )
            time.sleep(_POLL)

    def _port(self, started: Any) -> contextlib.AbstractContextManager[Callable[[str], None]]:
        """The agent's port, held open: a function that sends it a line."""
        return self._line_to(started, lambda domain, stream: domain.openChannel(PORT, stream, 0))


class LocalForking(QemuForking):
    """`Forking` on the site manager itself: states go through pipes."""

    def workplace(self, folder: str) -> None:
        return None

    def workplaces(self) -> list[str]:
        return []

    def freeze(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        super().freeze(domain, folder, state, timeout)
        for disk in domain.disks:
            os.chown(disk.path, 0, 0)  # libvirt has given it to QEMU's user

    def _make_memory(self, path: Path, size: int) -> None:
        with open(path, "xb") as file:
            file.truncate(size)
        path.chmod(0o600)
        if (user := self._qemu_user()) is not None:  # libvirt labels disks only
            os.chown(path, *user)

    def _said(self, console: Path) -> bytes:
        return console.read_bytes() if console.exists() else b""

    def _save(self, domain: Domain, started: Any, folder: Path, state: Path) -> None:
        reader, writer = os.pipe()
        copied = threading.Thread(target=_copy, args=(reader, state), daemon=True)
        copied.start()
        try:
            self._monitor(started, "getfd", {"fdname": "state"}, writer)
        finally:
            os.close(writer)
        self._monitor(started, "migrate", {"uri": "fd:state"})
        deadline = time.monotonic() + LOADS
        while (status := self._monitor(started, "query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise VclustError(f"{self.host.name}: {domain.name}: its state is not saved: {status}")
            time.sleep(_POLL)
        copied.join(LOADS)

    def _load(self, domain: Domain, started: Any, state: Path) -> None:
        self._ignore_shared(started)
        reader, writer = os.pipe()
        source = os.open(state, os.O_RDONLY)
        fed = threading.Thread(target=_feed, args=(source, writer), daemon=True)
        fed.start()
        try:
            self._monitor(started, "getfd", {"fdname": "state"}, reader)
        finally:
            os.close(reader)
        self._monitor(started, "migrate-incoming", {"uri": "fd:state"})
        self._await_loaded(domain, started)


def _copy(source: int, target: Path) -> None:
    try:
        with open(target, "xb") as file:
            while data := os.read(source, _CHUNK):
                file.write(data)
    finally:
        os.close(source)


def _feed(source: int, target: int) -> None:
    # QEMU may have gone: the caller hears of it.
    try:
        with contextlib.suppress(BrokenPipeError):
            while data := os.read(source, _CHUNK):
                os.write(target, data)
    finally:
        os.close(source)
        os.close(target)
