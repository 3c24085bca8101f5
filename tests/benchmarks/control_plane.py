#!/usr/bin/env python3
"""What it costs to say to many hosts what they are to run: clusters of many nodes on libvirt's test driver.

    .venv/bin/python tests/benchmarks/control_plane.py [--hosts 64] [--nodes 64,250,1000] [--driver qemu|xen]
        [--start 0] [--runs 1] [--json]
    .venv/bin/python tests/benchmarks/control_plane.py --creates 32 --room 20 [--start 0] [--runs 1] [--json]

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

With --creates instead: as many `vclust create` at once, each of one node, on a site with room for --room of them: a
host each.  Exactly so many must succeed, the others end with exit code 3; then all are destroyed.  These run all
phases: a node's console says that it is up once its domain has started, and a program in the place of ssh proves it.

one        seconds and CPU seconds of one create alone, and of one alone for which there is no room
seconds    from the start of the first to the end of the last
ratio      that, in times of one create
cpu_s      CPU seconds of all of them, and `cpu_s_each`

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
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

TESTS = Path(__file__).resolve().parents[1]
# In the place of this folder, which has another module `cache`.
sys.path[:1] = [str(TESTS.parent), str(TESTS / "unit"), str(TESTS / "testbed")]

from cache.cachesite import make_base  # noqa: E402
from control import environment  # noqa: E402
from control.hosts import ControlHost, hosts, isolate  # noqa: E402
from repository import KERNEL, a_repository  # noqa: E402

from vclust_py.site import PROJECT, Site  # noqa: E402
from vclust_py.site.describe import describe  # noqa: E402
from vclust_py.site.session import Session  # noqa: E402

memory_below = runpy.run_path(str(TESTS / "benchmarks/create.py"))["memory_below"]

NAME = "control"
BIN = Path(sys.executable).parent
RAM = "600GB"
"""Of each node of `creates_at_once`: a host has 1 TiB."""
NO_ROOM = 3
TAGS = "request,resolve,cache,place,image,distribute,create"
READS = {"list": (), "show": (NAME,)}
Row = dict[str, Any]


def playbook(inventory: Path, start: float, name: str, *words: str) -> Row:
    """Run it; its figures but `by_phase` and `hosts_cpu_s`."""
    argv = [BIN / "ansible-playbook", "-i", inventory]
    started, memory = time.monotonic(), 0
    with tempfile.TemporaryFile("w+") as output:
        command = subprocess.Popen(
            [*argv, PROJECT / "playbooks" / name, *words],
            cwd=PROJECT,
            env=environment(start),
            stdout=output,
            stderr=output,
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
    subprocess.run([BIN / "vclust", *words], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def a_request(folder: Path, nodes: int, name: str = NAME, ram: str = "512MB") -> Path:
    hardware = {"number_of_nodes": nodes, "ram": ram, "disk": "4GB"}
    software = {"name": name, "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/16"}
    path = folder / f"{name}.yml"
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


def run(
    folder: Path, site: Site, inventory: Path, members: Sequence[ControlHost], nodes: int, start: float
) -> Row:
    before = sum(host.cpu_seconds for host in members)
    made = playbook(
        inventory, start, "create_vcluster.yml", "-e", f"request={a_request(folder, nodes)}", "--tags", TAGS
    )
    made["hosts_cpu_s"] = sum(host.cpu_seconds for host in members) - before
    check_running(members, nodes)
    with Session(site) as session:
        (cluster,) = describe(session.store, NAME)
    made["by_phase"] = {phase["phase"]: phase["seconds"] for phase in cluster["phases"]}
    made["reads"] = {word: timed("-i", inventory, word, *names) for word, names in READS.items()}
    before = sum(host.cpu_seconds for host in members)
    gone = playbook(inventory, start, "destroy_vcluster.yml", "-e", f"name={NAME}")
    gone["hosts_cpu_s"] = sum(host.cpu_seconds for host in members) - before
    check_left(members)
    return {"hosts": len(members), "nodes": nodes, **made, "destroy": gone}


def check_running(members: Sequence[ControlHost], nodes: int) -> None:
    running = sum(host.running() for host in members) - len(members)  # the test driver has one of its own
    if running != nodes:
        sys.exit(f"got {running} running domains, expected {nodes}")


def check_left(members: Sequence[ControlHost]) -> None:
    if left := [f"{host.name}: {name}" for host in members for name in host.left() if name != "test"]:
        sys.exit("left behind: " + ", ".join(left))


def at_once(inventory: Path, start: float, *commands: Sequence[str | Path]) -> tuple[Row, dict[int, str]]:
    """Run `vclust` with the words of each at the same time; their figures, and exit code → what one that ended with it
    has said, with `counts` of each.
    """
    started, cpu_s, counts, said = time.monotonic(), 0.0, Counter[int](), {}
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in commands]
        running = [
            subprocess.Popen(
                [BIN / "vclust", "-i", inventory, *words],
                env=environment(start),
                stdout=output,
                stderr=output,
            )
            for words, output in zip(commands, outputs, strict=True)
        ]
        for command, output in zip(running, outputs, strict=True):
            _, status, usage = os.wait4(command.pid, 0)
            command.returncode = os.waitstatus_to_exitcode(status)
            counts[command.returncode] += 1
            cpu_s += usage.ru_utime + usage.ru_stime
            output.seek(0)
            said[command.returncode] = output.read()[-2000:]
    return {"seconds": time.monotonic() - started, "cpu_s": cpu_s, "counts": dict(counts)}, said


def expect(found: Row, said: dict[int, str], counts: dict[int, int]) -> Row:
    """The figures of commands that ended with these exit codes: code → how many."""
    if found.pop("counts") != {code: number for code, number in counts.items() if number}:
        sys.exit("\n".join(f"exit code {code}, of one: {text}" for code, text in said.items()))
    return found


def creates_at_once(
    folder: Path, inventory: Path, members: Sequence[ControlHost], creates: int, start: float
) -> Row:
    """One alone, then all; room is for as many as there are hosts."""
    room = len(members)
    names = [f"c{number:02}" for number in range(creates)]
    requests = [a_request(folder, 1, name, RAM) for name in names]

    def create(paths: Sequence[Path], made: int) -> Row:
        ended = at_once(inventory, start, *(("create", path) for path in paths))
        return expect(*ended, {0: made, NO_ROOM: len(paths) - made})

    def destroy() -> None:
        listed = subprocess.run(
            [BIN / "vclust", "-i", inventory, "list", "--json"], capture_output=True, check=True
        )
        for cluster in json.loads(listed.stdout):
            expect(*at_once(inventory, 0.0, ("destroy", cluster["name"])), {0: 1})
        check_running(members, 0)
        check_left(members)

    alone = create(requests[:1], 1)
    destroy()
    every = create(requests, room)
    check_running(members, room)
    refused = create([a_request(folder, 1, "late", RAM)], 0)
    destroy()
    return {
        "creates": creates,
        "room": room,
        "one": {**alone, "refused": refused},
        **every,
        "cpu_s_each": every["cpu_s"] / creates,
        "ratio": every["seconds"] / alone["seconds"],
    }


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
    parser.add_argument("--creates", type=int, default=0, help="creates of one node each, at once")
    parser.add_argument("--room", type=int, default=20, help="how many of these the site has room for")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    isolate()
    number = arguments.room if arguments.creates else arguments.hosts
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
        members = stack.enter_context(hosts(site, folder / "hosts", number))
        images = {path.name: path.stat().st_size for path in site.images.iterdir()}
        for host in members:
            host.hold_images(images)
        inventory = an_inventory(folder, site, members, arguments.driver)
        run(folder, site, inventory, members, 1, arguments.start)
        if arguments.creates:
            runs = range(arguments.runs)
            creates, start = arguments.creates, arguments.start
            rows = [median([creates_at_once(folder, inventory, members, creates, start) for _ in runs])]
        else:
            rows = [
                median(
                    [
                        run(folder, site, inventory, members, nodes, arguments.start)
                        for _ in range(arguments.runs)
                    ]
                )
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
    print(f"{number} hosts, medians of {arguments.runs} runs; {machine} at the start")
    if arguments.creates:
        print("                        seconds   CPU-s")
        (row,) = rows
        for name, one in (
            ("one", row["one"]),
            ("one without room", row["one"]["refused"]),
            (f"{row['creates']} at once, {row['room']} fit", row),
        ):
            print(f"{name:22}{one['seconds']:9.2f}{one['cpu_s']:8.2f}")
        print(f"{row['ratio']:.1f} x the time of one, {row['cpu_s_each']:.2f} CPU-s each")
        return
    print("           nodes  seconds  tasks  CPU-s  hosts' CPU-s  MiB")
    for row in rows:
        for verb, one in (("create", row), ("destroy", row["destroy"])):
            print(f"{verb:10}{row['nodes']:6}{one['seconds']:9.2f}{one['tasks']:7}{one['cpu_s']:7.2f}"
                  f"{one['hosts_cpu_s']:14.2f}{one['rss_mib']:5.0f}")  # fmt: skip
        words = row["by_phase"] | row["reads"]
        print("          ", ", ".join(f"{word} {seconds:.2f}" for word, seconds in words.items()))


if __name__ == "__main__":
    main()
