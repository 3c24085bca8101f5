"""What the system tests share: a site that is kept from run to run, as its base image takes most of a minute.

Each of the marks `xen`, `kvm`, `long` and `container` is left out unless its option, `--xen` say, is given.
"""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import machine
import pytest
from emulated import bed
from emulated.host import Host
from emulated.kinds import DEBIAN_13, KVM, XEN, Kind
from emulatedhost import Meter, RollOut, roll_out
from shared import inventory

from vclust_py.errors import VclustError
from vclust_py.image import Catalogue
from vclust_py.site import Site


@pytest.fixture(scope="session", autouse=True)
def _roots(tmp_path_factory: pytest.TempPathFactory) -> None:
    machine.ROOTS.add(tmp_path_factory.getbasetemp())


@pytest.fixture(scope="session")
def site() -> Site:
    """Root: the environment variable VCLUST_TEST_ROOT, else /var/lib/vclust-test.

    It learns nothing (`test_caches` has a site of its own that does): how many requests of other tests came before
    must not decide what a node starts from.
    """
    site = Site(
        root=Path(os.environ.get("VCLUST_TEST_ROOT", "/var/lib/vclust-test")), cache_every=0, base_renewal=0
    )
    site.make_directories()
    machine.ROOTS.add(site.root)
    forget_caches(site)
    return site


def forget_caches(site: Site) -> None:
    """Take away what earlier versions of these tests have learnt, and what stands on it."""
    catalogue = Catalogue(site)
    images = catalogue.look().images
    gone = {image.manifest.digest for image in images if image.manifest.kind == "cache"}
    while above := {image.manifest.digest for image in images if image.manifest.backing in gone} - gone:
        gone |= above
    for image in images:
        if image.manifest.digest in gone:
            catalogue.remove(image)


@pytest.fixture
def disk_path(site: Site) -> Iterator[Path]:
    """A folder for a test's large files, beside the site: /tmp may be memory."""
    with tempfile.TemporaryDirectory(prefix="test-", dir=site.root) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def host(site: Site) -> Iterator[Host]:
    """The Xen host."""
    with _up(XEN, 1, site) as hosts:
        yield hosts[0]


@pytest.fixture(scope="session")
def kvm_hosts(site: Site) -> Iterator[list[Host]]:
    with _up(KVM, 2, site) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def kvm_host(site: Site) -> Iterator[Host]:
    """One KVM host, for tests that need no second."""
    with _up(KVM, 1, site) as hosts:
        yield hosts[0]


@pytest.fixture(scope="module")
def trixie_host(site: Site) -> Iterator[Host]:
    """One KVM host of Debian 13."""
    with _up(DEBIAN_13, 1, site) as hosts:
        yield hosts[0]


@contextlib.contextmanager
def _up(kind: Kind, count: int, site: Site) -> Iterator[list[Host]]:
    """Hosts that run already are taken as they are, and left so; else they are made from nothing."""
    ran = all(Host(kind, number).pid() is not None for number in range(1, count + 1))
    if not ran:
        bed.down(kind, print)
    yield bed.up(kind, count, site.root, print)
    if not ran:
        bed.down(kind, print)


@pytest.fixture(scope="session")
def rolled_out(host: Host, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory with this host alone, which the roll-out has made ready."""
    folder = tmp_path_factory.mktemp("xen") / "inventory"
    inventory.write([host], site.root, folder)
    with Meter(host) as meter:
        roll_out(folder)
    print(meter.line("\nXEN roll-out, seconds/CPU-seconds of the host:"))
    return folder


@pytest.fixture(scope="session")
def kvm_roll_out(kvm_hosts: list[Host], site: Site, tmp_path_factory: pytest.TempPathFactory) -> RollOut:
    """The inventory with the KVM hosts alone."""
    folder = tmp_path_factory.mktemp("kvm") / "inventory"
    inventory.write(kvm_hosts, site.root, folder)
    for host in kvm_hosts:
        host.ssh("systemctl start libvirtd")
    checked = roll_out(folder, "--check", "--diff")
    # As it ends by itself, two minutes after it was asked last: that is no change of the host.
    kvm_hosts[1].ssh("systemctl stop libvirtd")
    with Meter(kvm_hosts[0]) as meter:
        changed = roll_out(folder)
    print(meter.line("\nKVM roll-out of two hosts, seconds/CPU-seconds of the first:"))
    return RollOut(folder, checked, changed)


LOOK = {
    XEN: """\
uptime; free -m; df -h /; xl list; dmesg | tail -n 15; journalctl -n 30 -u libvirtd -u vclust-hop
tail -n 5 /var/log/xen/qemu-dm-*.log; tail -n 15 /var/log/xen/console/guest-*.log
""",
    KVM: """\
uptime; free -m; df -h /; virsh list --all; dmesg | tail -n 15; journalctl -n 30 -u libvirtd -u vclust-hop
tail -n 5 /var/log/libvirt/qemu/*.log; tail -n 15 /var/lib/vclust/clusters/*/*.console
""",
}
"""What an emulated host and its guests say of themselves, for a test that failed there."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    for kind, commands in LOOK.items():
        if report.failed and item.get_closest_marker(kind.name):
            for host in filter(Host.pid, bed.hosts(kind)):
                with contextlib.suppress(VclustError, subprocess.TimeoutExpired):
                    report.sections.append((host.name, host.ssh(f"( {commands} ) 2>&1 || true")))
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--xen", action="store_true", help="also test on an emulated Xen host: 20 minutes more")
    parser.addoption("--kvm", action="store_true", help="also test on emulated KVM hosts: 15 minutes more")
    parser.addoption(
        "--long",
        action="store_true",
        help="also create the ready-made clusters, and let clusters live at random: 25 minutes more;"
        " with --xen: 25 minutes more of faults and roll-outs",
    )
    parser.addoption(
        "--container", action="store_true", help="also test AWX's execution environment: 3 minutes more"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for kind in ("xen", "kvm", "long", "container"):
        if not config.getoption(f"--{kind}"):
            left_out = [item for item in items if item.get_closest_marker(kind)]
            config.hook.pytest_deselected(items=left_out)
            items[:] = [item for item in items if item not in left_out]
