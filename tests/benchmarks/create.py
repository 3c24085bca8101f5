#!/usr/bin/env python3
"""The second create of a request (base image and packages there already) beside what it cannot do without.

    .venv/bin/python tests/benchmarks/create.py [REQUEST] [--runs 3] [--keep-layer] [-i INVENTORY] [--json]

Each run, one after another so that all see the same machine:
build   the request layer alone, in this process
total   `vclust create`, with its phases; `overhead` is wall time less the phases: Ansible and Python
before  from the command to the phase `create`
proof   from the report of the slowest node to the end of `ready`
memory  the most that `vclust create` and all below it held at once, the layer's builder included
boot    bare QEMU, the finished overlays side by side with the same seeds, to an ssh login on each

Seconds of wall time, medians over the runs; CPU seconds are those of a QEMU process until the login.  Root; the
request must ask for `once` (or leave it open) and name a user.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vclust_py import metapackages, request
from vclust_py.guest import cluster_disk
from vclust_py.image import Catalogue, Image
from vclust_py.image.base import ensure_base
from vclust_py.image.builder import ensure_layer
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, phase
from vclust_py.request import Request
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.session import Session

VCLUST = Path(sys.executable).parent / "vclust"


def silent(message: str, done: int, total: int) -> None:
    pass


def build(site: Site, asked: Request) -> tuple[float, Image]:
    """Seconds of the request layer's build, and the layer; base image and packages are made sure of first."""
    bundles = metapackages.expand(asked, site)
    with Session(site) as session:
        resolved = phase("resolve")(session, Inputs(asked.name, check=True, request=asked))
    lock = Lock.load(site, resolved.facts["lock"])
    base = ensure_base(site, lock, silent).base
    layer = ensure_layer(site, lock, base, bundles, silent)
    Catalogue(site).remove(layer)
    started = time.monotonic()
    layer = ensure_layer(site, lock, base, bundles, silent)
    return time.monotonic() - started, layer


def vclust(*words: str | Path) -> str:
    return subprocess.run([VCLUST, *words], capture_output=True, text=True, check=True).stdout


def memory_below(pid: int) -> int:
    """Bytes that a process and those below it hold, shared pages divided among their holders (PSS)."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    family = {pid}
    while more := {child for child, parent in parents.items() if parent in family} - family:
        family |= more
    held = 0
    for member in family:
        with contextlib.suppress(OSError):
            text = Path(f"/proc/{member}/smaps_rollup").read_text()
            held += int(text.partition("\nPss:")[2].split()[0]) * 1024
    return held


def proof(shown: Mapping[str, Any]) -> float:
    """Seconds from the report of the slowest node, in `create` where it is a clone, to the end of the proof.

    `shown` is what `vclust show --json` says of a cluster that was just made.
    """
    reports = [row["end"] for row in shown["node_phases"] if row["phase"] in ("create", "ready")]
    (ready,) = (row["end"] for row in shown["phases"] if row["phase"] == "ready")
    return float(ready - max(reports))


def create(arguments: argparse.Namespace, asked: Request) -> dict[str, float]:
    inventory = ["-i", arguments.inventory]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started, asked_for = time.monotonic(), time.time()
    command = subprocess.Popen(
        [VCLUST, *inventory, "create", arguments.request],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    memory = 0
    while command.poll() is None:
        memory = max(memory, memory_below(command.pid))
        with contextlib.suppress(subprocess.TimeoutExpired):
            command.wait(0.5)
    seconds = time.monotonic() - started
    if command.returncode:
        sys.exit(f"vclust create ended with {command.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = json.loads(vclust(*inventory, "show", asked.name, "--json"))
    times = {phase["phase"]: phase["seconds"] for phase in shown["phases"]}
    begun = {phase["phase"]: phase["start"] for phase in shown["phases"]}
    return {
        "total": seconds,
        "before": begun["create"] - asked_for,
        "proof": proof(shown),
        **times,
        "overhead": seconds - sum(times.values()),
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "memory_mb": memory / 1e6,
    }


def boot(site: Site, asked: Request, seeds: Path) -> dict[str, float]:
    """Boot all nodes side by side with bare QEMU; seconds of the slowest one."""
    catalogue = Catalogue(site)
    images = json.loads((seeds / "images.json").read_text())
    paths = {role: catalogue.get(digest).path for role, digest in images.items()}
    machines = []
    for node in json.loads((seeds / "nodes.json").read_text()):
        argv = [sys.executable, PROJECT / "tests/benchmarks/boot.py", "--json"]
        argv += ["--base", paths["root"], "--kernel", paths["kernel"], "--installer", paths["installer"]]
        argv += ["--seed", seeds / f"{node['name']}.img", "--cluster", seeds / cluster_disk.FILE_NAME]
        argv += ["--key", seeds / "user"]
        argv += ["--user", asked.software.users[0].name, "--disk", str(node["disk"]), "--mac", node["mac"]]
        argv += ["--address", node["address"], "--network", str(asked.software.network)]
        argv += ["--router", str(asked.router)]
        machines.append(subprocess.Popen(argv, stdout=subprocess.PIPE, text=True))
    results = [json.loads(machine.communicate()[0]) for machine in machines]
    return {
        "boot": max(result["login_wall"] for result in results),
        "boot_cpu": max(result["login_cpu"] for result in results),
    }


def run(arguments: argparse.Namespace, site: Site, asked: Request, folder: Path) -> dict[str, float]:
    row: dict[str, float] = {}
    row["build"], layer = build(site, asked)
    if not arguments.keep_layer:
        Catalogue(site).remove(layer)
    row |= create(arguments, asked)
    with Session(site) as session:
        cluster = clusters.get(session.store, asked.name)
        made = clusters.folder(session.store, cluster)
    seeds = folder / "seeds"
    shutil.rmtree(seeds, ignore_errors=True)
    seeds.mkdir(mode=0o700)
    for path in (*made.glob("*.img"), *made.glob("keys/user*")):
        shutil.copy2(path, seeds)
    (seeds / "images.json").write_text(json.dumps(cluster.images))
    nodes = [
        {"name": node.name, "disk": node.disk, "mac": node.mac, "address": node.address}
        for node in cluster.nodes
    ]
    (seeds / "nodes.json").write_text(json.dumps(nodes))
    vclust("-i", arguments.inventory, "destroy", asked.name)
    return row | boot(site, asked, seeds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("request", nargs="?", type=Path, default=PROJECT / "examples/hello-mpi.ini")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-i", "--inventory", type=Path, default=PROJECT / "inventories/local")
    parser.add_argument("--root", type=Path, default=Site.root, help="the site's root in that inventory")
    parser.add_argument("--keep-layer", action="store_true", help="create finds the request layer there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    site, asked = Site(root=arguments.root), request.read(arguments.request)
    with tempfile.TemporaryDirectory(prefix="vclust-benchmark-", dir="/var/tmp") as folder:
        rows = [run(arguments, site, asked, Path(folder)) for _ in range(arguments.runs)]
    median: dict[str, Any] = {
        name: round(statistics.median(row[name] for row in rows), 2) for name in rows[0]
    }
    median["ratio"] = round(median["total"] / (median["build"] + 1.3 * median["boot"]), 2)
    result = {
        "request": arguments.request.name,
        "nodes": asked.hardware.number_of_nodes,
        "runs": len(rows),
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}",
        "median": median,
        "rows": [{name: round(value, 2) for name, value in row.items()} for row in rows],
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(f"{result['request']}, {result['nodes']} nodes, medians of {len(rows)} runs; {result['machine']}")
    for name, value in median.items():
        print(f"{name:10} {value:8.2f}")
    print("ratio = total / (build + 1.3 boot)")


if __name__ == "__main__":
    main()
