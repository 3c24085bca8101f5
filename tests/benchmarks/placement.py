#!/usr/bin/env python3
"""What placement costs: the choice of hosts alone, the whole phase `place`, and many creates of it at once.

    .venv/bin/python tests/benchmarks/placement.py [--nodes 1000] [--hosts 64] [--creates 32] [--runs 5] [--json]

Rows: `assign` by kind of spread (no store), `place` of a cluster (hosts that only answer), `one create` and `creates at
once` of one node each on a site with space for five of every eight, each in a process of its own that has imported
everything before the clock starts.  Medians over the runs.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

UNIT = Path(__file__).resolve().parents[1] / "unit"
# In the place of this folder, which has another module `cache`.
sys.path[:1] = [str(UNIT.parents[1]), str(UNIT), str(UNIT / "phases")]

from test_place import FixedHost, place_on  # noqa: E402
from test_placement import GB, NODE, a_capacity  # noqa: E402

from vclust_py import request as requests  # noqa: E402
from vclust_py.errors import CapacityError  # noqa: E402
from vclust_py.free_capacity import free_capacity  # noqa: E402
from vclust_py.hypervisor import Capacity, Host  # noqa: E402
from vclust_py.placement import assign  # noqa: E402
from vclust_py.request import Request  # noqa: E402
from vclust_py.site import Site, clusters  # noqa: E402
from vclust_py.site.session import Session  # noqa: E402

Row = dict[str, Any]
Times = dict[str, float]
"""`seconds` and `cpu_seconds`."""
LARGE = a_capacity(cpus=256, memory=4096 * GB, memory_free=4096 * GB)


def a_request(name: str, nodes: int, spread: str = "any") -> Request:
    hardware = {"number_of_nodes": nodes, "ram": "1GB", "disk": "4GB", "spread": spread}
    software = {"name": name, "hostname": "n%05d", "network": "10.20.0.0/16"}
    return requests.from_mapping({"hardware": hardware, "software": software}, "benchmark")


def some_hosts(number: int) -> tuple[Host, ...]:
    return tuple(Host(f"h{i}", f"xen+tls://h{i}/system", rack=f"r{i // 16}") for i in range(number))


def a_session(root: Path, capacity: Capacity) -> Session:
    return Session(Site(root=root), connect=lambda *_: FixedHost(capacity))  # type: ignore[arg-type,return-value]


def assigning(nodes: int, hosts: int, spread: str) -> Times:
    request = a_request("a", nodes, spread)
    free = [free_capacity(host, LARGE, [], 4) for host in some_hosts(hosts)]
    assert len(request.hostnames) == len(request.addresses)  # reckoned once, by whoever checks the request
    return timed(lambda: assign(request, free))


def placing(folder: Path, nodes: int, hosts: int) -> Times:
    request = a_request("a", nodes)
    with a_session(folder, LARGE) as session:
        clusters.register(session.store, request)
        return timed(lambda: place_on(session, request, some_hosts(hosts)))


def timed(function: Callable[[], object]) -> Times:
    begun, worked = time.perf_counter(), time.process_time()
    function()
    return {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - worked}


def cpu_seconds() -> float:
    """Of the processes that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def at_once(folder: Path, creates: int) -> tuple[Times, Counter[int]]:
    """From the start of all to the end of the last one; and how many ended with which exit code."""
    context = multiprocessing.get_context("fork")
    start, codes = context.Barrier(creates + 1), context.SimpleQueue()
    room = max(creates * 5 // 8, 1)
    hosts = 4 if room % 4 == 0 else 1
    capacity = a_capacity(memory=room // hosts * NODE + GB // 2)
    with a_session(folder, capacity) as session:  # the site is there already
        session.store.execute("SELECT 1")

    def create(index: int) -> None:
        with a_session(folder, capacity) as session:
            request = a_request(f"c{index}", 1)
            start.wait()
            try:
                clusters.register(session.store, request)
                place_on(session, request, some_hosts(hosts))
                codes.put(0)
            except CapacityError as error:
                codes.put(error.exit_code)

    processes = [context.Process(target=create, args=(index,)) for index in range(creates)]
    worked = cpu_seconds()
    for process in processes:
        process.start()
    start.wait()
    begun = time.perf_counter()
    for process in processes:
        process.join()
    seconds, worked = time.perf_counter() - begun, cpu_seconds() - worked
    found = Counter(codes.get() for _ in processes)
    assert found[0] == room, found
    return {"seconds": seconds, "cpu_seconds": worked}, found


def measured(folder: Path, nodes: int, hosts: int, creates: int) -> list[Row]:
    size: Row = {"nodes": nodes, "hosts": hosts}
    rows = [
        {"what": f"assign, Spread: {spread}", **size, **assigning(nodes, hosts, spread)}
        for spread in ("any", "racks", "pack")
    ]
    rows.append({"what": "place", **size, **placing(folder / "place", nodes, hosts)})
    for name, number in (("one create", 1), ("creates at once", creates)):
        times, codes = at_once(folder / name, number)
        rows.append({"what": name, "creates": number, "placed": codes[0], "refused": codes[3], **times})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--creates", type=int, default=32)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    runs: list[list[Row]] = []
    for _ in range(arguments.runs):
        with tempfile.TemporaryDirectory(prefix="vclust-benchmark-", dir="/var/tmp") as folder:
            runs.append(measured(Path(folder), arguments.nodes, arguments.hosts, arguments.creates))
    rows = [
        same[0]
        | {
            figure: round(statistics.median(row[figure] for row in same), 4)
            for figure in ("seconds", "cpu_seconds")
        }
        for same in zip(*runs, strict=True)
    ]
    machine = (
        f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"
    )
    if arguments.json:
        print(json.dumps({"runs": len(runs), "machine": machine, "median": rows}, indent=1))
        return
    print(f"medians of {len(runs)} runs; {machine} at the start")
    for row in rows:
        about = ", ".join(
            f"{row[name]} {name}" for name in row if name not in ("what", "seconds", "cpu_seconds")
        )
        print(f"{row['what']:22} {row['seconds']:7.3f} s {row['cpu_seconds']:7.3f} CPU-s   {about}")


if __name__ == "__main__":
    main()
