"""The server of homes as a process; what it lets nobody do is in tests/security."""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from vclust_py import home_server, homes
from vclust_py.errors import VclustError
from vclust_py.home_server import Share
from vclust_py.site import Site
from vclust_py.site.settings import HomesSetting

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ganesha.nfsd") is None, reason="needs root and nfs-ganesha-vfs"
)


@pytest.fixture
def segment() -> Iterator[str]:
    name = f"vc{uuid.uuid4().hex[:10]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-netns", name, "link", "set", "lo", "up"], check=True)
    yield name
    home_server.close(name)
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def share(tmp_path: Path) -> Share:
    site = Site(root=tmp_path / "root", homes=HomesSetting(tmp_path / "homes", 64 * 10**6))
    return Share(homes.prepare(site, "alice", ["carol"]), IPv4Network("10.9.0.0/24"), 7, (7, 8), keep=False)


def number(segment: str) -> int:
    return int((homes.RUN / segment / "pid").read_text())


def loops(share: Share) -> str:
    return subprocess.run(
        ["losetup", "--associated", share.homes.image], capture_output=True, text=True, check=True
    ).stdout


def test_from_its_start_to_its_end(segment: str, share: Share) -> None:
    assert not home_server.is_running(segment)
    assert home_server.ensure(segment, share)
    assert home_server.is_running(segment)
    first = number(segment)
    assert not home_server.ensure(segment, share)
    assert number(segment) == first
    # Another network is other settings.
    assert home_server.ensure(segment, replace(share, network=IPv4Network("10.8.0.0/24")))
    assert number(segment) != first
    assert home_server.close(segment)
    assert (home_server.is_running(segment), home_server.close(segment)) == (False, False)
    deadline = time.monotonic() + 30
    while loops(share):  # the kernel takes the mount away a moment after the process
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_one_that_was_killed_is_started_again(segment: str, share: Share) -> None:
    home_server.ensure(segment, share)
    os.kill(number(segment), signal.SIGKILL)
    deadline = time.monotonic() + 30
    while home_server.is_running(segment):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert home_server.ensure(segment, share)
    assert home_server.is_running(segment)


def test_what_is_remembered_of_clients(segment: str, share: Share) -> None:
    def state(*made: str) -> set[str]:
        folder = Path(f"/proc/{_child(segment)}/root/homes/servers")
        for name in made:
            (folder / name).mkdir(exist_ok=True)
            (folder / name / "client").touch()
        return {str(path.relative_to(folder)) for path in folder.glob("*/client")}

    home_server.ensure(segment, share)
    assert state("7", "8", "9") == {"7/client", "8/client", "9/client"}
    # Nodes run: they come back to what they had.  A cluster that is gone does not.
    home_server.close(segment)
    home_server.ensure(segment, replace(share, keep=True))
    assert state() == {"7/client", "8/client"}
    # Nodes are started: they have nothing, and need not be waited for.
    home_server.close(segment)
    home_server.ensure(segment, share)
    assert state() == {"8/client"}


def _child(segment: str) -> int:
    parent = number(segment)
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(child)


def test_two_clusters_of_one_owner_have_the_same_files(segment: str, share: Share) -> None:
    other = f"vc{uuid.uuid4().hex[:10]}"
    subprocess.run(["ip", "netns", "add", other], check=True)
    try:
        home_server.ensure(segment, share)
        home_server.ensure(other, replace(share, cluster=8))
        one, two = (Path(f"/proc/{_child(name)}/root/homes/home/carol/work") for name in (segment, other))
        one.write_text("mine")
        assert two.read_text() == "mine"
        assert len(loops(share).splitlines()) == 1
    finally:
        home_server.close(other)
        subprocess.run(["ip", "netns", "delete", other], check=True)


def test_one_that_does_not_start_says_why(segment: str, share: Share) -> None:
    share.homes.image.write_bytes(b"no file system")
    with pytest.raises(VclustError, match=r"homes/alice: the server of these homes has ended: .*homes\.ext4"):
        home_server.ensure(segment, share)
    assert not (homes.RUN / segment).exists()
