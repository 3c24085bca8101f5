"""Hops that die, freeze or have no room; all the others get the file, and the outcome says who did not and why."""

import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from vclust_py.chain import File, Keys, Options, Outcome, Progress, send
from vclust_py.errors import VclustError

MB = 1 << 20
QUICK = Options(block=MB // 4, stall=1.5)


@pytest.fixture
def file(tmp_path: Path) -> File:
    path = tmp_path / "image.qcow2"
    path.write_bytes(os.urandom(16 * MB) * 12)
    return File(path)


def part(folder: Path) -> int:
    """Bytes of what has arrived and has no name yet."""
    return max((path.stat().st_size for path in folder.glob(".*.part")), default=0)


class Sending(threading.Thread):
    """A transfer in a thread of its own."""

    def __init__(self, file: File, hosts: Sequence, keys: Keys, options: Options = QUICK) -> None:
        super().__init__(daemon=True)
        self.arguments = ([file], [host.hop for host in hosts], keys, options)
        self.hosts = hosts
        self.outcomes: dict[str, Outcome] = {}
        self.error: Exception | None = None
        self.stop = threading.Event()
        self.begun = time.monotonic()
        self.start()

    def run(self) -> None:
        try:
            self.outcomes = {one.host: one for one in send(*self.arguments, stop=self.stop)}
        except VclustError as error:
            self.error = error

    def reach(self, bytes: int, host: int = -1) -> None:
        """Wait until that host has as much."""
        while part(self.hosts[host].folder) < bytes and self.is_alive():
            time.sleep(0.002)
        assert self.is_alive()

    def done(self, patience: float = 20.0) -> dict[str, Outcome]:
        self.join(patience)
        assert not self.is_alive()
        assert self.error is None, self.error
        return self.outcomes


KILL, STOP = signal.SIGKILL, signal.SIGSTOP


@pytest.mark.parametrize("number", [KILL, STOP])
@pytest.mark.parametrize("victims", [(0,), (2,), (4,), (1, 2), (0, 4), (0, 1, 2, 3)])
def test_dead_and_frozen_hops_are_bypassed(hosts, file: File, number: int, victims: tuple[int, ...]) -> None:
    running = hosts.start(5)
    sending = Sending(file, running, hosts.trust.head)
    sending.reach(20 * MB)
    for victim in victims:
        running[victim].signal(number)
    outcomes = sending.done()
    for index, host in enumerate(running):
        outcome = outcomes[host.hop.name]
        if index in victims:
            assert outcome.failed
            assert not (host.folder / "image.qcow2").exists()
        else:
            assert outcome.failed == ""
            assert (host.folder / "image.qcow2").read_bytes() == file.path.read_bytes()
            assert outcome.received < file.path.stat().st_size + 20 * MB  # it went on where it was
            assert outcome.seconds < 8
