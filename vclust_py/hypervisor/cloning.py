"""What drivers do alike with a frozen machine and with nodes that go on from it: what these are told, and what they say
on their consoles.
"""

import contextlib
import hashlib
import json
import re
import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import libvirt

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Domain, Host
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.domains import absent, as_text, parsed

_LINE = re.compile(rb"vclust: (installer|waiting|prepared|resumed|installed|ready|failed)\b ?([^\r\n]*)\r?\n")
_SEED = 32
"""Random bytes that an installer gets when it goes on."""
_ALIVE = 1.0
"""Seconds between two looks at whether a domain that says nothing still runs."""
SETTLE = 0.2
"""Seconds from the agent's last word to its next read of the port."""


class Cloning(ABC):
    """What is alike in every `Forking`."""

    clone_mark: ClassVar[str]
    """In the definition of every clone that runs, and of no domain that has booted."""
    _poll = 0.02
    """Seconds between two looks at a console."""

    def __init__(self, host: Host, connection: Connection, accelerator: str) -> None:
        """`accelerator`: as in Capacity, and whatever else of the kind a frozen machine needs."""
        self.host, self._connection, self._accelerator = host, connection, accelerator

    @abstractmethod
    def _said(self, console: Path) -> bytes:
        """All that is in the console's file; empty when it is not there."""

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

    def clear(self, uuids: Iterable[str]) -> list[str]:
        wanted = list(uuids)

        def work(connection: Any) -> list[str]:
            cleared = []
            for uuid in wanted:
                with absent(libvirt.VIR_ERR_NO_DOMAIN, libvirt.VIR_ERR_OPERATION_INVALID):
                    found = connection.lookupByUUIDString(uuid)
                    # Not one that has booted, and that somebody has paused.
                    if found.state()[0] == libvirt.VIR_DOMAIN_PAUSED and self.clone_mark in found.XMLDesc():
                        found.destroy()
                        found.undefine()
                        cleared.append(uuid)
            return cleared

        return self._connection.call("look for clones that never ran", work)

    def _go_on(self, domain: Domain, started: Any, console: Path, timeout: float) -> None:
        """Let the paused domain run, which was an installer when it was frozen, and wait for its disks."""
        with self._keyboard(started) as say:
            self._connection.call(f"resume {domain.name}", lambda _: started.resume())
            # The guest's clock counts whole seconds from here.
            say(f"go {time.time():.0f} {secrets.token_hex(_SEED)} {domain.mac}\n")
            self._hear(domain, console, "resumed", timeout, wrong="installer")

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
            lines = _LINE.findall(self._said(console))
            heard, words = dict(lines), [said for said, _ in lines]
            if b"failed" in heard:
                raise VclustError(
                    f"{self.host.name}: {domain.name}: {heard[b'failed'].decode(errors='replace')}"
                )
            if wrong.encode() in words and word.encode() not in words[: words.index(wrong.encode())]:
                raise VclustError(
                    f"{self.host.name}: {domain.name}: it did not go on from where it was frozen"
                )
            if word.encode() in heard:
                return
            if time.monotonic() > deadline:
                raise VclustError(f"{self.host.name}: {domain.name}: not {word} after {timeout:g} s")
            if time.monotonic() > looked + _ALIVE:
                looked = time.monotonic()
                if not self._runs(domain):
                    raise VclustError(f"{self.host.name}: {domain.name}: it stopped before it was {word}")
            time.sleep(self._poll)

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
