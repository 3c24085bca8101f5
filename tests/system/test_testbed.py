"""The testbed's hosts as namespaces, alone: what the tests that use them take for granted.

Seen with ssh, virsh, tc and the kernel's tables, not with what the testbed says of itself.
"""

import json
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from machine import BIN, output
from many.bed import Bed, Shape
from many.host import Host
from shared.features import Feature, missing
from shared.places import KEY

from vclust_py.errors import VclustError

pytestmark = [pytest.mark.system]

BED = Bed("vct", IPv4Network("10.81.0.0/16"))
RATE = 10_000_000  # bits a second: less than ssh manages on a busy machine

GUEST = """\
<domain type='qemu'>
  <name>probe</name><memory unit='MiB'>64</memory><os><type>hvm</type></os>
  <devices><interface type='ethernet'><target dev='probe0'/><model type='virtio'/></interface></devices>
</domain>
"""


@pytest.fixture(scope="module")
def site_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("site")


@pytest.fixture(scope="module")
def hosts(site_root: Path) -> Iterator[list[Host]]:
    if BED.folder.exists():  # of a test run that was killed
        BED.down()
    yield BED.up(2, Shape(racks=2, rate=f"{RATE}bit"), site_root, print)
    BED.down()


def test_each_host_has_a_name_and_files_of_its_own(hosts: list[Host]) -> None:
    for host in hosts:
        host.ssh(f"echo {host.name} > /etc/probe")
    assert [host.ssh("hostname; cat /etc/probe").split() for host in hosts] == [["h1", "h1"], ["h2", "h2"]]
    assert len({host.ssh("cat /etc/machine-id") for host in hosts}) == 2
    assert hosts[0].ssh("ps -e -o comm=").split().count("libvirtd") == 1


def test_libvirt_runs_an_emulated_guest_and_offers_no_kvm(hosts: list[Host]) -> None:
    host = hosts[0]
    assert "<domain type='kvm'" not in host.ssh("virsh -c qemu:///system capabilities")
    host.ssh("cat > /run/probe.xml; virsh -c qemu:///system create /run/probe.xml", stdin=GUEST)
    try:
        assert host.ssh("virsh -c qemu:///system domstate probe").strip() == "running"
        assert "probe0" in host.ssh("ls /sys/class/net")
    finally:
        host.ssh("virsh -c qemu:///system destroy probe")
    assert "probe0" not in host.ssh("ls /sys/class/net")


def test_what_goes_from_rack_to_rack_is_held_to_the_uplinks_rate(hosts: list[Host]) -> None:
    hosts[0].ssh("umask 077; cat > /run/key", stdin=KEY.read_text())
    there = f"ssh -i /run/key -o StrictHostKeyChecking=no root@{hosts[1].address}"
    hosts[0].ssh(f"head -c 2M /dev/zero | {there} 'cat > /dev/null'")
    queues = json.loads(output("tc", "-n", BED.fabric.namespace, "-json", "-stats", "qdisc", "show"))
    shaped = {queue["dev"]: queue for queue in queues if queue["kind"] == "tbf"}
    assert shaped.keys() == {"up1", "core1", "up2", "core2"}
    assert {queue["options"]["rate"] * 8 for queue in shaped.values()} == {RATE}
    for device in ("up1", "core2"):
        assert shaped[device]["bytes"] > 2 << 20
    # The first one holds it back; to the second it comes at the rate already.
    assert shaped["up1"]["overlimits"] > 0


def test_ansible_reaches_all_hosts_by_the_inventory_alone(hosts: list[Host], site_root: Path) -> None:
    words = [BIN / "ansible", "-i", BED.inventory, "vm_hosts", "-m", "ping", "--one-line"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(output(str(BIN / "ansible-inventory"), "-i", str(BED.inventory), "--list"))
    variables = told["_meta"]["hostvars"]
    assert {name: variables[name]["vclust_rack"] for name in ("h1", "h2")} == {"h1": "r1", "h2": "r2"}
    assert variables["h1"]["vclust_libvirt_uri"] == f"qemu+tls://{hosts[0].address}/system"
    assert variables["localhost"]["vclust_site"]["root"] == str(site_root)


def test_a_host_whose_plug_was_pulled_is_gone_and_comes_back_with_its_disk(
    hosts: list[Host], site_root: Path
) -> None:
    host, other = hosts
    host.ssh("echo kept > /root/file; ip link add left type bridge")
    host.stop()
    with pytest.raises(VclustError):
        other.ssh(f"ping -c 1 -W 1 {host.address}")
    BED.up(2, Shape(racks=2, rate=f"{RATE}bit"), site_root, print)
    assert host.ssh("cat /root/file") == "kept\n"
    assert "left" not in host.ssh("ls /sys/class/net")
    reaches(other, host)


def test_a_host_whose_cable_is_out_cannot_be_reached_and_runs_on(hosts: list[Host]) -> None:
    host, other = hosts
    pid = host.pid()
    host.pull_cable()
    with pytest.raises(VclustError):
        other.ssh(f"ping -c 1 -W 1 {host.address}")
    host.put_cable_back()
    reaches(other, host)
    assert host.pid() == pid


def test_a_bed_that_is_up_is_not_made_another(hosts: list[Host], site_root: Path) -> None:
    with pytest.raises(VclustError, match="is up with"):
        BED.up(2, Shape(racks=1), site_root, print)
    assert all(host.is_up() for host in hosts)


def test_a_bed_that_cannot_be_made_leaves_nothing(site_root: Path) -> None:
    bed = Bed("vctx", IPv4Network("10.82.0.0/16"))
    with pytest.raises(VclustError, match="tc: exit status"):
        bed.up(1, Shape(rate="fast"), site_root, print)
    assert left_of(bed) == []


def test_addresses_that_this_machine_has_elsewhere_are_refused(site_root: Path) -> None:
    bed = Bed("vctx", IPv4Network("127.0.0.0/16"))
    with pytest.raises(VclustError, match=r"127\.0\.0\.0/16: this machine reaches 127\.0\.0\.0/8 by lo"):
        bed.up(1, Shape(), site_root, print)
    assert left_of(bed) == []


def test_nothing_is_left_after_down(hosts: list[Host], site_root: Path) -> None:
    assert len(left_of(BED)) >= 8  # that it can be seen
    BED.down()
    assert left_of(BED) == []
    # For the fixture, and for tests that come in another order.
    BED.up(2, Shape(racks=2, rate=f"{RATE}bit"), site_root, print)


def test_what_the_machine_lacks_is_named_with_what_is_left_out() -> None:
    there, lacking = Feature("shells", "true", "no shells"), Feature("flying", "false", "hosts walk")
    assert missing((there, lacking)) == ["this machine lacks flying: hosts walk"]
    with pytest.raises(VclustError, match="this machine lacks breath: hosts of this kind cannot run here"):
        missing((lacking, Feature("breath", "false")))


def reaches(host: Host, other: Host) -> None:
    """After a moment: the kernel takes note of cables when it comes to it."""
    host.ssh(f"for try in $(seq 20); do ping -c 1 -W 1 {other.address} && exit 0; sleep 0.1; done; exit 1")


def left_of(bed: Bed) -> list[str]:
    """Interfaces, network namespaces, mounts, folders and processes of a bed."""
    links = [link["ifname"] for link in json.loads(output("ip", "-json", "link"))]
    spaces = [space["name"] for space in json.loads(output("ip", "-json", "netns") or "[]")]
    found = [name for name in links if name == f"{bed.name}0"]
    found += [name for name in spaces if name.startswith(f"{bed.name}-")]
    folder = str(bed.folder)
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if f"{folder}/" in line]
    found += [folder] if bed.folder.exists() else []
    for path in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            # A process of a host has a root of which a folder of the bed is the upper part.
            if f"upperdir={folder}/" in path.read_text():
                found.append(f"process {path.parent.name}")
        except OSError:  # ended meanwhile
            continue
    return found
