"""Every call of a driver on a real host, and what the guest sees: local QEMU, and with --xen and --kvm emulated hosts.

The guest is no node: the installer's kernel, busybox and modules with an init that says, again and again, what it has.
"""

import json
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from machine import output
from test_base import images, lock_of  # noqa: F401 - fixtures

from vclust_py.hypervisor import Disk, Domain, Host, Hypervisor, Segment, connect, daemon
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.remote_files import RemoteFiles
from vclust_py.image import installer
from vclust_py.image.base import BaseImages
from vclust_py.image.builder import COMPRESSED
from vclust_py.site import Site

pytestmark = [pytest.mark.system]

FOLDER, SEGMENT = "t-drivers.1", "vc00000d0d0d"
MB = 1 << 20
PATIENCE = 600  # seconds
INIT = b"""#!/bin/busybox sh
PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys
for list in virtio xen; do
    while read -r module; do insmod /modules/$module; done </modules/$list.order
done >/dev/null 2>&1
while :; do
    disks=$(cd /sys/block && echo *) nics=$(cd /sys/class/net && echo *)
    echo "guest: disks=$disks nics=$nics memory=$(awk '/MemTotal/ {print $2}' /proc/meminfo)."
    sleep 1
done
"""


class Guest:
    """A domain and what it says of itself."""

    def __init__(self, driver: Hypervisor, domain: Domain) -> None:
        self.driver, self.domain = driver, domain

    def says(self, what: str) -> re.Match[str]:
        """Wait until its last line has `what`."""
        deadline = time.monotonic() + PATIENCE
        while True:
            text = self.driver.console(FOLDER, self.domain.name).decode(errors="replace")
            lines = re.findall(r"guest: (.*)\.\r?\n", text)
            if lines and (found := re.search(what, lines[-1])):
                return found
            if time.monotonic() > deadline:
                pytest.fail(f"after {PATIENCE} s no line with {what}:\n{text[-2000:]}")
            time.sleep(0.5)


@pytest.fixture(
    params=(
        "qemu",
        pytest.param("kvm", marks=pytest.mark.kvm),
        pytest.param("pv", marks=pytest.mark.xen),
        pytest.param("pvh", marks=pytest.mark.xen),
    )
)
def driver(request: pytest.FixtureRequest, site: Site) -> Iterator[Hypervisor]:
    if request.param == "qemu":
        opened = connect(site, Host("here"))
    elif request.param == "kvm":
        request.getfixturevalue("kvm_roll_out")
        address = request.getfixturevalue("kvm_hosts")[0].address
        opened = connect(site, Host("kvm1", f"qemu+tls://{address}/system?pkipath={site.root}/pki"))
        assert opened.accelerator == "kvm"
    else:
        request.getfixturevalue("rolled_out")
        address = request.getfixturevalue("host").address
        uri = f"xen+tls://{address}/system?pkipath={site.root}/pki"
        opened = connect(site, Host("xen1", uri, str(request.param)))
    yield opened
    opened.close()


@pytest.fixture
def guest(
    driver: Hypervisor,
    site: Site,
    images: BaseImages,  # noqa: F811
    tmp_path: Path,
) -> Iterator[Guest]:
    """What is needed to start it is there."""
    initramfs = tmp_path / "initramfs.img"
    say = b"".join(installer._newc((), {"say": INIT}, {}))
    initramfs.write_bytes(images.installer.path.read_bytes() + say)
    kernel = tmp_path / "kernel.img"
    kernel.symlink_to(images.kernel.path)
    disk = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", tmp_path / "empty", "64M"], check=True)
    # Packed as VD caches are: the host must be able to read that.
    convert = ["qemu-img", "convert", "-O", "qcow2", *COMPRESSED, tmp_path / "empty", disk]
    subprocess.run(convert, check=True)
    local = driver.files(FOLDER).path("").is_relative_to(site.root)
    if local:
        (site.clusters / FOLDER).mkdir(mode=0o711, exist_ok=True)
        (site.clusters / FOLDER).chmod(0o711)
        subprocess.run(["ip", "link", "add", SEGMENT, "type", "bridge"], check=True)
    files = driver.files(FOLDER)
    for source in (kernel, initramfs, disk):
        files.put(source)
    domain = Domain(
        name="t-drivers.n1",
        uuid=str(uuid.uuid4()),
        architecture="amd64",
        cpus=1,
        memory=128 * MB,
        kernel=files.path(kernel.name),
        initrd=files.path(initramfs.name),
        command_line=installer.command_line(accelerator=driver.accelerator) + " rdinit=/say",
        disks=(Disk(files.path(disk.name), "qcow2"),),
        mac="52:54:00:0d:0d:01",
        bridge=SEGMENT,
        folder=FOLDER,
    )
    segment = Segment(SEGMENT, 13, IPv4Address("10.77.0.11"), {IPv4Address("10.77.0.1"): ()})
    driver.ensure_segment(segment)
    driver.ensure_segment(segment)
    try:
        yield Guest(driver, domain)
    finally:
        driver.remove(domain.uuid)
        driver.clear_consoles(FOLDER, [domain.name])
        files.remove()
        driver.remove_segment(SEGMENT)
        driver.remove_segment(SEGMENT)
        if local:
            subprocess.run(["ip", "link", "delete", SEGMENT], check=True)
        assert files.allocated() == {}


def test_a_domain_from_its_start_to_its_end(guest: Guest, capsys: pytest.CaptureFixture[str]) -> None:
    driver, domain = guest.driver, guest.domain
    took: dict[str, float] = {}

    def timed(what: str, function: Callable[[], Any]) -> Any:
        start = time.monotonic()
        result = function()
        took[what] = time.monotonic() - start
        return result

    drive = "xvd" if driver.accelerator == "xen" else "vd"
    before = timed("capacity", driver.capacity)
    assert timed("start", lambda: driver.start(domain))
    assert not driver.start(domain)
    assert domain.uuid in timed("running", driver.running)
    seen = guest.says(rf"disks=.*\b{drive}a\b.* nics=.*\beth0\b.* memory=(\d+)$")
    assert 64 * 1024 <= int(seen[1]) <= 128 * 1024
    timed("console", lambda: driver.console(FOLDER, domain.name))
    after = driver.capacity()
    assert after.resident[domain.uuid] >= 32 * MB
    assert after.sizes[domain.uuid] == (domain.cpus, domain.memory)
    assert domain.uuid not in before.resident | before.sizes
    assert driver.machine(domain.uuid) == (domain.cpus, domain.memory)

    assert timed("remove", lambda: driver.remove(domain.uuid))
    assert not driver.remove(domain.uuid)
    assert driver.machine(domain.uuid) is None
    driver.clear_consoles(FOLDER, [domain.name])
    assert driver.console(FOLDER, domain.name) == b""
    with capsys.disabled():
        print("\nDRIVER", type(driver).__name__, ", ".join(f"{what} {took[what]:.2f}" for what in took))


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Callable[[], RemoteFiles]]:
    """`RemoteFiles` of this machine's own libvirt, each on its own connection."""
    root = tmp_path / "host"
    for name in ("images", "clusters"):
        (root / name).mkdir(parents=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", root / "images/base.qcow2", "1G"], check=True)
    (root / "images/layer.qcow2.part").touch()
    daemon.ensure(kvm=False)
    here = Host("here")
    opened: list[Connection] = []

    def make() -> RemoteFiles:
        opened.append(Connection(here))
        return RemoteFiles(opened[-1], here, "t-files.1", root)

    yield make
    try:
        make().remove()
        opened[-1].call(
            "stop pool", lambda libvirt: libvirt.storagePoolLookupByName("vclust-images").destroy()
        )
    finally:
        for connection in opened:
            connection.close()


def test_files_through_libvirt(remote: Callable[[], RemoteFiles], tmp_path: Path) -> None:
    files = remote()
    assert files.images() == {"base.qcow2": files.image("base.qcow2").stat().st_size}
    assert files.allocated() == {}
    files.remove()
    assert not files.path("").exists()
    files.overlay("n1.qcow2", "base.qcow2", 4 << 30)
    files.overlay("n1.qcow2", "base.qcow2", 4 << 30)
    mode = files.path("n1.qcow2").stat().st_mode & 0o777, files.path("").stat().st_mode & 0o777
    assert mode == (0o600, 0o711)
    assert f"backing file: {files.image('base.qcow2')}" in output(
        "qemu-img", "info", str(files.path("n1.qcow2"))
    )
    seed = tmp_path / "n1.iso"
    for content in (b"first" * 100_000, b"second"):
        seed.write_bytes(content)
        files.put(seed)
        assert files.path("n1.iso").read_bytes() == content
    files.overwrite("n1.iso", b"third")
    assert files.path("n1.iso").read_bytes() == b"thirdd"
    assert set(files.allocated()) == {"n1.qcow2", "n1.iso"}
    files.discard("n1.iso")
    files.discard("n1.iso")
    files.path("memory").touch()  # not made through the pool
    files.remove()
    files.remove()
    assert not files.path("").exists()


def test_a_disk_grows_and_keeps_what_it_has(remote: Callable[[], RemoteFiles]) -> None:
    files = remote()
    files.images()
    files.overlay("n1.qcow2", "base.qcow2", 4 << 30)
    path = files.path("n1.qcow2")
    output("qemu-io", "-c", "write -P 7 1M 3M", str(path))
    for size in (2 << 30, 6 << 30):
        files.grow("n1.qcow2", size)
        info = json.loads(output("qemu-img", "info", "--output=json", str(path)))
        assert info["virtual-size"] == files.virtual_size("n1.qcow2") == max(4 << 30, size)
    output("qemu-io", "-c", "read -P 7 1M 3M", str(path))
    assert path.stat().st_mode & 0o777 == 0o600


def test_copies_of_disks_have_all_that_these_have(remote: Callable[[], RemoteFiles]) -> None:
    files, names = remote(), ["n1", "n2"]
    files.images()
    output("qemu-io", "-c", "write -P 3 8M 1M", str(files.image("base.qcow2")))
    for name in names:
        files.overlay(f"{name}.qcow2", "base.qcow2", 4 << 30)
        output("qemu-io", "-c", "write -P 7 1M 3M", str(files.path(f"{name}.qcow2")))
    for _ in range(2):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda name: files.copy(f"{name}.qcow2", f"{name}@a.qcow2"), names))
            assert f"{names[0]}@a.qcow2" in files.allocated()
        for name in names:
            copy, disk = files.path(f"{name}@a.qcow2"), files.path(f"{name}.qcow2")
            info = json.loads(output("qemu-img", "info", "--output=json", str(copy)))
            assert (info["virtual-size"], "backing-filename" in info) == (4 << 30, False)
            assert 4 << 20 <= info["actual-size"] < 6 << 20
            output("qemu-img", "compare", str(copy), str(disk))
            assert copy.stat().st_mode & 0o777 == 0o600
            output("qemu-io", "-c", "write -P 9 1M 64k", str(disk))
    files.discard("n1@a.qcow2", "n2@a.qcow2")
    assert set(files.allocated()) == {"n1.qcow2", "n2.qcow2"}


def test_many_at_once_on_two_connections(remote: Callable[[], RemoteFiles], tmp_path: Path) -> None:
    seeds = [tmp_path / f"n{number}.iso" for number in range(16)]
    for seed in seeds:
        seed.write_text(seed.name * 1000)
    both = remote(), remote()

    def work(number: int) -> None:
        files = both[number % 2]
        files.overlay(f"n{number}.qcow2", "base.qcow2", 1 << 30)
        files.put(seeds[number])
        files.images()
        files.allocated()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(16)))
        assert len(both[0].allocated()) == 32
        list(pool.map(lambda number: both[number % 2].remove(), range(4)))
    assert not both[0].path("").exists()
