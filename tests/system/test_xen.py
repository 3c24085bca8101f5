"""The same request on real Xen, in the testbed's emulation: both kinds of guest, both ways to install.

Verified in dom0 with Xen's and libvirt's own tools, and in the nodes, not with what vclust says of itself.
"""

import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import BIN, Vclust, left_since, snapshot
from xen import bed, inventory
from xen.host import Host

from vclust_py.site import PROJECT, Site

pytestmark = [pytest.mark.system, pytest.mark.xen]

PATIENCE = 1500
"""Seconds a command may take: on a busy machine, several times what it takes on a quiet one."""

REQUEST = """\
[Hardware]
NumberOfNodes: 2
RAM: 256MB

[Software]
Hostname: {name}%02d
Network: 192.168.78.0/24
Packages: mpich
Install: {install}
"""


class Meter:
    """The CPU time of a host's QEMU process, written down all the while; a context manager."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __enter__(self) -> "Meter":
        self.start = time.time()
        self._samples: list[tuple[float, float]] = [(self.start, self._host.cpu_seconds())]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def _work(self) -> None:
        while not self._stop.wait(0.5):
            self._samples.append((time.time(), self._host.cpu_seconds()))

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.end = time.time()
        self._samples.append((self.end, self._host.cpu_seconds()))

    def between(self, start: float, end: float) -> float:
        return self._at(end) - self._at(start)

    def _at(self, moment: float) -> float:
        closest = min(self._samples, key=lambda sample: abs(sample[0] - moment))
        return closest[1]

    def line(self, what: str) -> str:
        return f"{what} {self.end - self.start:.1f}/{self.between(self.start, self.end):.1f}"


@pytest.fixture(scope="module")
def host(site: Site) -> Iterator[Host]:
    """A host that runs already is taken as it is, and left so; else one is made from nothing."""
    ran = Host(1).pid() is not None
    if not ran:
        bed.down(None, print)
    found = bed.up(1, site.root, print)[0]
    yield found
    if not ran:
        bed.down(None, print)


def roll_out(site: Path) -> str:
    """`playbooks/site.yml`; what Ansible counted for the host."""
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", site, PROJECT / "playbooks/site.yml"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.search(r"^xen1 .*$", done.stdout, re.MULTILINE)
    assert found is not None, done.stdout
    return found[0]


@pytest.fixture(scope="module")
def rolled_out(host: Host, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory with this host alone, which the roll-out has made ready."""
    folder = tmp_path_factory.mktemp("xen") / "inventory"
    inventory.write([host], site.root, folder)
    with Meter(host) as meter:
        roll_out(folder)
    print(meter.line("\nXEN roll-out, seconds/CPU-seconds of the host:"))
    return folder


@pytest.fixture(params=("pv", "pvh"))
def guest(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vclust(rolled_out: Path, guest: str, tmp_path: Path) -> Iterator[Vclust]:
    shutil.copytree(rolled_out, tmp_path / "inventory")
    (tmp_path / "inventory/group_vars/vm_hosts.yml").write_text(f"---\nvclust_xen_guest: {guest}\n")
    command = Vclust(tmp_path / "inventory", tmp_path, PATIENCE)
    ours = re.compile(r"t-(pv|pvh)-(once|each)")
    for cluster in command.json("list"):  # of a test run that was killed
        if ours.fullmatch(cluster["name"]):
            command("destroy", cluster["name"])
    yield command
    for cluster in command.json("list"):
        if ours.fullmatch(cluster["name"]):
            command("destroy", cluster["name"])


def held(host: Host) -> dict[str, set[str]]:
    """What a host holds that vclust could leave behind, but for pools of the site's own."""
    commands = {
        "guests": "xl list | awk 'NR > 1 {print $1}'",
        "domains": "virsh -c xen:///system list --all --name",
        "networks": "virsh -c xen:///system net-list --all --name",
        "pools": "virsh -c xen:///system pool-list --all --name | grep -E 'vclust-t-'",
        "store": "xenstore-list /local/domain",
        "loop devices": "losetup --all --noheadings --output NAME",
        "interfaces": "ls /sys/class/net",
        "clusters": "ls /var/lib/vclust/clusters",
        "consoles": "ls /var/log/xen/console | grep ^guest-t-",
        "device models": "pgrep -f [x]en-domid",
    }
    said = host.ssh("".join(f"echo '== {kind}'; {command}\n" for kind, command in commands.items()) + "true")
    found: dict[str, set[str]] = {}
    for line in said.splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:], set())
        elif line:
            lines.add(line)
    assert found.keys() == commands.keys()
    return found


def left_on(host: Host, before: dict[str, set[str]], patience: float = 30) -> dict[str, set[str]]:
    """What the host holds now and did not at `before`; dom0 may take a moment to tidy up."""
    deadline = time.monotonic() + patience
    while True:
        now = held(host)
        left = {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(2)


def test_a_second_roll_out_changes_nothing(rolled_out: Path) -> None:
    assert "changed=0 " in roll_out(rolled_out)


@pytest.mark.parametrize("install", ["once", "each"])
def test_a_request_becomes_a_cluster_and_nothing_is_left_of_it(
    host: Host, vclust: Vclust, guest: str, install: str
) -> None:
    name = f"t-{guest}-{install}"
    here, there = snapshot(), held(host)
    with Meter(host) as creating:
        vclust("create", vclust.request(name, REQUEST.format(name=name, install=install)))
    nodes = {f"{name}.{name}0{number}" for number in (1, 2)}

    # In dom0: two guests of the asked kind, known to libvirt too.
    guests = json.loads(host.ssh("xl list -l"))
    kinds = {one["config"]["c_info"].get("name"): one["config"]["c_info"].get("type") for one in guests}
    assert {domain: kind for domain, kind in kinds.items() if domain in nodes} == dict.fromkeys(nodes, guest)
    assert nodes <= set(host.ssh("virsh -c xen:///system list --name").split())
    images = vclust.json("show", name)["images"]
    assert ("bundle" in images, images["root"] == images["base"]) == (install == "each", install == "each")

    # In the nodes: MPI across both, on Xen, with the package as asked.
    with Meter(host) as using:
        said = vclust("ssh", name, "--", "mpiexec -n 2 hostname; cat /sys/hypervisor/guest_type")
    assert {f"{name}01", f"{name}02", guest.upper()} <= set(said.split())

    shown = vclust.json("show", name)
    with Meter(host) as destroying:
        vclust("destroy", name)
    phases = "".join(
        f" {phase['phase']} {phase['seconds']:.1f}/{creating.between(phase['start'], phase['end']):.1f}"
        for phase in shown["phases"]
    )
    print(
        f"\nXEN {guest} {install}, seconds/CPU-seconds of the host: {creating.line('request to ready')}"
        f" ({phases.strip()}) {using.line('mpi')} {destroying.line('destroy')}; {host.resident()} MiB"
    )
    assert left_on(host, there) == {}
    assert left_since(here) == {}
