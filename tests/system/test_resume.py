"""Nodes that go on from a suspended installer: each as right a node as a booted one, with disks of its own.

Looked at with virsh, ssh and the nodes' own tools, and in the files of the image.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Vclust, left_since, local, output, snapshot

from vclust_py.image import Catalogue, Image
from vclust_py.lock import Lock
from vclust_py.site import PROJECT, Site

pytestmark = [pytest.mark.system, pytest.mark.long]

HELLO = (PROJECT / "examples/hello-mpi.ini").read_text()
REQUEST = HELLO.replace("hello", "rs").replace("gcc mpich python3", "mpich") + "Start: resume\n"


@pytest.fixture(scope="module")
def vclust(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    command = local(tmp_path_factory.mktemp("resume"), root=site.root)
    for image in suspended(site):
        Catalogue(site).remove(image)
    yield command
    command.clear()
    for image in suspended(site):
        Catalogue(site).remove(image)


def suspended(site: Site) -> list[Image]:
    return [image for image in Catalogue(site).images() if image.manifest.kind == "suspended"]


@pytest.fixture(scope="module")
def pair(vclust: Vclust) -> Iterator[str]:
    """Two nodes that go on from an installer which is suspended for them."""
    before = snapshot()
    vclust("create", vclust.request("rs", REQUEST))
    yield "rs"
    vclust("destroy", "rs")
    assert left_since(before) == {}


@pytest.fixture(scope="module")
def image(pair: str, site: Site) -> Image:
    (image,) = suspended(site)
    return image


def run_in(vclust: Vclust, node: str, command: str, cluster: str = "rs") -> str:
    return vclust("ssh", cluster, node, "--", command).strip()


def starts(vclust: Vclust, name: str) -> set[tuple[str, str]]:
    return {(node["start"], node["start_detail"]) for node in vclust.json("show", name)["nodes"]}


def test_a_cluster_of_resumed_nodes_works(vclust: Vclust, pair: str) -> None:
    assert starts(vclust, pair) == {("resume", "")}
    assert "2 of 2 nodes started from a suspended installer" in vclust("show", pair)
    assert {"rs01", "rs02"} <= set(run_in(vclust, "rs01", "mpiexec -n 2 hostname").split())
    strict = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"
    assert run_in(vclust, "rs01", f"{strict} rs02 hostname") == "rs02"
    assert run_in(vclust, "rs02", f"{strict} rs01 hostname") == "rs01"
    for node in ("rs01", "rs02"):
        assert run_in(vclust, node, "systemctl is-system-running --wait") == "running"


def test_nodes_are_what_their_domains_say(vclust: Vclust, pair: str, site: Site) -> None:
    """Memory, CPUs, network card and disks as libvirt has them for a node that boots; packages, time, keys."""
    lock = Lock.load(site, vclust.json("show", pair)["lock"])
    expected = {package.pinned for package in (*lock.base, *lock.packages)}
    assert any(name.startswith("mpich=") for name in expected)
    for node in ("rs01", "rs02"):
        domain = ("virsh", "-c", "qemu:///system")
        xml = output(*domain, "dumpxml", f"{node}.{pair}", "--inactive")
        asked = time.time()
        clock, memory, cpus, mac, key, disks, *packages = run_in(
            vclust,
            node,
            "date +%s.%N; sed -n 's/MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo; nproc;"
            " cat /sys/class/net/eth0/address;"
            " cat /etc/ssh/ssh_host_ecdsa_key.pub; cat /sys/class/block/vda/size;"
            " dpkg-query -W -f '${db:Status-Abbrev} ${Package}=${Version}\\n'",
        ).splitlines()
        assert asked - 2 < float(clock) < time.time() + 2
        kib = int(re.findall(r"<memory unit='KiB'>(\d+)<", xml)[0])
        assert 0.85 * kib < int(memory) < kib
        assert cpus == re.findall(r"<vcpu[^>]*>(\d+)<", xml)[0]
        assert [mac] == re.findall(r"<mac address='(.*?)'/>", xml)
        (overlay,) = re.findall(r"<source file='(.*?\.qcow2)'", xml)
        told = json.loads(output("qemu-img", "info", "-U", "--output=json", overlay))
        assert int(disks) * 512 == told["virtual-size"]
        assert expected == {line.removeprefix("ii  ") for line in packages}
        assert key.startswith("ecdsa-sha2-nistp256 ")


OWN = (
    "cat /etc/machine-id",
    "cat /etc/ssh/ssh_host_ecdsa_key.pub",
    "cat /proc/sys/kernel/random/boot_id",
    "head -c 16 /dev/urandom | od -A n -t x1",
    "cat /sys/class/net/eth0/address; ip -4 -o address show eth0",
    # The first random numbers that systemd takes.
    "for unit in systemd-journald systemd-udevd sysinit.target; do systemctl show -p InvocationID $unit; done",
    'journalctl --no-pager -o json -n 1 | sed \'s/.*_BOOT_ID":"\\([0-9a-f]*\\)".*/\\1/\'',
)


def test_two_nodes_differ(vclust: Vclust, pair: str) -> None:
    """In each line of what these commands say; also to the kernel itself they have started apart."""
    script = "; echo --; ".join(OWN)
    one, other = (run_in(vclust, node, script).split("\n--\n") for node in ("rs01", "rs02"))
    assert len(one) == len(other) == len(OWN)
    for command, mine, its in zip(OWN, one, other, strict=True):
        assert mine, command
        assert set(mine.splitlines()).isdisjoint(its.splitlines()), command
    for node in ("rs01", "rs02"):
        assert "/boot_id " not in run_in(vclust, node, "cat /proc/mounts")


def test_a_suspended_installer_holds_nothing_of_anybody(
    vclust: Vclust, pair: str, image: Image, site: Site
) -> None:
    marks = [b"$6$throwaway$", b"192.168.77.", b"-----BEGIN OPENSSH PRIVATE KEY-----"]
    marks += [run_in(vclust, node, "cat /etc/machine-id").encode() for node in ("rs01", "rs02")]
    for path in (*image.companions.values(), image.path):
        data = path.read_bytes()
        assert [mark for mark in marks if mark in data] == [], path.name


def test_memory_is_shared_until_it_is_written(pair: str) -> None:
    for node in ("rs01", "rs02"):
        pid = Path(f"/run/libvirt/qemu/{node}.{pair}.pid").read_text().strip()
        assert re.search(r"\n[^\n]*-[^\n]* rw-p [^\n]*\.memory\n", Path(f"/proc/{pid}/maps").read_text())


EACH = (
    REQUEST.replace("rs", "rse")
    .replace("NumberOfNodes: 2", "NumberOfNodes: 1")
    .replace("mpich", "tree")
    .replace("RAM: 512MB", "RAM: 512MB\nDisk: 6GB")
)


@pytest.fixture(scope="module")
def installing(vclust: Vclust, image: Image) -> Iterator[str]:
    """A node of another disk that installs its packages itself, from the bundle's disk."""
    vclust("create", vclust.request("rse", f"{EACH}Install: each\n"))
    yield "rse"
    vclust("destroy", "rse")


def test_nodes_that_install_for_themselves(vclust: Vclust, installing: str, image: Image, site: Site) -> None:
    assert starts(vclust, installing) == {("resume", "")}
    assert len(suspended(site)) == 2, "one more disk is another image"
    assert run_in(vclust, "rse01", "tree --version", installing).startswith("tree v")


def test_it_starts_again_as_itself(vclust: Vclust, installing: str) -> None:
    """Then it boots, from its own disk."""
    ask = "cat /proc/sys/kernel/random/boot_id; cat /etc/machine-id /etc/ssh/ssh_host_ecdsa_key.pub"
    booted, *before = run_in(vclust, "rse01", f"{ask}; echo work > note; sync", installing).splitlines()
    output("virsh", "-c", "qemu:///system", "reset", f"rse01.{installing}")
    deadline = time.monotonic() + 300
    while True:
        try:
            now, *after = run_in(vclust, "rse01", f"{ask}; cat note", installing).splitlines()
        except (AssertionError, subprocess.SubprocessError, ValueError):
            now = booted
        if now != booted:
            break
        assert time.monotonic() < deadline
        time.sleep(2)
    assert after == [*before, "work"]
    assert "vclust.suspend" not in run_in(vclust, "rse01", "cat /proc/cmdline", installing)


SMALL = REQUEST.replace("rs", "rsx").replace("NumberOfNodes: 2", "NumberOfNodes: 1").replace("512MB", "400MB")


@pytest.mark.parametrize("damage", ["state", "memory"])
def test_a_suspended_installer_that_is_no_good(vclust: Vclust, site: Site, image: Image, damage: str) -> None:
    """The node boots, once, and says why; nobody finds the image again."""
    before = {found.path for found in suspended(site)}
    vclust("create", vclust.request("rsx", SMALL))
    assert starts(vclust, "rsx") == {("resume", "")}
    vclust("destroy", "rsx")
    (unused,) = (found for found in suspended(site) if found.path not in before)
    path = unused.path if damage == "state" else unused.companions["memory"]
    status = path.stat()
    with open(path, "wb") as file:
        file.truncate(status.st_size)
    # As it would look if the file system had lost its content.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    vclust("create", vclust.request("rsx", SMALL))
    ((start, detail),) = starts(vclust, "rsx")
    assert start == "boot"
    assert "rsx01.rsx" in detail or "monitor" in detail, detail
    assert "booted instead: rsx01: " in vclust("show", "rsx")
    assert json.loads(unused.path.with_suffix(".json").read_text())["key"] == "retired"
    vclust("destroy", "rsx")
