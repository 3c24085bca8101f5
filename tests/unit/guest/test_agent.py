"""The agent of a node, on a terminal that stands for its port; and its host's side of what the two say."""

import os
import pty
import select
import shutil
import subprocess
import time
import tty
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vclust_py.errors import VclustError
from vclust_py.guest import agent
from vclust_py.hypervisor import Host
from vclust_py.hypervisor import agent as host
from vclust_py.hypervisor.connection import Connection
from vclust_py.image.installer import GUEST

pytestmark = pytest.mark.skipif(shutil.which("busybox") is None, reason="no busybox")


class Port:
    """As libvirt's stream, which does not block."""

    def __init__(self, descriptor: int, process: "subprocess.Popen[bytes]") -> None:
        self.descriptor, self.process = descriptor, process

    def send(self, data: bytes) -> int:
        try:
            return os.write(self.descriptor, data[:1000])
        except BlockingIOError:
            return -2

    def close(self) -> None:
        os.close(self.descriptor)
        self.descriptor = -1

    def recv(self, nbytes: int) -> bytes | int:
        try:
            return os.read(self.descriptor, nbytes)
        except BlockingIOError:
            return -2


@pytest.fixture
def port() -> Iterator[Port]:
    """That of an agent that runs."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    os.set_blocking(ours, False)
    path = os.ttyname(theirs)
    argv = ["busybox", "sh", str(GUEST / "agent")]
    environment = {"VCLUST_PORT": path, "PATH": os.environ["PATH"]}
    with subprocess.Popen(
        argv, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        port = Port(ours, process)
        _said(port, agent.GREETING)  # it has opened its end
        os.close(theirs)
        try:
            yield port
        finally:
            process.kill()
            if port.descriptor != -1:
                port.close()


def test_scripts_one_after_the_other(port: Port) -> None:
    assert host.converse(port, "echo hello\necho more >&2\n\n", 10) == "hello\nmore\n"
    assert host.converse(port, "exit 3", 10) == ""
    # Nothing of one is there in the next.
    assert host.converse(port, "x=1\nset -eu\ncd /tmp\nfalse\necho not here", 10) == ""
    assert host.converse(port, 'echo "${x-unset}"; read -r line || echo no input', 10) == "unset\nno input\n"


def test_a_large_script_of_any_bytes(port: Port) -> None:
    text = "# größer als ein Puffer\n" * 5000
    assert host.converse(port, f"cat << 'END' | wc -c\n{text}END\n", 30) == f"{len(text.encode())}\n"


def test_half_a_script_does_nothing(port: Port, tmp_path: Path) -> None:
    script = agent.message(f"touch {tmp_path}/done; touch {tmp_path}/more", "word")
    port.send(script[:-1])
    port.close()  # whoever spoke was killed
    assert port.process.wait(10) == 1  # a terminal has then gone for good
    assert not list(tmp_path.iterdir())


def test_an_agent_that_is_busy_or_does_not_end(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_GREETING_TIMEOUT", 0.3)
    with pytest.raises(VclustError, match=r"its agent is not done after 0\.1 s"):
        host.converse(port, "sleep 1.5; echo late", 0.1)
    assert host.converse(port, "echo not run", 5) is None
    monkeypatch.setattr(host, "_GREETING_TIMEOUT", 30.0)
    # What the first one has said at last is not taken for the second one's.
    assert host.converse(port, "echo second", 5) == "second\n"


def test_a_machine_that_prints_without_end(port: Port) -> None:
    with pytest.raises(VclustError, match="printed more than 1048576 bytes"):
        host.converse(port, "yes", 60)


@pytest.mark.parametrize("begun", [False, True])
def test_a_machine_that_ends(begun: bool) -> None:
    """Only who has been given a script may have done something."""

    class Ending:
        said = agent.GREETING if begun else b""

        def send(self, data: bytes) -> int:
            return len(data)

        def recv(self, nbytes: int) -> bytes:
            said, self.said = self.said, b""
            return said

    if not begun:
        assert host.converse(Ending(), "echo", 1) is None
        return
    with pytest.raises(VclustError, match="has closed the way"):
        host.converse(Ending(), "echo", 1)


def test_where_it_starts() -> None:
    files = {file.path: file for file in agent.files()}
    rule = (files["etc/udev/rules.d/60-vclust.rules"].data or b"").decode()
    (unit,) = (name for name in files if name.endswith(".service"))
    assert f'SYSTEMD_WANTS}}+="{Path(unit).name}"' in rule
    assert b"/usr/libexec/vclust/agent" in (files[unit].data or b"")
    assert files["usr/libexec/vclust/agent"].mode == 0o755
    assert f"/dev/virtio-ports/{agent.PORT}".encode() in (files["usr/libexec/vclust/agent"].data or b"")


def _said(port: Port, words: bytes) -> None:
    heard, deadline = b"", time.monotonic() + 10
    while not heard.endswith(words):
        assert time.monotonic() < deadline
        select.select([port.descriptor], [], [], 1)
        piece = port.recv(1000)
        heard += piece if isinstance(piece, bytes) else b""


def test_domains_without_an_agent() -> None:
    """One that is not there, one that has no port, and a host that does not answer."""
    connection = Connection(Host("h", "test:///default"))
    there = connection.call("list", lambda libvirt: libvirt.listAllDomains()[0].UUIDString())
    for uuid in (there, "00000000-0000-4000-8000-000000000000"):
        assert host.tell(connection, uuid, "echo", 1) is None

    class Hung:
        def call(self, what: str, function: object) -> object:
            raise VclustError("h: libvirt does not answer")

    assert host.tell(Hung(), there, "echo", 1) is None  # type: ignore[arg-type]
    connection.close()


@pytest.mark.parametrize(("state", "there"), [("connected", True), ("disconnected", False), ("", False)])
def test_whether_the_guest_has_opened_its_end(state: str, there: bool) -> None:
    devices = ElementTree.Element("devices")
    host.add_port(devices)
    if state:  # only of a domain that runs
        devices.find("channel/target").set("state", state)  # type: ignore[union-attr]
    domain = ElementTree.Element("domain")
    domain.append(devices)
    assert host._is_there(domain) is there
