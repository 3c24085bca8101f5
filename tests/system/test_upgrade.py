"""Today's versions for a cluster of real nodes, of Debian's archives and a toy one beside them.

Verified by dpkg and systemd in the nodes.
"""

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checker import check
from layers import KERNEL
from machine import BIN, Vclust, local, output
from repository import Repository

from vclust_py.apt import sources
from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's"),
]

REQUEST = """\
[Hardware]
NumberOfNodes: 2
RAM: 512MB
[Software]
User: alice:*
Hostname: up%02d
Network: 192.168.84.0/24
Packages: toyd
"""
UNIT = """\
[Unit]
Description=toy
[Service]
ExecStart=/usr/lib/toyd/toyd infinity
[Install]
WantedBy=multi-user.target
"""


def a_daemon(program: str) -> Callable[[Path], None]:
    """Files of a package whose service runs a copy of the program."""

    def files(folder: Path) -> None:
        for name in ("usr/lib/toyd", "usr/lib/systemd/system", "etc/systemd/system/multi-user.target.wants"):
            (folder / name).mkdir(parents=True)
        shutil.copy(program, folder / "usr/lib/toyd/toyd")
        (folder / "usr/lib/systemd/system/toyd.service").write_text(UNIT)
        wants = folder / "etc/systemd/system/multi-user.target.wants/toyd.service"
        wants.symlink_to("/usr/lib/systemd/system/toyd.service")

    return files


class Archive:
    """The toy archive in the suite of the machine's own, and the file that names both."""

    def __init__(self, toy: Repository, site: Site) -> None:
        self.toy, self.site, self.suite = toy, site, site.default_suite
        shutil.rmtree(toy.pool)
        self.offer("1.0")
        own = (
            f"Types: deb\nURIs: file:{toy.path}\nSuites: {self.suite}\nComponents: main\n"
            f"Signed-By: {toy.path}/toy.gpg\n"
        )
        toy.sources.write_text(f"{sources(Site(), self.suite)}\n{own}")

    def offer(self, version: str, program: str = "/usr/bin/sleep") -> None:
        self.toy.add("toyd", version, files=a_daemon(program))
        self.toy.publish(self.suite)
        for stamp in self.site.apt.glob("*/fetched"):
            stamp.unlink()


@pytest.fixture(scope="module")
def archive(toys: Repository, site: Site, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    toy = Repository(tmp_path_factory.mktemp("archive") / "repository", toys.keys)
    shutil.copytree(toys.path, toy.path)
    return Archive(toy, site)


@pytest.fixture(scope="module")
def vclust(site: Site, archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    """With the cluster `up`, which is ready."""
    folder = tmp_path_factory.mktemp("up")
    command = local(folder, root=site.root, sources=archive.toy.sources)
    command("create", command.request("up", REQUEST))
    yield command
    command.clear()
    assert check(site.root) == []


def daemon(vclust: Vclust, node: str) -> tuple[str, str, str]:
    """Version of the package, state of its service, and its process where that runs today's file, else `old`."""
    words = (
        "version=$(dpkg-query -W -f '${Version}' toyd); state=$(systemctl is-active toyd || :)\n"
        "pid=$(systemctl show --value -p MainPID toyd)\n"
        "case $(readlink /proc/$pid/exe) in *deleted*) pid=old ;; esac\n"
        "echo toyd: $version $state $pid"
    )
    said = vclust("ssh", "--root", "up", node, "--", words)
    found = re.search(r"^toyd: (\S+) (\S+) (\S+)$", said, re.MULTILINE)
    assert found is not None, said
    return found[1], found[2], found[3]


def starts() -> set[str]:
    """The running domains and their numbers, which change with every start."""
    listed = output("virsh", "-q", "list", "--name", "--id")
    return {line for line in listed.splitlines() if re.search(r"\bup0\d\.up\b", line)}


def test_node_by_node(vclust: Vclust, archive: Archive) -> None:
    before, domains = [daemon(vclust, node) for node in ("1", "2")], starts()
    assert {(version, active) for version, active, _ in before} == {("1.0", "active")}
    archive.offer("1.1")
    would = vclust.json("upgrade", "up", "--check")
    assert "toyd=1.1" in would["packages"]
    assert KERNEL not in " ".join(would["packages"])
    assert [daemon(vclust, node) for node in ("1", "2")] == before
    begun = time.monotonic()
    assert "up: its nodes have what its lock says" in vclust("upgrade", "up")
    print(f"\nUPGRADE of {len(would['packages'])} packages in two nodes: {time.monotonic() - begun:.1f} s")
    after = [daemon(vclust, node) for node in ("1", "2")]
    assert {(version, active) for version, active, _ in after} == {("1.1", "active")}
    for (_, _, old), (_, _, new) in zip(before, after, strict=True):
        assert new not in (old, "old")
    assert starts() == domains
    assert vclust.json("upgrade", "up", "--check")["packages"] == []
    shown = vclust.json("show", "up")
    assert "toyd" not in shown["updates"]["updates"]
    # What a node compares itself with at its next boot is the new lock.
    assert "package toyd 1.1" in vclust("ssh", "--root", "up", "--", "grep toyd /var/lib/vclust/expected")


def test_the_others_stay_after_one_that_does_not_bear_it(vclust: Vclust, archive: Archive) -> None:
    archive.offer("1.2", program="/usr/bin/false")
    said = vclust("upgrade", "up", code=4)
    assert "service toyd.service: does not run with its new packages" in said
    assert "up: has not come to all nodes: up01, up02" in said
    assert [daemon(vclust, node)[:1] for node in ("1", "2")] == [("1.2",), ("1.1",)]
    assert daemon(vclust, "2")[1] == "active"
    archive.offer("1.3")
    vclust("upgrade", "up")
    assert [daemon(vclust, node)[:2] for node in ("1", "2")] == [("1.3", "active")] * 2


def test_a_node_that_does_not_run_comes_to_it_when_it_is_healed(vclust: Vclust, archive: Archive) -> None:
    (pid,) = output("pgrep", "-f", "guest=up02.up,").split()
    os.kill(int(pid), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while vclust.json("show", "up")["ready_nodes"] == 2:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    archive.offer("1.4")
    assert "up: has not come to all nodes: up02" in vclust("upgrade", "up", "--at-once", code=4)
    vclust("heal", "up")
    assert [daemon(vclust, node)[:2] for node in ("1", "2")] == [("1.4", "active")] * 2


def test_interrupted_it_can_be_given_again(vclust: Vclust, archive: Archive) -> None:
    archive.offer("1.5")
    with subprocess.Popen(
        [BIN / "vclust", "-i", vclust.inventory, "upgrade", "up"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        deadline = time.monotonic() + 300
        while daemon(vclust, "1")[0] != "1.5":  # the first node has it, the second may not
            assert time.monotonic() < deadline
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)
    assert process.returncode in (0, 130)
    vclust("upgrade", "up")
    assert [daemon(vclust, node)[:2] for node in ("1", "2")] == [("1.5", "active")] * 2


def test_a_snapshot_goes_back(vclust: Vclust, archive: Archive) -> None:
    vclust("snapshot", "up", "before")
    archive.offer("1.6")
    vclust("upgrade", "up", "--at-once")
    assert [daemon(vclust, node)[:2] for node in ("1", "2")] == [("1.6", "active")] * 2
    vclust("restore", "up", "before")
    assert [daemon(vclust, node)[:2] for node in ("1", "2")] == [("1.5", "active")] * 2
    assert "toyd=1.6" in vclust.json("upgrade", "up", "--check")["packages"]


def test_a_new_node_has_the_same(vclust: Vclust) -> None:
    vclust("resize", "up", "3")
    listed = "dpkg-query -W -f '${Package}=${Version}\\n' | sort"
    there = [vclust("ssh", "up", node, "--", listed) for node in ("1", "3")]
    assert "toyd=1.5" in there[0]
    assert there[0] == there[1]
