#!/usr/bin/env python3
"""What it costs running nodes to change: a user more, packages that come and go, another size.

    .venv/bin/python tests/benchmarks/change.py [--nodes 8] [--ram 256] [--packages nmap] [--runs 3]
        [--rows user grow shrink install remove restart create] [-i INVENTORY] [--json]

One cluster, changed by `vclust apply` again and again; medians of the runs.

user     a user more: each node is told, and nothing installed
grow     two nodes more
shrink   they go
install  the packages come; beside `user` that is their bytes and their installation
remove   user and packages go
restart  each node in turn with 64 MB of memory more, and back with the next run
create   two such nodes as a cluster of their own: what `grow` is to cost

wall     seconds of the whole command
teach    of these the phase that tells the nodes (or restarts them)
cpu      CPU seconds of a node's QEMU process, host side included; mean of the nodes that were there, less what they use
         in as many seconds when they are left alone
most     of the one that has used most
new      of a node that has come, until the command has ended; mean

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
NAME, OTHER = "bench-change", "bench-create"
SETTLE, IDLE = 3.0, 10.0
"""Seconds from a change until nodes are left alone, and for which that is measured."""
ROWS = ("user", "grow", "shrink", "install", "remove", "restart", "create")
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


def cpu_seconds(name: str = NAME) -> dict[str, float]:
    """By the numbers of the processes that the cluster's nodes are."""
    spent = {}
    for path in Path("/run/libvirt/qemu").glob(f"*.{name}.pid"):
        pid = path.read_text().strip()
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        spent[pid] = (int(fields[11]) + int(fields[12])) / TICKS
    return spent


def idle_rate() -> float:
    """CPU seconds a second of a node that nobody uses."""
    time.sleep(SETTLE)
    before, begun = cpu_seconds(), time.monotonic()
    time.sleep(IDLE)
    seconds = time.monotonic() - begun
    after = cpu_seconds()
    return statistics.mean(after[pid] - spent for pid, spent in before.items()) / seconds


def applied(arguments: argparse.Namespace, path: Path, text: str, phase: str = "teach") -> dict[str, float]:
    """The cluster given that request."""
    path.write_text(text)
    idle = idle_rate()
    before, begun = cpu_seconds(), time.monotonic()
    vclust(arguments.inventory, "apply", "--restart", path)
    wall = time.monotonic() - begun
    after = cpu_seconds()
    shown = json.loads(vclust(arguments.inventory, "show", NAME, "--json"))
    seconds = [one["seconds"] for one in shown["phases"] if one["phase"] == phase][-1]
    # A node that was restarted is another process.
    old = [spent - before[pid] - idle * wall for pid, spent in after.items() if pid in before]
    new = [spent for pid, spent in after.items() if pid not in before]
    row = {"wall": wall, "teach": seconds}
    row |= {"cpu": statistics.mean(old), "most": max(old)} if old else {}
    return row | ({"new": statistics.mean(new)} if new else {})


def created(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Two nodes of a cluster of their own."""
    path = folder / "other.ini"
    text = REQUEST.format(nodes=2, ram=f"{arguments.ram}MB").replace(NAME, OTHER).replace(".94.", ".95.")
    path.write_text(text)
    begun = time.monotonic()
    vclust(arguments.inventory, "create", path)
    wall = time.monotonic() - begun
    new = statistics.mean(cpu_seconds(OTHER).values())
    vclust(arguments.inventory, "destroy", OTHER)
    return {"wall": wall, "new": new}


def measure(arguments: argparse.Namespace, folder: Path) -> list[dict[str, dict[str, float]]]:
    path, rows = folder / f"{NAME}.ini", []
    sizes = [f"{arguments.ram}MB", f"{arguments.ram + 64 * ('restart' in arguments.rows)}MB"]
    path.write_text(REQUEST.format(nodes=arguments.nodes, ram=sizes[0]))
    try:
        vclust(arguments.inventory, "create", path)
        for run in range(arguments.runs):
            size, other = sizes[run % 2], sizes[(run + 1) % 2]
            plain = REQUEST.format(nodes=arguments.nodes, ram=size)
            user = f"{plain}User: eve:*\n"
            larger = user.replace(f": {arguments.nodes}\n", f": {arguments.nodes + 2}\n")
            texts = {
                "user": user,
                "grow": larger,
                "shrink": user,
                "install": f"{user}Packages: {arguments.packages}\n",
                "remove": plain,
            }
            row = {}
            for kind, text in texts.items():
                if kind in arguments.rows:
                    row[kind] = applied(arguments, path, text)
            if "restart" in arguments.rows:
                resized = REQUEST.format(nodes=arguments.nodes, ram=other)
                row["restart"] = applied(arguments, path, resized, "restart")
            if "create" in arguments.rows:
                row["create"] = created(arguments, folder)
            rows.append(row)
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
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
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
