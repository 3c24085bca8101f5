"""What confines maintainer scripts in the builder beside namespaces: forbidden system calls, memory, processes.

Docker's and systemd's lists of what a container needs not do served as models; a call that is not named is allowed,
for dpkg runs whatever packages bring.
"""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.image import unsynced
from vclust_py.run import DYING_WITH_PARENT

MEMORY = 4 << 30
"""Bytes that a build's packages may take; page cache counts too, and is given back when it is needed."""
PROCESSES = 2048
"""And threads."""

_FORBIDDEN = """
    mount umount2 pivot_root move_mount open_tree fsopen fsconfig fsmount fspick mount_setattr
    name_to_handle_at open_by_handle_at
    unshare setns
    bpf perf_event_open userfaultfd io_uring_setup io_uring_enter io_uring_register
    init_module finit_module delete_module kexec_load kexec_file_load reboot
    add_key request_key keyctl
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    swapon swapoff quotactl quotactl_fd acct syslog fanotify_init lookup_dcookie vhangup
    settimeofday clock_settime adjtimex clock_adjtime
    iopl ioperm
""".split()  # noqa: SIM905 -- sixty quoted words are harder to read
_NEW_NAMESPACES = (
    0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000
)  # fmt: skip
"""clone(2): CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_FAMILIES = (1, 2, 10, 16)
"""AF_UNIX, AF_INET, AF_INET6, AF_NETLINK.  Others, AF_VSOCK among them, are not confined by a network namespace."""
_LAST_FAMILY = 63
_TERMINAL = (0x5412, 0x541C)
"""ioctl(2): TIOCSTI and TIOCLINUX, which type into a terminal."""
_LOW = 0xFFFFFFFF
"""What the kernel looks at of an int argument."""

NO_NETWORK = "VCLUST_NO_NETWORK"
"""Environment variable: this process has no network but loopback, and may make no other network namespace."""

_CGROUPS = Path("/sys/fs/cgroup")
_NAME = "vclust-build"


def write_filter(path: Path) -> None:
    """Write the system-call filter (BPF, seccomp(2)) to `path`, for the machine's own architecture; others end."""
    import seccomp  # Debian's python3-seccomp

    filters = seccomp.SyscallFilter(seccomp.ALLOW)
    refused = seccomp.ERRNO(errno.EPERM)
    for call in _FORBIDDEN:
        # One that this machine's libseccomp or architecture does not know cannot be forbidden by name.
        with contextlib.suppress(RuntimeError):
            filters.add_rule(refused, call)
    for flag in _NEW_NAMESPACES:
        filters.add_rule(refused, "clone", seccomp.Arg(0, seccomp.MASKED_EQ, flag, flag))
    # Its flags are in memory, where no filter can look; libc then calls clone.
    filters.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    # The layer is thrown away if the machine stops; the builder syncs it at the end.
    for call in unsynced.CALLS:
        filters.add_rule(seccomp.ERRNO(0), call)
    unknown = seccomp.ERRNO(errno.EAFNOSUPPORT)
    for family in set(range(_LAST_FAMILY + 1)) - set(_FAMILIES):
        filters.add_rule(unknown, "socket", seccomp.Arg(0, seccomp.MASKED_EQ, _LOW, family))
    filters.add_rule(unknown, "socket", seccomp.Arg(0, seccomp.GT, _LAST_FAMILY))
    for request in _TERMINAL:
        filters.add_rule(refused, "ioctl", seccomp.Arg(1, seccomp.MASKED_EQ, _LOW, request))
    with open(path, "wb") as file:
        filters.export_bpf(file)


def is_without_network() -> bool:
    """Whether NO_NETWORK is set.  Raises VclustError where it is not true: packages would run in that network."""
    if NO_NETWORK not in os.environ:
        return False
    # proc(5): where addresses lead to, IPv4 with a heading; a kernel without IPv6 has no such file.  Not the list of
    # interfaces: a new namespace may have some that are down, as those of tunnels.
    folder, devices = Path("/proc/self/net"), set[str]()
    devices |= {line.split()[0] for line in (folder / "route").read_text(encoding="ascii").splitlines()[1:]}
    with contextlib.suppress(FileNotFoundError):
        devices |= {
            line.split()[-1] for line in (folder / "ipv6_route").read_text(encoding="ascii").splitlines()
        }
    if others := sorted(devices - {"lo"}):
        raise VclustError(
            f"environment variable {NO_NETWORK}: got a network by {', '.join(others)}, expected none",
            "unset it: what packages run then gets a network namespace of its own",
        )
    return True


@contextlib.contextmanager
def control_groups() -> Iterator[list[Path]]:
    """Control groups (folders, cgroups(7)) whose processes all together take no more than MEMORY and PROCESSES.

    A process joins by writing to each one's `cgroup.procs`.  Where systemd runs, the group is that of a scope; else it
    is made here, of version 2 or 1.  None where neither can be had (a container with read-only control groups): its own
    limits hold then.  The daemon that serves the disk must stay outside: short of memory it would wait for itself.
    """
    if Path("/run/systemd/system").is_dir():
        with _scope() as group:
            yield [group]
        return
    groups = _groups()
    try:
        yield groups
    finally:
        _remove(groups)


@contextlib.contextmanager
def _scope() -> Iterator[Path]:
    """The control group of a new scope of systemd's, which lasts as long as a process that only waits in it."""
    limits = (f"--property=MemoryMax={MEMORY}", f"--property=TasksMax={PROCESSES}", "--property=Delegate=yes")
    argv = ["systemd-run", "--scope", "--quiet", "--collect", *limits, "--", "sh", "-c", "echo; exec cat"]
    with subprocess.Popen(
        [*DYING_WITH_PARENT, *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as waiting:
        try:
            if waiting.stdout is None or not waiting.stdout.readline():
                raise VclustError(
                    "systemd-run: makes no scope to build packages in", "look at: journalctl -b -u dbus"
                )
            groups = Path(f"/proc/{waiting.pid}/cgroup").read_text(encoding="ascii")
            # A line "0::/system.slice/run-r12.scope" with version 2.
            path = next(line[3:] for line in groups.splitlines() if line.startswith("0::"))
            yield _CGROUPS / path.lstrip("/")
        finally:
            waiting.kill()


def _groups() -> list[Path]:
    """New control groups with the limits, each of one controller."""
    unified = (_CGROUPS / "cgroup.subtree_control").exists()
    made = []
    for controller, limit, value in (
        ("memory", "max" if unified else "limit_in_bytes", MEMORY),
        ("pids", "max", PROCESSES),
    ):
        parent = _CGROUPS if unified else _CGROUPS / controller
        # Those of a builder that was killed; one with processes in it cannot be removed.
        _remove([group for group in parent.glob(f"{_NAME}.*") if group not in made])
        group = parent / f"{_NAME}.{os.getpid()}"
        with contextlib.suppress(OSError):
            if unified:
                (parent / "cgroup.subtree_control").write_text(f"+{controller}", encoding="ascii")
            group.mkdir(exist_ok=True)
            (group / f"{controller}.{limit}").write_text(str(value), encoding="ascii")
            made.append(group)
    return list(dict.fromkeys(made))


def _remove(groups: list[Path]) -> None:
    for group in groups:
        with contextlib.suppress(OSError):
            group.rmdir()
