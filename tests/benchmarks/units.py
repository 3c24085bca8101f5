#!/usr/bin/env python3
"""What each unit of a node's boot takes, in one suite beside the other: bare QEMU, emulated, one node at a time.

    .venv/bin/python tests/benchmarks/units.py --root DIR [--suites bookworm,trixie] [--runs 3] [--mask UNIT] [--json]

CPU seconds, medians of the runs, in which the suites take turns:
login      of the QEMU process until a login is done; `report`, `banner`: until the node's report, sshd's first word
installer  uptime when the installer begins: kernel and drivers (seconds)
installed  uptime when it hands over to systemd
systemd    of PID 1 and what belongs to no unit, as the node counts them when it has reported
UNIT       of the unit's processes, as systemd counts them; those that took a hundredth of a second at least

With --mask, as often as one likes, the kernel is told to leave that unit out; PID 1's share in starting it shows in
`login` only.  DIR is a site's root, where base images are made that are not there.  Root.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1] / "system")]

from boot import measure  # noqa: E402
from node import Node  # noqa: E402

from vclust_py import seed  # noqa: E402
from vclust_py.guest import cluster_disk, fat  # noqa: E402
from vclust_py.guest.cluster_disk import ClusterIdentity  # noqa: E402
from vclust_py.guest.trust import Authority, new_key  # noqa: E402
from vclust_py.image.base import BaseImages, ensure_base  # noqa: E402
from vclust_py.lock import Lock  # noqa: E402
from vclust_py.request import from_mapping  # noqa: E402
from vclust_py.resolve import closure  # noqa: E402
from vclust_py.site import Site  # noqa: E402

KERNEL = "linux-image-cloud-amd64"
REQUEST = {
    "hardware": {"number_of_nodes": 1, "ram": "488MB", "disk": "4GB"},
    "software": {"name": "units", "network": "10.0.2.0/24", "packages": []},
}
LEAST = 0.01
"""CPU seconds of a unit that is told of."""
ASK = (
    "systemctl show --all --property=Id --property=CPUUsageNSec '*.service' '*.mount' '*.socket' '*.timer';"
    " echo; sed -n 's/^usage_usec /init.scope /p' /sys/fs/cgroup/init.scope/cpu.stat"
)

Row = dict[str, float]


def silent(message: str, done: int, total: int) -> None:
    pass


def units(text: str) -> Row:
    """CPU seconds by unit, of what `ASK` prints."""
    found: Row = {}
    for block in text.split("\n\n"):
        fields = dict(line.partition("=")[::2] for line in block.splitlines())
        spent = fields.get("CPUUsageNSec", "")
        # What it does not know is the largest number.
        if spent.isdigit() and int(spent) < 2**63:
            found[fields["Id"]] = int(spent) / 1e9
    if own := re.search(r"^init\.scope (\d+)$", text, re.MULTILINE):
        found["systemd"] = int(own[1]) / 1e6
    return {name: spent for name, spent in found.items() if spent >= LEAST}


def boot(folder: Path, images: BaseImages, lock: Lock, append: str) -> Row:
    """One boot of a node without packages beyond the base."""
    request, authority, admin = from_mapping(REQUEST, "units"), Authority(), new_key()
    names = dict(zip(request.hostnames, request.addresses, strict=True))
    first = seed.new_node(request.hostnames[0], request.addresses[0], authority)
    packages = tuple(package.pinned for package in lock.base)
    user = authority.new_user_key("root")
    cluster = ClusterIdentity(
        1, request, names, authority, {"root": user}, admin.public, packages, (), {}, {}
    )
    disks, key = (folder / "seed.img", folder / "cluster.img"), folder / "admin"
    built = (seed.build(first, request, {}), cluster_disk.build(cluster))
    fat.write_all({**dict(zip(disks, built, strict=True)), key: admin.private.encode()})
    node = Node(
        *(folder, images.base.path, images.kernel.path, images.installer.path, *disks),
        mac=first.mac,
        address=str(first.address),
        network=str(request.software.network),
        router=str(request.router),
        append=append,
    )
    with node:
        found = measure(node, argparse.Namespace(key=key, user="root", timeout=300, idle=0))
        if not found.report.startswith("vclust: ready"):
            sys.exit(f"the node is not ready: {found.report or node.console.read_text()[-2000:]}")
        said = {line.split()[1]: line for line in node.said()}
        ups = {word: float(said[word].partition("up=")[2].split()[0]) for word in ("installer", "installed")}
        done = node.ssh(key, "root", ASK)
    if done.returncode:
        sys.exit(f"the node does not tell its units: {done.stderr}")
    spent = {"login": found.login_cpu, "report": found.report_cpu, "banner": found.banner_cpu}
    return {
        **{name: value for name, value in spent.items() if value is not None},
        **ups,
        **units(done.stdout),
    }


def medians(rows: list[Row]) -> Row:
    names = {name for row in rows for name in row}
    return {name: round(statistics.median(row.get(name, 0.0) for row in rows), 2) for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--suites", default="bookworm,trixie")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--mask", action="append", default=[], metavar="UNIT")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    site, suites = Site(root=arguments.root), arguments.suites.split(",")
    made: dict[str, tuple[Lock, BaseImages]] = {}
    for suite in suites:
        lock = closure((), suite=suite, architecture="amd64", kernel=KERNEL, site=site, report=silent)
        made[suite] = lock, ensure_base(site, lock, silent)
    append = " ".join(f"systemd.mask={unit}" for unit in arguments.mask)
    rows: dict[str, list[Row]] = {suite: [] for suite in suites}
    for _ in range(arguments.runs):
        for suite, (lock, images) in made.items():
            with tempfile.TemporaryDirectory(prefix="vclust-units-", dir="/var/tmp") as folder:
                rows[suite].append(boot(Path(folder), images, lock, append))
    found = {suite: medians(rows[suite]) for suite in suites}
    if arguments.json:
        print(json.dumps({"runs": arguments.runs, "masked": arguments.mask, "suites": found}, indent=1))
        return
    last = found[suites[-1]]
    names = sorted({name for row in found.values() for name in row}, key=lambda name: -last.get(name, 0.0))
    print(f"{'':44}", *(f"{suite:>10}" for suite in suites))
    for name in names:
        print(f"{name:44}", *(f"{found[suite].get(name, 0.0):10.2f}" for suite in suites))


if __name__ == "__main__":
    main()
