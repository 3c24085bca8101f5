"""What the system tests share: a site that is kept from run to run, as its base image takes most of a minute.

Tests marked `xen` are left out unless `--xen` is given.
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
from emulated.kinds import XEN
from shared import inventory
from xenhost import Meter, roll_out

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
    site = Site(root=Path(os.environ.get("VCLUST_TEST_ROOT", "/var/lib/vclust-test")), cache_every=0)
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
    """A host that runs already is taken as it is, and left so; else one is made from nothing."""
    ran = Host(XEN, 1).pid() is not None
    if not ran:
        bed.down(XEN, print)
    found = bed.up(XEN, 1, site.root, print)[0]
    yield found
    if not ran:
        bed.down(XEN, print)


@pytest.fixture(scope="session")
def rolled_out(host: Host, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inventory with this host alone, which the roll-out has made ready."""
    folder = tmp_path_factory.mktemp("xen") / "inventory"
    inventory.write([host], site.root, folder)
    with Meter(host) as meter:
        roll_out(folder)
    print(meter.line("\nXEN roll-out, seconds/CPU-seconds of the host:"))
    return folder


LOOK = """\
uptime; free -m; df -h /; xl list; dmesg | tail -n 15
tail -n 5 /var/log/xen/qemu-dm-*.log; tail -n 15 /var/log/xen/console/guest-*.log
"""
"""What an emulated Xen host and its guests say of themselves, for a test that failed there."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and item.get_closest_marker("xen") and Host(XEN, 1).pid():
        with contextlib.suppress(VclustError, subprocess.TimeoutExpired):
            report.sections.append(("the Xen host", Host(XEN, 1).ssh(f"( {LOOK} ) 2>&1 || true")))
    return report


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--xen", action="store_true", help="also test on an emulated Xen host: 20 minutes more")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--xen"):
        left_out = [item for item in items if item.get_closest_marker("xen")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
