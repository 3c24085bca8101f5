"""Domain definitions: parsed again, and judged by libvirt's own schema."""

from pathlib import Path
from xml.etree import ElementTree

import libvirt
import pytest

from vclust_py.hypervisor import Disk, Domain
from vclust_py.hypervisor.domains import as_text
from vclust_py.hypervisor.qemu import Qemu

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
    assert tree.findtext("features/tcg/tb-cache") == "64"
    assert parsed("kvm").find("features/tcg") is None


def test_seed_is_read_only_and_second() -> None:
    disks = parsed("kvm").findall("devices/disk")
    assert [disk.find("target").get("dev") for disk in disks] == ["vda", "vdb"]  # type: ignore[union-attr]
    assert [disk.find("readonly") is not None for disk in disks] == [False, True]
