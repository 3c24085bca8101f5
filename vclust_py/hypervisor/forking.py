"""Freezing a template or an installer and starting clones of it: QEMU on the site manager itself, through libvirt.

The template's memory is a file that it maps shared and its clones map private: a page is copied when it is written.
What is saved beside it is the state of the devices, some hundred KB: the migration stream of QEMU with the capability
`x-ignore-shared`, which leaves out memory that is a shared file.  Both go through QEMU's monitor and through pipes, as
libvirt would give a saved machine neither another name nor another disk.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import libvirt_qemu

from vclust_py.errors import VclustError
from vclust_py.guest.agent import PORT
from vclust_py.hypervisor import Domain, Host, memory_bytes
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import Element, absent, add, as_text, parsed

_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_CHUNK = 1 << 20
_POLL = 0.02
_LOADS = 20.0
"""Seconds that saving or loading the state of devices may take; it takes 0.1 s."""
_LINE = re.compile(rb"vclust: (installer|waiting|prepared|resumed|installed|ready|failed)\b ?([^\r\n]*)\r?\n")
_MEMORY = "memory-backend=vclust"
"""In the definition of every clone, and of no domain that has booted."""
_SEED = 32
"""Random bytes that an installer gets when it goes on."""
_ALIVE = 1.0
"""Seconds between two looks at whether a domain that says nothing still runs."""
_SETTLE = 0.2
"""Seconds from the agent's last word to its next read of the port."""


class LocalForking:
    """`Forking` on the site manager itself."""

    def __init__(
        self,
        host: Host,
        connection: Connection,
        accelerator: str,
        definition: Callable[[Domain, Path], Element],
        console: Callable[[Domain], Path],
    ) -> None:
        """`definition`: of a domain that boots, given where its console goes; `console`: where a node's does."""
        self._host, self._connection, self._accelerator = host, connection, accelerator
        self._definition, self._console = definition, console

    def identity(self) -> str:
        def work(connection: Any) -> str:
            capabilities = parsed(connection.getCapabilities())
            processor = capabilities.find("host/cpu")
            counter = None if processor is None else processor.find("counter")
            if processor is not None and counter is not None:
                processor.remove(counter)  # measured anew with each start of the daemon
            return json.dumps(
                [
                    self._accelerator,
                    connection.getVersion(),
                    connection.getLibVersion(),
                    "" if processor is None else as_text(processor),
                ]
            )

        return hashlib.sha256(self._connection.call("capabilities", work).encode()).hexdigest()

    def freeze(self, domain: Domain, folder: Path, timeout: float) -> None:
        console = folder / "console"
        xml = self._xml(domain, console, folder / "memory", clone=False)
        with self._frozen(domain, folder, xml) as started, self._port(started) as say:
            self._hear(domain, console, "waiting", timeout)
            say("prepare\n")
            self._hear(domain, console, "prepared", timeout)
            time.sleep(_SETTLE)
        for disk in domain.disks:
            os.chown(disk.path, 0, 0)  # libvirt has given it to QEMU's user

    def suspend(self, domain: Domain, folder: Path, timeout: float) -> None:
        console = folder / "console"
        xml = self._xml(domain, console, folder / "memory", clone=False)
        with self._frozen(domain, folder, xml):
            self._hear(domain, console, "waiting", timeout)
            time.sleep(_SETTLE)

    def fork(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        console = self._console(domain)
        xml = self._xml(domain, console, memory, clone=True)
        started = self._paused(domain, console, xml)
        with self._port(started) as say:
            self._load(domain, started, state)
            say(f"go {time.time():.6f}\n")
            self._connection.call(f"resume {domain.name}", lambda _: started.resume())
            self._hear(domain, console, "installed", timeout, wrong="installer")

    def resume(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        console = self._console(domain)
        started = self._paused(domain, console, self._xml(domain, console, memory, clone=True))
        with self._keyboard(started) as say:
            self._load(domain, started, state)
            self._connection.call(f"resume {domain.name}", lambda _: started.resume())
            # The guest's clock counts whole seconds from here.
            say(f"go {time.time():.0f} {secrets.token_hex(_SEED)} {domain.mac}\n")
            self._hear(domain, console, "resumed", timeout, wrong="installer")

    def clear(self, uuids: Iterable[str]) -> list[str]:
        wanted = list(uuids)

        def work(connection: Any) -> list[str]:
            cleared = []
            for uuid in wanted:
                with absent(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                    found = connection.lookupByUUIDString(uuid)
                    # Not one that has booted, and that somebody has paused.
                    if found.state()[0] == libvirt.VIR_DOMAIN_PAUSED and _MEMORY in found.XMLDesc():
                        found.destroy()
                        found.undefine()
                        cleared.append(uuid)
            return cleared

        return self._connection.call("look for clones that never ran", work)

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
        ElementTree.register_namespace("qemu", _NAMESPACE)
        arguments = add(xml, f"{{{_NAMESPACE}}}commandline")
        options = [f"id=vclust,size={memory_bytes(domain.memory)},mem-path={memory}"]
        options.append("share=off" if clone else "share=on")
        words = ["-object", f"memory-backend-file,{','.join(options)}", "-machine", _MEMORY]
        if clone:
            words += ["-incoming", "defer"]
        for word in words:
            add(arguments, f"{{{_NAMESPACE}}}arg", value=word)
        return xml

    def _paused(self, domain: Domain, console: Path, xml: Element) -> Any:
        """Define the domain as one that boots, and start it as `xml`, paused until it has all that it needs.

        Whatever is cut off before that leaves a paused domain (`clear`).
        """
        booting = as_text(self._definition(domain, console))

        def start(connection: Any) -> Any:
            connection.defineXML(booting)
            return connection.createXML(as_text(xml), libvirt.VIR_DOMAIN_START_PAUSED)

        return self._connection.call(f"start {domain.name}", start)

    @contextlib.contextmanager
    def _frozen(self, domain: Domain, folder: Path, xml: Element) -> Iterator[Any]:
        """Start the domain, and write `memory` and `state` into the folder when the block has come to its end."""
        with open(folder / "memory", "xb") as file:
            file.truncate(memory_bytes(domain.memory))
        self._give(folder / "memory")

        def start(connection: Any) -> Any:
            return connection.createXML(as_text(xml), libvirt.VIR_DOMAIN_START_AUTODESTROY)

        started = self._connection.call(f"start {domain.name}", start)
        try:
            yield started
            with open(folder / "state", "xb") as state:
                self._save(domain, started, state.fileno())
        finally:
            self._destroy(started)

    def _give(self, path: Path) -> None:
        """Let QEMU's user write the file; libvirt labels disks only."""

        def work(connection: Any) -> str:
            return str(
                parsed(connection.getCapabilities()).findtext("host/secmodel[model='dac']/baselabel", "")
            )

        label = self._connection.call("capabilities", work)
        path.chmod(0o600)
        if found := re.fullmatch(r"\+(\d+):\+(\d+)", label):
            os.chown(path, int(found[1]), int(found[2]))

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
                f"{self._host.name}: {started.name()}: QEMU refuses {command}: {answer['error'].get('desc', '')}"
            )
        return answer.get("return")

    def _ignore_shared(self, started: Any) -> None:
        capability = {"capability": "x-ignore-shared", "state": True}
        self._monitor(started, "migrate-set-capabilities", {"capabilities": [capability]})

    def _save(self, domain: Domain, started: Any, state: int) -> None:
        self._ignore_shared(started)
        reader, writer = os.pipe()
        copied = threading.Thread(target=_copy, args=(reader, state), daemon=True)
        copied.start()
        try:
            self._monitor(started, "getfd", {"fdname": "state"}, writer)
        finally:
            os.close(writer)
        self._monitor(started, "migrate", {"uri": "fd:state"})
        deadline = time.monotonic() + _LOADS
        while (status := self._monitor(started, "query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled") or time.monotonic() > deadline:
                raise VclustError(f"{self._host.name}: {domain.name}: its state is not saved: {status}")
            time.sleep(_POLL)
        copied.join(_LOADS)

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
        deadline = time.monotonic() + _LOADS
        while (status := self._monitor(started, "query-status")["status"]) != "paused":
            if status != "inmigrate" or time.monotonic() > deadline:
                raise VclustError(
                    f"{self._host.name}: {domain.name}: the template's state does not load: {status}"
                )
            time.sleep(_POLL)

    def _port(self, started: Any) -> contextlib.AbstractContextManager[Callable[[str], None]]:
        """The agent's port, held open: a function that sends it a line."""
        return self._line_to(started, lambda domain, stream: domain.openChannel(PORT, stream, 0))

    def _keyboard(self, started: Any) -> contextlib.AbstractContextManager[Callable[[str], None]]:
        """The console's input, held open: a function that types a line."""
        return self._line_to(started, lambda domain, stream: domain.openConsole(None, stream, 0))

    @contextlib.contextmanager
    def _line_to(
        self, started: Any, connect: Callable[[Any, Any], object]
    ) -> Iterator[Callable[[str], None]]:
        def opened(connection: Any) -> Any:
            stream = connection.newStream()
            connect(connection.lookupByUUIDString(started.UUIDString()), stream)
            return stream

        stream = self._connection.call(f"line to {started.name()}", opened)

        def say(line: str) -> None:
            self._connection.call(f"line to {started.name()}", lambda _: stream.send(line.encode()))

        try:
            yield say
        finally:
            with contextlib.suppress(VclustError):
                self._connection.call(f"line to {started.name()}", lambda _: stream.abort())

    def _hear(self, domain: Domain, console: Path, word: str, timeout: float, wrong: str = "") -> None:
        """Wait until the guest says `word` on the console; if it has started anew it says `wrong` before that."""
        deadline, looked = time.monotonic() + timeout, time.monotonic()
        while True:
            lines = _LINE.findall(console.read_bytes() if console.exists() else b"")
            heard, words = dict(lines), [said for said, _ in lines]
            if b"failed" in heard:
                raise VclustError(
                    f"{self._host.name}: {domain.name}: {heard[b'failed'].decode(errors='replace')}"
                )
            if wrong.encode() in words and word.encode() not in words[: words.index(wrong.encode())]:
                raise VclustError(
                    f"{self._host.name}: {domain.name}: it did not go on from where it was frozen"
                )
            if word.encode() in heard:
                return
            if time.monotonic() > deadline:
                raise VclustError(f"{self._host.name}: {domain.name}: not {word} after {timeout:g} s")
            if time.monotonic() > looked + _ALIVE:
                looked = time.monotonic()
                if not self._runs(domain):
                    raise VclustError(f"{self._host.name}: {domain.name}: it stopped before it was {word}")
            time.sleep(_POLL)

    def _runs(self, domain: Domain) -> bool:
        def work(connection: Any) -> bool:
            with absent(libvirt.VIR_ERR_NO_DOMAIN):
                return bool(connection.lookupByUUIDString(domain.uuid).isActive())
            return False

        return self._connection.call(f"look at {domain.name}", work)

    def _destroy(self, started: Any) -> None:
        def work(_: Any) -> None:
            with absent(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                started.destroy()

        self._connection.call(f"remove domain {started.name()}", work)


def _copy(source: int, target: int) -> None:
    try:
        while data := os.read(source, _CHUNK):
            os.write(target, data)
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
