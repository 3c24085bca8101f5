#!/usr/bin/env python3
"""What it costs running nodes to change: a user more, packages that come and go, another size.

    .venv/bin/python tests/benchmarks/change.py [--nodes 8] [--ram 256] [--packages nmap] [--runs 3]
        [-i INVENTORY] [--json]

One cluster, changed by `vclust apply` again and again; medians of the runs.

user     a user more: one login to each node, and nothing installed
install  the packages come; beside `user` that is their bytes and their installation
remove   both go
restart  each node in turn with 64 MB of memory more, and back with the next run

wall     seconds of the whole command
teach    of these the phase that tells the nodes (or restarts them)
cpu      CPU seconds of a node's QEMU process, host side included; mean of the nodes

Root.  Nodes run by KVM where it works, else emulated.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vclust_py.site import PROJECT

VCLUST = Path(sys.executable).parent / "vclust"
TICKS = os.sysconf("SC_CLK_TCK")
NAME = "bench-change"
REQUEST = """\
[Hardware]
NumberOfNodes: {nodes}
RAM: {ram}
[Software]
Name: bench-change
Hostname: node%02d
Network: 192.168.94.0/24
User: ann:*
"""


def vclust(inventory: Path, *words: str | Path) -> str:
    return subprocess.run(
        [VCLUST, "-i", inventory, *words], capture_output=True, text=True, check=True
    ).stdout


def cpu_seconds() -> dict[str, float]:
    """By the numbers of the processes that the cluster's nodes are."""
    spent = {}
    for path in Path("/run/libvirt/qemu").glob(f"*.{NAME}.pid"):
        pid = path.read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def applied(arguments: argparse.Namespace, path: Path, text: str, phase: str = "teach") -> dict[str, float]:
    """The cluster given that request."""
    path.write_text(text)
    before, begun = cpu_seconds(), time.monotonic()
    vclust(arguments.inventory, "apply", "--restart", path)
    wall = time.monotonic() - begun
    after = cpu_seconds()
    shown = json.loads(vclust(arguments.inventory, "show", NAME, "--json"))
    seconds = [one["seconds"] for one in shown["phases"] if one["phase"] == phase][-1]
    # A node that was restarted is another process.
    cpu = statistics.mean(spent - before.get(pid, 0.0) for pid, spent in after.items())
    return {"wall": wall, "teach": seconds, "cpu": cpu}


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, dict[str, float]]]:
    path, rows = folder / f"{NAME}.ini", []
    sizes = [f"{arguments.ram}MB", f"{arguments.ram + 64}MB"]
    plain = REQUEST.format(nodes=arguments.nodes, ram=sizes[0])
    path.write_text(plain)
    vclust(arguments.inventory, "create", path)
    try:
        for run in range(arguments.runs):
            plain = REQUEST.format(nodes=arguments.nodes, ram=sizes[run % 2])
            other = REQUEST.format(nodes=arguments.nodes, ram=sizes[(run + 1) % 2])
            user = f"{plain}User: eve:*\n"
            rows.append(
                {
                    "user": applied(arguments, path, user),
                    "install": applied(arguments, path, f"{user}Packages: {arguments.packages}\n"),
                    "remove": applied(arguments, path, plain),
                    "restart": applied(arguments, path, other, "restart"),
                }
            )
    finally:
        vclust(arguments.inventory, "destroy", NAME)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=8)
    parser.add_argument("--ram", type=int, default=256, help="MB of a node")
    parser.add_argument("--packages", default="nmap", help="with what they need that is not there yet")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-i", "--inventory", type=Path, default=PROJECT / "inventories/local")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vclust-benchmark-", dir="/var/tmp") as folder:
        rows = measure(arguments, Path(folder))
    medians = {
        kind: {name: round(statistics.median(row[kind][name] for row in rows), 2) for name in rows[0][kind]}
        for kind in rows[0]
    }
    result = {
        "nodes": arguments.nodes,
        "ram": arguments.ram,
        "packages": arguments.packages,
        "runs": arguments.runs,
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}",
        "median": medians,
        "rows": rows,
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(
        f"{arguments.nodes} nodes of {arguments.ram} MB, medians of {arguments.runs} runs; {result['machine']}"
    )
    for kind, row in medians.items():
        print(f"{kind:8}", *(f"{name} {value:8.2f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
