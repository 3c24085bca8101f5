"""A site of two KVM hosts, in the testbed's emulation: Debian with systemd and real KVM.

Verified on the hosts with libvirt's own tools, and in the nodes, not with what vclust says of itself.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated.host import Host
from emulatedhost import PATIENCE, Meter, RollOut, held, left_on, roll_out
from machine import Vclust, left_since, snapshot

pytestmark = [pytest.mark.system, pytest.mark.kvm]

NAME = "t-kvm"
REQUEST = f"""\
[Hardware]
NumberOfNodes: 4
# Two of them fill a host.
RAM: 640MB

[Software]
Hostname: {NAME}%02d
Network: 192.168.79.0/24
Packages: gcc mpich python3
"""
RUN = {
    "Make the host's keys, which stay there",
    "Admit the host with its new keys",
    "Put the new keys in their places",
    "Load it now",
}
"""What a check leaves out: commands, and what is done with the keys that they make.  It tells the key's certificate."""


@pytest.fixture
def vclust(kvm_roll_out: RollOut, tmp_path: Path) -> Iterator[Vclust]:
    command = Vclust(kvm_roll_out.inventory, tmp_path, PATIENCE)

    def clear() -> None:
        for cluster in command.json("list"):
            if cluster["name"] == NAME:
                command("destroy", NAME)

    clear()  # of a test run that was killed
    yield command
    clear()


def test_a_check_tells_what_the_roll_out_changes(kvm_roll_out: RollOut) -> None:
    assert kvm_roll_out.checked - kvm_roll_out.changed == set()
    assert {task for task, _ in kvm_roll_out.changed - kvm_roll_out.checked} <= RUN


def test_a_check_tells_the_same_whatever_runs_at_the_moment(
    kvm_hosts: list[Host], kvm_roll_out: RollOut
) -> None:
    """Services that start when they are asked, and end by themselves a while after."""
    host, services = kvm_hosts[0], "vclust-hop.service libvirtd.service"
    host.ssh(f"chmod 600 /usr/local/lib/vclust/hop.pyz; systemctl restart {services}")
    checked = roll_out(kvm_roll_out.inventory, "--check", "--limit", host.name)
    assert checked == {("Make folders and files", host.name)}
    host.ssh(f"systemctl stop {services}")
    assert roll_out(kvm_roll_out.inventory, "--limit", host.name) == checked


def test_a_second_roll_out_changes_nothing(kvm_roll_out: RollOut) -> None:
    assert roll_out(kvm_roll_out.inventory) == set()


def test_a_request_becomes_a_cluster_on_both_and_nothing_is_left_of_it(
    kvm_hosts: list[Host], vclust: Vclust
) -> None:
    names = [host.name for host in kvm_hosts]
    here, there = snapshot(), {host.name: held(host) for host in kvm_hosts}
    request = vclust.request(NAME, REQUEST)
    plan = vclust.json("plan", str(request))
    assert plan["accelerators"] == dict.fromkeys(names, "kvm")
    with Meter(kvm_hosts[0]) as creating:
        vclust("create", request)
    nodes = {f"{NAME}0{number}" for number in range(1, 5)}

    # On the hosts: two nodes each, by KVM, as a user of their own.
    for host in kvm_hosts:
        said = host.ssh("virsh list --name | xargs -n 1 virsh dumpxml; ps -C qemu-system-x86_64 -o user:20=")
        assert said.count("<domain type='kvm'") == 2, said
        assert said.split("</domain>")[-1].split() == ["libvirt-qemu"] * 2
    shown = vclust.json("show", NAME)
    assert {node["accelerator"] for node in shown["nodes"]} == {"kvm"}
    assert sorted(node["host"] for node in shown["nodes"]) == sorted(2 * names)

    # In the nodes: MPI over both hosts, the packages as asked, KVM as the kernel sees it.
    with Meter(kvm_hosts[0]) as using:
        said = vclust("ssh", NAME, "--", "mpiexec -n 4 hostname; gcc -dumpmachine; dmesg | grep Hypervisor")
    assert nodes <= set(said.split())
    assert "x86_64-linux-gnu" in said
    assert re.search(r"Hypervisor detected: KVM", said)

    # A user more: told to running nodes by their agents' ports, which libvirt reaches there, without a login.
    ask = "journalctl -u ssh | grep -c 'publickey for root' || true"
    logins = {node: int(vclust("ssh", NAME, node, "--root", "--", ask)) for node in ("1", "4")}
    with Meter(kvm_hosts[0]) as changing:
        done = vclust.json("apply", str(vclust.request(NAME, f"{REQUEST}User: zoe:*\n")))
    assert [line.partition(":")[0] for line in done["differences"]] == ["User"]
    assert done["late"] == []
    for node in logins:
        said = vclust("ssh", NAME, node, "--root", "--", f"id -un zoe; {ask}").split()
        assert said == ["zoe", str(logins[node] + 1)]  # this one

    with Meter(kvm_hosts[0]) as destroying:
        vclust("destroy", NAME)
    phases = " ".join(
        f"{phase['phase']} {phase['seconds']:.1f}/{creating.between(phase['start'], phase['end']):.1f}"
        for phase in shown["phases"]
    )
    print(
        f"\nKVM, seconds/CPU-seconds of the first host: {creating.line('request to ready')} ({phases})"
        f" {using.line('mpi')} {changing.line('a user more')} {destroying.line('destroy')};"
        f" {kvm_hosts[0].resident()} MiB"
    )
    assert [left_on(host, there[host.name]) for host in kvm_hosts] == [{}, {}]
    assert left_since(here) == {}
