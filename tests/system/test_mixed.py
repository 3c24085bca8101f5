"""A site of one KVM host and one Xen host, in the testbed's emulation: one cluster on both kinds.

Verified on the hosts with their own tools, and in the nodes, not with what vclust says of itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated.host import Host
from emulatedhost import PATIENCE, Meter, held, left_on, roll_out
from machine import Vclust, left_since, snapshot
from shared import inventory

from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.kvm, pytest.mark.xen]

NAME = "t-mixed"
REQUEST = f"""\
[Hardware]
NumberOfNodes: 2
RAM: 512MB
Spread: hosts

[Software]
Hostname: {NAME}%02d
Network: 192.168.80.0/24
Packages: gcc mpich python3
"""


@pytest.fixture(scope="module")
def rolled_out(host: Host, kvm_host: Host, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory with both hosts."""
    folder = tmp_path_factory.mktemp("mixed") / "inventory"
    inventory.write([kvm_host, host], site.root, folder)
    roll_out(folder)
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


def test_a_request_becomes_a_cluster_on_both_kinds_and_nothing_is_left_of_it(
    host: Host, kvm_host: Host, vclust: Vclust
) -> None:
    hosts, kinds = [kvm_host, host], {kvm_host.name: "kvm", host.name: "xen"}
    here, there = snapshot(), {each.name: held(each) for each in hosts}
    request = vclust.request(NAME, REQUEST)
    assert vclust.json("plan", str(request))["accelerators"] == kinds
    with Meter(host) as creating:
        vclust("create", request)
    nodes = {f"{NAME}01", f"{NAME}02"}

    # On the hosts: a domain of KVM on one, a guest of Xen on the other, and each node once.
    by_kvm = kvm_host.ssh("virsh list --name | xargs -n 1 virsh dumpxml | grep -E '<domain type|<name>'")
    by_xen = host.ssh("xl list | awk 'NR > 2 {print $1}'").split()
    assert by_kvm.count("<domain type='kvm'") == 1, by_kvm
    assert len(by_xen) == 1, by_xen
    assert [f"{node}.{NAME}" in by_kvm for node in sorted(nodes)].count(True) == 1
    assert by_xen[0] in {f"{node}.{NAME}" for node in nodes if f"{node}.{NAME}" not in by_kvm}
    shown = vclust.json("show", NAME)
    assert {node["host"]: node["accelerator"] for node in shown["nodes"]} == kinds

    # In the nodes: MPI over both, which tell by what they run; the packages as asked.
    with Meter(host) as using:
        said = vclust(
            *("ssh", NAME, "--"),
            "mpiexec -n 2 hostname; mpiexec -n 2 systemd-detect-virt; gcc -dumpmachine; python3 --version",
        ).split()
    assert nodes | {"kvm", "xen", "x86_64-linux-gnu", "Python"} <= set(said), said

    # In place, on both: a package, then memory and disk by a restart of each.
    with_bc = REQUEST.replace("Packages:", "Packages: bc")
    with Meter(host) as changing:
        vclust("apply", vclust.request(NAME, with_bc))
    said = vclust("ssh", NAME, "--", "mpiexec -n 2 sh -c 'echo 6*7 | bc'")
    assert said.split().count("42") == 2, said
    other = with_bc.replace("RAM: 512MB", "RAM: 448MB\nDisk: 5GB")
    with Meter(host) as restarting:
        vclust("apply", "--restart", vclust.request(NAME, other))
    for node in ("1", "2"):
        words = "awk '/^MemTotal:/ { print $2 }' /proc/meminfo; df --output=size -B 1MB / | tail -n 1"
        memory, disk = map(int, vclust("ssh", NAME, node, "--", words).split())
        assert memory < 448 * 10**6 / 1024
        assert 4500 < disk < 5000
    print(f"\nMIXED {changing.line('a package')} {restarting.line('both restarted')}")

    with Meter(host) as destroying:
        vclust("destroy", NAME)
    phases = " ".join(f"{phase['phase']} {phase['seconds']:.1f}" for phase in shown["phases"])
    print(
        f"\nMIXED, seconds/CPU-seconds of the Xen host: {creating.line('request to ready')} ({phases})"
        f" {using.line('mpi')} {destroying.line('destroy')}"
    )
    assert [left_on(each, there[each.name]) for each in hosts] == [{}, {}]
    assert left_since(here) == {}
