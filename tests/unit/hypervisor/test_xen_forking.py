"""What a suspended installer on a Xen host is saved and restored with; that it runs: system/test_xen_resume.py."""

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest
from elsewhere import Elsewhere

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Disk, Domain, Host
from vclust_py.hypervisor.domains import Element
from vclust_py.hypervisor.xen import Xen
from vclust_py.hypervisor.xen_forking import Saved, XenForking
from vclust_py.site import Site

CLUSTER, FROZEN = Path("/var/lib/vclust/clusters/c.1"), "remote-suspended-0123456789abcdef-01234567"
DOMAIN = Domain(
    name="n1.c",
    uuid="11111111-2222-4333-8444-555555555555",
    architecture="amd64",
    cpus=1,
    memory=256 << 20,
    kernel=Path("/images/kernel"),
    initrd=Path("/images/installer"),
    command_line="console=hvc0",
    disks=(Disk(CLUSTER / "n1.qcow2", "qcow2"), Disk(CLUSTER / "n1.img", "raw")),
    mac="52:54:00:12:34:56",
    bridge="vc1",
    folder="c.1",
)
MEMORY = CLUSTER.parent / FROZEN / "memory"
GO = "vclust: resumed up=1\nvclust: installer up=1\n"


class Fake:
    """A Xen host's libvirt: connection, domain, stream and pools.  What it is told is in `said`, in order."""

    folder = Path("/consoles")

    def __init__(
        self, *, console: str = GO, version: int = 4017000, magic: bytes = b"libvirt-xml\n \0 \r"
    ) -> None:
        self.said: list[tuple[str, Any]] = []
        self.console, self.version, self.magic, self.definition = console, version, magic, ""
        self.saved = b""

    def call(self, what: str, function: Callable[[Any], Any], timeout: float = 1) -> Any:
        return function(self)

    def getCapabilities(self) -> str:
        return "<capabilities><host><cpu><arch>x86_64</arch></cpu></host></capabilities>"

    def getVersion(self) -> int:
        return self.version

    def getLibVersion(self) -> int:
        return 9000000

    def lookupByUUIDString(self, uuid: str) -> "Fake":
        return self

    def UUIDString(self) -> str:
        return DOMAIN.uuid

    def name(self) -> str:
        return DOMAIN.name

    def isActive(self) -> bool:
        return True

    def createXML(self, xml: str) -> "Fake":
        self.definition = xml
        self.said.append(("create", xml))
        return self

    def defineXML(self, xml: str) -> None:
        self.said.append(("define", xml))

    def save(self, path: str) -> None:
        text = self.definition.encode() + b"\0"
        self.saved = struct.pack("=16sII40x", self.magic, 2, len(text)) + text + b"memory"
        self.said.append(("save", path))

    def restoreFlags(self, path: str, xml: None, flags: int) -> None:
        assert flags == libvirt.VIR_DOMAIN_SAVE_PAUSED
        self.said.append(("restore", path))

    def resume(self) -> None:
        self.said.append(("resume", ""))

    def destroy(self) -> None:
        self.said.append(("destroy", ""))

    def newStream(self) -> "Fake":
        return self

    def openConsole(self, name: None, stream: "Fake", flags: int) -> None:
        pass

    def send(self, data: bytes) -> None:
        self.said.append(("type", data.decode()))

    def abort(self) -> None:
        pass

    def read(self, name: str, position: int) -> bytes:
        return self.saved if name == "memory" else self.console.encode()

    def discard(self, *names: str) -> None:
        self.said.append(("discard", names))

    def overwrite(self, name: str, data: bytes) -> None:
        self.said.append(("overwrite", data))
        self.saved = data + self.saved[len(data) :]


def forking(fake: Fake, tmp_path: Path, host: str = "h1", guest: str = "pv") -> XenForking:
    @contextlib.contextmanager
    def starting(domain: Domain) -> Iterator[None]:
        fake.said.append(("starting", domain.name))
        yield

    def definition(domain: Domain) -> Element:
        return Xen.domain_xml(domain, guest)

    connection: Any = fake
    return XenForking(
        Site(root=tmp_path),
        Host(host),
        connection,
        guest,
        definition,
        connection,
        lambda _: connection,
        starting,
    )


def suspended(tmp_path: Path, **fake: Any) -> tuple[Fake, Path]:
    """What was frozen, and its state."""
    found, state = Fake(console="vclust: waiting\n", **fake), tmp_path / "state"
    domain = replace(DOMAIN, name="vclust-suspended-1", bridge="", folder=FROZEN)
    forking(found, tmp_path).suspend(domain, MEMORY.parent, state, 9)
    return found, state


def told(fake: Fake, what: str) -> Any:
    (found,) = (value for kind, value in fake.said if kind == what)
    return found


def test_an_installer_is_saved_on_its_host(tmp_path: Path) -> None:
    fake, state = suspended(tmp_path)
    kinds = [kind for kind, _ in fake.said]
    assert kinds == ["starting", "destroy", "create", "save", "destroy", "discard"]
    assert told(fake, "save") == str(MEMORY)
    assert told(fake, "discard") == ("guest-vclust-suspended-1.log",)
    assert state.read_bytes() + b"memory" == fake.saved


def test_what_is_frozen_has_the_devices_of_a_node_and_is_connected_to_nothing(tmp_path: Path) -> None:
    fake, _ = suspended(tmp_path)
    xml = ElementTree.fromstring(told(fake, "create"))  # noqa: S314 - our own
    assert len(xml.findall("devices/disk")) == len(DOMAIN.disks)
    (interface,) = xml.findall("devices/interface")
    assert interface.get("type") == "ethernet"
    assert interface.find("source") is None
    connection = libvirt.open("test:///default")
    text = told(fake, "create").replace('type="xen"', 'type="test"', 1)
    connection.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE).undefine()


def test_no_two_suspended_installers_have_the_same_state(tmp_path: Path) -> None:
    """Images are known by what is in them."""
    states = {suspended(tmp_path)[1].read_bytes() for _ in range(2)}
    assert len(states) == 2


def test_an_installer_that_does_not_wait_is_ended(tmp_path: Path) -> None:
    fake = Fake(console="vclust: failed clock: no\n")
    with pytest.raises(VclustError, match=r"^h1: n1.c: clock: no$"):
        forking(fake, tmp_path).suspend(DOMAIN, MEMORY.parent, tmp_path / "state", 9)
    assert [kind for kind, _ in fake.said][-2:] == ["destroy", "discard"]
    assert not (tmp_path / "state").exists()


def test_a_form_of_another_libvirt(tmp_path: Path) -> None:
    with pytest.raises(VclustError, match="got a saved machine in a form of another libvirt"):
        suspended(tmp_path, magic=b"something else.")


def test_a_node_is_restored_as_itself(tmp_path: Path) -> None:
    frozen, state = suspended(tmp_path)
    fake = Fake()
    fake.saved = frozen.saved
    forking(fake, tmp_path).resume(DOMAIN, MEMORY, state, 9)
    kinds = [kind for kind, _ in fake.said]
    assert kinds == ["starting", "overwrite", "define", "restore", "resume", "type"]
    assert told(fake, "restore") == str(MEMORY)
    word, now, random, mac = told(fake, "type").split()
    assert (word, mac) == ("go", DOMAIN.mac)
    assert now.isdigit()
    assert len(random) == 64
    # The head says what it is; what was behind it is where it was.
    assert len(fake.saved) == len(frozen.saved)
    assert fake.saved.endswith(b"\0memory")
    text, zeros = fake.saved[64:-6].split(b"\0", 1)
    assert set(zeros) == {0}
    xml = ElementTree.fromstring(text)  # noqa: S314 - our own
    assert (xml.findtext("name"), xml.findtext("uuid")) == (DOMAIN.name, DOMAIN.uuid)
    assert xml.findtext("description") == XenForking.clone_mark
    assert xml.find("devices/interface/source[@bridge='vc1']") is not None
    # Started again it boots, and is no clone any more.
    assert XenForking.clone_mark not in told(fake, "define")


def test_two_at_once_write_the_head_one_after_the_other(tmp_path: Path) -> None:
    """Under the lock that holds who would remove it."""
    _, state = suspended(tmp_path)
    fake, held = Fake(), []
    original = fake.overwrite

    def overwrite(name: str, data: bytes) -> None:
        with (
            contextlib.suppress(VclustError),
            Site(root=tmp_path).file_lock(f"image-{FROZEN[:-9]}", timeout=0),
        ):
            held.append("free")
        original(name, data)

    fake.overwrite = overwrite  # type: ignore[method-assign]
    forking(fake, tmp_path).resume(DOMAIN, MEMORY, state, 9)
    assert held == []


def test_a_definition_that_is_too_long(tmp_path: Path) -> None:
    _, state = suspended(tmp_path)
    long = replace(DOMAIN, command_line="x" * (20 << 10))
    with pytest.raises(
        VclustError, match=r"^h1: n1.c: got a definition of \d+ bytes, expected less than \d+$"
    ):
        forking(Fake(), tmp_path).resume(long, MEMORY, state, 9)


def test_what_a_suspended_installer_depends_on(tmp_path: Path) -> None:
    identity = forking(Fake(), tmp_path).identity()
    assert forking(Fake(), tmp_path).identity() == identity
    others = {
        forking(Fake(version=4018000), tmp_path).identity(),
        forking(Fake(), tmp_path, host="h2").identity(),
        forking(Fake(), tmp_path, guest="pvh").identity(),
    }
    assert len(others - {identity}) == 3


def test_nodes_are_no_clones_of_others(tmp_path: Path) -> None:
    with pytest.raises(VclustError, match=r"^h1: with Xen nodes are no clones of others$"):
        forking(Fake(), tmp_path).freeze(DOMAIN, MEMORY.parent, tmp_path / "state", 9)


def test_the_domain_that_was_to_be_frozen_goes_with_its_folder(tmp_path: Path, pretended: str) -> None:
    """As when a create is killed in between: libvirt's Xen driver ends no domain with its client."""
    driver = Xen(Site(root=tmp_path), Elsewhere("h1", pretended))

    def start(connection: Any) -> None:
        for name, folder in (("frozen", FROZEN), ("other", f"{FROZEN}0")):
            disk = Disk(CLUSTER.parent / folder / "0.img", "raw")
            xml = Xen.domain_xml(replace(DOMAIN, name=name, uuid="", disks=(disk,)), "pv")
            xml.set("type", "test")
            for element in xml.findall("uuid"):
                xml.remove(element)
            connection.createXML(ElementTree.tostring(xml, encoding="unicode"))

    connection = driver._connection
    connection.call("start", start)
    Saved(connection, Elsewhere("h1", pretended), FROZEN).remove()
    names = connection.call("list", lambda libvirt: {domain.name() for domain in libvirt.listAllDomains()})
    driver.close()
    assert "other" in names
    assert "frozen" not in names
