"""The work of a cluster kept, with real nodes: snapshots of its disks, its packages, a volume."""

import sqlite3
import subprocess
from collections.abc import Iterator

import pytest
from checker import check
from machine import Vclust, local, output

from vclust_py.site import Site

pytestmark = pytest.mark.system

REQUEST = """\
[Hardware]
NumberOfNodes: 1
RAM: 512MB
[Software]
User: alice:*
Hostname: keep%02d
Network: 192.168.84.0/24
"""


@pytest.fixture(scope="module")
def vclust(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    folder = tmp_path_factory.mktemp("keep")
    command = local(folder, root=site.root, snapshots=1)
    (folder / "keep.ini").write_text(REQUEST)
    yield command
    command.clear()
    command("volume", "remove", "data")
    assert check(site.root) == []


def domains() -> set[str]:
    listed = subprocess.run(["virsh", "-q", "list", "--name"], capture_output=True, text=True)
    return {line for line in listed.stdout.split() if line.endswith(".keep")}


def capture(vclust: Vclust) -> None:
    """What somebody has installed in the cluster is in its captured request."""
    before = vclust.json("capture", "keep")
    assert (before["added"], before["removed"]) == ([], [])
    package = vclust.folder / "own"
    (package / "DEBIAN").mkdir(parents=True)
    (package / "DEBIAN/control").write_text(
        "Package: own-tool\nVersion: 1\nArchitecture: all\nMaintainer: A <a@example.org>\n"
        "Depends: libc6\nDescription: what nobody else has\n"
    )
    output("dpkg-deb", "--root-owner-group", "-b", str(package), f"{package}.deb")
    vclust("scp", "--root", f"{package}.deb", "1.keep:/tmp/own.deb")
    vclust("ssh", "--root", "keep", "1", "--", "dpkg -i /tmp/own.deb")
    captured = vclust.json("capture", "keep")
    assert (captured["added"], captured["node"]) == (["own-tool"], "keep01")
    text = vclust("capture", "keep")  # with a warning: no archive has it
    assert "package 'own-tool': not in" in text
    assert "Packages: own-tool\n" in text
    assert "User: alice:*\n" in text
    assert "own-tool" in vclust("capture", "keep", "--meta")


def test_back_to_a_snapshot(vclust: Vclust, site: Site) -> None:
    vclust("create", str(vclust.folder / "keep.ini"))
    vclust("ssh", "keep", "--", "echo before > ~/work")
    assert vclust.json("snapshot", "keep", "first", "--check")["restarted"]
    assert vclust.json("snapshot", "keep") == []
    done = vclust.json("snapshot", "keep", "first")
    assert (done["changed"], done["restarted"]) == (True, True)
    assert domains() == {"keep01.keep"}
    (folder,) = site.clusters.glob("keep.*")
    # Nothing stands on the copy, and it stands on what the disk stands on.
    told = [
        output("qemu-img", "info", "-U", str(folder / name))
        for name in ("keep01@first.qcow2", "keep01.qcow2")
    ]
    chains = [[line for line in text.splitlines() if "backing file:" in line] for text in told]
    assert chains[0] == chains[1] != []
    console = (folder / "keep01.keep.console").read_text(errors="replace")
    assert "vclust: ready" in console
    assert "recovery" not in console  # its file system was left in order
    (listed,) = vclust.json("snapshot", "keep")
    assert (listed["tag"], listed["nodes"]) == ("first", ["keep01"])
    assert listed["bytes"] == (folder / "keep01@first.qcow2").stat().st_blocks * 512
    assert "is there since" in vclust("snapshot", "keep", "first", code=2)
    assert "expected fewer than 1" in vclust("snapshot", "keep", "second", code=2)
    assert "no snapshot other; there are: first" in vclust("restore", "keep", "other", code=2)
    assert check(site.root) == []

    vclust("ssh", "keep", "--", "echo after > ~/work; sync")
    request = REQUEST.replace("User: alice:*", "User: alice:*\nUser: bob:*")
    (vclust.folder / "keep.ini").write_text(request)
    vclust("apply", str(vclust.folder / "keep.ini"))
    vclust("restore", "keep", "first")
    assert "before\n" in vclust("ssh", "keep", "--", "cat work")
    # What the cluster is now, its old disk has been told of.
    assert "uid=1001(bob)" in vclust("ssh", "keep", "--", "id bob")
    assert vclust.json("show", "keep")["state"] == "ready"
    vclust("snapshot", "keep", "first", "--remove")
    assert not list(folder.glob("*@*"))
    with sqlite3.connect(site.database, timeout=30) as connection:
        assert connection.execute("SELECT count(*) FROM snapshots").fetchone() == (0,)


def test_a_volume_outlives_its_cluster(vclust: Vclust, site: Site) -> None:
    vclust.clear()
    request = REQUEST.replace("NumberOfNodes: 1", "NumberOfNodes: 1\nVolume: data 1GB keep")
    (vclust.folder / "keep.ini").write_text(request)
    vclust("create", str(vclust.folder / "keep.ini"))
    assert "1777\next4\n" in vclust(
        "ssh", "keep", "--", "stat -c %a /srv/data; findmnt -n -o FSTYPE /srv/data"
    )
    vclust("ssh", "keep", "--", "echo mine > /srv/data/work")
    capture(vclust)
    assert "in use by the cluster keep" in vclust("volume", "remove", "data", code=2)
    assert check(site.root) == []
    vclust("ssh", "keep", "--", "echo yours >> /srv/data/work")  # in the node's memory only
    vclust("destroy", "keep")
    assert check(site.root) == []
    (kept,) = vclust.json("volume", "list")
    assert (kept["name"], kept["size"], kept["cluster"]) == ("data", 10**9, "")
    other = request.replace("Hostname: keep", "Hostname: other").replace(" keep\n", "\n")
    (vclust.folder / "other.ini").write_text(other)
    vclust("create", str(vclust.folder / "other.ini"))
    assert "mine\nyours\n" in vclust("ssh", "other", "--", "cat /srv/data/work")
    vclust("ssh", "other", "--", "echo more >> /srv/data/work")
    vclust("destroy", "other")
    assert "would be removed" in vclust("volume", "remove", "data", "--check")
    assert len(list(site.clusters.glob("data.volume.*/volume.qcow2"))) == 1
    assert "is removed" in vclust("volume", "remove", "data")
    assert vclust.json("volume", "list") == []
    assert not list(site.clusters.glob("*"))
