#!/usr/bin/env python3
"""How long people wait for commands when all is there: list, a create that changes nothing, a login.

    .venv/bin/python tests/benchmarks/warm.py [-i INVENTORY] [--runs 9] [--json] REQUEST

The cluster of the request is made first, and destroyed at the end unless it was there.  Each figure is the median wall
time in seconds, after a first run that is not counted; `cpu` the CPU seconds of the command and all below it.

list        `vclust list`
create      `vclust create REQUEST`, of a cluster that is ready
ssh         `vclust ssh NAME -- true`, from the start to the end
bare_ssh    ssh with the same options, without vclust
ssh_ratio   ssh divided by bare_ssh

Root.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vclust_py import request
from vclust_py.access import login_of, ssh_options

VCLUST = Path(sys.executable).with_name("vclust")


def run(argv: Sequence[str | Path]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    started, before = time.monotonic(), os.times()
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.monotonic() - started, cpu


def measure(argv: Sequence[str | Path], runs: int) -> dict[str, float]:
    found = [run(argv) for _ in range(runs + 1)][1:]
    wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
    return {"seconds": round(wall, 3), "cpu": round(cpu, 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("-i", "--inventory", type=Path)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("request", type=Path)
    arguments = parser.parse_args()
    vclust: list[str | Path] = [VCLUST, *(["-i", arguments.inventory] if arguments.inventory else [])]
    name = request.read(arguments.request).name

    def listed() -> dict[str, Any]:
        done = subprocess.run([*vclust, "list", "--json"], check=True, capture_output=True)
        return {cluster["name"]: cluster for cluster in json.loads(done.stdout)}

    was_there = name in listed()
    create = [*vclust, "create", arguments.request]
    run(create)
    try:
        cluster = listed()[name]
        node = cluster["nodes"][0]
        user, key = login_of(cluster, None)
        bare = ["ssh", "-F", "/dev/null", *ssh_options(cluster, node), "-i", key]
        figures = {
            "list": measure([*vclust, "list"], arguments.runs),
            "create": measure(create, arguments.runs),
            "ssh": measure([*vclust, "ssh", name, "--", "true"], arguments.runs),
            "bare_ssh": measure([*bare, f"{user}@{node['name']}", "true"], arguments.runs),
        }
    finally:
        if not was_there:
            run([*vclust, "destroy", name])
    ratio = round(figures["ssh"]["seconds"] / figures["bare_ssh"]["seconds"], 2)
    load = round(os.getloadavg()[0], 1)
    if arguments.json:
        print(json.dumps({"cpus": os.cpu_count(), "load": load, **figures, "ssh_ratio": ratio}, indent=2))
        return
    print(f"{platform.machine()}, {os.cpu_count()} CPUs, load {load}; medians of {arguments.runs} runs")
    for what, figure in figures.items():
        print(f"{what:10} {figure['seconds']:7.3f} s {figure['cpu']:7.3f} s of CPU")
    print(f"ssh_ratio  {ratio:7.2f}")


if __name__ == "__main__":
    main()
