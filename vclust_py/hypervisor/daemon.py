"""libvirt's daemons on this machine where no systemd looks after them (containers, test machines)."""

import contextlib
import fcntl
import os
import platform
import select
import shutil
import signal
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.run import run, start_module

_RUN = Path("/run/libvirt")
_SOCKETS = {"virtlogd": _RUN / "virtlogd-sock", "libvirtd": _RUN / "libvirt-sock"}
_PIDS = Path("/run/vclust")
_NO_KVM = _PIDS / "no-kvm"
_IDLE = "120"
"""libvirtd ends by itself after so many seconds without a client and without a running domain."""
_DOMAINS = (Path("/run/libvirt/qemu"), Path("/run/libvirt/libxl"))
_START_TIMEOUT = 15.0
_STOP_TIMEOUT = 5.0


def _answers(path: Path) -> bool:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        try:
            client.connect(str(path))
        except OSError:
            return False
        return True


def ensure(*, kvm: bool) -> None:
    """Make sure libvirtd and virtlogd answer; raises VclustError with their last words when they do not come up."""
    if all(map(_answers, _SOCKETS.values())):
        return
    if Path("/run/systemd/system").is_dir():
        run(["systemctl", "start", "libvirtd.service"], timeout=120)
        return
    for program in (*_SOCKETS, "tini"):
        if shutil.which(program) is None:
            raise VclustError(
                f"{program}: not found, and libvirtd does not run",
                "install it: apt-get install libvirt-daemon-system tini",
            )
    with _alone():
        for name, path in _SOCKETS.items():
            if not _answers(path):
                _start(name, kvm=kvm)


def begin() -> None:
    """Start what does not run, in a process of its own, where this machine has QEMU.

    Who comes to need it finds it there, or waits for that process in `ensure`.
    """
    if all(map(_answers, _SOCKETS.values())) or shutil.which(_emulator()) is None:
        return
    start_module("vclust_py.hypervisor.daemon")


def _emulator() -> str:
    return f"qemu-system-{platform.machine()}"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two that start or stop the daemons at once would take each other's sockets away."""
    _PIDS.mkdir(mode=0o755, exist_ok=True)
    with open(_PIDS / "lock", "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _start(name: str, *, kvm: bool) -> None:
    # Processes that libvirt starts and leaves become children of PID 1, and libvirt waits for them to vanish.  In
    # a container PID 1 often reaps late or never; tini (1), as a subreaper, does it at once.
    argv = ["tini", "-s", "--", name, "--pid-file", str(_PIDS / f"{name}.pid")]
    if name == "libvirtd":
        argv += ["--timeout", _IDLE]
        if not kvm and Path("/dev/kvm").exists():
            # libvirt tries /dev/kvm for every emulator it knows; one that is there but does not really work costs
            # it seconds, again and again.  Hide it from this daemon only, in a mount namespace of its own that still
            # sees the machine's later mounts, behind a device that nobody may open: as long as QEMU's user can open
            # /dev/kvm and KVM fails, or the other way round, libvirt takes what it knows of QEMU for outdated.  (A
            # plain file will not do: libvirt cannot carry its mount over into the domain's own namespace.)
            with contextlib.suppress(FileExistsError):
                os.mknod(_NO_KVM, stat.S_IFCHR, os.makedev(1, 3))
            argv = ["unshare", "--mount", "--propagation", "slave", "--", "sh", "-c", _HIDE_KVM, "sh", *argv]
    with contextlib.suppress(OSError):
        _SOCKETS[name].unlink()
    said = _PIDS / f"{name}.log"
    with open(said, "wb") as log:
        try:
            # Forked away and in a session of its own: the daemon outlives the command that needed it.
            subprocess.run(
                ["setsid", "--fork", *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True
            )
        except (OSError, subprocess.CalledProcessError) as error:
            raise VclustError(f"{name}: cannot be started: {error}") from error
    deadline = time.monotonic() + _START_TIMEOUT
    while not _answers(_SOCKETS[name]):
        if time.monotonic() > deadline:
            words = said.read_text(errors="replace").strip() or f"no answer after {_START_TIMEOUT:g} s"
            raise VclustError(f"{name}: does not come up: {words}", "is libvirt-daemon-system installed?")
        time.sleep(0.05)


_HIDE_KVM = f'mount --bind {_NO_KVM} /dev/kvm && exec "$@"'


def stop() -> None:
    """End the daemons that `ensure` started, unless a domain runs: it may be another site's."""
    with _alone():
        # libvirt keeps the state of each running domain there.
        if any(path for folder in _DOMAINS for path in folder.glob("*.xml")):
            return
        for name in reversed(_SOCKETS):
            path = _PIDS / f"{name}.pid"
            with contextlib.suppress(OSError, ValueError):
                pid = int(path.read_text(encoding="ascii"))
                if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == name:
                    _end(pid)
                path.unlink()
            (_PIDS / f"{name}.log").unlink(missing_ok=True)


def _end(pid: int) -> None:
    """Ask a process to end, and see that it does: whoever comes next must not find it half-way.

    libvirtd 11.3 was seen to hang in its end, with the locks that the next one needs.
    """
    process = os.pidfd_open(pid)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(process, number)
            ended, _, _ = select.select([process], [], [], _STOP_TIMEOUT)
            if ended:
                return
    finally:
        os.close(process)


def main() -> None:
    """What `begin` starts.  Who needs the daemons tells why they do not come up."""
    from vclust_py.hypervisor import kvm

    with contextlib.suppress(VclustError):
        ensure(kvm=kvm.works(_emulator()))


if __name__ == "__main__":
    main()
