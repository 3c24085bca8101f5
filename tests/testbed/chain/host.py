"""One host of the bed: processes in its namespace, its files, and what may go wrong with it."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chain.bed import Bed
from vclust_py.errors import VclustError
from vclust_py.run import run

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Host:
    bed: Bed
    number: int

    @property
    def name(self) -> str:
        return f"n{self.number}" if self.number else "head"

    @property
    def address(self) -> str:
        return self.bed.address(self.number)

    @property
    def folder(self) -> Path:
        return self.bed.folder / str(self.number)

    @property
    def store(self) -> Path:
        """Where files arrive."""
        return self.folder / "store"

    def start(self, argv: Sequence[str | Path], **options: Any) -> "subprocess.Popen[bytes]":
        """A process in the host's network.  It is its own group, so that a shell goes with all it started.

        What it prints goes to the file `log`, unless `options` for Popen say otherwise.
        """
        with open(self.folder / "log", "ab") as log:
            return subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{self.bed.namespace(self.number)}", "--", *map(str, argv)],
                **{
                    "stdin": subprocess.DEVNULL,
                    "stdout": log,
                    "stderr": log,
                    "start_new_session": True,
                    **options,
                },
            )

    def log(self) -> str:
        try:
            return (self.folder / "log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def unplug(self) -> None:
        self.bed.link(self.number, False)

    def plug(self) -> None:
        self.bed.link(self.number, True)

    def slow(self, rate: str) -> None:
        self.bed.shape_one(self.number, rate)

    def lose_large_packets(self) -> None:
        """As behind a link of a smaller MTU that tells nobody: what is larger than 1,200 bytes never arrives here."""
        self._filter("-A")

    def take_large_packets(self) -> None:
        self._filter("-D")

    def _filter(self, action: str) -> None:
        tables = "ip6tables" if self.bed.family == 6 else "iptables"
        large = ["-m", "length", "--length", "1200:65535", "-j", "DROP"]
        run(["ip", "netns", "exec", self.bed.namespace(self.number), tables, action, "INPUT", *large])

    def small_disk(self, size: int) -> None:
        """The store is a file system of its own, of that many bytes."""
        run(["mount", "-t", "tmpfs", "-o", f"size={size}", "vclust-testbed", self.store])

    def whole_disk(self) -> None:
        """Undo `small_disk`, with all that it holds."""
        run(["umount", self.store])

    def stored(self) -> int:
        """Bytes that the store's files take, under whatever name."""
        held = 0
        with os.scandir(self.store) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):
                    held += entry.stat(follow_symlinks=False).st_blocks * 512
        return held

    def empty(self) -> None:
        for path in self.store.iterdir():
            path.unlink()


def end(process: "subprocess.Popen[bytes]") -> None:
    """Kill the process and its group, frozen or not."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def listens(pid: int, port: int, udp: bool = False) -> bool:
    """Whether anything in that process's network listens on the port."""
    kind, state = ("udp", "07") if udp else ("tcp", "0A")
    for table in (kind, f"{kind}6"):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == state and int(words[1].rpartition(":")[2], 16) == port:
                    return True
    return False


def wait_for_port(host: Host, process: "subprocess.Popen[bytes]", port: int, udp: bool = False) -> None:
    """Raises VclustError, with what the process said, when it ends or takes a minute."""
    deadline = time.monotonic() + 60
    while not listens(process.pid, port, udp):
        if process.poll() is not None or time.monotonic() > deadline:
            raise VclustError(f"{host.name}: nothing listens on port {port}\n{host.log()[-2000:]}")
        time.sleep(0.01)


def cpu_seconds(pid: int) -> float:
    """What a process that is there has used, ended children that it waited for included."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / _TICKS
    return 0.0


def peak_memory(pid: int) -> int:
    """Bytes that a process held at most (VmHWM: the interpreter and libraries, which all share, included)."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0
