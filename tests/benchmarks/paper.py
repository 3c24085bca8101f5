#!/usr/bin/env python3
"""The paper's evaluation (section 5: Table 1, Figures 5, 6 and 7) on this machine.

    .venv/bin/python tests/benchmarks/paper.py --root DIR [--quick] [--parts caches,ready,chain]
        [--packages FILE --paper FILE --real FILE] [--pictures DIR] [--json]

caches  how much sooner packages are installed with VD caches, by the space for them (Table 1, Figure 5): replays of the
        paper's workload, and of real requests by date; needs the three files
ready   from request to ready, by the number of nodes (Figure 6): nodes that boot or are clones, with and without a VD
        cache, installed by each node or once; real nodes, all cases in turns
chain   sending a file to hosts, by their number (Figure 7): network namespaces on a limited rate
model   a + b * nodes + c * hosts from these, with its error, and what it says of 190 and 1,000 nodes on 256 hosts

Measurements are added to DIR/paper.jsonl; printed are medians over all of them (--runs 0: no new ones).  --pictures:
an SVG of each figure.  --quick: one run, few nodes.  Needs root; nodes run by KVM where it works, else emulated.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import vdcache
from cache import shuffled

from vclust_py import request
from vclust_py.cache import policies, traces
from vclust_py.cache.simulate import simulate
from vclust_py.fitting import robust_nnls
from vclust_py.image import Catalogue
from vclust_py.image.builder import cache_key, ensure_cache
from vclust_py.site import Site

Row = dict[str, Any]

REQUEST = """\
[Hardware]
NumberOfNodes: {nodes}
RAM: 256MB
[Software]
Hostname: paper%02d
Network: 192.168.91.0/24
Packages: gcc mpich python3
Install: {install}
Start: {start}
"""
SPACES = (1, 2, 5, 10, 20)
"""GB."""
RATE = "50mbit"
SIZE = "16MiB"
PAPER_HOSTS = 256
PAPER_RATE = 1e9
"""Bits per second."""


class Case(NamedTuple):
    """How nodes of Figure 6 come to be; `there`: what the site has of it before."""

    start: str
    install: str
    there: str

    @property
    def site(self) -> str:
        return "cache" if "VD cache" in self.there else "plain"

    @property
    def needed(self) -> Sequence[str]:
        """The kinds of images that the site has before; one more create makes them."""
        return [kind for kind in ("layer", "template") if kind in self.there]

    @property
    def dropped(self) -> Sequence[str]:
        """The kinds of images taken away before a create."""
        if "template" in self.there:
            return ()
        return ("template",) if "layer" in self.there else ("template", "layer", "bundle")

    def __str__(self) -> str:
        return f"{self.start}, {self.install}, {self.there}"


CASES = (
    Case("boot", "each", "nothing"),
    Case("boot", "each", "VD cache"),
    Case("boot", "once", "nothing"),
    Case("boot", "once", "VD cache"),
    Case("boot", "once", "layer"),
    Case("resume", "each", "suspended installer"),
    Case("resume", "each", "suspended installer, VD cache"),
    Case("resume", "once", "suspended installer, layer"),
    Case("fork", "once", "nothing"),
    Case("fork", "once", "VD cache"),
    Case("fork", "once", "template"),
)
WORST, BEST = CASES[0], CASES[-1]
PARTS = ("caches", "ready", "chain")
STEPS = ("image", "create", "install", "ready")


# Measuring


def caches(arguments: argparse.Namespace) -> Iterator[Row]:
    paper = traces.read(arguments.packages, arguments.paper)
    workloads = {
        "paper": paper,
        "paper, shuffled": shuffled(paper, 0),
        "real": traces.read(arguments.packages, arguments.real, order="date"),
    }
    for workload, history in workloads.items():
        for name in ("paper", "nested"):
            for space in SPACES:
                found = simulate(history, policies.policy(name), space * 10**9)
                speedup = found.bytes_requested / (found.bytes_requested - found.bytes_saved)
                yield {"workload": workload, "policy": name, "space": space, "speedup": round(speedup, 3)}


def ready(arguments: argparse.Namespace) -> Iterator[Row]:
    path = arguments.root / "paper.ini"

    def write(case: Case, nodes: int) -> str:
        path.write_text(REQUEST.format(nodes=nodes, install=case.install, start=case.start))
        return request.read(path).name

    write(BEST, 1)
    lock, _ = vdcache.first_site(arguments.root, request.read(path))
    sites = {
        name: vdcache.make_site(arguments.root, name, cpu_overcommit=float(max(arguments.nodes)))
        for name in ("plain", "cache")
    }
    (base,) = [image for image in Catalogue(sites["cache"]).images() if image.manifest.kind == "base"]
    if not Catalogue(sites["cache"]).find("cache", cache_key(lock, base, "unpacked")):
        ensure_cache(sites["cache"], lock, base, "unpacked", vdcache.silent)
    for case in CASES:
        if case.start == "resume":  # a suspended installer for each number of disks
            vdcache.create_once(arguments.root, sites[case.site], path, write(case, 1), drop_kinds=())
    for _ in range(arguments.runs):
        for nodes in arguments.nodes:
            for case in CASES:
                name = write(case, nodes)
                yield {
                    "case": list(case),
                    "nodes": nodes,
                    **create(arguments.root, sites[case.site], case, path, name),
                }


def create(root: Path, site: Site, case: Case, path: Path, name: str) -> Row:
    """One create, with just what the case says is there."""
    if not all(has(site, kind) for kind in case.needed):
        vdcache.create_once(root, site, path, name, drop_kinds=())
    before = busy()
    row = vdcache.create_once(root, site, path, name, drop_kinds=case.dropped)
    vdcache.say(f"{case}: {path.read_text().split()[2]} nodes, {row['total']:.1f} s")
    return {
        "seconds": round(row["total"], 2),
        "cpu": round(busy() - before, 1),
        "steps": {step: round(row["phases"].get(step, 0.0), 2) for step in STEPS},
        "bytes": sum(
            image.path.stat().st_size
            for image in Catalogue(site).images()
            if image.manifest.kind in ("base", "layer", "kernel", "installer")
        ),
    }


def has(site: Site, kind: str) -> bool:
    return any(image.manifest.kind == kind for image in Catalogue(site).images())


def busy() -> float:
    """CPU seconds of everything on this machine: nodes are no children of vclust."""
    user, nice, system, _, _, irq, softirq, *_ = map(
        int, Path("/proc/stat").read_text().split("\n")[0].split()[1:]
    )
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def chain(arguments: argparse.Namespace) -> Iterator[Row]:
    argv = [sys.executable, str(Path(__file__).with_name("chain.py")), "--methods", "vclust", "--json"]
    argv += ["--hosts", ",".join(map(str, arguments.hosts)), "--rate", RATE, "--size", SIZE]
    done = subprocess.run([*argv, "--runs", str(arguments.runs)], capture_output=True, text=True, check=True)
    for text in done.stdout.splitlines():
        row = json.loads(text)
        yield {name: row[name] for name in ("hosts", "seconds", "ideal_seconds", "size")}


MEASURE: Mapping[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "caches": caches,
    "ready": ready,
    "chain": chain,
}


# Telling


def medians(rows: Sequence[Row]) -> dict[Case, dict[int, Row]]:
    """Of Figure 6, by case and number of nodes."""
    found: dict[Case, dict[int, list[Row]]] = {}
    for row in rows:
        found.setdefault(Case(*row["case"]), {}).setdefault(row["nodes"], []).append(row)

    def middle(of: Sequence[Row]) -> Row:
        return {
            "seconds": statistics.median(row["seconds"] for row in of),
            "cpu": statistics.median(row["cpu"] for row in of),
            "steps": {step: statistics.median(row["steps"][step] for row in of) for step in STEPS},
            "bytes": of[-1]["bytes"],
            "runs": len(of),
        }

    return {
        case: {nodes: middle(of) for nodes, of in sorted(found[case].items())}
        for case in CASES
        if case in found
    }


def model(parts: Mapping[str, Sequence[Row]]) -> Row:
    """Seconds of each case as first + more * nodes, of the chain as start + bytes / rate + host * hosts.

    `paper`: what both say of the paper's machines, where each host has its share of the nodes at the speed of this one.
    """
    told: Row = {"cases": {}}
    start = host = 0.0
    if parts["chain"]:
        shape = np.array([[1.0, row["hosts"]] for row in parts["chain"]])
        rest = np.array([max(row["seconds"] - row["ideal_seconds"], 0.0) for row in parts["chain"]])
        start, host = map(float, robust_nnls(shape, rest))
        told["chain"] = {"start": round(start, 3), "host": round(host, 5)}
    for case, rows in medians(parts["ready"]).items():
        if len(rows) < 2:
            continue
        shape = np.array([[1.0, nodes] for nodes in rows])
        seconds = np.array([row["seconds"] for row in rows.values()])
        first, more = map(float, robust_nnls(shape, seconds))
        off = np.abs(shape @ [first, more] / seconds - 1)
        size = 8 * next(iter(rows.values()))["bytes"] / PAPER_RATE
        told["cases"][str(case)] = {
            "first": round(first, 2),
            "more": round(more, 2),
            "median_error": round(float(np.median(off)), 3),
            "paper": {
                nodes: round(
                    first + more * math.ceil(nodes / PAPER_HOSTS) + start + size + host * PAPER_HOSTS, 1
                )
                for nodes in (190, 1000)
            },
        }
    return told


def tell(parts: Mapping[str, Sequence[Row]]) -> None:
    line = vdcache.line
    if parts["caches"]:
        line("installing packages, times sooner", *(f"{space} GB" for space in SPACES))
        line(*("---" for _ in range(len(SPACES) + 1)))
        latest = {(row["workload"], row["policy"], row["space"]): row["speedup"] for row in parts["caches"]}
        for workload, name in dict.fromkeys(key[:2] for key in latest):
            line(f"{workload}, `{name}`", *(f"{latest[workload, name, space]:.2f}" for space in SPACES))
        print()
    table = medians(parts["ready"])
    if table:
        numbers = sorted({nodes for rows in table.values() for nodes in rows})
        line("start, install, what is there", *(f"{nodes}: s, CPU-s" for nodes in numbers))
        line(*("---" for _ in range(len(numbers) + 1)))
        for case, rows in table.items():
            line(
                case,
                *(
                    f"{rows[nodes]['seconds']:.1f}, {rows[nodes]['cpu']:.0f}" if nodes in rows else ""
                    for nodes in numbers
                ),
            )
        print("\nOf the most nodes that were measured, by phase:\n")
        line("start, install, what is there", "nodes", *STEPS, "runs")
        line(*("---" for _ in range(len(STEPS) + 3)))
        for case, rows in table.items():
            nodes, row = max(rows.items())
            line(case, nodes, *(f"{row['steps'][step]:.1f}" for step in STEPS), row["runs"])
        print()
    if parts["chain"]:
        line("hosts", f"s for {SIZE} at {RATE}", "of these the file takes")
        line("---", "---", "---")
        for row in parts["chain"]:
            line(row["hosts"], f"{row['seconds']:.2f}", f"{row['ideal_seconds']:.2f}")
        print()
    told = model(parts)
    if told["cases"]:
        line(
            "start, install, what is there", "s, first", "s, each node", "off by", "190 nodes", "1,000 nodes"
        )
        line(*("---" for _ in range(6)))
        for name, one in told["cases"].items():
            off = f"{100 * one['median_error']:.0f}%"
            line(
                name,
                one["first"],
                one["more"],
                off,
                *(f"{seconds:.0f} s" for seconds in one["paper"].values()),
            )


def draw(parts: Mapping[str, Sequence[Row]], folder: Path) -> None:
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)

    def picture(name: str, across: str, up: str, lines: Mapping[str, Mapping[float, float]]) -> None:
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.add_subplot(xlabel=across, ylabel=up)
        for label, points in lines.items():
            axes.plot(list(points), list(points.values()), marker="o", label=label)
        axes.set_ylim(bottom=0)
        axes.legend(fontsize="small")
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})

    if parts["caches"]:
        lines: dict[str, dict[float, float]] = {}
        for row in parts["caches"]:
            lines.setdefault(f"{row['workload']}, {row['policy']}", {})[row["space"]] = row["speedup"]
        picture("caches", "space for VD caches, GB", "installing packages, times sooner", lines)
    if parts["ready"]:
        found = {
            str(case): {float(nodes): row["seconds"] for nodes, row in rows.items()}
            for case, rows in medians(parts["ready"]).items()
        }
        picture("ready", "nodes", "seconds from request to ready", found)
    if parts["chain"]:
        sent = {"chain": {float(row["hosts"]): row["seconds"] for row in parts["chain"]}}
        picture("chain", "hosts", f"seconds for {SIZE} at {RATE}", sent)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def numbers(text: str) -> list[int]:
        return [int(word) for word in text.split(",")]

    parser.add_argument("--root", type=Path, required=True, help="folder for the sites and the measurements")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--parts", type=lambda text: text.split(","), help=", ".join(PARTS))
    parser.add_argument("--nodes", type=numbers, metavar="N,…")
    parser.add_argument("--hosts", type=numbers, metavar="N,…")
    parser.add_argument("--runs", type=int)
    for name in ("packages", "paper", "real"):
        parser.add_argument(f"--{name}", type=Path, help="of a trace")
    parser.add_argument("--pictures", type=Path, metavar="DIR")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    files = arguments.packages and arguments.paper and arguments.real
    arguments.parts = arguments.parts or [part for part in PARTS if part != "caches" or files]
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"--parts: got {', '.join(sorted(unknown))}, expected some of {', '.join(PARTS)}")
    if "caches" in arguments.parts and not files:
        parser.error("--parts caches needs --packages, --paper and --real")
    arguments.nodes = arguments.nodes or ([1, 2, 4] if arguments.quick else [1, 2, 4, 8, 16])
    arguments.hosts = arguments.hosts or ([2, 8] if arguments.quick else [1, 2, 4, 8, 16, 32, 64])
    arguments.runs = (1 if arguments.quick else 3) if arguments.runs is None else arguments.runs
    arguments.root.mkdir(parents=True, exist_ok=True)
    arguments.root.chmod(0o711)  # hypervisor processes walk through it as a user of their own
    kept = arguments.root / "paper.jsonl"
    for part in arguments.parts if arguments.runs else ():
        for row in MEASURE[part](arguments):
            with open(kept, "a") as file:
                file.write(json.dumps({"part": part, **row}) + "\n")
    rows = [json.loads(text) for text in kept.read_text().splitlines()] if kept.exists() else []
    parts = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    if arguments.pictures:
        draw(parts, arguments.pictures)
    if arguments.json:
        print(json.dumps({"rows": rows, "model": model(parts)}, indent=1))
        return
    print(
        f"{os.cpu_count()} CPUs, {platform.machine()}, Linux {platform.release()}, {time.strftime('%Y-%m-%d')}\n"
    )
    tell(parts)


if __name__ == "__main__":
    main()
