"""Power and links of a host that is another machine, and a site manager that is killed or lost, while there are nodes.

With `--xen` on a Xen host, with `--kvm --long` on one with KVM.  Afterwards the checker compares the store with what
there is on both machines.
"""

import contextlib
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checker import check
from emulated import underlay
from emulated.host import Host
from emulated.kinds import KVM
from emulatedhost import PATIENCE, Unhappy, held, left_on, roll_out, unhappy
from machine import left_since, output, snapshot
from shared import inventory

from vclust_py.site import Site

pytestmark = pytest.mark.system

IMAGES = "/var/lib/vclust/images"
LINK_DOWN = 20  # seconds
KILLED = re.compile(r"vclust: (distribute|create|install|ready): .*(xen|kvm)1: ", re.DOTALL)
"""What `create` says of a host that went off: whichever phase finds nobody there."""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param("kvm", marks=[pytest.mark.kvm, pytest.mark.long]),
        pytest.param("xen", marks=pytest.mark.xen),
    ],
)
def site_of_one(
    request: pytest.FixtureRequest, site: Site, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Host, Path]:
    """A host, and the inventory with which it was rolled out."""
    if request.param == "xen":
        return request.getfixturevalue("host"), request.getfixturevalue("rolled_out")
    host = request.getfixturevalue("kvm_host")
    folder = tmp_path_factory.mktemp("kvm-faults") / "inventory"
    inventory.write([host], site.root, folder)
    roll_out(folder)
    return host, folder


@pytest.fixture
def target(site_of_one: tuple[Host, Path]) -> Host:
    return site_of_one[0]


@pytest.fixture
def vclust(site_of_one: tuple[Host, Path], tmp_path: Path) -> Iterator[Unhappy]:
    with unhappy(*site_of_one, tmp_path) as command:
        yield command


def domains(host: Host) -> str:
    """Number, name and state of those that there are on the host, as its libvirt says."""
    return host.ssh(f"virsh -q -c {host.kind.local_uri} list --all")


def number(host: Host, domain: str) -> str:
    """Which a domain keeps as long as it runs."""
    (found,) = [line.split()[0] for line in domains(host).splitlines() if domain in line]
    return found


@pytest.mark.long
def test_libvirt_restarts_and_images_vanish(target: Host, vclust: Unhappy) -> None:
    here, there = snapshot(), held(target)
    # An image that somebody has removed over there is sent again.
    target.ssh(f"rm -f {IMAGES}/kernel-*")
    creating = vclust.begins(vclust.asks("u-restart"))
    assert vclust.reaches("u-restart", "installer", creating)
    # One that is killed in the middle of a start on Xen leaves a domain that it does not see afterwards (docs/xen.md).
    kill = "kill --kill-whom=main --signal=KILL"
    target.ssh(f"systemctl {kill if target.kind is KVM else 'restart'} libvirtd")
    said = creating.communicate(timeout=PATIENCE)[1]
    assert "Traceback" not in said
    assert creating.returncode == 0, said
    assert vclust.differences() == []
    vclust("destroy", "u-restart")
    assert left_on(target, there) == {}
    assert left_since(here) == {}


@pytest.mark.parametrize("state", [pytest.param("placed", marks=pytest.mark.long), "started"])
def test_a_host_goes_off_before_its_node_is_ready(target: Host, vclust: Unhappy, state: str) -> None:
    """While it receives images, and while its node starts."""
    here, there = snapshot(), held(target)
    if state == "placed":
        target.ssh(f"rm -f {IMAGES}/*")
    creating = vclust.begins(vclust.asks("u-dies"))
    assert vclust.reaches("u-dies", state, creating)
    target.stop()
    said = creating.communicate(timeout=PATIENCE)[1]
    assert creating.returncode == 4, said
    assert "Traceback" not in said
    assert KILLED.search(said), said
    said = vclust.fails("destroy", "u-dies", code=4)
    assert f"{target.name}: {target.address} port 16514 cannot be reached" in said, said
    assert [cluster["name"] for cluster in vclust.json("list")] == ["u-dies"]

    vclust.power_on()
    vclust("destroy", "u-dies")
    assert left_on(target, there).keys() <= {"device models"}  # dom0's own is another process now
    assert left_since(here).keys() <= {"processes", "interfaces"}  # the host itself is another process now
    assert vclust.differences() == []


@pytest.mark.long
def test_a_link_that_is_down_for_a_while(target: Host, vclust: Unhappy) -> None:
    """While it receives images, and while its node starts; `create` waits, or goes on when it is called again."""
    target.ssh(f"rm -f {IMAGES}/kernel-*")
    request = vclust.asks("u-link")
    creating = vclust.begins(request)
    for state in ("placed", "started"):
        if not vclust.reaches("u-link", state, creating):
            break
        link(target, "down")
        time.sleep(LINK_DOWN)
        link(target, "up")
    said = creating.communicate(timeout=PATIENCE)[1]
    assert "Traceback" not in said
    assert creating.returncode in (0, 4), said
    vclust("create", request)
    assert vclust.differences() == []
    assert "u-link01" in vclust("ssh", "u-link", "--", "hostname")
    vclust("destroy", "u-link")
    assert vclust.differences() == []


@pytest.mark.long
def test_the_site_manager_is_killed_while_it_sends(target: Host, vclust: Unhappy) -> None:
    target.ssh(f"rm -f {IMAGES}/kernel-*")
    request = vclust.asks("u-killed")
    creating = vclust.begins(request)
    assert creating.stderr is not None
    assert any("distribute: " in line for line in creating.stderr)
    creating.kill()
    creating.communicate()
    vclust("create", request)
    assert vclust.differences() == []
    vclust("destroy", "u-killed")
    assert vclust.differences() == []


@pytest.mark.long
def test_the_site_manager_is_lost(target: Host, vclust: Unhappy, tmp_path: Path) -> None:
    vclust("create", vclust.asks("u-lost"))
    vclust("ssh", "u-lost", "--", "echo kept > kept; sync")
    vclust("site", "backup", tmp_path / "backup.tar.gz")
    ran = number(target, "u-lost")
    with lost(vclust, "u-lost"):
        assert vclust.json("list") == []
        vclust("site", "restore", tmp_path / "backup.tar.gz")
        assert [one["state"] for one in vclust.json("list")] == ["ready"]
        assert "kept" in vclust("ssh", "u-lost", "--", "cat kept")
        assert [line for line in vclust.differences() if "image" not in line] == []
    assert vclust.differences() == []
    assert number(target, "u-lost") == ran
    vclust("destroy", "u-lost")
    assert vclust.differences() == []


@pytest.mark.long
def test_a_host_goes_off_under_its_node_then_for_good_and_comes_back_after_all(
    target: Host, vclust: Unhappy
) -> None:
    request, domain = vclust.asks("u-power"), "u-power01.u-power"
    vclust("create", request)
    vclust("ssh", "u-power", "--", "echo kept > kept; sync")
    target.stop()
    vclust.power_on()
    said = vclust.differences()
    assert f"{target.name}: {domain} is ready in the store, and does not run" in said, said
    vclust("create", request)  # the same node on the same disk
    assert vclust.differences() == []
    assert "kept" in vclust("ssh", "u-power", "--", "cat kept")

    target.stop()
    said = vclust.fails("destroy", "u-power", code=4)
    assert f"destroy u-power --forget-host {target.name}" in said, said
    said = vclust("destroy", "u-power", "--forget-host", target.name)
    assert f"{target.name} is written off: there may still be the domains {domain}" in said, said
    assert vclust.json("list") == []
    assert check(vclust.root) == []

    # What is left there goes before the next cluster's nodes are placed.
    vclust.power_on()
    assert domain in domains(target)
    assert vclust.json("site", "status")[0]["hosts"][0]["problems"] == []
    assert domain not in domains(target)
    assert vclust.differences() == []


@contextlib.contextmanager
def lost(vclust: Unhappy, cluster: str) -> Iterator[None]:
    """The site manager is a new machine with nothing but vclust; at the end it gets its images back."""
    root, segment = vclust.root, vclust.json("show", cluster)["ssh"]["netns"]
    away = root / "lost"
    away.mkdir()
    for name in ("state.db", "state.db-wal", "state.db-shm", "pki", "locks", "clusters", "images"):
        if (root / name).exists():
            (root / name).rename(away / name)
    output("ip", "netns", "delete", segment)
    for device in (f"{segment}x", segment):
        output("ip", "link", "delete", device)
    try:
        yield
    finally:
        shutil.rmtree(root / "images", ignore_errors=True)
        (away / "images").rename(root / "images")
        shutil.rmtree(away)


def link(host: Host, state: str) -> None:
    """As if its cable were pulled, or put in again."""
    output("ip", "link", "set", underlay.tap(host.name), state)
