"""The hosts of a kind: up, down, which there are."""

import contextlib
import fcntl
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from shared import inventory, ssh

from emulated import emulator, image, places, underlay
from emulated.host import Host, Starting
from emulated.kinds import KINDS, Kind
from vclust_py.errors import VclustError

PATIENCE = 600
"""Seconds a host may take from its start to a libvirtd that answers, on a machine that has other work too."""

Report = Callable[[str], None]


def hosts(*which: Kind) -> list[Host]:
    """Those of these kinds (none given: of all) that have a disk, running or not."""
    names = (path.parent.name for path in places.HOSTS.glob("*/image"))
    found = [
        Host(kind, int(match[1]))
        for name in names
        for kind in which or KINDS.values()
        if (match := re.fullmatch(rf"{kind.name}(\d+)", name))
    ]
    return sorted(found, key=lambda host: (host.kind.first, host.number))


def up(kind: Kind, count: int, site_root: Path, report: Report) -> list[Host]:
    """Have hosts 1 to `count` run, and the inventory of all that run written.  Those that run are left as they are,
    those that are off start from the disk and the image they have.
    """
    wanted = [Host(kind, number) for number in range(1, count + 1)]
    with _held():
        if any(host.pid() is None for host in wanted):
            lacking = any(host.images() is None for host in wanted)
            newest = image.ensure(kind.image, report) if lacking else None
            program = emulator.command(kind.processors, report)
            ssh.ensure_key()
            underlay.ensure_bridge()
            began = time.monotonic()
            with contextlib.ExitStack() as stack:
                starting = [
                    (host, stack.enter_context(host.start(program, newest)))
                    for host in wanted
                    if host.pid() is None
                ]
                inventory.write_known_hosts(hosts(), places.KNOWN_HOSTS)
                for host, start in starting:
                    _wait(host, start, began, report)
        for host in wanted:
            report(f"{host.name}: up at {host.address}")
        running = [host for host in hosts(kind) if host.pid()]
        inventory.write(running, site_root, inventory.folder(kind.name))
    return wanted


def down(kind: Kind, report: Report) -> None:
    """Remove all of that kind but its image; with the last host of all kinds also bridge and known_hosts."""
    with _held():
        for host in hosts(kind):
            host.remove()
            report(f"{host.name}: removed")
        shutil.rmtree(inventory.folder(kind.name), ignore_errors=True)
        if hosts():
            inventory.write_known_hosts(hosts(), places.KNOWN_HOSTS)
        else:
            underlay.remove_bridge()
            places.KNOWN_HOSTS.unlink(missing_ok=True)


def _wait(host: Host, start: Starting, began: float, report: Report) -> None:
    """Until ssh and libvirt answer.  Raises VclustError, with the end of its console, when they do not."""
    libvirt = f"virsh -c {host.kind.local_uri} list >/dev/null"
    for what, command in (("ssh", "true"), ("libvirt", libvirt)):
        while True:
            try:
                host.ssh(command, timeout=60)
                break
            except VclustError as error:
                if host.pid() is None or time.monotonic() - began > PATIENCE:
                    said = host.console.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
                    raise VclustError(f"{host.name}: no {what}: {error}\n" + "\n".join(said)) from error
                time.sleep(2)
        report(f"{host.name}: {what} after {time.monotonic() - began:.0f} s, {host.cpu_seconds():.0f} CPU-s")
    start.keep()


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """One command at a time changes the testbed."""
    places.HOSTS.mkdir(parents=True, exist_ok=True)
    with open(places.HOSTS / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
