#!/usr/bin/env python3
"""Boots a finished base image with bare QEMU: CPU seconds and wall time to the ssh banner, login and report.

    tests/benchmarks/boot.py --base BASE.qcow2 --kernel VMLINUZ --installer INITRAMFS --seed SEED.iso --key KEY

The seed must give the node the address 10.0.2.15/24 and the hardware address of --mac (QEMU's user network).
CPU seconds are those of the QEMU process, that is of the whole machine, host side included.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from vclust_py.image import installer
from vclust_py.run import die_with_parent

TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measurement:
    """Seconds from the start of QEMU; `cpu` of its process, `wall` on the clock.  None: did not happen."""

    banner_cpu: float | None
    banner_wall: float | None
    login_cpu: float | None
    login_wall: float | None
    report_cpu: float | None
    report_wall: float | None
    report: str
    idle_cpu: float | None
    """CPU seconds of the `--idle` seconds after the report."""
    memory: int
    """Resident bytes of QEMU at the end."""


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def banner(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as connection:
            connection.settimeout(30)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def login(port: int, key: Path, user: str) -> bool:
    options = [
        "BatchMode=yes",
        "ConnectTimeout=60",
        "StrictHostKeyChecking=no",
        "UserKnownHostsFile=/dev/null",
    ]
    argv = ["ssh", "-F", "none", "-i", str(key), "-p", str(port), *(f"-o{option}" for option in options)]
    return (
        subprocess.run([*argv, f"{user}@127.0.0.1", "true"], capture_output=True, check=False).returncode == 0
    )


def report(console: Path) -> str:
    """The node's last word: its ready or failed line, or nothing yet."""
    for line in console.read_text(errors="replace").splitlines():
        if line.startswith(("vclust: ready", "vclust: failed")):
            return line.strip()
    return ""


def measure(arguments: argparse.Namespace, folder: Path) -> Measurement:
    overlay, console = folder / "overlay.qcow2", folder / "console"
    base = arguments.base.resolve()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", overlay, arguments.disk],
        check=True,
    )
    console.touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    disks = [f"file={overlay},format=qcow2,cache=unsafe", f"file={arguments.seed},format=raw,readonly=on"]
    if arguments.bundle:
        disks.append(f"file={arguments.bundle},format=raw,readonly=on")
    command_line = f"{installer.command_line(emulated=not arguments.kvm)} {arguments.append}".strip()
    accelerator = "kvm" if arguments.kvm else f"tcg,tb-size={installer.TB_CACHE}"
    processor = ",".join(
        ["max", *(f"-{name}" for name in installer.EMULATED_CPU_WITHOUT if not arguments.kvm)]
    )
    argv = [
        *("qemu-system-x86_64", "-accel", accelerator, "-machine", arguments.machine, "-cpu", processor),
        *(
            "-m",
            arguments.memory,
            "-nodefaults",
            "-display",
            "none",
            "-no-reboot",
            "-serial",
            f"file:{console}",
        ),
        *("-kernel", arguments.kernel, "-initrd", arguments.installer, "-append", command_line),
        *("-netdev", f"user,id=n,net=10.0.2.0/24,hostfwd=tcp:127.0.0.1:{port}-10.0.2.15:22"),
        *("-device", f"virtio-net-pci,netdev=n,mac={arguments.mac},romfile="),
        *(word for disk in disks for word in ("-drive", f"{disk},if=virtio")),
        *arguments.qemu,
    ]
    started = time.monotonic()
    machine = subprocess.Popen(argv, preexec_fn=die_with_parent)
    marks: dict[str, tuple[float, float]] = {}

    def mark(name: str) -> None:
        marks[name] = (round(cpu_seconds(machine.pid), 2), round(time.monotonic() - started, 2))

    try:
        while machine.poll() is None and time.monotonic() - started < arguments.timeout:
            # A banner costs the node a fork of sshd: ask only when it can be there, and only once it was.
            if "banner" not in marks and not arguments.report_only and banner(port):
                mark("banner")
                if login(port, arguments.key, arguments.user):
                    mark("login")
            if "report" not in marks and report(console):
                mark("report")
            if "report" in marks and (arguments.report_only or "banner" in marks):
                break
            time.sleep(0.1)
        idle = None
        if arguments.idle and machine.poll() is None:
            before = cpu_seconds(machine.pid)
            time.sleep(arguments.idle)
            idle = round(cpu_seconds(machine.pid) - before, 2)
        status = Path(f"/proc/{machine.pid}/status").read_text() if machine.poll() is None else ""
        resident = [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")]
    finally:
        machine.kill()
        machine.wait()
    if arguments.console:
        arguments.console.write_text(console.read_text(errors="replace"))
    (banner_at, login_at, report_at) = (
        marks.get(name, (None, None)) for name in ("banner", "login", "report")
    )
    return Measurement(*banner_at, *login_at, *report_at, report(console), idle, sum(resident))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("base", "kernel", "installer", "seed"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--key", type=Path, help="ssh key of --user")
    parser.add_argument("--user", default="root")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--disk", default="4G")
    parser.add_argument("--memory", default="488M")
    parser.add_argument("--mac", default="52:54:00:00:00:01")
    parser.add_argument("--machine", default=installer.MACHINE)
    parser.add_argument("--kvm", action="store_true")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--console", type=Path, help="keep what the node printed")
    parser.add_argument(
        "--idle", type=float, default=0, help="also measure this many seconds after the report"
    )
    parser.add_argument("--report-only", action="store_true", help="do not log in, wait for the report")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("qemu", nargs="*", help="after --: more words for QEMU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vclust-boot-", dir="/var/tmp") as folder:
        result = measure(arguments, Path(folder))
    if arguments.json:
        print(json.dumps(asdict(result)))
    else:
        for name, value in asdict(result).items():
            print(f"{name:12} {value}")
    return 0 if result.report.startswith("vclust: ready") else 1


if __name__ == "__main__":
    sys.exit(main())
