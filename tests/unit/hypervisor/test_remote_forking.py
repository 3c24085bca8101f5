"""States as libvirt saves them, and where they are loaded; that it works: tests/system/test_remote_clones.py."""

import struct
from pathlib import Path
from typing import Any

import pytest
from hypervisor.test_forking import DOMAIN, Direct

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.hypervisor.remote_forking import RemoteForking

STATE = b"QEVM" + bytes(range(256)) * 6000
"""More than is read at one look."""


def saved(state: bytes, *, compression: int = 0, magic: bytes = b"LibvirtQemudSave") -> bytes:
    """As libvirt's src/qemu/qemu_saveimage.h has it: a header of 92 bytes, the definition and a cookie."""
    definition = b"<domain/>\0<cookie/>\0"
    header = magic + struct.pack("=5I", 2, len(definition), 1, compression, 10)
    return header.ljust(92, b"\0") + definition + state


class Remote:
    """A host, its folders and a domain there, whose socket for states is at `socket`."""

    def __init__(self, data: bytes = b"", socket: str = "/run/channel/state") -> None:
        self.data, self.socket = data, socket
        self.discarded: list[str] = []

    def path(self, name: str) -> Path:
        return Path("/clusters/t", name)

    def read(self, name: str, position: int) -> bytes:
        return self.data[position : position + (1 << 20)] if name == "saved" else b""

    def discard(self, *names: str) -> None:
        self.discarded += names

    def save(self, path: str) -> None:
        assert path == "/clusters/t/saved"

    def XMLDesc(self) -> str:
        return (
            "<domain><devices><channel type='unix'><source path='/run/channel/fork'/>"
            "<target type='virtio' name='vclust.fork'/></channel>"
            f"<channel type='unix'><source path='{self.socket}'/>"
            "<target type='virtio' name='vclust.state'/></channel></devices></domain>"
        )


def forking(remote: Remote) -> RemoteForking:
    connection: Any = Direct()
    files: Any = lambda folder: remote  # noqa: E731
    return RemoteForking(Host("h1"), connection, "tcg", lambda *_: None, lambda _: Path("/c"), files)  # type: ignore[arg-type,return-value]


def test_a_state_is_what_comes_after_libvirts_header(tmp_path: Path) -> None:
    remote = Remote(saved(STATE))
    forking(remote)._save(DOMAIN, remote, Path("/clusters/t"), tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == STATE
    assert remote.discarded == ["saved"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "a form of another libvirt"),
        (saved(STATE)[:80], "a form of another libvirt"),
        (saved(STATE, magic=b"LibvirtQemudPart"), "a form of another libvirt"),
        (saved(STATE, compression=5), "libvirt compresses saved machines\n  hint: .*save_image_format"),
        (saved(b"\x28\xb5\x2f\xfd"), "libvirt compresses saved machines"),
    ],
)
def test_what_is_no_state(tmp_path: Path, data: bytes, why: str) -> None:
    remote = Remote(data)
    with pytest.raises(VclustError, match=f"^h1: test.n1: (got a saved machine in )?{why}"):
        forking(remote)._save(DOMAIN, remote, Path("/clusters/t"), tmp_path / "state")


def test_a_state_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = Remote()
    monkeypatch.setattr(remote, "read", lambda name, position: bytes(1 << 20))
    with pytest.raises(VclustError, match="more than 64 MB"):
        forking(remote)._save(DOMAIN, remote, Path("/clusters/t"), tmp_path / "state")


def test_a_state_is_loaded_at_the_socket_of_its_port() -> None:
    assert forking(Remote())._socket(DOMAIN, Remote()) == "/run/channel/state"
    without: Any = Remote()
    without.XMLDesc = lambda: "<domain/>"
    with pytest.raises(VclustError, match=r"got no port vclust\.state"):
        forking(without)._socket(DOMAIN, without)
