"""A site of one KVM host of Debian 13, in the testbed's emulation; what differs from Debian 12 shows here.

Verified on the host with libvirt's own tools, and in the node.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated.host import Host
from emulatedhost import PATIENCE, Meter, held, left_on, roll_out
from machine import Vclust, left_since, snapshot
from shared import inventory

from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.kvm]

NAME = "t-trixie"
REQUEST = f"""\
[Hardware]
NumberOfNodes: 1
RAM: 512MB

[Software]
Hostname: {NAME}%02d
Network: 192.168.81.0/24
Packages: hello
"""


@pytest.fixture(scope="module")
def rolled_out(trixie_host: Host, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trixie") / "inventory"
    inventory.write([trixie_host], site.root, folder)
    with Meter(trixie_host) as meter:
        roll_out(folder)
    print(meter.line("\nDEBIAN 13 roll-out, seconds/CPU-seconds of the host:"))
    return folder


@pytest.fixture
def vclust(rolled_out: Path, tmp_path: Path) -> Iterator[Vclust]:
    command = Vclust(rolled_out, tmp_path, PATIENCE)

    def clear() -> None:
        for cluster in command.json("list"):
            if cluster["name"] == NAME:
                command("destroy", NAME)

    clear()  # of a test run that was killed
    yield command
    clear()


def test_a_second_roll_out_changes_nothing(rolled_out: Path) -> None:
    assert roll_out(rolled_out) == set()


def test_a_node_runs_by_kvm_and_leaves_nothing(trixie_host: Host, vclust: Vclust) -> None:
    here, there = snapshot(), held(trixie_host)
    assert trixie_host.ssh(". /etc/os-release; echo $VERSION_CODENAME").strip() == "trixie"
    request = vclust.request(NAME, REQUEST)
    assert vclust.json("plan", str(request))["accelerators"] == {trixie_host.name: "kvm"}
    with Meter(trixie_host) as creating:
        vclust("create", request)
    said = trixie_host.ssh("virsh list --name | xargs -n 1 virsh dumpxml")
    assert said.count("<domain type='kvm'") == 1, said
    said = vclust("ssh", NAME, "--", "hostname; hello; systemd-detect-virt")
    assert said.split()[-4:] == [f"{NAME}01", "Hello,", "world!", "kvm"], said
    vclust("destroy", NAME)
    print(f"\nDEBIAN 13, seconds/CPU-seconds of the host: {creating.line('request to ready')}")
    assert left_on(trixie_host, there) == {}
    assert left_since(here) == {}
