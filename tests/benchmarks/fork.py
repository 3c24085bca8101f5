#!/usr/bin/env python3
"""A cluster whose nodes boot beside the same one of clones, one after the other so that both see the same machine.

    .venv/bin/python tests/benchmarks/fork.py [--nodes 2] [--ram 512MB] [--runs 3] [--starts boot fork]
        [--suites bookworm trixie] [-i INVENTORY --root ROOT] [--json]

The request is examples/hello-mpi.ini with so many nodes.  Means of the nodes, medians of the runs; `make ...` is the
first create of clones, which makes the template or suspends the installer, and makes the layer where it is not there.
With several suites they take turns, and each row begins with the name of its suite.

installer  CPU seconds of a node's QEMU process until its installer has seen disks and network card (not of `fork`)
cpu     CPU seconds of a node's QEMU process until the node has reported (host side included)
wall    seconds of the whole `vclust create`, proof by ssh and MPI included
nodes   seconds from the start of the first node to the report of the last one
proof   seconds from that report to the end of `ready`
memory  MB of a node's QEMU process when it has reported, shared pages divided among their holders (PSS)
proven  the same when all is proven

Root.  Nodes run by KVM where it works, else emulated.  Those on hosts that are other machines are asked for through
libvirt, ten times a second, and have no `memory`: for tests/testbed's hosts, say, give -i its inventory and --root the
site's there.  On Xen hosts, which are asked once a second, CPU seconds are those of the node's domain and its share of
what dom0 works meanwhile: it starts and restores domains, and serves their disks.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from create import proof

from vclust_py.hypervisor import Host
from vclust_py.nodes import domain_name
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.session import Session

VCLUST = Path(sys.executable).parent / "vclust"
TICKS = os.sysconf("SC_CLK_TCK")
DOM0 = "00000000-0000-0000-0000-000000000000"
EXAMPLE = (PROJECT / "examples/hello-mpi.ini").read_text()


def vclust(inventory: Path, *words: str | Path) -> str:
    return subprocess.run(
        [VCLUST, "-i", inventory, *words], capture_output=True, text=True, check=True
    ).stdout


def pid(domain: str) -> str:
    text = Path(f"/run/libvirt/qemu/{domain}.pid").read_text().strip()
    if not text:
        raise FileNotFoundError(f"{domain}: its number is not written yet")
    return text


def cpu_seconds(domain: str) -> float:
    fields = Path(f"/proc/{pid(domain)}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def memory(domain: str) -> float:
    text = Path(f"/proc/{pid(domain)}/smaps_rollup").read_text()
    return int(text.partition("\nPss:")[2].split()[0]) * 1024 / 1e6


def seen(session: Session, root: Path, name: str, dom0: dict[str, float]) -> dict[str, tuple[bytes, float]]:
    """By domain of the cluster's nodes that run what their consoles have said, and their CPU seconds until now.

    `dom0`: those of Xen hosts' dom0 when they were seen first; what it has worked since then is shared by the nodes.
    """
    found = dict[str, tuple[bytes, float]]()
    for console in (root / "clusters").glob(f"{name}.*/*.{name}.console"):
        with contextlib.suppress(OSError):
            said = console.read_bytes()
            found[console.stem] = said, cpu_seconds(console.stem)
    cluster = clusters.find(session.store, name) if session.store.exists else None
    nodes = [node for node in cluster.nodes if node.machine is not None] if cluster else []
    drivers, _ = session.drivers(Host(node.host, node.uri, node.guest) for node in nodes)
    for host, driver in drivers.items():
        spent, there = driver.processor_seconds(), [node for node in nodes if node.host == host]
        for_all = spent.get(DOM0, 0.0) / len(there)
        for node in there:
            if cluster is not None and node.uuid in spent:
                domain, folder = domain_name(cluster, node), clusters.folder(session.store, cluster).name
                seconds = spent[node.uuid] + for_all - dom0.setdefault(host, for_all)
                found[domain] = driver.console(folder, domain), seconds
        dom0.setdefault(host, for_all)
    if any(driver.accelerator == "xen" for driver in drivers.values()):
        time.sleep(1)  # each look is work of dom0, which counts as the nodes'
    return found


def create(arguments: argparse.Namespace, name: str, path: Path) -> dict[str, float]:
    """One create, looked at from outside, and its end."""
    started, reported, spent = time.monotonic(), list[float](), dict[str, float]()
    installing, dom0, here = dict[str, float](), dict[str, float](), dict[str, float]()
    command = subprocess.Popen([VCLUST, "-i", arguments.inventory, "create", path], stdout=subprocess.DEVNULL)
    first = 0.0
    with Session(Site(root=arguments.root)) as session:
        while command.poll() is None:
            for domain, (said, seconds) in seen(session, arguments.root, name, dom0).items():
                first = first or time.monotonic()
                if domain not in installing and b"vclust: installer" in said:
                    installing[domain] = seconds
                if domain not in spent and b"vclust: ready" in said:
                    spent[domain] = seconds
                    reported.append(time.monotonic())
                    with contextlib.suppress(FileNotFoundError):
                        here[domain] = memory(domain)
            time.sleep(0.1)  # more often it takes the nodes' processors: two seconds of a create of eight
    wall = time.monotonic() - started
    if command.returncode:
        sys.exit(f"vclust create ended with {command.returncode}")
    shown = json.loads(vclust(arguments.inventory, "show", name, "--json"))
    row = {
        "cpu": statistics.mean(spent.values()),
        "nodes": max(reported) - first,
        "wall": wall,
        "proof": proof(shown),
        "clones": sum(node["start"] != "boot" for node in shown["nodes"]),
    }
    if here:
        row["memory"], row["proven"] = statistics.mean(here.values()), statistics.mean(map(memory, here))
    if installing:
        row["installer"] = statistics.mean(installing.values())
    vclust(arguments.inventory, "destroy", name)
    return row


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, list[dict[str, float]]]:
    text = re.sub(r"NumberOfNodes: .*", f"NumberOfNodes: {arguments.nodes}", EXAMPLE)
    text = re.sub(r"RAM: .*", f"RAM: {arguments.ram}", text)
    rows: dict[str, list[dict[str, float]]] = {}
    for turn in range(arguments.runs + 1):
        for start in arguments.starts:
            for suite in arguments.suites:
                name = f"bench-{start}"
                path = folder / f"{name}.ini"
                path.write_text(f"{text}Suite: {suite}\nStart: {start}\n")
                words = [suite] * (len(arguments.suites) > 1) + ["make"] * (turn == 0) + [start]
                if turn or start != "boot":
                    rows.setdefault(" ".join(words), []).append(create(arguments, name, path))
    return rows


def medians(rows: Mapping[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    return {
        kind: {name: round(statistics.median(row[name] for row in found), 2) for name in found[0]}
        for kind, found in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--ram", default="512MB")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--starts", nargs="+", choices=("boot", "resume", "fork"), default=["boot", "fork"])
    parser.add_argument("--suites", nargs="+", default=[Site().default_suite])
    parser.add_argument("-i", "--inventory", type=Path, default=PROJECT / "inventories/local")
    parser.add_argument("--root", type=Path, default=Site.root, help="the site's root in that inventory")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="vclust-benchmark-", dir="/var/tmp") as folder:
        rows = measure(arguments, Path(folder))
    result = {
        "nodes": arguments.nodes,
        "ram": arguments.ram,
        "runs": arguments.runs,
        "machine": f"{os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}",
        "median": medians(rows),
        "rows": rows,
    }
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    print(
        f"{arguments.nodes} nodes of {arguments.ram}, medians of {arguments.runs} runs; {result['machine']}"
    )
    for kind, row in medians(rows).items():
        print(f"{kind:20}", *(f"{name} {value:8.2f}" for name, value in row.items()))


if __name__ == "__main__":
    main()
