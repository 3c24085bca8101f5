"""`sandboxed.py UNIT COMMAND…`: the command within what a unit of systemd leaves it, where systemd does not run.

Of the unit these count: CapabilityBoundingSet, NoNewPrivileges, SystemCallFilter, RestrictAddressFamilies,
RestrictNamespaces, Environment; ProtectSystem=strict with ReadWritePaths, PrivateTmp, PrivateDevices and ProtectHome;
or ProtectSystem=full alone.  To be run in a mount namespace of its own, and in a network namespace if the unit has one.
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from pathlib import Path

import seccomp

NAMESPACES = {
    "mnt": 0x00020000, "cgroup": 0x02000000, "uts": 0x04000000, "ipc": 0x08000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip
"""Flags of clone(2) and unshare(2)."""


def settings(unit: Path) -> dict[str, str]:
    """Values by name; those of several lines behind each other."""
    found: dict[str, str] = {}
    for line in unit.read_text(encoding="utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals:
            found[name] = f"{found[name]} {value}" if name in found else value
    return found


def mounts(found: dict[str, str]) -> None:
    subprocess.run(["mount", "--make-rslave", "/"], check=True)
    if found["ProtectSystem"] == "full":
        for path in ("/boot", "/etc", "/usr"):
            subprocess.run(["mount", "--bind", path, path], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
        return
    writable = found["ReadWritePaths"].split()
    for path in writable:
        subprocess.run(["mount", "--bind", path, path], check=True)
    # Everything that is not bound above, but for what systemd leaves alone, too.
    points = [
        line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    ]
    for point in sorted(set(points), key=len):
        if not point.startswith(("/dev", "/proc", "/sys", *writable)):
            subprocess.run(["mount", "-o", "remount,bind,ro", point], check=True)
    for path in ("/tmp", "/var/tmp"):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", path], check=True)
    # Where the devices are shown from must be out of sight of what follows.
    devices = Path("/tmp/devices")
    devices.mkdir()
    for name in ("null", "zero", "full", "random", "urandom", "tty"):
        (devices / name).touch()
        subprocess.run(["mount", "--bind", f"/dev/{name}", devices / name], check=True)
    subprocess.run(["mount", "--rbind", devices, "/dev"], check=True)


def system_calls(filters: str) -> set[str]:
    """By systemd's own lists; behind a `~` are those to leave out."""
    words = filters.split()
    without = [word[1:] for word in words if word.startswith("~")]
    return _named(*(word for word in words if word[0] != "~")) - (_named(*without) if without else set())


def _named(*filters: str) -> set[str]:
    """Of lists, and calls named by themselves."""
    lists = [name for name in filters if name.startswith("@")]
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", *lists],
        capture_output=True,
        text=True,
        check=True,
    )
    words = [line.strip() for line in done.stdout.splitlines()]
    known = {word for word in words if word and word[0] not in "#@"} | (set(filters) - set(lists))
    nested = [word for word in words if word.startswith("@") and word not in filters]
    return known | (_named(*nested) if nested else set())


def main() -> None:
    found = settings(Path(sys.argv[1]))
    mounts(found)
    filters = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    kept_namespaces = found["RestrictNamespaces"].split()
    refused = [flag for name, flag in NAMESPACES.items() if name not in kept_namespaces]
    families = [getattr(socket, name) for name in found["RestrictAddressFamilies"].split()]
    allowed = {
        # Their arguments decide; those of clone3 are in memory, where no filter can look.
        "clone": [seccomp.Arg(0, seccomp.MASKED_EQ, sum(refused), 0)],
        "unshare": [seccomp.Arg(0, seccomp.MASKED_EQ, sum(refused), 0)],
        "socket": [seccomp.Arg(0, seccomp.EQ, family) for family in families],
        "clone3": [],
    }
    filters.add_rule(seccomp.ERRNO(errno.ENOSYS), "clone3")
    for name in system_calls(found["SystemCallFilter"]) - allowed.keys():
        try:
            filters.add_rule(seccomp.ALLOW, name)
        except RuntimeError:
            continue  # of another architecture
    for name, arguments in allowed.items():
        for argument in arguments:
            filters.add_rule(seccomp.ALLOW, name, argument)
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    kept = ",".join(
        "+" + name.removeprefix("CAP_").lower() for name in found["CapabilityBoundingSet"].split()
    )
    filters.load()
    if "Environment" in found:
        os.environ.update([found["Environment"].split("=", 1)])
    argv = ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", *sys.argv[2:]]
    os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main()
