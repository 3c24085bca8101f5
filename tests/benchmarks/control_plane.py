#!/usr/bin/env python3
"""What it costs to say to many hosts what they are to run: clusters of many nodes on libvirt's test driver.

    .venv/bin/python tests/benchmarks/control_plane.py [--hosts 64] [--nodes 64,250,1000] [--driver qemu|xen]
        [--start 0] [--runs 1] [--json]

Every host is a real libvirtd behind TLS, in which libvirt's test driver only keeps books (tests/testbed/control).
A run is `ansible-playbook create_vcluster.yml` up to and with the phase `create`, then `destroy_vcluster.yml`;
`install` and `ready` are left out by tags, as nothing boots.  The packages are those of the toy repository of
tests/unit/repository.py, the request has none beyond the base; hosts have the images already, so `distribute` looks
and sends nothing.  Seeds are made and read, but not sent: the test driver's volumes have no contents.  The drivers
are those for machines, `qemu` or `xen`; with --start a domain takes as long to start as a machine would, without any
processor's time, as each host has its own.

seconds     wall time of the playbook; what is meant to run then runs (or is gone), as the hosts themselves say
tasks       of Ansible
by_phase    seconds of each phase, as the site records them; `destroy` has no record
cpu_s       CPU seconds of the playbook and all below it: the site manager
hosts_cpu_s the same of all libvirtds, which share this machine's processors
reads       seconds of `vclust list` and `vclust show` while the cluster is there
rss_mib     the most that the playbook and all below it held at once, shared pages divided among their holders

Medians over the runs, after a first run that is not counted.  Root.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).resolve().parents[1]
# In the place of this folder, which has another module `cache`.
sys.path[:1] = [str(TESTS.parent), str(TESTS / "unit"), str(TESTS / "testbed")]

from cache.cachesite import make_base  # noqa: E402
from control.hosts import ControlHost, hosts, isolate  # noqa: E402
from repository import KERNEL, a_repository  # noqa: E402

from vclust_py.site import PROJECT, Site  # noqa: E402
from vclust_py.site.describe import describe  # noqa: E402
from vclust_py.site.session import Session  # noqa: E402

memory_below = runpy.run_path(str(TESTS / "benchmarks/create.py"))["memory_below"]

NAME = "control"
TAGS = "request,resolve,cache,place,image,distribute,create"
READS = {"list": (), "show": (NAME,)}
Row = dict[str, Any]


def playbook(inventory: Path, name: str, *words: str) -> Row:
    """Run it; its figures but `by_phase` and `hosts_cpu_s`."""
    argv = [sys.executable, TESTS / "testbed/control/playbook.py", "-i", inventory]
    started, memory = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as output:
        command = subprocess.Popen(
            [*argv, PROJECT / "playbooks" / name, *words], cwd=PROJECT, stdout=output, stderr=output
        )
        while True:
            pid, status, usage = os.wait4(command.pid, os.WNOHANG)
            if pid:
                break
            memory = max(memory, memory_below(command.pid))
            time.sleep(0.1)
        seconds = time.monotonic() - started
        output.seek(0)
        text = output.read()
    if status:
        sys.exit(f"{name} ended with {os.waitstatus_to_exitcode(status)}:\n{text[-4000:]}")
    return {
        "seconds": seconds,
        "tasks": len(re.findall(r"^TASK \[", text, re.MULTILINE)),
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "rss_mib": memory / 2**20,
    }


def timed(*words: str | Path) -> float:
    """Seconds of the command `vclust` with these words."""
    started = time.monotonic()
    subprocess.run([Path(sys.executable).parent / "vclust", *words], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def a_request(folder: Path, nodes: int) -> Path:
    hardware = {"number_of_nodes": nodes, "ram": "512MB", "disk": "4GB"}
    software = {"name": NAME, "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/16"}
    path = folder / "request.yml"
    path.write_text(yaml.safe_dump({"hardware": hardware, "software": {**software, "hostname": "n%05d"}}))
    return path


def an_inventory(folder: Path, site: Site, members: Sequence[ControlHost], scheme: str) -> Path:
    manager = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    groups = {
        "site_managers": {"hosts": {"localhost": manager}},
        "vm_hosts": {
            "hosts": {
                host.name: {"vclust_libvirt_uri": f"{scheme}+tls://{host.address}/system"} for host in members
            }
        },
    }
    tree = {
        "all": {
            "vars": {"vclust_site": site.to_mapping()},
            "children": {"site_control": {"children": groups}},
        }
    }
    path = folder / "site.yml"
    path.write_text(yaml.safe_dump(tree))
    return path


def run(folder: Path, site: Site, inventory: Path, members: Sequence[ControlHost], nodes: int) -> Row:
    before = sum(host.cpu_seconds for host in members)
    made = playbook(
        inventory, "create_vcluster.yml", "-e", f"request={a_request(folder, nodes)}", "--tags", TAGS
    )
    made["hosts_cpu_s"] = sum(host.cpu_seconds for host in members) - before
    running = sum(host.running() for host in members) - len(members)  # the test driver has one of its own
    if running != nodes:
        sys.exit(f"got {running} running domains, expected {nodes}")
    with Session(site) as session:
        (cluster,) = describe(session.store, NAME)
    made["by_phase"] = {phase["phase"]: phase["seconds"] for phase in cluster["phases"]}
    made["reads"] = {word: timed("-i", inventory, word, *names) for word, names in READS.items()}
    before = sum(host.cpu_seconds for host in members)
    gone = playbook(inventory, "destroy_vcluster.yml", "-e", f"name={NAME}")
    gone["hosts_cpu_s"] = sum(host.cpu_seconds for host in members) - before
    if left := [f"{host.name}: {name}" for host in members for name in host.left() if name != "test"]:
        sys.exit("left behind: " + ", ".join(left))
    return {"hosts": len(members), "nodes": nodes, **made, "destroy": gone}


def median(rows: Sequence[Any]) -> Any:
    if isinstance(rows[0], dict):
        return {name: median([row[name] for row in rows]) for name in rows[0]}
    return round(statistics.median(rows), 3)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", type=int, default=64)
    parser.add_argument("--nodes", default="64,250,1000", help="numbers of nodes, with commas")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--driver", choices=("qemu", "xen"), default="qemu")
    parser.add_argument(
        "--start", type=float, default=0.0, help="seconds that a host takes to start a domain"
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    isolate()
    os.environ["VCLUST_TEST_START"] = str(arguments.start)
    counts = [int(word) for word in arguments.nodes.split(",")]
    load = os.getloadavg()[0]
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="vclust-control-", dir="/var/tmp"))
        )
        (folder / "repository").mkdir()
        repository = stack.enter_context(a_repository(folder / "repository"))
        site = repository.site(folder / "site", cache_every=0)
        make_base(site)
        members = stack.enter_context(hosts(site, folder / "hosts", arguments.hosts))
        images = {path.name: path.stat().st_size for path in site.images.iterdir()}
        for host in members:
            host.hold_images(images)
        inventory = an_inventory(folder, site, members, arguments.driver)
        run(folder, site, inventory, members, 1)
        rows = [
            median([run(folder, site, inventory, members, nodes) for _ in range(arguments.runs)])
            for nodes in counts
        ]
    machine = (
        f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"
    )
    if arguments.json:
        print(
            json.dumps(
                {
                    "machine": machine,
                    "driver": arguments.driver,
                    "start": arguments.start,
                    "runs": arguments.runs,
                    "rows": rows,
                },
                indent=1,
            )
        )
        return
    print(f"{arguments.hosts} hosts, medians of {arguments.runs} runs; {machine} at the start")
    print("           nodes  seconds  tasks  CPU-s  hosts' CPU-s  MiB")
    for row in rows:
        for verb, one in (("create", row), ("destroy", row["destroy"])):
            print(f"{verb:10}{row['nodes']:6}{one['seconds']:9.2f}{one['tasks']:7}{one['cpu_s']:7.2f}"
                  f"{one['hosts_cpu_s']:14.2f}{one['rss_mib']:5.0f}")  # fmt: skip
        words = row["by_phase"] | row["reads"]
        print("          ", ", ".join(f"{word} {seconds:.2f}" for word, seconds in words.items()))


if __name__ == "__main__":
    main()
