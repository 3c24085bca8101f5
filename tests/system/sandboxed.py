"""`sandboxed.py UNIT COMMAND…`: the command within what a unit of systemd leaves it, where systemd does not run.

Of the unit these count: CapabilityBoundingSet, NoNewPrivileges, SystemCallFilter, ProtectSystem=strict with
ReadWritePaths, PrivateTmp, ProtectHome.  To be run in a mount namespace of its own.
"""

import ctypes
import errno
import os
import subprocess
import sys
from pathlib import Path

import seccomp


def settings(unit: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in unit.read_text(encoding="utf-8").splitlines() if "=" in line]
    return {name: value for name, _, value in lines}


def mounts(found: dict[str, str]) -> None:
    subprocess.run(["mount", "--make-rslave", "/"], check=True)
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


def system_calls(filters: str) -> list[str]:
    """By systemd's own lists."""
    done = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager", *filters.split()],
        capture_output=True,
        text=True,
        check=True,
    )
    words = [line.strip() for line in done.stdout.splitlines()]
    known = [word for word in words if word and word[0] not in "#@"]
    nested = [word for word in words if word.startswith("@") and word not in filters.split()]
    return known + (system_calls(" ".join(nested)) if nested else [])


def main() -> None:
    found = settings(Path(sys.argv[1]))
    mounts(found)
    filters = seccomp.SyscallFilter(seccomp.ERRNO(errno.EPERM))
    for name in set(system_calls(found["SystemCallFilter"])):
        try:
            filters.add_rule(seccomp.ALLOW, name)
        except RuntimeError:
            continue  # of another architecture
    ctypes.CDLL(None).prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
    kept = ",".join(
        "+" + name.removeprefix("CAP_").lower() for name in found["CapabilityBoundingSet"].split()
    )
    filters.load()
    argv = ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", *sys.argv[2:]]
    os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell


if __name__ == "__main__":
    main()
