"""The Xen driver: its definitions parsed again, and its ways through libvirt's test driver."""

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from elsewhere import Elsewhere

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Disk, Domain, Host
from vclust_py.hypervisor.domains import Element, as_text
from vclust_py.hypervisor.xen import Xen
from vclust_py.hypervisor.xen_forking import XenForking
from vclust_py.site import Site

IMAGES, CLUSTER = Path("/var/lib/vclust/images"), Path("/var/lib/vclust/clusters/c.1")
DOMAIN = Domain(
    name="c.n1",
    uuid="11111111-2222-4333-8444-555555555555",
    architecture="amd64",
    cpus=1,
    memory=256 * 2**20,
    kernel=IMAGES / "kernel-1.img",
    initrd=IMAGES / "installer-1.img",
    command_line="console=hvc0 a</cmdline><evil/>'\"&",
    disks=(Disk(CLUSTER / "n1.qcow2", "qcow2"), Disk(CLUSTER / "n1.iso", "raw", readonly=True)),
    mac="52:54:00:12:34:56",
    bridge="vc0123456789",
    folder="c.1",
)


class Pretended(Xen):
    """libvirt's test driver in place of Xen's: it takes domains of type `test` only."""

    def __init__(self, site: Site, host: Host) -> None:
        super().__init__(site, host)
        self._guests = ("pvh", "pv")

    @classmethod
    def domain_xml(cls, domain: Domain, guest: str) -> Element:
        xml = super().domain_xml(domain, guest)
        xml.set("type", "test")
        return xml

    def ask(self, function: Any) -> Any:
        return self._connection.call("ask", function)


@pytest.fixture
def xen(tmp_path: Path, pretended: str) -> Iterator[Pretended]:
    driver = Pretended(Site(root=tmp_path), Elsewhere("h1", pretended))
    yield driver
    driver.close()


@pytest.mark.parametrize(
    ("guest", "machine", "kind"), [("pv", "xenpv", "linux"), ("pvh", "xenpvh", "xenpvh")]
)
def test_kinds_of_guest(guest: str, machine: str, kind: str) -> None:
    xml = Xen.domain_xml(DOMAIN, guest)
    element = xml.find("os/type")
    assert element is not None
    assert (element.get("machine"), element.text) == (machine, kind)
    assert xml.findtext("on_crash") == "destroy"
    assert xml.findtext("os/cmdline") == DOMAIN.command_line
    assert "<evil/>" not in as_text(xml)


def test_disks_in_the_guests_order() -> None:
    disks = Xen.domain_xml(DOMAIN, "pv").findall("devices/disk")
    found = [(disk.get("device"), disk.find("target").get("dev")) for disk in disks]  # type: ignore[union-attr]
    assert found == [("disk", "xvda"), ("disk", "xvdb")]


def stored(xen: Pretended, *, without: str = "") -> None:
    """Let libvirt's test driver know the domain's files."""
    files = [DOMAIN.kernel, DOMAIN.initrd, *(disk.path for disk in DOMAIN.disks)]

    def work(connection: Any) -> None:
        for name, folder in (("vclust-images", IMAGES), ("vclust-c.1", CLUSTER)):
            pool = connection.storagePoolCreateXML(
                f"<pool type='dir'><name>{name}</name><target><path>{folder}</path></target></pool>"
            )
            for path in files:
                if path.parent == folder and path.name != without:
                    pool.createXML(f"<volume><name>{path.name}</name><capacity>1</capacity></volume>")

    xen.ask(work)


def test_start_and_remove(xen: Pretended) -> None:
    stored(xen)
    assert xen.start(DOMAIN)
    assert not xen.start(DOMAIN)
    assert DOMAIN.uuid in xen.running()
    assert xen.remove(DOMAIN.uuid)
    assert not xen.remove(DOMAIN.uuid)
    assert DOMAIN.uuid not in xen.running()


def test_a_disk_that_others_have_too_is_not_written_to(tmp_path: Path, pretended: str) -> None:
    """Xen has no read-only disks: every domain writes to a file of its own."""
    site = Site(root=tmp_path / "site")
    site.make_directories()
    folder = site.clusters / "c.1"
    folder.mkdir()
    seed, shared, bundle = folder / "n1.img", folder / "_cluster.img", site.images / "bundle-1.img"
    for path in (seed, shared, bundle, site.images / "kernel-1.img", site.images / "installer-1.img"):
        path.write_bytes(bytes(8192))
    disks = tuple(Disk(path, "raw", readonly=True, shared=path == shared) for path in (seed, shared, bundle))
    domain = replace(
        DOMAIN, disks=disks, kernel=site.images / "kernel-1.img", initrd=site.images / "installer-1.img"
    )
    driver = Pretended(site, Host("h1", pretended))
    with contextlib.closing(driver):
        assert driver.start(domain)
        text = driver.ask(lambda connection: connection.lookupByUUIDString(DOMAIN.uuid).XMLDesc())
        driver.remove(DOMAIN.uuid)
    found = [
        Path(element.get("file", ""))
        for element in ElementTree.fromstring(text).iterfind("devices/disk/source")  # noqa: S314 - our own
    ]
    assert found == [seed, folder / "c.n1._cluster.qcow2", folder / "c.n1.bundle-1.qcow2"]
    for overlay, backing in zip(found[1:], (shared, bundle), strict=True):
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", overlay]))
        assert (info["backing-filename"], info["virtual-size"]) == (str(backing), 8192)


def test_installers_are_suspended_on_other_machines(xen: Pretended, tmp_path: Path, pretended: str) -> None:
    """Not on the site manager: what is frozen there are images that nobody writes to again."""
    assert isinstance(xen.forking, XenForking)
    with contextlib.closing(Pretended(Site(root=tmp_path), Host("h1", pretended))) as here:
        assert here.forking is None


def test_a_missing_file_is_named(xen: Pretended) -> None:
    stored(xen, without="kernel-1.img")
    with pytest.raises(
        VclustError, match=r"^h1: start c.n1: not there: /var/lib/vclust/images/kernel-1.img\n"
    ):
        xen.start(DOMAIN)


def test_a_domain_of_somebody_else(xen: Pretended) -> None:
    stored(xen)
    xen.start(DOMAIN)
    with pytest.raises(VclustError, match=r"^h1: a domain c.n1 exists that vclust did not make"):
        xen.start(replace(DOMAIN, uuid="11111111-2222-4333-8444-666666666666"))


def test_a_guest_the_host_cannot(xen: Pretended) -> None:
    xen._guests = ("pv",)
    with pytest.raises(VclustError, match=r"guest: got 'pvh', expected one of pv"):
        xen.start(replace(DOMAIN, guest="pvh"))


def test_a_host_that_is_no_xen(tmp_path: Path, pretended: str) -> None:
    driver = Xen(Site(root=tmp_path), Elsewhere("h1", pretended))
    with pytest.raises(VclustError, match=r"^h1: guest: got 'pv'"):
        driver.start(DOMAIN)
    driver.close()


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            '2026-11-22 17:38:24.822+0000: libxl: libxl_domain.c:81:libxl__domain_rename: Domain 12:Domain with name'
            ' "c.n1" already exists.\n',
            "h1: start c.n1: Xen has a domain of that name which libvirt does not know: made by xl, or left by a start"
            " that was cut off\n"
            "  hint: on h1: xl list; if nobody needs it: xl destroy c.n1",
        ),
        (
            "2026-11-22 17:38:17.829+0000: xc: panic: xg_dom_boot.c:119: xc_dom_boot_mem_init: can't allocate low"
            " memory for domain: Out of memory\n",
            "h1: start c.n1: the hypervisor is out of memory: ",
        ),
        (
            "2026-11-22 17:45:39.405+0000: libxl: libxl_create.c:1896:domcreate_devmodel_started: Domain 14:device"
            " model did not start: -9\n",
            "h1: start c.n1: dom0 could not start what serves the node's disks; is it out of memory, or too busy?\n"
            "  libxl: ",
        ),
        (
            "2026-11-22 17:38:01.928+0000: libxl: x: script: Could not find bridge device vcnone\n",
            "h1: start c.n1: libxl refused it:\n  libxl: x: script: Could not find bridge device vcnone\n  hint: ",
        ),
    ],
)  # fmt: skip
def test_why_a_start_failed(xen: Pretended, log: str, said: str) -> None:
    assert str(xen._reason(DOMAIN, log)).startswith(said)


def test_libvirt_takes_the_definition(pretended: str) -> None:
    """By libvirt's own schema."""
    connection = libvirt.open(pretended)
    for guest in ("pv", "pvh"):
        text = as_text(Pretended.domain_xml(DOMAIN, guest))
        connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    connection.close()
