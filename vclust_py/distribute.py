"""Phase `distribute`: a cluster's images to those of its hosts that are other machines.

A verified copy to each host, by ssh to the user that the roll-out has made there; what receives is
roles/vm_host/files/receive.py.  A host that holds a file already is not sent it again.
"""

import contextlib
import json
import os
import select
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import IO

from vclust_py import hypervisor, pki, state, timing
from vclust_py.create import FAN_OUT, Connect, demand, drivers_of
from vclust_py.errors import VclustError
from vclust_py.hypervisor import HOST_ROOT
from vclust_py.hypervisor.certificates import ROLL_OUT
from vclust_py.image import Catalogue, Image
from vclust_py.run import DYING_WITH_PARENT
from vclust_py.site import Site
from vclust_py.state import Change, Cluster

USER = "vclust"
_CHUNK = 1 << 20
_PIPE = 1 << 20  # bytes under way between two programs: fewer switches between them
_CONNECT = 60
"""Seconds until a host must have let us in; an emulated one takes ten."""
_ALIVE = (15, 4)
"""Seconds between two signs of life of a host, and how many may be missing."""
_STALL = 150.0
"""Seconds without progress after which a host is given up; more than what receives has patience for."""

_TICK = 1.0
"""Seconds after which an interruption is noticed."""

Counted = Callable[[int], None]
"""Told of every chunk's bytes."""


def distribute(
    site: Site, name: str, *, check: bool = False, connect: Connect = hypervisor.connect
) -> Change:
    """Send every image of a placed cluster, with all it stands on, to the cluster's hosts that lack it.

    Raises VclustError naming host, file and reason; the other hosts' transfers come to their end first, and what
    has arrived need not be sent again.
    """
    with state.held(site, name) as cluster:
        remote = {node.host: node.machine for node in cluster.nodes if node.machine is not None}
        if not remote:
            return Change({}, {})
        if not cluster.images:
            raise VclustError(f"{name}: its images are not made", "run the phase `image` first")
        images = _images(Catalogue(site), cluster)
        lacking = _lacking(site, cluster, list(remote), images, connect)
        remote = {host: machine for host, machine in remote.items() if host in lacking}
        before = {host: sorted(image.path.name for image in lacking[host]) for host in lacking}
        after: dict[str, list[str]] = {host: [] for host in lacking}
        if check or before == after:
            return Change({"lacks": before}, {"lacks": after})
        _send_all(
            site, cluster, {host: machine for host, machine in remote.items() if lacking[host]}, lacking
        )
    return Change({"lacks": before}, {"lacks": after})


def _images(catalogue: Catalogue, cluster: Cluster) -> list[Image]:
    """Each once, and before what stands on it: one that is there can be used."""
    found: dict[str, Image] = {}

    def add(digest: str) -> None:
        image = catalogue.get(digest)
        if image.manifest.backing is not None:
            add(image.manifest.backing)
        found.setdefault(digest, image)

    for digest in cluster.images.values():
        add(digest)
    return list(found.values())


def _lacking(
    site: Site, cluster: Cluster, hosts: list[str], images: list[Image], connect: Connect
) -> dict[str, list[Image]]:
    folder = state.folder(site, cluster).name
    with drivers_of(site, cluster, connect) as (drivers, errors), ThreadPoolExecutor(FAN_OUT) as pool:
        demand(cluster, errors)
        hosts = [host for host in hosts if host in drivers]
        there = pool.map(lambda host: drivers[host].files(folder).images(), hosts)
        return {
            host: [image for image in images if has.get(image.path.name) != image.manifest.bytes]
            for host, has in zip(hosts, there, strict=True)
        }


def _send_all(
    site: Site, cluster: Cluster, machines: dict[str, str], lacking: dict[str, list[Image]]
) -> None:
    with timing.phase(site, cluster, "distribute") as record:
        record.facts = {"hosts": len(machines)}
        stop = threading.Event()

        def supply(host: str) -> None:
            # One create at a time sends to a host: others mostly wait for the same files.
            with contextlib.ExitStack() as stack:
                while True:
                    try:
                        stack.enter_context(site.hold(f"distribute-{host}", patience=_TICK))
                        break
                    except VclustError:
                        if stop.is_set():
                            raise
                _supply(host)

        def _supply(host: str) -> None:
            begun, sent = time.time(), 0
            total = sum(image.manifest.bytes for image in lacking[host])
            for image in lacking[host]:

                def count(size: int, name: str = image.path.name) -> None:
                    nonlocal sent
                    sent += size
                    record.report(f"send {name}, MB", sent // 10**6, total // 10**6, node=host)

                send(site, host, machines[host], image, count, stop)
            record.node(host, begun, time.time(), count=total)

        # One host's failure does not cost the others what they have received so far; an interruption does.
        with ThreadPoolExecutor(FAN_OUT) as pool:
            tries = {host: pool.submit(supply, host) for host in machines}
            try:
                wait(tries.values())
            except BaseException:
                stop.set()
                raise
        record.bytes = sum(
            image.manifest.bytes
            for host, one in tries.items()
            if one.exception() is None
            for image in lacking[host]
        )
        failures = [error for one in tries.values() if (error := one.exception()) is not None]
        for error in failures:
            if not isinstance(error, VclustError):
                raise error
        if failures:
            raise VclustError("\n".join(map(str, failures)))


def send(
    site: Site,
    host: str,
    machine: str,
    image: Image,
    count: Counted = lambda size: None,
    stop: threading.Event | None = None,
) -> None:
    """Send one image; there under its own name when this returns, whole and on the disk.

    Raises VclustError naming host and file when it does not arrive, in a bounded time, or when `stop` is set.
    """
    stop = stop or threading.Event()
    where = f"{host}: {image.path.name}"
    words = ["receive", image.path.name, str(image.manifest.bytes), image.manifest.digest]
    pack = [*DYING_WITH_PARENT, "zstd", "-1", "-c", "-q"]
    carry = [*DYING_WITH_PARENT, *ssh(site, machine), *words]
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as answer:
        with (
            open(image.path, "rb") as source,
            _process(carry, subprocess.PIPE, answer, said) as ssh_client,
            _process(pack, subprocess.PIPE, ssh_client.stdin, said) as packer,
        ):
            assert ssh_client.stdin is not None and packer.stdin is not None  # noqa: PT018, S101 - for mypy
            ssh_client.stdin.close()  # the packer's alone now: its end is the end of the stream
            try:
                _feed(source, packer.stdin, count, stop)
                packer.stdin.close()
            except BrokenPipeError:
                pass  # the host has ended it; what it said follows
            except TimeoutError:
                if stop.is_set():
                    raise VclustError(f"{where}: interrupted") from None
                raise VclustError(
                    f"{where}: the host has taken nothing for {_STALL:g} s", "look at its disk and network"
                ) from None
            status = _end(ssh_client, stop)
            if status is None:
                raise VclustError(f"{where}: sent, and no answer for {_STALL:g} s")
        if status != 0:
            raise _failure(where, machine, status, _text(answer), _text(said))


def ssh(site: Site, machine: str) -> list[str]:
    """How the site manager reaches what receives images; nothing of the user's own configuration counts."""
    options = {
        "BatchMode": "yes",
        "IdentitiesOnly": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": str(site.pki / pki.KNOWN_HOSTS),
        "GlobalKnownHostsFile": "/dev/null",
        "ConnectTimeout": str(_CONNECT),
        "ServerAliveInterval": str(_ALIVE[0]),
        "ServerAliveCountMax": str(_ALIVE[1]),
        "Compression": "no",  # zstd has done that
    }
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-F", "none", "-i", str(site.pki / pki.IMAGES_KEY), *words, "--", f"{USER}@{machine}"]


@contextlib.contextmanager
def _process(
    argv: list[str], stdin: int, stdout: IO[bytes] | None, stderr: IO[bytes]
) -> Iterator["subprocess.Popen[bytes]"]:
    """Gone at the end, whatever happens."""
    process = subprocess.Popen(argv, stdin=stdin, stdout=stdout, stderr=stderr, pipesize=_PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()


def _feed(source: IO[bytes], target: IO[bytes], count: Counted, stop: threading.Event) -> None:
    """Raises TimeoutError when `target` takes nothing for too long, BrokenPipeError when nobody reads it."""
    descriptor = target.fileno()
    os.set_blocking(descriptor, False)
    while chunk := memoryview(source.read(_CHUNK)):
        while chunk:
            for _ in _ticks(stop):
                if select.select([], [descriptor], [], _TICK)[1]:
                    break
            else:
                raise TimeoutError
            with contextlib.suppress(BlockingIOError):
                written = os.write(descriptor, chunk)
                chunk = chunk[written:]
                count(written)


def _end(process: "subprocess.Popen[bytes]", stop: threading.Event) -> int | None:
    """The exit status; None when there is none for too long."""
    for _ in _ticks(stop):
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(_TICK)
    return None


def _ticks(stop: threading.Event) -> Iterator[None]:
    """Each worth `_TICK` seconds of waiting; they end with the host's time, or when `stop` is set."""
    deadline = time.monotonic() + _STALL
    while not stop.is_set() and time.monotonic() < deadline:
        yield


def _failure(where: str, machine: str, status: int, answer: str, said: str) -> VclustError:
    with contextlib.suppress(ValueError, TypeError, LookupError):
        reason = str(json.loads(answer.splitlines()[-1])["error"])
        full = "No space left" in reason or "quota" in reason.lower()
        hint = f"free some space in {HOST_ROOT} there, or take it out of the site" if full else None
        return VclustError(f"{where}: refused by the host: {reason}", hint)
    last = said.strip().splitlines()[-1:] or [f"ssh ended with exit status {status}"]
    hint = f"is {machine} up, and its ssh server?"
    if "Permission denied" in said or "Host key verification failed" in said or "Identity file" in said:
        hint = ROLL_OUT
    return VclustError(f"{where}: not sent: {last[0]}", hint)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")
