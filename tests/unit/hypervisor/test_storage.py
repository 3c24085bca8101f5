"""Files of a cluster: here with real files, on another machine by libvirt's test driver.

That driver keeps pools and volumes in memory only; real ones are in tests/system/test_drivers.py.
"""

import json
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, storage
from vclust_py.hypervisor.connection import Connection
from vclust_py.hypervisor.local import LocalFiles
from vclust_py.hypervisor.remote_files import RemoteFiles
from vclust_py.hypervisor.storage import Pool
from vclust_py.site import Site

GB = 10**9


@pytest.fixture
def local(tmp_path: Path) -> LocalFiles:
    site = Site(root=tmp_path / "site")
    site.make_directories()
    (site.clusters / "c.1").mkdir()
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", site.images / "base-1.qcow2", "1G"], check=True
    )
    for name in ("base-1.json", "base-1.status", "layer-2.qcow2.part", "layer-3.tmp"):
        (site.images / name).touch()
    return LocalFiles(site, "c.1")


def test_local_overlay(local: LocalFiles) -> None:
    local.overlay("n1.qcow2", "base-1.qcow2", 4 * GB)
    path = local.path("n1.qcow2")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))
    assert (info["virtual-size"], info["backing-filename"]) == (4 * GB, str(local.image("base-1.qcow2")))
    path.write_text("somebody's work")
    local.overlay("n1.qcow2", "base-1.qcow2", 4 * GB)
    assert path.read_text() == "somebody's work"


def test_local_copy_stands_on_the_same_image(local: LocalFiles) -> None:
    local.overlay("n1.qcow2", "base-1.qcow2", 4 * GB)
    for pattern in ("7", "9"):
        write = ["qemu-io", "-c", f"write -P {pattern} 1M 1M", local.path("n1.qcow2")]
        subprocess.run(write, check=True, capture_output=True)
        local.copy("n1.qcow2", "n1@a.qcow2")
        copy = local.path("n1@a.qcow2")
        info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", copy]))
        assert info["backing-filename"] == str(local.image("base-1.qcow2"))
        subprocess.run(["qemu-img", "compare", "-q", copy, local.path("n1.qcow2")], check=True)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    with pytest.raises(VclustError, match=r"n2.qcow2"):
        local.copy("n2.qcow2", "n2@a.qcow2")
    assert sorted(local.allocated()) == ["n1.qcow2", "n1@a.qcow2"]


def test_a_local_disk_only_grows(local: LocalFiles) -> None:
    local.overlay("n1.qcow2", "base-1.qcow2", 4 * GB)
    path = local.path("n1.qcow2")
    subprocess.run(["qemu-io", "-c", "write -P 7 1M 1M", path], check=True, capture_output=True)
    assert local.virtual_size("n1.qcow2") == 4 * GB
    local.grow("n1.qcow2", 3 * GB)
    assert local.virtual_size("n1.qcow2") == 4 * GB
    local.grow("n1.qcow2", 6 * GB)
    info = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", path]))
    assert (info["virtual-size"], local.virtual_size("n1.qcow2")) == (6 * GB, 6 * GB)
    subprocess.run(["qemu-io", "-c", "read -P 7 1M 1M", path], check=True, capture_output=True)
    with pytest.raises(VclustError, match=r"n2.qcow2"):
        local.grow("n2.qcow2", GB)


def test_local_overlay_without_its_image(local: LocalFiles) -> None:
    with pytest.raises(VclustError, match=r"base-9.qcow2"):
        local.overlay("n1.qcow2", "base-9.qcow2", GB)
    assert not local.path("n1.qcow2").exists()


def test_local_put(local: LocalFiles, tmp_path: Path) -> None:
    source = tmp_path / "n1.iso"
    for content in ("first", "second"):
        source.write_text(content)
        local.put(source)
        assert local.path("n1.iso").read_text() == content
    assert stat.S_IMODE(local.path("n1.iso").stat().st_mode) == 0o600
    local.put(local.path("n1.iso"))  # made in its place
    assert local.path("n1.iso").read_text() == "second"


def test_local_listing_and_removal(local: LocalFiles) -> None:
    assert list(local.images()) == ["base-1.qcow2"]
    local.path("n1.iso").write_bytes(bytes(5000))
    assert local.allocated() == {"n1.iso": 8192}
    assert (local.length("n1.iso"), local.length("n2.iso")) == (5000, 0)
    local.discard("n1.iso")
    local.discard("n1.iso")
    local.remove()
    local.remove()
    assert local.allocated() == {}


class Unflagged:
    """libvirt's connection to its test driver, which does not know that a folder can be made with its pool."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def storagePoolCreateXML(self, xml: str, flags: int) -> Any:
        return self._connection.storagePoolCreateXML(xml)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class Pretended(Connection):
    def call(self, what: str, function: Callable[[Any], Any], timeout: float = 10) -> Any:
        return super().call(what, lambda connection: function(Unflagged(connection)), timeout)


@pytest.fixture
def connection(pretended: str) -> Iterator[Connection]:
    connection = Pretended(Host("h1", pretended))
    yield connection
    connection.close()


@pytest.fixture
def remote(connection: Connection) -> RemoteFiles:
    return RemoteFiles(connection, Host("h1"), "c.1")


def test_remote_places(remote: RemoteFiles) -> None:
    assert remote.path("n1.iso") == Path("/var/lib/vclust/clusters/c.1/n1.iso")
    assert remote.image("base-1.qcow2") == Path("/var/lib/vclust/images/base-1.qcow2")


def test_remote_overlay(remote: RemoteFiles, connection: Connection) -> None:
    remote.overlay("n1.qcow2", "base-1.qcow2", GB)
    remote.overlay("n1.qcow2", "base-1.qcow2", GB)
    assert remote.lacking(
        [remote.path("n1.qcow2"), remote.path("n2.qcow2"), remote.image("base-1.qcow2")]
    ) == [
        remote.image("base-1.qcow2"),
        remote.path("n2.qcow2"),
    ]
    remote.discard("n1.qcow2")
    remote.discard("n1.qcow2")
    assert remote.lacking([remote.path("n1.qcow2")]) == [remote.path("n1.qcow2")]


def test_a_remote_disk_only_grows(remote: RemoteFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test driver cannot resize volumes: what is seen is that it is asked to, and only for more."""
    remote.overlay("n1.qcow2", "base-1.qcow2", 2 * GB)
    assert remote.virtual_size("n1.qcow2") == 2 * GB
    grown = list[int]()
    monkeypatch.setattr(libvirt.virStorageVol, "resize", lambda _, size, flags=0: grown.append(size))
    for size in (GB, 2 * GB, 3 * GB):
        remote.grow("n1.qcow2", size)
    assert grown == [3 * GB]
    with pytest.raises(VclustError, match=r"n2.qcow2"):
        remote.grow("n2.qcow2", GB)


def test_pools_are_transient_and_made_again(remote: RemoteFiles, connection: Connection) -> None:
    remote.overlay("n1.qcow2", "base-1.qcow2", GB)
    pool = connection.call("pool", lambda libvirt: libvirt.storagePoolLookupByName("vclust-c.1"))
    assert not pool.isPersistent()
    pool.destroy()
    remote.overlay("n1.qcow2", "base-1.qcow2", GB)


def test_a_pool_is_looked_up_once_and_again_when_it_is_gone(connection: Connection) -> None:
    host = connection.call("proxy", lambda libvirt: libvirt)
    folder, found = Pool(connection, Host("h1"), "vclust-c.1", Path("/clusters/c.1"), mode="0711"), []
    first = folder._use(host, lambda pool: pool)
    assert folder._use(host, lambda pool: pool) is first
    first.destroy()

    def look(pool: Any) -> str:
        found.append(pool)
        return str(pool.listVolumes())

    assert folder._use(host, look) == "[]"
    assert found[0] is first
    assert found[1] is not first


def test_put_replaces_what_is_there(
    remote: RemoteFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The test driver's volumes have no contents: what is seen is that the volume is another one."""
    sent = []
    monkeypatch.setattr(storage, "_upload", lambda _, volume, __, size: sent.append((volume.info()[1], size)))
    source = tmp_path / "n1.img"
    for content in ("first", "the second"):
        source.write_text(content)
        remote.put(source)
    assert sent == [(5, 5), (10, 10)]


def test_a_file_of_zeros_and_its_stamp(
    remote: RemoteFiles, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The test driver's volumes have no contents and no times: what is seen is what it is asked for."""
    sent = []
    monkeypatch.setattr(
        storage, "_upload", lambda _, volume, source, size: sent.append((source.read(), size))
    )
    monkeypatch.setattr(storage, "_length", lambda volume: volume.info()[1])
    assert remote.stamp("memory") == ""
    remote.make_raw("memory", 5000, owner=(64055, 64055))
    remote.make_raw("seed", 5000, b"seed")
    assert sent == [(b"seed", 4)]
    assert remote.stamp("memory").startswith("5000 bytes of")
    evil = "<volume><target><timestamps><mtime>now</mtime></timestamps></target></volume>"
    monkeypatch.setattr(libvirt.virStorageVol, "XMLDesc", lambda _, flags=0: evil)
    with pytest.raises(VclustError, match=r"^h1: /var/lib/vclust/clusters/c\.1/memory: got no time"):
        remote.stamp("memory")
    xml = Pool(connection, Host("h1"), "vclust-c.1", Path("/"))._volume_xml("memory", 7, "raw", (64055, 1))
    assert [xml.findtext(f"target/permissions/{name}") for name in ("mode", "owner", "group")] == [
        "0600",
        "64055",
        "1",
    ]


def test_folders_are_no_files(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test driver has no folders."""

    class Volume:
        def __init__(self, name: str, kind: int) -> None:
            self._name, self._kind = name, kind

        def name(self) -> str:
            return self._name

        def info(self) -> list[int]:
            return [self._kind, 0, 0]

    pool = Pool(connection, Host("h1"), "vclust-clusters", Path("/clusters"))
    there = [Volume("c.1", libvirt.VIR_STORAGE_VOL_DIR), Volume("note", libvirt.VIR_STORAGE_VOL_FILE)]
    there.append(Volume("../c.2", libvirt.VIR_STORAGE_VOL_DIR))
    monkeypatch.setattr(pool, "_volumes", lambda _: there)
    assert pool.folders() == ["c.1"]


def test_remote_removal(remote: RemoteFiles, connection: Connection) -> None:
    remote.overlay("n1.qcow2", "base-1.qcow2", GB)
    remote.remove()
    names = connection.call("pools", lambda libvirt: [pool.name() for pool in libvirt.listAllStoragePools()])
    assert "vclust-c.1" not in names


def test_a_full_disk_over_there_is_named(connection: Connection) -> None:
    folder = Pool(connection, Host("h1"), "vclust-c.1", Path("/clusters/c.1"), mode="0711")

    def work(libvirt_connection: Any) -> None:
        pool = folder.open(libvirt_connection)
        with folder._naming_full_disk(pool, "n1.iso"):
            raise libvirt.libvirtError("unable to write to /clusters/c.1/n1.iso: No space left on device")

    with pytest.raises(
        VclustError, match=r"^h1: /clusters/c.1/n1.iso: no space left on its file system \(\d+ MB"
    ):
        connection.call("write", work)
