"""All hosts: up, down, which there are."""

import contextlib
import fcntl
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.run import run
from xen import image, inventory, places, underlay
from xen.host import Host, Starting

PATIENCE = 600
"""Seconds a host may take from its start to a libvirtd that answers, on a machine that has other work too."""

Report = Callable[[str], None]


def hosts() -> list[Host]:
    """Those that have a disk, running or not."""
    found = (
        re.fullmatch(r"(xen|plain)(\d+)", path.name)
        for path in places.HOSTS.glob("*")
        if (path / "image").exists()
    )
    every = [Host(int(match[2]), match[1] == "plain") for match in found if match]
    return sorted(every, key=lambda host: (host.plain, host.number))


def by_name(name: str) -> Host:
    """Raises VclustError when there is no such host."""
    for host in hosts():
        if host.name == name:
            return host
    there = ", ".join(host.name for host in hosts()) or "none"
    raise VclustError(f"{name}: no such host, there are: {there}")


def up(count: int, site_root: Path, report: Report, *, plain: bool = False) -> list[Host]:
    """Have hosts 1 to `count` run, and the inventory of all that run written.  Those that run are left as they are,
    those that are off start from the disk and the image they have.
    """
    wanted = [Host(number, plain) for number in range(1, count + 1)]
    with _held():
        if any(host.pid() is None for host in wanted):
            newest = image.ensure(report) if any(host.images() is None for host in wanted) else None
            _ensure_key()
            underlay.ensure_bridge()
            began = time.monotonic()
            with contextlib.ExitStack() as stack:
                starting = [
                    (host, stack.enter_context(host.start(newest))) for host in wanted if host.pid() is None
                ]
                inventory.write_known_hosts(hosts())
                for host, start in starting:
                    _wait(host, start, began, report)
        for host in wanted:
            report(f"{host.name}: up at {host.address}")
        running = [host for host in hosts() if host.plain == plain and host.pid()]
        inventory.write(running, site_root, inventory.folder(plain))
    return wanted


def down(name: str | None, report: Report) -> None:
    """Pull the plug of one host, whose disk stays; or, without a name, remove all there is but images and key."""
    with _held():
        if name is not None:
            by_name(name).stop()
            report(f"{name}: off")
            return
        for host in hosts():
            host.remove()
            report(f"{host.name}: removed")
        underlay.remove()
        for plain in (False, True):
            shutil.rmtree(inventory.folder(plain), ignore_errors=True)
        places.KNOWN_HOSTS.unlink(missing_ok=True)


def _wait(host: Host, start: Starting, began: float, report: Report) -> None:
    """Until ssh and libvirt answer.  Raises VclustError, with the end of its console, when they do not."""
    libvirt = "test:///default" if host.plain else "xen:///system"
    for what, command in (("ssh", "true"), ("libvirt", f"virsh -c {libvirt} list >/dev/null")):
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


def _ensure_key() -> None:
    if not places.KEY.exists():
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", places.MARK, "-f", places.KEY])


@contextlib.contextmanager
def _held() -> Iterator[None]:
    """One command at a time changes the testbed."""
    places.HOSTS.mkdir(parents=True, exist_ok=True)
    with open(places.ROOT / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
