#!/usr/bin/env python3
"""Boots a finished base image with bare QEMU: CPU seconds and wall time to the ssh banner, login and report.

    tests/benchmarks/boot.py --base BASE.qcow2 --kernel KERNEL.img --installer INSTALLER.img \\
        --seed SEED.img --cluster CLUSTER.img --key KEY

The seed gives the node --address and --mac, the network is QEMU's user network.  CPU seconds are those of the QEMU
process, that is of the whole machine, host side included.
"""

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "system")]

from node import Node  # noqa: E402


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


def measure(node: Node, arguments: argparse.Namespace) -> Measurement:
    marks: dict[str, tuple[float, float]] = {}

    def mark(name: str) -> None:
        marks[name] = (round(node.cpu_seconds(), 2), round(time.monotonic() - node.started, 2))

    while node.running and time.monotonic() - node.started < arguments.timeout:
        if "banner" not in marks and arguments.key and node.banner():
            mark("banner")
            if node.ssh(arguments.key, arguments.user, "true").returncode == 0:
                mark("login")
        if "report" not in marks and node.report():
            mark("report")
        if "report" in marks and ("banner" in marks or not arguments.key):
            break
        time.sleep(0.1)
    idle = None
    if arguments.idle and node.running:
        before = node.cpu_seconds()
        time.sleep(arguments.idle)
        idle = round(node.cpu_seconds() - before, 2)
    banner, login, report = (marks.get(name, (None, None)) for name in ("banner", "login", "report"))
    memory = node.resident_bytes() if node.running else 0
    return Measurement(*banner, *login, *report, node.report(), idle, memory)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("base", "kernel", "installer", "seed", "cluster"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument(
        "--key", type=Path, help="ssh key of --user; without it the report is waited for, no more"
    )
    parser.add_argument("--user", default="root")
    parser.add_argument("--bundle", type=Path)
    parser.add_argument("--disk", default="4G")
    parser.add_argument("--memory", default="488M")
    parser.add_argument("--mac", default="52:54:0a:00:02:01")
    parser.add_argument("--address", default="10.0.2.1")
    parser.add_argument("--network", default="10.0.2.0/24")
    parser.add_argument("--router", default="10.0.2.254")
    parser.add_argument("--kvm", action="store_true")
    parser.add_argument("--append", default="", help="more for the kernel's command line")
    parser.add_argument("--console", type=Path, help="keep what the node printed")
    parser.add_argument(
        "--idle", type=float, default=0, help="also measure this many seconds after the report"
    )
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("qemu", nargs="*", help="after --: more words for QEMU")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vclust-boot-", dir="/var/tmp") as folder:
        same = ("mac", "address", "network", "router", "bundle", "disk", "memory", "kvm", "append", "qemu")
        node = Node(
            Path(folder),
            arguments.base,
            arguments.kernel,
            arguments.installer,
            arguments.seed,
            arguments.cluster,
            **{name: getattr(arguments, name) for name in same},
        )
        with node:
            result = measure(node, arguments)
        if arguments.console:
            arguments.console.write_bytes(node.console.read_bytes())
    if arguments.json:
        print(json.dumps(asdict(result)))
    else:
        for name, value in asdict(result).items():
            print(f"{name:12} {value}")
    return 0 if result.report.startswith("vclust: ready") else 1


if __name__ == "__main__":
    sys.exit(main())
