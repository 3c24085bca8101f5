#!/usr/bin/env python3
"""What the phases of a large cluster cost on hosts that only keep books: everything but what machines do.

    .venv/bin/python tests/benchmarks/bookkeeping.py [--nodes 1000] [--runs 5] [--json]

Hosts, networks and logins are those of tests/unit/phases/fakehost.py, packages and base image those of the toy
repository of tests/unit/repository.py.  Every run is of a new site, whose package index is there already.  CPU seconds
are those of this process and of what it runs, apt.  Medians over the runs.  Root.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

UNIT = Path(__file__).resolve().parents[1] / "unit"
# In the place of this folder, which has another module `cache`.
sys.path[:1] = [str(UNIT.parents[1]), str(UNIT), str(UNIT / "phases")]

from cache.cachesite import make_base  # noqa: E402
from fakehost import FakeSession  # noqa: E402
from repository import KERNEL, Repository, a_repository  # noqa: E402

from vclust_py import request  # noqa: E402
from vclust_py.hypervisor import Host  # noqa: E402
from vclust_py.phases import ORDER, Inputs, phase  # noqa: E402
from vclust_py.request import Request  # noqa: E402
from vclust_py.site import clusters  # noqa: E402

Row = dict[str, dict[str, float]]
"""What is measured: `seconds` and `cpu_seconds` by phase, `bytes` of the seeds."""


def cpu_seconds() -> float:
    found = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in found)


def a_request(nodes: int) -> Request:
    hardware = {"number_of_nodes": nodes, "ram": "512MB", "disk": "4GB"}
    software = {"name": "books", "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/16"}
    software["hostname"] = "n%05d"
    return request.from_mapping({"hardware": hardware, "software": software}, "benchmark")


def run(repository: Repository, folder: Path, nodes: int) -> Row:
    asked, lock, row = a_request(nodes), "", Row()
    site = repository.site(folder, cache_every=0)
    make_base(site)
    with FakeSession(site) as session:
        for word in (*ORDER, "destroy"):
            if word == "destroy":
                made = clusters.folder(session.store, clusters.get(session.store, asked.name))
                row["seeds"] = {"bytes": sum(path.stat().st_size for path in made.glob("*.img"))}
            begun, worked = time.perf_counter(), cpu_seconds()
            inputs = Inputs(asked.name, request=asked, lock=lock, hosts=(Host("a"), Host("b")))
            result = phase(word)(session, inputs)
            row[word] = {"seconds": time.perf_counter() - begun, "cpu_seconds": cpu_seconds() - worked}
            lock = result.facts.get("lock", lock)
    row["total"] = {
        figure: sum(row[word][figure] for word in (*ORDER, "destroy"))
        for figure in ("seconds", "cpu_seconds")
    }
    return row


def medians(rows: list[Row]) -> Iterator[tuple[str, dict[str, float]]]:
    for name in (*ORDER, "destroy", "total", "seeds"):
        yield (
            name,
            {
                figure: round(statistics.median(row[name][figure] for row in rows), 3)
                for figure in rows[0][name]
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="vclust-benchmark-", dir="/var/tmp") as folder:
        (Path(folder) / "repository").mkdir()
        with a_repository(Path(folder) / "repository") as repository:
            rows = [
                run(repository, Path(folder) / f"site{number}", arguments.nodes)
                for number in range(arguments.runs)
            ]
    machine = (
        f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"
    )
    result = dict(medians(rows))
    if arguments.json:
        facts = {"nodes": arguments.nodes, "runs": len(rows), "machine": machine}
        print(json.dumps({**facts, "median": result, "rows": rows}, indent=1))
        return
    print(f"{arguments.nodes} nodes, medians of {len(rows)} runs; {machine} at the start")
    for name, figures in result.items():
        if name == "seeds":
            print(f"{name:10} {figures['bytes'] / 1e6:8.2f} MB")
        else:
            print(f"{name:10} {figures['seconds']:8.2f} s {figures['cpu_seconds']:8.2f} CPU-s")


if __name__ == "__main__":
    main()
