"""Homes of the site, against somebody who is root in a node: they may be anybody there, and write any packet."""

import fcntl
import os
import re
import shutil
import struct
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from nfs4 import (
    ACCESS,
    BAD_HANDLE,
    NOT_THERE,
    OK,
    PERMISSION,
    STALE,
    from_namespace,
    get_handle,
    handle,
    lookup,
    read,
    remove,
    root,
)

from vclust_py import home_server, homes
from vclust_py.home_server import Share
from vclust_py.site import Site
from vclust_py.site.settings import HomesSetting

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("ganesha.nfsd") is None, reason="needs root and nfs-ganesha-vfs"
)

ROUTER, NETWORK = "10.254.9.254", IPv4Network("10.254.9.0/24")
_GET_VERSION = 0x80087601
"""FS_IOC_GETVERSION of linux/fs.h."""
CLUSTER = 7


@dataclass
class Served:
    segment: str
    homes: homes.Homes
    inside: Path
    """The owner's file system, as the server sees it."""

    def ask(self, uid: int, *operations: bytes) -> tuple[int, bytes]:
        return from_namespace(self.segment, ROUTER, uid, *operations)

    def handle_of(self, *names: str) -> bytes:
        status, found = self.ask(1000, root(), *lookup("home", *names), get_handle())
        assert status == OK
        return found


def server_of(segment: str) -> int:
    """The number of the server's process: bubblewrap's child."""
    parent = int((homes.RUN / segment / "pid").read_text())
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(child)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("homes")
    site = Site(root=folder / "site", homes=HomesSetting(folder / "homes", 100 * 10**6))
    kept = homes.prepare(site, "alice", ["carol", "dave"])
    segment = f"vc{uuid.uuid4().hex[:10]}"
    words = f"link set lo up\naddress add {ROUTER}/24 dev lo\naddress add 10.254.10.1/32 dev lo\n"
    subprocess.run(["ip", "netns", "add", segment], check=True)
    try:
        subprocess.run(["ip", "-netns", segment, "-batch", "-"], input=words, text=True, check=True)
        home_server.ensure(segment, Share(kept, NETWORK, CLUSTER, (CLUSTER,), keep=False))
        inside = Path(f"/proc/{server_of(segment)}/root/homes")
        secret = inside / "home/carol/secret"
        secret.write_text("carol's")
        secret.chmod(0o600)
        os.chown(secret, 1000, 1000)
        yield Served(segment, kept, inside)
    finally:
        home_server.close(segment)
        subprocess.run(["ip", "netns", "delete", segment], check=True)


def made_up(known: bytes, of: Path, path: Path) -> bytes:
    """A handle like the known one, of a file `of`, that says `path`: its file system, inode and generation."""
    file = os.open(path, os.O_RDONLY)
    try:
        (generation,) = struct.unpack("i", fcntl.ioctl(file, _GET_VERSION, bytes(8))[:4])
    finally:
        os.close(file)
    was, now = (struct.pack("<Q", os.statvfs(one).f_fsid) for one in (of, path))
    assert known.count(was) == 1, "handles have another form now"
    assert known[-8:-4] == struct.pack("<I", of.stat().st_ino), "handles have another form now"
    return known.replace(was, now)[:-8] + struct.pack("<Ii", path.stat().st_ino, generation)


def test_users_read_their_own_alone(served: Served) -> None:
    way = [root(), *lookup("home", "carol", "secret"), read()]
    assert served.ask(1000, *way) == (OK, b"carol's")
    for other in (0, 1001, 65534):
        assert served.ask(other, *way) == (ACCESS, b"")
    # Nobody takes somebody's home away, or that of the server.
    for uid in (0, 1000, 1001):
        assert served.ask(uid, root(), *lookup("home"), remove("dave"))[0] in (ACCESS, PERMISSION)


def test_there_is_nothing_beside_the_homes(served: Served) -> None:
    for names in (["home", "..", "servers"], ["home", "..", "..", "etc"], ["servers"], ["log"]):
        assert served.ask(1000, root(), *lookup(*names), get_handle())[0] == NOT_THERE


def test_a_made_up_handle_stays_in_the_owners_file_system(served: Served, tmp_path: Path) -> None:
    known, of = served.handle_of("carol", "secret"), served.inside / "home/carol/secret"
    # They are believed as far as they go: to another file of the same owner.
    assert served.ask(1000, handle(made_up(known, of, of)), read()) == (OK, b"carol's")
    beside = made_up(known, of, served.inside)
    assert served.ask(1000, handle(beside), get_handle())[0] == OK
    # The server's own part is root's, and nobody is root.
    for uid in (0, 1000):
        assert served.ask(uid, handle(beside), *lookup("servers", str(CLUSTER)))[0] == ACCESS
        assert served.ask(uid, handle(beside), remove("servers"))[0] in (ACCESS, PERMISSION)
    # Files of the machine, also of the one file system that the server sees, for its programs.
    there = tmp_path / "there"
    there.write_text("the machine's")
    there.chmod(0o644)
    for path in (there, Path("/usr/bin/env")):
        for uid in (0, 1000):
            status, found = served.ask(uid, handle(made_up(known, of, path)), read())
            assert (status, found) in ((STALE, b""), (BAD_HANDLE, b""))


def test_other_networks_are_not_served(served: Served) -> None:
    """Whoever else may come to the namespace."""
    script = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import nfs4, socket; "
    script += "old = socket.create_connection; "
    script += "socket.create_connection = lambda a, t: old(a, t, source_address=('10.254.10.1', 0)); "
    script += f"print(nfs4.ask({ROUTER!r}, 1000, [nfs4.root(), *nfs4.lookup('home'), nfs4.get_handle()])[0])"
    done = subprocess.run(
        ["ip", "netns", "exec", served.segment, "python3", "-c", script], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) in (NOT_THERE, ACCESS, PERMISSION)


def test_the_server_sees_little_and_may_little(served: Served) -> None:
    process = Path(f"/proc/{server_of(served.segment)}")
    seen = {path.name for path in (process / "root").iterdir()}
    assert seen <= {
        "bin",
        "etc",
        "homes",
        "lib",
        "lib32",
        "lib64",
        "proc",
        "run",
        "sbin",
        "state",
        "tmp",
        "usr",
    }
    assert {path.name for path in (process / "root/etc").iterdir()} == {"ganesha.conf", "mtab", "netconfig"}
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    allowed = {0, 1, 2, 3, 4, 6, 7}  # capabilities(7): those of home_mount
    for kind in ("CapPrm", "CapEff", "CapInh", "CapAmb"):
        assert {bit for bit in range(64) if int(status[kind], 16) >> bit & 1} <= allowed
    assert status["NoNewPrivs"] == "1", "no program gives it more"
    limits = (process / "limits").read_text()
    assert re.search(rf"^Max address space +{3 << 30} ", limits, re.M), limits
    assert os.readlink(process / "ns/net") == f"net:[{os.stat(f'/run/netns/{served.segment}').st_ino}]"
    listening = subprocess.run(
        ["ip", "netns", "exec", served.segment, "ss", "-lnutH"], capture_output=True, text=True, check=True
    )
    (line,) = listening.stdout.splitlines()
    assert line.split()[4].endswith(":2049")


def test_nobody_else_sees_the_files(served: Served) -> None:
    mounts = Path("/proc/self/mounts").read_text()
    assert not [line for line in mounts.splitlines() if "homes" in line.split()[1]]
    for path in (served.homes.folder, served.homes.folder.parent, homes.RUN):
        assert path.stat().st_mode & 0o777 == 0o700
    assert served.homes.image.stat().st_mode & 0o777 == 0o600
