"""Nodes that start as clones of a frozen one: the same cluster as from booted ones, each node somebody of its own.

Looked at with virsh, ssh and the nodes' own tools, and in the template's files.
"""

import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import JOURNAL, Vclust, left_since, local, output, snapshot

from vclust_py.image import Catalogue, Image
from vclust_py.site import PROJECT, Site

pytestmark = pytest.mark.system

HELLO = (PROJECT / "examples/hello-mpi.ini").read_text().replace("hello", "fk") + "Start: fork\n"


@pytest.fixture(scope="module")
def vclust(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    folder = tmp_path_factory.mktemp("fork")
    command = local(folder, root=site.root)
    for image in templates(site):
        Catalogue(site).remove(image)
    yield command
    command.clear()
    for image in templates(site):  # other tests' nodes boot
        Catalogue(site).remove(image)


def templates(site: Site) -> list[Image]:
    return [image for image in Catalogue(site).images() if image.manifest.kind == "template"]


@pytest.fixture(scope="module")
def pair(vclust: Vclust) -> Iterator[str]:
    """Two nodes with MPI, clones of a template that is made for them."""
    before = snapshot()
    vclust("create", vclust.request("fk", HELLO))
    yield "fk"
    vclust("destroy", "fk")
    assert left_since(before) == {}


@pytest.fixture(scope="module")
def template(pair: str, site: Site) -> Image:
    (image,) = templates(site)
    return image


def run_in(vclust: Vclust, node: str, command: str, cluster: str = "fk") -> str:
    return vclust("ssh", cluster, node, "--", command).strip()


def starts(vclust: Vclust, name: str) -> set[tuple[str, str]]:
    return {(node["start"], node["start_detail"]) for node in vclust.json("show", name)["nodes"]}


def test_a_cluster_of_clones_works(vclust: Vclust, pair: str) -> None:
    assert starts(vclust, pair) == {("fork", "")}
    assert "2 of 2 nodes started as clones of a template" in vclust("show", pair)
    said = run_in(vclust, "fk01", "mpiexec -n 2 hostname; id -un; gcc --version")
    assert {"fk01", "fk02", "alice"} <= set(said.split())
    strict = "ssh -o BatchMode=yes -o StrictHostKeyChecking=yes"
    assert run_in(vclust, "fk01", f"{strict} fk02 hostname") == "fk02"
    assert run_in(vclust, "fk02", f"{strict} fk01 hostname") == "fk01"
    for node in ("fk01", "fk02"):
        running = "systemctl is-system-running --wait; systemctl list-units --failed --plain --no-legend"
        assert run_in(vclust, node, running) == "running"


OWN = (
    "cat /etc/machine-id",
    "cat /etc/hostname; hostname",
    "cat /etc/ssh/ssh_host_ecdsa_key.pub",
    "cat /proc/sys/kernel/random/boot_id",
    "head -c 16 /dev/urandom | od -A n -t x1",
    "python3 -c 'import secrets; print(secrets.token_hex(16))'",
    "python3 -c 'import random; print(random.random())'",
    "cat /sys/class/net/eth0/address; ip -4 -o address show eth0",
    "systemctl show -p InvocationID ssh.service; systemctl show -p InvocationID vclust-report.service",
    # The random delays of timers.
    "systemctl show -p NextElapseUSecRealtime apt-daily.timer",
    # What started after the identity has an address layout of its own, unless emulated: then it is always the same.
    "[ $(cat /proc/sys/kernel/randomize_va_space) = 0 ] && hostname || head -n 1 /proc/self/maps",
)


def test_two_clones_differ(vclust: Vclust, pair: str) -> None:
    """In each line of what these commands say."""
    script = "; echo --; ".join(OWN)
    one, other = (run_in(vclust, node, script).split("\n--\n") for node in ("fk01", "fk02"))
    assert len(one) == len(other) == len(OWN)
    for command, mine, its in zip(OWN, one, other, strict=True):
        assert mine, command
        assert set(mine.splitlines()).isdisjoint(its.splitlines()), command


def test_clones_have_their_own_time_and_logs(vclust: Vclust, pair: str) -> None:
    ask = f"{JOURNAL}; date +%s.%N; cat /etc/machine-id; ls /run/log/journal; journalctl --no-pager -o json"
    for node in ("fk01", "fk02"):
        asked = time.time()
        clock, machine, folder, *lines = run_in(
            vclust, node, f"{ask} --output-fields=_HOSTNAME,MESSAGE"
        ).splitlines()
        assert asked - 1 < float(clock) < time.time() + 1
        assert folder == machine
        entries = [json.loads(line) for line in lines]
        assert {entry["_HOSTNAME"] for entry in entries if "_HOSTNAME" in entry} == {node}
        assert "template" not in json.dumps(entries)
        # What came before it did has been kept.
        assert any("Server listening on" in entry.get("MESSAGE", "") for entry in entries)


def test_clones_have_an_agent_each(vclust: Vclust, pair: str) -> None:
    """It was started in the template, and waits for its clone's host."""
    for node in ("fk01", "fk02"):
        assert run_in(vclust, node, "systemctl is-active vclust-agent") == "active"


def test_a_template_holds_nothing_of_anybody(vclust: Vclust, pair: str, template: Image, site: Site) -> None:
    """Its memory and disk are searched for what its clones were given, and for keys of any kind."""
    marks = [b"$6$throwaway$", b"192.168.77."]
    for path in site.clusters.glob(f"{pair}.*/keys/*"):
        if (text := path.read_bytes()).startswith(b"-----BEGIN OPENSSH"):
            marks.append(text.splitlines()[2])
    assert len(marks) >= 5
    marks += [run_in(vclust, node, "cat /etc/machine-id").encode() for node in ("fk01", "fk02")]
    marks.append(b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1")
    # What is on its disk beyond the layer's is in plain in the file.
    for path in (*template.companions.values(), template.path):
        data = path.read_bytes()
        assert [mark for mark in marks if mark in data] == [], path.name


def test_memory_is_shared(vclust: Vclust, pair: str) -> None:
    for node in ("fk01", "fk02"):
        pid = Path(f"/run/libvirt/qemu/{node}.{pair}.pid").read_text()
        rollup = Path(f"/proc/{pid.strip()}/smaps_rollup").read_text()
        sizes = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
        assert sizes["Pss:"] < sizes["Rss:"]
        mapped = re.search(
            r"\n[^\n]*-[^\n]* rw-p [^\n]*\.memory\n", Path(f"/proc/{pid.strip()}/maps").read_text()
        )
        assert mapped, "private: what one writes no other sees"


def test_a_clone_starts_again_as_itself(vclust: Vclust, pair: str) -> None:
    before = run_in(
        vclust, "fk02", "cat /etc/machine-id /etc/ssh/ssh_host_ecdsa_key.pub; echo work > note; sync"
    )
    booted = run_in(vclust, "fk02", "cat /proc/sys/kernel/random/boot_id")
    output("virsh", "-c", "qemu:///system", "reset", f"fk02.{pair}")
    deadline = time.monotonic() + 300
    while True:
        try:
            now = run_in(vclust, "fk02", "cat /proc/sys/kernel/random/boot_id")
        except AssertionError:
            now = booted
        if now != booted:
            break
        assert time.monotonic() < deadline
        time.sleep(2)
    after = run_in(vclust, "fk02", "cat /etc/machine-id /etc/ssh/ssh_host_ecdsa_key.pub; cat note")
    assert after == f"{before}\nwork"


@pytest.mark.long
@pytest.mark.parametrize("start", ["fork", "resume"])
def test_nodes_of_debian_13(vclust: Vclust, start: str) -> None:
    """From the base image on: another kernel, systemd and sshd."""
    name = f"fkt{start}"
    text = HELLO.replace("fk", name).replace("Start: fork", f"Suite: trixie\nStart: {start}")
    vclust("create", vclust.request(name, text.replace("gcc mpich python3", "mpich python3")))
    assert starts(vclust, name) == {(start, "")}
    nodes = [f"{name}01", f"{name}02"]
    assert set(nodes) <= set(run_in(vclust, nodes[0], "mpiexec -n 2 hostname", name).split())
    script = "; echo --; ".join(OWN)
    one, other = (run_in(vclust, node, script, name).split("\n--\n") for node in nodes)
    assert len(one) == len(other) == len(OWN)
    for command, mine, its in zip(OWN, one, other, strict=True):
        assert set(mine.splitlines()).isdisjoint(its.splitlines()), command
    for node in nodes:
        asked = run_in(vclust, node, ". /etc/os-release; echo $VERSION_CODENAME; date +%s", name).split()
        assert asked[0] == "trixie"
        assert abs(int(asked[1]) - time.time()) < 60
        assert run_in(vclust, node, "systemctl is-system-running --wait", name) == "running"
        assert run_in(vclust, node, "systemctl is-active vclust-agent", name) == "active"
    vclust("destroy", name)


SMALL = HELLO.replace("fk", "fks").replace("NumberOfNodes: 2", "NumberOfNodes: 1").replace("512MB", "400MB")


@pytest.fixture(scope="module")
def unused(vclust: Vclust, site: Site) -> Image:
    """A template that no clone runs from."""
    before = {image.path for image in templates(site)}
    vclust("create", vclust.request("fks", SMALL))
    assert starts(vclust, "fks") == {("fork", "")}
    vclust("destroy", "fks")
    (image,) = (image for image in templates(site) if image.path not in before)
    return image


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ("state", "fks01.fks"),  # does not load
        # nobody is there
        (
            "memory",
            "did not go on|not installed after|stopped before it was installed|no report|stopped|monitor",
        ),
    ],
)
def test_a_template_that_is_no_good(vclust: Vclust, unused: Image, damage: str, why: str) -> None:
    """The node boots, once, and says why; nobody finds the template again."""
    path, manifest = unused.companions[damage], unused.path.with_suffix(".json")
    text, status, kept = manifest.read_text(), path.stat(), path.with_name("kept")
    path.rename(kept)
    with open(path, "wb") as file:
        file.truncate(status.st_size)
    os.chmod(path, status.st_mode)
    os.chown(path, status.st_uid, status.st_gid)
    # As it would look if the file system had lost its content.
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    try:
        vclust("create", vclust.request("fks", SMALL))
        ((start, detail),) = starts(vclust, "fks")
        assert start == "boot"
        assert re.search(why, detail), detail
        assert "booted instead: fks01: " in vclust("show", "fks")
        assert json.loads(manifest.read_text())["key"] == "retired"
        vclust("destroy", "fks")
    finally:
        kept.rename(path)
        manifest.write_text(text)
        os.utime(manifest)
