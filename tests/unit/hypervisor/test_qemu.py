"""Domain definitions: parsed again, and judged by libvirt's own schema; whether KVM works on another machine."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from elsewhere import Elsewhere

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Disk, Domain, Host
from vclust_py.hypervisor.domains import QEMU_NAMESPACE, as_text
from vclust_py.hypervisor.qemu import Qemu
from vclust_py.site import Site

CONSOLE = Path("/n1.console")


def a_domain(command_line: str = "console=ttyS0") -> Domain:
    return Domain(
        name="test.n1",
        uuid="11111111-2222-4333-8444-555555555555",
        architecture="amd64",
        cpus=2,
        memory=512 * 10**6,
        kernel=Path("/images/kernel"),
        initrd=Path("/images/installer"),
        command_line=command_line,
        disks=(Disk(Path("/n1.qcow2"), "qcow2"), Disk(Path("/n1.iso"), "raw", readonly=True)),
        mac="52:54:00:12:34:56",
        bridge="vc1",
        folder="test.1",
    )


def parsed(accelerator: str, command_line: str = "") -> ElementTree.Element:
    return Qemu.domain_xml(a_domain(command_line), accelerator, CONSOLE)


@pytest.mark.parametrize("accelerator", ["kvm", "tcg"])
def test_libvirt_takes_the_definition(accelerator: str) -> None:
    """By libvirt's own schema; its test driver lives in this process and takes domains of type `test` only."""
    xml = as_text(Qemu.domain_xml(a_domain(), accelerator, CONSOLE))
    kind = "kvm" if accelerator == "kvm" else "qemu"
    connection = libvirt.open("test:///default")
    connection.defineXMLFlags(
        xml.replace(f'type="{kind}"', 'type="test"', 1), libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    )
    assert connection.lookupByName("test.n1").maxMemory() == 500_000


def test_values_cannot_break_out() -> None:
    nasty = "a</cmdline><evil/>'\"&"
    tree = ElementTree.fromstring(as_text(parsed("kvm", nasty)))  # noqa: S314 - our own
    assert tree.findtext("os/cmdline") == nasty
    assert tree.find(".//evil") is None


def test_emulation_bounds_its_code_cache() -> None:
    tree = parsed("tcg")
    assert tree.get("type") == "qemu"
    assert tree.findtext("features/tcg/tb-cache") == "128"
    assert parsed("kvm").find("features/tcg") is None


def test_libvirt_does_not_ask_for_all_properties_of_the_processor() -> None:
    for accelerator in ("kvm", "tcg"):
        (left_out,) = parsed(accelerator).findall(f"{{{QEMU_NAMESPACE}}}capabilities/{{{QEMU_NAMESPACE}}}del")
        assert left_out.get("capability") == "cpu-unavailable-features"


def test_seed_is_read_only_and_second() -> None:
    disks = parsed("kvm").findall("devices/disk")
    assert [disk.find("target").get("dev") for disk in disks] == ["vda", "vdb"]  # type: ignore[union-attr]
    assert [disk.find("readonly") is not None for disk in disks] == [False, True]


def test_a_machine_whose_libvirt_has_no_kvm(tmp_path: Path, pretended: str) -> None:
    driver = Qemu(Site(root=tmp_path), Elsewhere("h1", pretended))
    assert driver.accelerator == "tcg"
    driver.close()


@pytest.mark.parametrize(
    ("probe", "verdict", "works"),
    [
        (None, b"works\n", True),
        (None, b"", True),  # rolled out by an earlier version
        (None, b"a guest did not end\n", False),
        (libvirt.VIR_ERR_INVALID_ARG, b"works\n", False),
    ],
)
def test_whether_kvm_works_there(probe: int | None, verdict: bytes, works: bool) -> None:
    class Direct:
        def call(self, what: str, function: Any) -> Any:
            return verdict if what == "read /var/lib/vclust/kvm" else function(self)

        def getDomainCapabilities(self, *_: Any) -> None:
            if probe is not None:
                error = libvirt.libvirtError("")
                error.err = (probe, 0, "not supported", 0, "", None, None, 0, 0)
                raise error

    driver = Qemu.__new__(Qemu)
    driver._host, driver._connection = Elsewhere("h1"), Direct()  # type: ignore[assignment]
    assert driver._probed() == works


def test_this_machines_own_daemon_only(tmp_path: Path) -> None:
    with pytest.raises(
        VclustError, match=r"^h1: vclust_libvirt_uri: got 'qemu:///session', expected qemu:///system"
    ):
        Qemu(Site(root=tmp_path), Host("h1", "qemu:///session"))
