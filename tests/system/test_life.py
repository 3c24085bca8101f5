"""A cluster's life with real nodes: what is true of it, a crash, stop and start, and the end of its lease.

Verified with virsh, sqlite3 and the nodes' own tools, not with what vclust says of itself.
"""

import contextlib
import hashlib
import json
import os
import re
import shlex
import signal
import socket
import sqlite3
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from checker import check
from keeperunit import keeper_unit
from machine import BIN, Vclust, local, output

from vclust_py import router_socket, serving
from vclust_py.guest import update
from vclust_py.site import Site

pytestmark = pytest.mark.system

REQUEST = """\
[Hardware]
NumberOfNodes: 2
RAM: 512MB
[Software]
User: alice:*
Hostname: life%02d
Network: 192.168.83.0/24
Lease: 8h
Install: once
"""
READY_AGAIN = 300.0
"""Seconds an emulated node may take to boot on a busy machine."""


@pytest.fixture(scope="module")
def hook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program that keeps what it is told beside itself."""
    path = tmp_path_factory.mktemp("hook") / "hook"
    path.write_text(f"#!/bin/sh\ncat >> {path}.told; echo >> {path}.told\n")
    path.chmod(0o755)
    return path


@pytest.fixture(scope="module")
def vclust(site: Site, hook: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    """With the cluster `life`, which is ready; its second node has something on its disk."""
    folder = tmp_path_factory.mktemp("life")
    command = local(folder, root=site.root, lease_grace="1h", hook=hook)
    (folder / "life.ini").write_text(REQUEST)
    command("create", str(folder / "life.ini"))
    command("ssh", "life", "2", "--", "echo work > ~/kept && sync")
    yield command
    command.clear()
    assert check(site.root) == []


@pytest.fixture(scope="module")
def keeper(site: Site, hook: Path) -> Iterator["subprocess.Popen[str]"]:
    with keeper_unit(site.root, lease_grace="1h", hook=hook) as process:
        yield process


def rows(site: Site, statement: str, *values: object) -> list[tuple[object, ...]]:
    with sqlite3.connect(site.database, timeout=30) as connection:
        return connection.execute(statement, values).fetchall()


def wait_for(what: str, condition: Callable[[], object], seconds: float = READY_AGAIN) -> float:
    """The seconds that it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, f"{what} did not come in {seconds} s"
        time.sleep(0.2)
    return time.monotonic() - begun


def domains() -> dict[str, str]:
    """The running domains and their numbers, which change with every start."""
    listed = subprocess.run(["virsh", "-q", "list", "--name", "--id"], capture_output=True, text=True)
    found = dict(reversed(line.split()) for line in listed.stdout.splitlines() if line)
    return {name: number for name, number in found.items() if name.endswith(".life")}


def state(vclust: Vclust) -> str:
    return str(vclust.json("show", "life")["state"])


def kill(domain: str) -> None:
    """As a crash of QEMU."""
    (pid,) = output("pgrep", "-f", f"guest={domain},").split()
    os.kill(int(pid), signal.SIGKILL)


def kill_all(process: subprocess.Popen[bytes]) -> None:
    """The process and all that it has started, at once."""
    found = [process.pid]
    for pid in found:
        with contextlib.suppress(OSError):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                found += map(int, (thread / "children").read_text().split())
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def test_a_crash_is_seen_at_once_and_healed_by_hand(vclust: Vclust) -> None:
    assert state(vclust) == "ready"
    before = domains()
    kill("life02.life")
    wait_for("the end of the domain", lambda: "life02.life" not in domains(), 30)
    shown = vclust.json("show", "life")
    assert (shown["state"], shown["ready_nodes"]) == ("degraded", 1)
    assert [node["state"] for node in shown["nodes"]] == ["ready", "failed"]
    begun = time.monotonic()
    assert "degraded (1 of 2 nodes)" in vclust("list")
    print(f"\nLIFE a warm list takes {time.monotonic() - begun:.2f} s")
    done = vclust.json("heal", "life")
    assert (done["started"], done["not_ready"]) == (["life02"], [])
    after = domains()
    assert after["life01.life"] == before["life01.life"]
    assert after["life02.life"] != before["life02.life"]
    assert state(vclust) == "ready"
    assert "work\n" in vclust("ssh", "life", "2", "--", "cat kept")
    assert "life02\n" in vclust("ssh", "life", "--", "ssh life02 hostname")


def test_the_keeper_starts_a_node_again(vclust: Vclust, site: Site, keeper: subprocess.Popen[str]) -> None:
    before = domains()
    kill("life01.life")
    seconds = wait_for(
        "the node's start",
        lambda: domains().get("life01.life", before["life01.life"]) != before["life01.life"],
    )
    print(f"\nLIFE a crashed node runs again after {seconds:.1f} s")
    ready = wait_for("the node", lambda: state(vclust) == "ready")
    print(f"LIFE and is ready after {seconds + ready:.1f} s")
    assert domains()["life02.life"] == before["life02.life"]
    assert "life02\n" in vclust("ssh", "life", "--", "ssh life02 hostname")
    whole = {row[0] for row in rows(site, "SELECT who || ' ' || via || ' ' || action FROM audit")}
    assert "root keeper heal" in whole


def test_stopped_and_started_on_its_disks(vclust: Vclust, site: Site) -> None:
    ends = rows(site, "SELECT ends FROM clusters WHERE name = 'life' AND destroyed IS NULL")
    vclust("stop", "life")
    assert domains() == {}
    assert state(vclust) == "stopped"
    time.sleep(6)  # more than a round of the keeper, which leaves it alone
    assert domains() == {}
    console = next(site.clusters.glob("life.*/life02.life.console")).read_text(errors="replace")
    assert "reboot: Power down" in console  # an orderly end, not a cut
    vclust("start", "life")
    assert set(domains()) == {"life01.life", "life02.life"}
    assert "work\n" in vclust("ssh", "life", "2", "--", "cat kept")
    assert rows(site, "SELECT ends FROM clusters WHERE name = 'life' AND destroyed IS NULL") == ends


def cpu_seconds(domain: str) -> float:
    """What the node's processors have used since its start."""
    found = output("virsh", "-q", "domstats", "--cpu-total", domain)
    return int(next(line for line in found.splitlines() if "cpu.time=" in line).partition("=")[2]) / 1e9


def logins(vclust: Vclust, node: str) -> int:
    """How often root has logged in to the node, this time included."""
    return int(
        vclust("ssh", "life", node, "--root", "--", "journalctl -u ssh | grep -c 'publickey for root'")
    )


def test_a_node_more_and_users_in_place(vclust: Vclust, site: Site, keeper: subprocess.Popen[str]) -> None:
    """Others learn of it without a restart, and without a login where their agents run."""
    before, root = domains(), logins(vclust, "2")
    # The agent's port is root's.
    vclust("ssh", "life", "2", "--", "! cat < /dev/virtio-ports/vclust && ! echo > /dev/virtio-ports/vclust")
    begun = time.monotonic()
    used = cpu_seconds("life02.life")
    done = vclust.json("resize", "life", "3")
    print(f"\nLIFE a node more after {time.monotonic() - begun:.1f} s")
    print(f"LIFE which has cost another node {cpu_seconds('life02.life') - used:.2f} CPU-s")
    assert (list(done["add"]), done["late"]) == (["life03"], [])
    after = domains()
    assert {name: after[name] for name in before} == before
    assert "life03\n" in vclust("ssh", "life", "2", "--", "ssh life03 hostname")
    assert "life01\nlife02\nlife03\n" in vclust("ssh", "life", "2", "--", "cat /etc/vclust/hostfile")
    assert state(vclust) == "ready"
    changed = REQUEST.replace("NumberOfNodes: 2", "NumberOfNodes: 3").replace(
        "User: alice:*", "User: alice:*\nUser: bob:*"
    )
    (vclust.folder / "life.ini").write_text(changed)
    assert logins(vclust, "2") == root + 1
    vclust("ssh", "life", "1", "--root", "--", "systemctl stop vclust-agent")
    done = vclust.json("apply", str(vclust.folder / "life.ini"))
    vclust("ssh", "life", "1", "--root", "--", "systemctl start vclust-agent")
    assert [line.partition(":")[0] for line in done["differences"]] == ["User"]
    for node in ("1", "2", "3"):
        assert "uid=1001(bob)" in vclust("ssh", "life", node, "--", "id bob")
    assert "life03\n" in vclust("ssh", "life", "2", "--user", "bob", "--", "ssh life03 hostname")
    login = [BIN / "vclust", "-i", vclust.inventory, "ssh", "life", "2", "--user", "bob", "--", "sleep 3600"]
    bob = subprocess.Popen(login, stdin=subprocess.DEVNULL)
    words = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
    wait_for("the login", lambda: "sleep 3600" in vclust("ssh", "life", "2", "--", words))
    (vclust.folder / "life.ini").write_text(REQUEST)
    done = vclust.json("apply", str(vclust.folder / "life.ini"))
    assert bob.wait(60) != 0  # who goes is logged out
    assert done["remove"] == ["life03"]
    assert domains() == before
    assert not list(site.clusters.glob("life.*/life03.*"))
    assert "no such user" in vclust("ssh", "life", "2", "--", "id bob", code=1)
    assert "life02\n" in vclust("ssh", "life", "--", "ssh life02 hostname")


PACKAGES = REQUEST.replace("User:", "Packages: nmap ngircd\nUser:", 1)
"""6 MB with what they need; the second is a daemon."""


def holds(vclust: Vclust, node: str) -> str:
    """What the node has of the packages, with versions, and whether the daemon runs."""
    words = "dpkg-query -W nmap ngircd 2> /dev/null; systemctl is-active ngircd"
    return vclust("ssh", "life", node, "--", f"({words}) || true")


def test_packages_come_and_go_in_place(vclust: Vclust, site: Site) -> None:
    before = domains()
    used = {name: cpu_seconds(name) for name in before}
    path = vclust.folder / "life.ini"
    path.write_text(PACKAGES)
    begun = time.monotonic()
    done = vclust.json("apply", str(path))
    print(f"\nLIFE packages in two nodes after {time.monotonic() - begun:.1f} s", end="")
    print(f", CPU-s: {[round(cpu_seconds(name) - used[name], 1) for name in before]}")
    (phase,) = rows(
        site, """SELECT "end" - start FROM phases WHERE phase = 'teach' ORDER BY start DESC LIMIT 1"""
    )
    print(f"LIFE of these telling the nodes {phase[0]:.1f} s")
    assert {one.partition("=")[0] for one in done["packages"]["install"]} >= {"nmap", "ngircd"}
    assert domains() == before
    for node in ("1", "2"):  # nobody waits for a daemon's start
        wait_for("the daemon", lambda node=node: "\nactive\n" in holds(vclust, node), 60)
    there = [holds(vclust, node) for node in ("1", "2")]
    assert there[0] == there[1]
    assert re.search(r"ngircd\t\S+\nnmap\t\S+\nactive\n", there[0]), there[0]
    # A node that comes later starts with them, on a layer of its own over that of the others.
    path.write_text(PACKAGES.replace("NumberOfNodes: 2", "NumberOfNodes: 3"))
    vclust("apply", str(path))
    wait_for("the same in the new node", lambda: holds(vclust, "3") == there[0], 60)
    (folder,) = site.clusters.glob("life.*")
    backing = [
        json.loads(output("qemu-img", "info", "-U", "--output=json", str(folder / f"{name}.qcow2")))[
            "backing-filename"
        ]
        for name in ("life01", "life02", "life03")
    ]
    assert backing[0] == backing[1] != backing[2]
    path.write_text(REQUEST)
    done = vclust.json("apply", str(path))
    assert {"nmap", "ngircd"} <= set(done["packages"]["remove"])
    assert "nmap" not in holds(vclust, "1")
    assert "inactive" in holds(vclust, "2")
    assert domains() == before


def test_a_file_comes_to_who_knows_the_word(vclust: Vclust, site: Site, tmp_path: Path) -> None:
    """As packages come."""
    ((segment,),) = rows(site, "SELECT segment FROM clusters WHERE name = 'life' AND destroyed IS NULL")
    found = json.loads(output("ip", "-netns", str(segment), "-json", "-4", "address", "show", "eth0"))
    router = found[0]["addr_info"][0]["local"]
    path = tmp_path / "packages.tar"
    with tarfile.open(path, "w") as archive:
        (tmp_path / "some.deb").write_bytes(os.urandom(6_000_000))
        archive.add(tmp_path / "some.deb", "some.deb")
    digest = hashlib.sha256((tmp_path / "some.deb").read_bytes()).hexdigest()
    login = [BIN / "vclust", "-i", vclust.inventory, "ssh", "life", "2", "--root", "--", "sh", "-s"]
    with serving.offered(path, lambda: router_socket.listening(str(segment), router)) as offer:
        script = f"{update.fetch(offer)}sha256sum $VCLUST_PACKAGES/some.deb; rm -r $VCLUST_PACKAGES\n"
        done = subprocess.run(login, input=script, capture_output=True, text=True, check=True)
        assert digest in done.stdout
        wrong = f"printf %033d 0 | bash -c 'exec 3<> /dev/tcp/{router}/{offer.port}; cat >&3; wc -c <&3'"
        assert vclust("ssh", "life", "--", wrong).split()[-1] == "0"
        # Nor does another machine, or a process of this one, reach it.
        with socket.socket() as outside:
            outside.settimeout(1)
            assert outside.connect_ex((router, offer.port)) != 0


LARGER = REQUEST.replace("RAM: 512MB", "RAM: 640MB\nCPUs: 2\nDisk: 6GB")


def size(vclust: Vclust, node: str) -> list[int]:
    """CPUs, MB of memory and of the root's file system, as the node sees them."""
    memory = "awk '/^MemTotal:/ { print int($2 / 1024) }' /proc/meminfo"
    words = f"nproc; {memory}; df --output=size -m / | tail -n 1"
    said = vclust("ssh", "life", node, "--", words)
    return [int(line) for line in said.splitlines() if line.strip().isdigit()]


@pytest.mark.long
def test_larger_nodes_by_a_restart_of_each(vclust: Vclust, site: Site, keeper: subprocess.Popen[str]) -> None:
    """The first is left as it is until the second is ready again."""
    before, small = domains(), size(vclust, "1")
    uuids = {name: output("virsh", "domuuid", name) for name in before}
    path = vclust.folder / "life.ini"
    path.write_text(LARGER)
    assert "vclust apply --restart" in vclust("apply", str(path), code=2)
    plan = vclust.json("apply", str(path), "--restart", "--check")
    assert plan["restart"] == ["life01", "life02"]
    assert (domains(), size(vclust, "1")) == (before, small)
    begun = time.monotonic()
    vclust.json("apply", str(path), "--restart")
    print(f"\nLIFE two nodes restarted in turn after {time.monotonic() - begun:.1f} s")
    after = domains()
    assert after.keys() == before.keys()
    assert not set(after.values()) & set(before.values())
    assert int(after["life01.life"]) > int(after["life02.life"])
    assert {name: output("virsh", "domuuid", name) for name in after} == uuids
    for node in ("1", "2"):
        cpus, memory, disk = size(vclust, node)
        assert (cpus, disk > small[2] + 1000) == (2, True)
        assert memory > small[1] + 100
    console = next(site.clusters.glob("life.*/life02.life.console")).read_text(errors="replace")
    assert "vclust: installed" not in console  # only the first boot of a node installs
    assert "work\n" in vclust("ssh", "life", "2", "--", "cat kept")
    assert "life02\n" in vclust("ssh", "life", "--", "ssh life02 hostname")
    assert vclust.json("apply", str(path), "--restart")["restart"] == []
    assert domains() == after
    # Back, but for the disks; and who does it is ended when the first node has gone.
    path.write_text(LARGER.replace("RAM: 640MB\nCPUs: 2", "RAM: 512MB\nCPUs: 1"))
    command = [str(BIN / "vclust"), "-i", str(vclust.inventory), "apply", str(path), "--restart"]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for("the shutdown of a node", lambda: domains() != after)
    kill_all(running)
    # Who is ended at that moment leaves a node that has crashed.
    wait_for("the node", lambda: set(domains()) == set(after) and state(vclust) == "ready")
    vclust.json("apply", str(path), "--restart")
    assert [size(vclust, node)[0] for node in ("1", "2")] == [1, 1]
    assert "work\n" in vclust("ssh", "life", "2", "--", "cat kept")


def test_a_lease_from_its_warning_to_its_removal(vclust: Vclust, site: Site, hook: Path) -> None:
    def told(event: str) -> bool:
        path = Path(f"{hook}.told")
        return path.exists() and event in [
            json.loads(line)["event"] for line in path.read_text().splitlines()
        ]

    terminal = vclust.folder / "terminal"
    terminal.touch()
    command = shlex.join([str(BIN / "vclust"), "-i", str(vclust.inventory), "ssh", "life"])
    login = subprocess.Popen(["script", "-qfec", command, terminal], stdin=subprocess.PIPE)
    try:
        wait_for("the login", lambda: "alice@life01" in terminal.read_text(errors="replace"))
        rows(site, "UPDATE clusters SET ends = ? WHERE name = 'life'", time.time() + 300)
        wait_for("the warning", lambda: told("lease-warning"), 120)
        said = "the lease of life ends in 4 min; vclust renew prolongs it"
        wait_for("it on the terminal", lambda: said in terminal.read_text(errors="replace"), 60)
    finally:
        login.kill()
        login.wait()
    renewed = vclust.json("renew", "life", "2h")
    assert 7100 < renewed["ends"] - time.time() <= 7200
    rows(site, "UPDATE clusters SET ends = ? WHERE name = 'life'", time.time())
    wait_for("the end", lambda: told("lease-ended"), 120)
    assert domains() == {}
    assert (state(vclust), "ended, removed in" in vclust("list")) == ("stopped", True)
    assert list(site.clusters.glob("life.*/life01.qcow2"))
    vclust("create", str(vclust.folder / "life.ini"))
    assert "work\n" in vclust("ssh", "life", "2", "--", "cat kept")
    rows(site, "UPDATE clusters SET ends = 5 WHERE name = 'life'")
    wait_for("the end", lambda: state(vclust) == "stopped", 120)
    rows(site, "UPDATE clusters SET ended = ended - 3600 WHERE name = 'life'")
    wait_for("the removal", lambda: vclust.json("list") == [], 60)
    assert not list(site.clusters.glob("life.*"))
    assert told("lease-removed")
