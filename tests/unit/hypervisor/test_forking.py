"""Definitions of templates and clones, and what their consoles say; that they run: tests/system/test_fork.py."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import libvirt
import pytest

from vclust_py.errors import VclustError
from vclust_py.guest.agent import PORT
from vclust_py.hypervisor import Disk, Domain, Host
from vclust_py.hypervisor.domains import as_text
from vclust_py.hypervisor.forking import LocalForking, QemuForking
from vclust_py.hypervisor.qemu import Qemu
from vclust_py.hypervisor.remote_files import RemoteFiles
from vclust_py.hypervisor.remote_forking import STATE_PORT, RemoteForking

DOMAIN = Domain(
    name="test.n1",
    uuid="11111111-2222-4333-8444-555555555555",
    architecture="amd64",
    cpus=2,
    memory=512 * 10**6,
    kernel=Path("/images/kernel"),
    initrd=Path("/images/installer"),
    command_line="console=ttyS0",
    disks=(Disk(Path("/n1.qcow2"), "qcow2"), Disk(Path("/n1.img"), "raw", readonly=True)),
    mac="52:54:00:12:34:56",
    bridge="vc1",
    folder="test.1",
)
CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch><model>EPYC</model>
<counter name='tsc' frequency='{tsc}'/></cpu>
<secmodel><model>apparmor</model></secmodel>
<secmodel><model>dac</model><baselabel type='kvm'>+{user}:+{user}</baselabel></secmodel></host></capabilities>"""


class Direct:
    """A connection whose calls reach this object."""

    def __init__(
        self, *, tsc: int = 1, user: int = 64055, version: int = 7002000, running: bool = True
    ) -> None:
        self._tsc, self._user, self._version, self._running = tsc, user, version, running

    def call(self, what: str, function: Callable[[Any], Any]) -> Any:
        return function(self)

    def getCapabilities(self) -> str:
        return CAPABILITIES.format(tsc=self._tsc, user=self._user)

    def getVersion(self) -> int:
        return self._version

    def getLibVersion(self) -> int:
        return 9000000

    def lookupByUUIDString(self, uuid: str) -> "Direct":
        return self

    def isActive(self) -> bool:
        return self._running


def forking(accelerator: str = "tcg", *, remote: bool = False, **host: Any) -> QemuForking:
    known = (
        Host("h1"),
        Direct(**host),
        accelerator,
        lambda domain, console: Qemu.domain_xml(domain, accelerator, console),
        lambda domain: Path("/n1.console"),
    )
    if remote:
        return RemoteForking(*known, lambda folder: RemoteFiles(known[1], known[0], folder))  # type: ignore[arg-type]
    return LocalForking(*known)  # type: ignore[arg-type]


class Stopped(Exception):
    """Before anything is started."""


def definition(*, clone: bool, suspended: bool = False, remote: bool = False) -> ElementTree.Element:
    """What libvirt would be told to start."""
    told: list[ElementTree.Element] = []

    def start(xml: ElementTree.Element) -> None:
        told.append(xml)
        raise Stopped

    found = forking(remote=remote)
    if clone:
        found._paused = lambda domain, xml: start(xml)  # type: ignore[method-assign]
        work: Callable[..., None] = found.resume if suspended else found.fork
        arguments: tuple[Any, ...] = (Path("/images/t/memory"), Path("/images/t/state"), 1)
    else:
        found._frozen = lambda domain, folder, state, xml: start(xml)  # type: ignore[method-assign,assignment,return-value]
        work = found.suspend if suspended else found.freeze
        arguments = (Path("/images/t"), Path("/images/t/state"), 1)
    with pytest.raises(Stopped):
        work(DOMAIN, *arguments)
    return told[0]


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("suspended", [True, False])
@pytest.mark.parametrize("clone", [True, False])
def test_libvirt_takes_the_definition(clone: bool, suspended: bool, remote: bool) -> None:
    xml = as_text(definition(clone=clone, suspended=suspended, remote=remote))
    connection = libvirt.open("test:///default")
    connection.defineXMLFlags(
        xml.replace('type="qemu"', 'type="test"', 1), libvirt.VIR_DOMAIN_DEFINE_VALIDATE
    )
    connection.lookupByName("test.n1").undefine()


def test_a_clone_maps_what_its_template_has_shared() -> None:
    words = {
        clone: " ".join(element.get("value", "") for element in definition(clone=clone)[-1])
        for clone in (True, False)
    }
    memory = "memory-backend-file,id=vclust,size=512753664,mem-path=/images"
    machine = "-machine memory-backend=vclust"
    assert words[False] == f"-object {memory}/t/memory,share=on {machine}"
    assert words[True] == f"-object {memory}/t/memory,share=off {machine} -incoming defer"


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("suspended", [True, False])
def test_both_have_the_same_devices(suspended: bool, remote: bool) -> None:
    """What is loaded must find the devices that were saved; on other machines it comes through one of them."""
    clone, frozen = (
        definition(clone=clone, suspended=suspended, remote=remote).find("devices") for clone in (True, False)
    )
    assert clone is not None
    assert frozen is not None
    assert [device.tag for device in clone] == [device.tag for device in frozen]
    ports = [target.get("name") for target in clone.findall("channel/target")]
    assert ports == [PORT] + ([STATE_PORT] if remote else [])


@pytest.mark.parametrize("suspended", [True, False])
def test_what_is_frozen_is_connected_to_nothing(suspended: bool) -> None:
    (interface,) = definition(clone=False, suspended=suspended).findall("devices/interface")
    assert interface.get("type") == "ethernet"
    assert interface.find("source") is None
    (interface,) = definition(clone=True, suspended=suspended).findall("devices/interface")
    assert interface.find("source[@bridge='vc1']") is not None


def test_what_a_frozen_machine_depends_on() -> None:
    identity = forking().identity()
    assert forking(remote=True).identity() != identity, "it stays on its host"
    assert forking(tsc=2).identity() == identity, "measured anew with each start of the daemon"
    assert len({identity, forking(version=8002000).identity(), forking("kvm").identity()}) == 3


def console(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "console"
    path.write_text(text)
    return path


def test_the_agent_is_heard_on_the_console(tmp_path: Path) -> None:
    path = console(tmp_path, "[ 1.0] kernel\nlogin: vclust: waiting\r\nvclust: prep")
    forking()._hear(DOMAIN, path, "waiting", 1)
    more = threading.Timer(0.1, lambda: path.write_text(path.read_text() + "ared\n"))
    more.start()
    forking()._hear(DOMAIN, path, "prepared", 60)
    more.join()


@pytest.mark.parametrize(
    ("said", "running", "timeout", "error"),
    [
        ("vclust: failed clock: no\nvclust: waiting\n", True, 9, "clock: no"),
        ("vclust: wait", True, 0, "not waiting after 0 s"),
        ("", False, 9, "it stopped before it was waiting"),
    ],
)
def test_what_the_agent_does_not_say(
    tmp_path: Path, said: str, running: bool, timeout: int, error: str
) -> None:
    with pytest.raises(VclustError, match=f"^h1: test.n1: {error}$"):
        forking(running=running)._hear(DOMAIN, console(tmp_path, said), "waiting", timeout)


def test_a_clone_that_boots_is_none(tmp_path: Path) -> None:
    """As one does whose memory makes no sense: the machine is reset."""
    path = console(tmp_path, "vclust: installer up=2.1\nvclust: ready up=9 packages=3\n")
    with pytest.raises(VclustError, match="it did not go on from where it was frozen"):
        forking()._hear(DOMAIN, path, "ready", 9, wrong="installer")
    with pytest.raises(VclustError, match="it did not go on from where it was frozen"):
        forking()._hear(DOMAIN, path, "resumed", 9, wrong="installer")


def test_a_resumed_installer_goes_on_as_one_that_boots(tmp_path: Path) -> None:
    """Before anybody has looked, perhaps."""
    path = console(tmp_path, "vclust: resumed up=2.1\nvclust: installer up=2.1\n")
    forking()._hear(DOMAIN, path, "resumed", 0, wrong="installer")


@pytest.mark.parametrize(
    ("state", "xml", "gone"),
    [
        (libvirt.VIR_DOMAIN_PAUSED, as_text(definition(clone=True)), True),
        (libvirt.VIR_DOMAIN_PAUSED, as_text(definition(clone=True, suspended=True)), True),
        (libvirt.VIR_DOMAIN_RUNNING, as_text(definition(clone=True)), False),
        (libvirt.VIR_DOMAIN_PAUSED, "<domain/>", False),  # it has booted, and somebody has paused it
    ],
)
def test_clones_that_were_cut_off_are_removed(state: int, xml: str, gone: bool) -> None:
    removed = []

    class Paused(Direct):
        def state(self) -> list[int]:
            return [state, 1]

        def XMLDesc(self) -> str:
            return xml

        def destroy(self) -> None:
            removed.append("destroyed")

        def undefine(self) -> None:
            removed.append("undefined")

    found = forking()
    found._connection = Paused()  # type: ignore[assignment]
    assert found.clear(["u1"]) == (["u1"] if gone else [])
    assert removed == (["destroyed", "undefined"] if gone else [])
