#!/usr/bin/env python3
"""One request on several sites: wall and CPU seconds of each phase, side by side.

    .venv/bin/python tests/benchmarks/phases.py REQUEST --site qemu=INVENTORY --site xen-pv=INVENTORY … [--runs 3]

The first create on each site makes base image and request layer and brings them to the hosts; it is not counted.
Then the sites take turns, so that all see the same machine.  CPU seconds are those of the whole machine, whatever
was at work: it must be quiet, and the sites' hosts must run on it (emulated Xen hosts do).  Medians over the runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from vclust_py import request

VCLUST = Path(sys.executable).parent / "vclust"
INTERVAL = 0.2  # seconds between two looks at the machine's CPU time

Times = Mapping[str, tuple[float, float]]
"""Phase → seconds of wall time, seconds of CPU time."""


def busy() -> float:
    """CPU seconds that this machine has worked since it started (proc_stat(5): all but idle and iowait)."""
    words = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    ticks = [int(word) for word in words]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")


class Meter:
    """The machine's CPU time, written down all the while; a context manager."""

    def __enter__(self) -> "Meter":
        self._samples: list[tuple[float, float]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def _work(self) -> None:
        while True:
            self._samples.append((time.time(), busy()))
            if self._stop.wait(INTERVAL):
                self._samples.append((time.time(), busy()))
                return

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def between(self, start: float, end: float) -> float:
        return self._at(end) - self._at(start)

    def _at(self, moment: float) -> float:
        return min(self._samples, key=lambda sample: abs(sample[0] - moment))[1]


def vclust(inventory: str, *words: str) -> str:
    done = subprocess.run([VCLUST, "-i", inventory, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"vclust {' '.join(words)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def run(inventory: str, path: str, name: str) -> Times:
    with Meter() as meter:
        begun = time.time()
        vclust(inventory, "create", path)
        ended = time.time()
    shown = json.loads(vclust(inventory, "show", name, "--json"))
    with Meter() as destroying:
        destroyed = time.time()
        vclust(inventory, "destroy", name)
        gone = time.time()
    return {
        **{
            phase["phase"]: (phase["seconds"], meter.between(phase["start"], phase["end"]))
            for phase in shown["phases"]
        },
        "request to ready": (ended - begun, meter.between(begun, ended)),
        "destroy": (gone - destroyed, destroying.between(destroyed, gone)),
    }


def medians(runs: list[Times]) -> Iterator[tuple[str, float, float]]:
    for phase in dict.fromkeys(name for one in runs for name in one):
        found = [one[phase] for one in runs if phase in one]
        yield (
            phase,
            statistics.median(wall for wall, _ in found),
            statistics.median(cpu for _, cpu in found),
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("request")
    parser.add_argument("--site", action="append", required=True, metavar="LABEL=INVENTORY")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="a row for each site and phase")
    arguments = parser.parse_args()
    name = request.read(Path(arguments.request)).name
    sites = dict(site.split("=", 1) for site in arguments.site)
    for inventory in sites.values():
        run(inventory, arguments.request, name)
    runs: dict[str, list[Times]] = {label: [] for label in sites}
    for _ in range(arguments.runs):
        for label, inventory in sites.items():
            runs[label].append(run(inventory, arguments.request, name))
    for label, times in runs.items():
        for phase, wall, cpu in medians(times):
            row = {"site": label, "phase": phase, "seconds": round(wall, 1), "cpu_seconds": round(cpu, 1)}
            if arguments.json:
                print(json.dumps(row))
            else:
                print(f"{label:12} {phase:18} {wall:8.1f} s {cpu:8.1f} CPU-s")


if __name__ == "__main__":
    main()
