#!/usr/bin/env python3
"""Seconds and bytes of the reports of a large cluster and its site, and of the site's metrics.

    .venv/bin/python tests/benchmarks/report.py [--nodes 1000] [--failed 5] [--runs 5] [--json] [--keep FOLDER]

The cluster is made as tests/benchmarks/bookkeeping.py makes it: hosts only keep books.  Some nodes fail.  Reading the
store is in the seconds, starting Python is not.  Medians.  Root.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
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
from vclust_py.report import metrics, page, read  # noqa: E402
from vclust_py.site.describe import describe  # noqa: E402


def created(repository: Repository, folder: Path, nodes: int, failed: int) -> FakeSession:
    """A session of a site with a cluster on two hosts, of which some nodes have failed."""
    hardware = {"number_of_nodes": nodes, "ram": "512MB", "disk": "4GB", "min_nodes": nodes - failed}
    software = {"name": "books", "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/16"}
    asked = request.from_mapping(
        {"hardware": hardware, "software": software | {"hostname": "n%05d"}}, "benchmark"
    )
    site, lock = repository.site(folder, cache_every=0), ""
    make_base(site)
    session = FakeSession(site)
    hosts = (Host("a"), Host("b"))
    for host in session.hosts.values():
        host.failing = {f"n{number:05d}" for number in range(1, failed + 1)}
    for word in ORDER:
        result = phase(word)(session, Inputs(asked.name, request=asked, lock=lock, hosts=hosts))
        lock = result.facts.get("lock", lock)
    return session


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--failed", type=int, default=5)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write what was made there as well")
    arguments = parser.parse_args()
    load, result = os.getloadavg()[0], {}
    with tempfile.TemporaryDirectory(prefix="vclust-benchmark-", dir="/var/tmp") as folder:
        (Path(folder) / "repository").mkdir()
        with (
            a_repository(Path(folder) / "repository") as repository,
            created(repository, Path(folder) / "site", arguments.nodes, arguments.failed) as session,
        ):
            made: dict[str, Callable[[], str]] = {
                "cluster.html": lambda: page.cluster(describe(session.store, "books")[0], "benchmark"),
                "site.html": lambda: page.site(read(session)["overview"], "benchmark"),
                "metrics.prom": lambda: metrics.text(
                    {"benchmark": read(session, metrics=True)["figures"]}, "prometheus"
                ),
            }
            for name, make in made.items():
                seconds = []
                for _ in range(arguments.runs):
                    begun = time.perf_counter()
                    text = make()
                    seconds.append(time.perf_counter() - begun)
                result[name] = {"seconds": round(statistics.median(seconds), 3), "bytes": len(text.encode())}
                if arguments.keep:
                    (arguments.keep / name).write_text(text)
    machine = (
        f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"
    )
    if arguments.json:
        facts = {"nodes": arguments.nodes, "runs": arguments.runs, "machine": machine}
        print(json.dumps({**facts, "median": result}, indent=1))
        return
    print(f"{arguments.nodes} nodes, medians of {arguments.runs} runs; {machine} at the start")
    for name, figures in result.items():
        print(f"{name:14} {figures['seconds']:8.3f} s {figures['bytes'] / 1e6:8.3f} MB")


if __name__ == "__main__":
    main()
