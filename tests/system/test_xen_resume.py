"""Nodes that go on from an installer suspended on a real Xen host, PV and PVH, in the testbed's emulation.

Looked at with Xen's and libvirt's own tools in dom0, and in the nodes.
"""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from emulated.host import Host
from emulatedhost import Meter, held, left_on, xen_guests
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
ASKED = (
    "date +%s.%N",
    "sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo",
    "cat /proc/cmdline",
    "cat /sys/hypervisor/guest_type",
    "systemctl is-system-running --wait",
)
OWN = (
    "cat /sys/class/net/eth0/address",
    "cat /etc/machine-id",
    "cat /etc/ssh/ssh_host_ecdsa_key.pub",
    "cat /proc/sys/kernel/random/boot_id",
    "head -c 16 /dev/urandom | od -A n -t x1",
    "ip -4 -o address show eth0",
)


@pytest.fixture
def guest(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vclust(rolled_out: Path, guest: str, tmp_path: Path) -> Iterator[Vclust]:
    with xen_guests(rolled_out, guest, tmp_path, r"x-(pv|pvh)-(resume|again)") as command:
        yield command


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


def in_node(vclust: Vclust, name: str, node: str, *commands: str) -> list[str]:
    """What each of the commands says there."""
    said = vclust("ssh", name, node, "--", "; echo --; ".join(commands)).strip()
    return [answer.strip() for answer in said.split("\n--\n")]


# PVH takes an emulated processor twice as long.
@pytest.mark.parametrize(("guest", "nodes"), [("pv", 2), ("pvh", 1)], indirect=["guest"])
def test_nodes_go_on_from_an_installer(
    host: Host, vclust: Vclust, guest: str, nodes: int, site: Site
) -> None:
    for image in suspended(site):
        Catalogue(site).remove(image)
    here, there = snapshot(), held(host)
    name = f"x-{guest}-resume"
    assert create(vclust, host, name, nodes) == {("resume", "")}
    assert f"{nodes} of {nodes} nodes started from a suspended installer" in vclust("show", name)
    names = [f"{name}{number:02}" for number in range(1, nodes + 1)]
    running = json.loads(host.ssh("xl list -l"))
    kinds = {one["config"]["c_info"].get("name"): one["config"]["c_info"].get("type") for one in running}
    domains = {domain: kind for domain, kind in kinds.items() if domain != "Domain-0"}
    assert domains == {f"{node}.{name}": guest for node in names}
    own = []
    for node in names:
        xml = host.ssh(f"virsh -c xen:///system dumpxml --inactive {node}.{name}")
        asked = time.time()
        clock, memory, line, kind, state, mac, *more = in_node(vclust, name, node, *ASKED, *OWN)
        assert asked - 3 < float(clock) < time.time() + 3
        kib = int(re.findall(r"<memory unit='KiB'>(\d+)<", xml)[0])
        assert 0.7 * kib < int(memory) < kib
        assert "vclust.suspend" in line, "its kernel is that of the installer"
        assert "vclust.suspend" not in xml, "and it boots when it is started again"
        assert (kind, state) == (guest.upper(), "running")
        assert [mac] == re.findall(r"<mac address='(.*?)'/>", xml)
        own.append([mac, *more])
    for command, *answers in zip(OWN, *own, strict=True):
        assert all(answers), command
        assert len(set(answers)) == nodes, command
    vclust("destroy", name)
    # What is left is the image, half of which is on the host.
    assert len(suspended(site)) == 1
    left = left_on(host, there)
    (folder,) = left.pop("clusters")
    assert FOLDER.fullmatch(folder)
    assert left == {}
    assert left_since(here) == {}


@pytest.mark.parametrize("guest", ["pv"], indirect=True)
def test_a_suspended_installer_that_is_no_good(host: Host, vclust: Vclust, guest: str, site: Site) -> None:
    """The node boots, once, and says why; nobody finds the image again."""
    name = f"x-{guest}-again"
    for image in suspended(site):
        Catalogue(site).remove(image)
    assert create(vclust, host, name, 1) == {("resume", "")}
    vclust("destroy", name)
    (image,) = suspended(site)
    assert image.manifest.place is not None
    memory = f"/var/lib/vclust/clusters/{image.manifest.place.folder}/memory"
    host.ssh(f"dd if=/dev/zero of={memory} bs=1M seek=1 count=8 conv=notrunc 2>/dev/null")
    ((start, detail),) = create(vclust, host, name, 1)
    assert start == "boot"
    assert f"{name}01" in detail
    assert json.loads(image.path.with_suffix(".json").read_text())["key"] == "retired"
    # What is none of the site's images goes from the host with the next cluster.
    Catalogue(site).remove(image)
    vclust("destroy", name)
    assert image.manifest.place.folder not in host.ssh("ls /var/lib/vclust/clusters").split()
