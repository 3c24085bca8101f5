"""The chain's hop services on a bed's hosts."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from chain.bed import Bed
from chain.host import Host, end, wait_for_port
from vclust_py.chain import PORT
from vclust_py.chain.program import zipapp

PYTHON = "/usr/bin/python3"
"""Hosts have no virtual environment."""


def shipped(bed: Bed) -> Path:
    """The program as the roll-out puts it on hosts, in the bed's folder."""
    path = bed.folder / "hop.pyz"
    if not path.exists():
        path.write_bytes(zipapp())
    return path


class Hops:
    """A hop service for each host; a context manager that ends them, frozen or not."""

    def __init__(
        self, hosts: Iterable[Host], *, program: Path | None = None, options: Sequence[str] = ()
    ) -> None:
        self.processes: dict[int, subprocess.Popen[bytes]] = {}
        hosts = list(hosts)
        self._program = program or shipped(hosts[0].bed)
        self._options = options
        try:
            for host in hosts:
                self.start(host, wait=False)
            for host in hosts:
                wait_for_port(host, self.processes[host.number], PORT)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> "Hops":
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    def start(self, host: Host, *, wait: bool = True) -> None:
        address = f"[{host.address}]" if host.bed.family == 6 else host.address
        keys = {option: host.folder / f"{file}.pem" for option, file in _FILES.items()}
        words = [word for option, path in keys.items() for word in (option, path)]
        words += ["--listen", f"{address}:{PORT}", "--folder", host.store, *self._options]
        self.processes[host.number] = host.start([PYTHON, "-I", self._program, *words])
        if wait:
            wait_for_port(host, self.processes[host.number], PORT)

    def kill(self, host: Host) -> None:
        end(self.processes[host.number])

    def freeze(self, host: Host) -> None:
        os.killpg(self.processes[host.number].pid, signal.SIGSTOP)

    def thaw(self, host: Host) -> None:
        os.killpg(self.processes[host.number].pid, signal.SIGCONT)

    def end(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(OSError):
                end(process)


_FILES = {"--ca": "ca", "--certificate": "cert", "--key": "key"}
