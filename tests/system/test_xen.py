"""The same request on real Xen, in the testbed's emulation: both kinds of guest, both ways to install.

Verified in dom0 with Xen's and libvirt's own tools, and in the nodes, not with what vclust says of itself.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated.host import Host
from emulatedhost import Meter, held, left_on, roll_out, xen_guests
from machine import Vclust, left_since, snapshot

pytestmark = [pytest.mark.system, pytest.mark.xen]

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


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vclust(rolled_out: Path, guest: str, tmp_path: Path) -> Iterator[Vclust]:
    with xen_guests(rolled_out, guest, tmp_path, r"t-(pv|pvh)-(once|each)") as command:
        yield command


def test_a_second_roll_out_changes_nothing(rolled_out: Path) -> None:
    assert roll_out(rolled_out) == set()


@pytest.mark.parametrize(
    ("guest", "install"),
    [
        ("pv", "once"),
        ("pvh", "each"),
        pytest.param("pv", "each", marks=pytest.mark.long),
        pytest.param("pvh", "once", marks=pytest.mark.long),
    ],
    indirect=["guest"],
)
def test_a_request_becomes_a_cluster_and_nothing_is_left_of_it(
    host: Host, vclust: Vclust, guest: str, install: str
) -> None:
    name = f"t-{guest}-{install}"
    here, there = snapshot(), held(host)
    with Meter(host) as creating:
        vclust("create", vclust.request(name, REQUEST.format(name=name, install=install)))
    nodes = {f"{name}0{number}.{name}" for number in (1, 2)}

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
