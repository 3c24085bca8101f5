"""Homes that outlive clusters, with real nodes and a real server: they belong to their owner, and to nobody else."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from checker import check
from keeperunit import keeper_unit
from machine import Vclust, left_since, local, snapshot
from test_life import wait_for

from vclust_py import home_server, homes
from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.long,
    pytest.mark.skipif(shutil.which("ganesha.nfsd") is None, reason="no nfs-ganesha-vfs"),
]

OWNER, STRANGER = "games", "news"
"""Accounts that each Debian has."""
REQUEST = """\
[Hardware]
NumberOfNodes: {nodes}
RAM: 512MB
[Software]
{users}
Hostname: {name}%02d
Network: 192.168.{number}.0/24
Home: site
"""


@pytest.fixture
def vclust(site: Site, disk_path: Path, tmp_path: Path) -> Iterator[Vclust]:
    command = local(tmp_path, root=site.root, homes={"path": disk_path / "homes", "size": "100MB"})
    yield command
    command.clear()


def create(vclust: Vclust, name: str, number: int, *users: str, owner: str, nodes: int = 1) -> None:
    lines = "\n".join(f"User: {user}:*" for user in users)
    path = vclust.request(name, REQUEST.format(name=name, number=number, users=lines, nodes=nodes))
    vclust("create", path, SUDO_USER=owner)


def test_a_file_outlives_its_cluster_and_nobody_else_sees_it(
    vclust: Vclust, site: Site, disk_path: Path
) -> None:
    before = snapshot()
    create(vclust, "first", 85, "carol", owner=OWNER, nodes=2)
    vclust("ssh", "first", "2", "--", "echo mine > ~/work; chmod 600 ~/work; test -e ~/.profile")
    assert "mine\n" in vclust("ssh", "first", "1", "--", "cat ~/work")
    # Root of a node is nobody there, whatever they call themselves.
    assert "Permission denied" in vclust("ssh", "--root", "first", "1", "--", "cat /home/carol/work", code=1)

    # The server dies: the nodes wait, and go on when the keeper has brought it back.
    (server,) = homes.RUN.glob("vc*")
    os.kill(int((server / "pid").read_text()), signal.SIGKILL)
    wait_for("the server's end", lambda: not home_server.is_running(server.name), 60)
    with keeper_unit(site.root, homes={"path": disk_path / "homes", "size": "100MB"}) as keeper:
        wait_for("the server of homes", lambda: home_server.is_running(server.name), 60)
    assert keeper.stdout is not None
    assert "first: its homes are served again" in keeper.stdout.read()
    assert "mine\n" in vclust("ssh", "first", "2", "--", "cat ~/work")

    # Somebody else's carol is another one, in spite of the number.
    create(vclust, "other", 86, "carol", owner=STRANGER)
    assert "work" not in vclust("ssh", "other", "--", "ls -A ~; id -u; df --output=size /home")
    full = vclust("ssh", "other", "--", "dd if=/dev/zero of=big bs=1M count=200 2>&1 || rm big")
    assert "No space left on device" in full
    vclust("destroy", "first", SUDO_USER=OWNER)

    # The number is the same, though others come first.
    create(vclust, "second", 85, "dave", "carol", owner=OWNER)
    assert "mine\n1000\n" in vclust("ssh", "--user", "carol", "second", "--", "cat ~/work; id -u")
    assert "Permission denied" in vclust("ssh", "second", "--", "cat ~carol/work", code=1)
    listed = {one["owner"]: one for one in vclust.json("home", "list")}
    assert listed[OWNER]["users"] == {"carol": 1000, "dave": 1001}
    assert (listed[OWNER]["clusters"], listed[STRANGER]["clusters"]) == (["second"], ["other"])
    assert "in use by other" in vclust("home", "remove", STRANGER, code=2)
    for name in ("second", "other"):
        vclust("destroy", name)
    for owner in (OWNER, STRANGER):
        vclust("home", "remove", owner)
    assert vclust.json("home", "list") == []
    assert list((disk_path / "homes").iterdir()) == []
    assert check(site.root) == []
    assert left_since(before) == {}
