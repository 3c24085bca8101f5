#!/usr/bin/env python3
"""What a roll-out costs the controller, by the number of hosts.

    .venv/bin/python tests/benchmarks/rollout.py [--hosts 1,4,16,64] [--json]

Hosts are those of `tests/testbed many`: each has namespaces, a root, an sshd and a libvirtd of its own, and nothing of
vclust.  For each number of hosts: hosts come up, `ansible-playbook playbooks/site.yml` rolls out to them from nothing,
the same again, hosts go.  Controller and site manager are this machine, which has the site manager's packages.

seconds       wall time of the playbook; hosts work on this machine's processors, too
cpu_s         CPU seconds of the controller: the playbook with all below it, ssh's connections that outlive it included;
              what hosts do themselves is not in it
cpu_s_a_host  by how much each host more than in the row before adds to `cpu_s`
changed       results of tasks that changed something
again         the same of the second roll-out, which is to change nothing

Root.
"""

import argparse
import contextlib
import ctypes
import json
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
# In the place of this folder, which has another module `cache`.
sys.path[:1] = [str(TESTS.parent), str(TESTS / "testbed")]

from many.bed import MOST, Bed, Shape  # noqa: E402
from shared.command import count, say  # noqa: E402

from vclust_py.site import PROJECT  # noqa: E402

BED = Bed("vcr", IPv4Network("10.84.0.0/16"))
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl(2)
Row = dict[str, Any]


@contextlib.contextmanager
def orphans_are_ours() -> Iterator[None]:
    """Processes below this one whose parent ends meanwhile become its children, and end at the end of this."""
    library = ctypes.CDLL(None)
    library.prctl(_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split():
            os.kill(int(pid), signal.SIGTERM)
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
    finally:
        library.prctl(_SUBREAPER, 0, 0, 0, 0)


def cpu_seconds() -> float:
    """Of all processes that were below this one and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def roll_out(inventory: Path) -> Row:
    argv = [Path(sys.executable).parent / "ansible-playbook", "-i", inventory, PROJECT / "playbooks/site.yml"]
    started, before = time.monotonic(), cpu_seconds()
    # Connections of its own, which no other command keeps open or has opened.
    with tempfile.TemporaryDirectory(prefix="vclust-ssh-") as sockets, orphans_are_ours():
        done = subprocess.run(
            argv,
            cwd=PROJECT,
            env={**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
    if done.returncode:
        sys.exit(f"the roll-out ended with {done.returncode}:\n{done.stdout[-4000:]}")
    changed = sum(
        int(found) for found in re.findall(r"^\S+ +: ok=.*? changed=(\d+)", done.stdout, re.MULTILINE)
    )
    return {"seconds": seconds, "cpu_s": cpu_seconds() - before, "changed": changed}


def run(hosts: int) -> Row:
    if BED.folder.exists():  # of a run that was killed
        BED.down()
    with tempfile.TemporaryDirectory(prefix="vclust-rollout-", dir="/var/tmp") as site_root:
        BED.up(hosts, Shape(rate="none"), Path(site_root), say)
        try:
            first, second = (roll_out(BED.inventory) for _ in range(2))
        finally:
            BED.down()
    return {"hosts": hosts, **first, "again": second}


def with_growth(rows: Sequence[Row]) -> list[Row]:
    grown = []
    for row, before in zip(rows, [None, *rows[:-1]], strict=True):
        growth = before and (row["cpu_s"] - before["cpu_s"]) / (row["hosts"] - before["hosts"])
        grown.append({**row, "cpu_s_a_host": growth})
    return grown


def rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return round(value, 2) if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hosts", default="1,4,16,64", help="numbers of hosts, rising, with commas")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    counts = [count(MOST)(word) for word in arguments.hosts.split(",")]
    load = os.getloadavg()[0]
    rows = with_growth([run(hosts) for hosts in counts])
    machine = (
        f"{os.cpu_count()} CPUs, {platform.machine()}, Python {platform.python_version()}, load {load:.1f}"
    )
    if arguments.json:
        print(json.dumps({"machine": machine, "rows": rounded(rows)}, indent=1))
        return
    print(f"{machine} at the start")
    print("hosts  seconds   CPU-s  a host  changed   again: seconds   CPU-s  changed")
    for row in rows:
        growth, again = row["cpu_s_a_host"], row["again"]
        print(f"{row['hosts']:5}{row['seconds']:9.1f}{row['cpu_s']:8.1f}"
              f"{'' if growth is None else format(growth, '.2f'):>8}{row['changed']:9}"
              f"{again['seconds']:17.1f}{again['cpu_s']:8.1f}{again['changed']:9}")  # fmt: skip


if __name__ == "__main__":
    main()
