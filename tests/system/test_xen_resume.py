"""Nodes that go on from an installer suspended on a real Xen host, PV and PVH, in the testbed's emulation.

Looked at with Xen's and libvirt's own tools in dom0, and in the nodes.
"""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated.host import Host
from emulatedhost import PATIENCE, Meter, held, left_on
from machine import Vclust, left_since, snapshot

from vclust_py.image import Catalogue, Image
from vclust_py.site import Site

pytestmark = [pytest.mark.system, pytest.mark.xen, pytest.mark.long]

REQUEST = """\
[Hardware]
NumberOfNodes: {nodes}
RAM: 256MB

[Software]
Hostname: {name}%02d
Network: 192.168.78.0/24
Packages: hello
Start: resume
"""
FOLDER = re.compile(r"remote-suspended-[0-9a-f]{16}-[0-9a-f]{8}")
OWN = (
    "cat /etc/machine-id",
    "cat /etc/ssh/ssh_host_ed25519_key.pub",
    "cat /proc/sys/kernel/random/boot_id",
    "head -c 16 /dev/urandom | od -A n -t x1",
    "cat /sys/class/net/eth0/address; ip -4 -o address show eth0",
)


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vclust(rolled_out: Path, guest: str, tmp_path: Path) -> Iterator[Vclust]:
    shutil.copytree(rolled_out, tmp_path / "inventory")
    (tmp_path / "inventory/group_vars/vm_hosts.yml").write_text(f"---\nvclust_xen_guest: {guest}\n")
    command = Vclust(tmp_path / "inventory", tmp_path, PATIENCE)
    clear(command)
    yield command
    clear(command)


def clear(vclust: Vclust) -> None:
    for cluster in vclust.json("list"):
        if re.fullmatch(r"x-(pv|pvh)-(resume|again)", cluster["name"]):
            vclust("destroy", cluster["name"])


def suspended(site: Site) -> list[Image]:
    return [image for image in Catalogue(site).images() if image.manifest.kind == "remote-suspended"]


def create(vclust: Vclust, host: Host, name: str, nodes: int) -> set[tuple[str, str]]:
    """How its nodes have started; with a line of what it has taken."""
    with Meter(host) as meter:
        vclust("create", vclust.request(name, REQUEST.format(name=name, nodes=nodes)))
    shown = vclust.json("show", name)
    phases = " ".join(
        f"{phase['phase']} {phase['seconds']:.1f}/{meter.between(phase['start'], phase['end']):.1f}"
        for phase in shown["phases"]
    )
    print(f"\nXEN {name}, seconds/CPU-seconds of the host: {meter.line('request to ready')} ({phases})")
    return {(node["start"], node["start_detail"]) for node in shown["nodes"]}


@pytest.mark.parametrize("guest", ["pv", "pvh"], indirect=True)
def test_nodes_go_on_from_an_installer(host: Host, vclust: Vclust, guest: str, site: Site) -> None:
    for image in suspended(site):
        Catalogue(site).remove(image)
    here, there = snapshot(), held(host)

    name = f"x-{guest}-resume"
    assert create(vclust, host, name, 2) == {("resume", "")}
    assert "2 of 2 nodes started from a suspended installer" in vclust("show", name)
    nodes = [f"{name}0{number}" for number in (1, 2)]
    domains = {f"{node}.{name}" for node in nodes}
    running = json.loads(host.ssh("xl list -l"))
    kinds = {one["config"]["c_info"].get("name"): one["config"]["c_info"].get("type") for one in running}
    assert {domain: kind for domain, kind in kinds.items() if domain != "Domain-0"} == dict.fromkeys(
        domains, guest
    )
    said = []
    for node in nodes:
        xml = host.ssh(f"virsh -c xen:///system dumpxml --inactive {node}.{name}")
        asked = time.time()
        clock, memory, mac, line, kind, state, *own = (
            vclust(
                "ssh",
                name,
                node,
                "--",
                "date +%s.%N; sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo;"
                " cat /sys/class/net/eth0/address /proc/cmdline /sys/hypervisor/guest_type;"
                " systemctl is-system-running --wait;" + "; echo --; ".join(OWN),
            )
            .strip()
            .split("\n", 6)
        )
        assert asked - 3 < float(clock) < time.time() + 3
        kib = int(re.findall(r"<memory unit='KiB'>(\d+)<", xml)[0])
        assert 0.7 * kib < int(memory) < kib
        assert [mac] == re.findall(r"<mac address='(.*?)'/>", xml)
        assert "vclust.suspend" in line, "its kernel is that of the installer"
        assert "vclust.suspend" not in xml, "and it boots when it is started again"
        assert (kind, state) == (guest.upper(), "running")
        said.append(own[0].split("\n--\n"))
    for command, mine, its in zip(OWN, *said, strict=True):
        assert mine, command
        assert set(mine.splitlines()).isdisjoint(its.splitlines()), command
    vclust("destroy", name)

    # What is left is the image, half of which is on the host; the next cluster finds it.
    (image,) = suspended(site)
    left = left_on(host, there)
    (folder,) = left.pop("clusters")
    assert left == {}
    assert FOLDER.fullmatch(folder)
    assert create(vclust, host, f"x-{guest}-again", 1) == {("resume", "")}
    vclust("destroy", f"x-{guest}-again")
    assert suspended(site) == [image]

    # One that is no good: the node boots, and says why.
    memory = f"/var/lib/vclust/clusters/{folder}/memory"
    host.ssh(f"dd if=/dev/zero of={memory} bs=1M seek=1 count=8 conv=notrunc 2>/dev/null")
    ((start, detail),) = create(vclust, host, f"x-{guest}-again", 1)
    assert start == "boot"
    assert f"x-{guest}-again01" in detail
    assert json.loads(image.path.with_suffix(".json").read_text())["key"] == "retired"
    # What is none of the site's images goes from the host with the next cluster.
    Catalogue(site).remove(image)
    vclust("destroy", f"x-{guest}-again")
    assert left_on(host, there) == {}
    assert left_since(here) == {}
