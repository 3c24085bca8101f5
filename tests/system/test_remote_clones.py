"""Nodes that start as clones on hosts that are other machines, each with its own root, libvirt and QEMU.

Looked at with virsh and files of the hosts, with ssh and the nodes' own tools.
"""

import json
import re
from collections.abc import Iterator
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from emulatedhost import roll_out
from machine import Vclust
from many.bed import Bed, Shape
from many.host import Host

from vclust_py.image import Catalogue, Image
from vclust_py.site import PROJECT, Site

pytestmark = [pytest.mark.system, pytest.mark.long]

BED = Bed("vcrc", IPv4Network("10.84.0.0/16"))
CLUSTERS = "/var/lib/vclust/clusters"
HELLO = (PROJECT / "examples/hello-mpi.ini").read_text().replace("gcc mpich python3", "mpich")


@pytest.fixture(scope="module")
def hosts(site: Site) -> Iterator[list[Host]]:
    if BED.folder.exists():  # of a test run that was killed
        BED.down()
    yield BED.up(2, Shape(racks=1, rate="none"), site.root, print)
    BED.down()


@pytest.fixture(scope="module")
def vclust(hosts: list[Host], site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vclust]:
    forget(site)
    roll_out(BED.inventory)
    command = Vclust(BED.inventory, tmp_path_factory.mktemp("remote"))
    command.clear()
    yield command
    command.clear()
    forget(site)


def forget(site: Site) -> None:
    for image in frozen(site):
        Catalogue(site).remove(image)


def frozen(site: Site) -> list[Image]:
    return [image for image in Catalogue(site).images() if image.manifest.kind.startswith("remote-")]


def request(vclust: Vclust, name: str, nodes: int, start: str, ram: str = "512MB") -> Path:
    text = HELLO.replace("hello", name).replace("NumberOfNodes: 2", f"NumberOfNodes: {nodes}")
    return vclust.request(name, f"{text.replace('512MB', ram)}Start: {start}\n")


def starts(vclust: Vclust, name: str) -> dict[str, tuple[str, str]]:
    return {
        node["name"]: (node["start"], node["start_detail"]) for node in vclust.json("show", name)["nodes"]
    }


def run_in(vclust: Vclust, name: str, node: str, command: str) -> str:
    return vclust("ssh", name, node, "--", command).strip()


def there(host: Host) -> list[str]:
    """Names of what is frozen on the host, and of domains."""
    return host.ssh(f"ls {CLUSTERS} | grep remote-; virsh -c qemu:///system list --all --name; true").split()


@pytest.fixture(scope="module")
def four(vclust: Vclust) -> Iterator[str]:
    """Two clones on each host, of a template that each makes."""
    vclust("create", request(vclust, "rc", 4, "fork"))
    yield "rc"
    vclust("destroy", "rc")


OWN = (
    "cat /etc/machine-id",
    "hostname",
    "cat /etc/ssh/ssh_host_ecdsa_key.pub",
    "cat /proc/sys/kernel/random/boot_id",
    "head -c 16 /dev/urandom | od -A n -t x1",
    "cat /sys/class/net/eth0/address; ip -4 -o address show eth0",
    "systemctl show -p InvocationID ssh.service",
)


def test_clones_on_two_hosts_are_four_nodes(vclust: Vclust, four: str) -> None:
    assert set(starts(vclust, four).values()) == {("fork", "")}
    assert len({node["host"] for node in vclust.json("show", four)["nodes"]}) == 2
    script = "; echo --; ".join(OWN)
    said = [run_in(vclust, four, f"rc0{number}", script).split("\n--\n") for number in range(1, 5)]
    for command, *answers in zip(OWN, *said, strict=True):
        assert all(answers)
        assert len(set(answers)) == 4, command
    assert run_in(vclust, four, "rc04", "systemctl is-system-running --wait") == "running"
    ranks = run_in(vclust, four, "rc01", "mpiexec -n 4 hostname").split()
    assert {"rc01", "rc02", "rc03", "rc04"} <= set(ranks)


def test_clones_of_a_host_share_its_template(hosts: list[Host], site: Site, four: str) -> None:
    places = {
        image.manifest.place.host: image.manifest.place for image in frozen(site) if image.manifest.place
    }
    assert places.keys() == {host.name for host in hosts}
    for host in hosts:
        folder = f"{CLUSTERS}/{places[host.name].folder}"
        assert host.ssh(f"ls {folder}").split() == ["disk.qcow2", "memory"]
        maps = host.ssh(
            f"cat $(pgrep -d ' ' qemu-system | sed 's|[0-9]*|/proc/&/maps|g') | grep {folder}/memory"
        )
        assert len(re.findall(r" rw-p .*/memory\n?", maps)) == 2, "private: what one writes no other sees"
        # No program of ours runs there, and QEMU may start none.
        assert "spawn=deny" in host.ssh("tr '\\0' ' ' < /proc/$(pgrep -o qemu-system)/cmdline")


def test_a_template_holds_nothing_of_anybody(
    vclust: Vclust, hosts: list[Host], site: Site, four: str
) -> None:
    marks = [b"$6$throwaway$", b"192.168.77.", b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1"]
    for path in site.clusters.glob(f"{four}.*/keys/*"):
        if (text := path.read_bytes()).startswith(b"-----BEGIN OPENSSH"):
            marks.append(text.splitlines()[2])
    marks += [run_in(vclust, four, node, "cat /etc/machine-id").encode() for node in ("rc01", "rc02")]
    assert len(marks) >= 6
    for image in frozen(site):
        place = image.manifest.place
        assert place is not None
        (host,) = (host for host in hosts if host.name == place.host)
        for path in (image.path, *(host.upper.glob(f"var/lib/vclust/clusters/{place.folder}/*"))):
            data = path.read_bytes()
            assert [mark for mark in marks if mark in data] == [], path


def test_a_later_cluster_and_a_clone_that_starts_again(vclust: Vclust, hosts: list[Host], four: str) -> None:
    before = {host.name: there(host) for host in hosts}
    vclust("create", request(vclust, "rl", 1, "fork"))
    assert starts(vclust, "rl") == {"rl01": ("fork", "")}
    ask = "cat /etc/machine-id /etc/ssh/ssh_host_ecdsa_key.pub"
    own = run_in(vclust, "rl", "rl01", f"{ask}; echo work > note; sync")
    vclust("stop", "rl")
    vclust("start", "rl")
    assert run_in(vclust, "rl", "rl01", f"{ask}; cat note") == f"{own}\nwork"
    assert starts(vclust, "rl") == {"rl01": ("boot", "")}
    vclust("destroy", "rl")
    assert {host.name: there(host) for host in hosts} == before


def test_nodes_go_on_from_suspended_installers(vclust: Vclust, site: Site, four: str) -> None:
    vclust("create", request(vclust, "rs", 2, "resume"))
    assert set(starts(vclust, "rs").values()) == {("resume", "")}
    script = "; echo --; ".join(OWN)
    one, other = (run_in(vclust, "rs", node, script).split("\n--\n") for node in ("rs01", "rs02"))
    for command, mine, its in zip(OWN, one, other, strict=True):
        assert mine != its, command
    assert run_in(vclust, "rs", "rs01", "systemctl is-system-running --wait") == "running"
    vclust("destroy", "rs")
    kinds = sorted(image.manifest.kind for image in frozen(site))
    assert kinds == ["remote-suspended"] * 2 + ["remote-template"] * 2


@pytest.fixture
def learning(vclust: Vclust) -> Iterator[None]:
    """A site that may do by itself what it expects to be sooner."""
    settings = vclust.inventory / "group_vars/site_testbed.yml"
    text = settings.read_text()
    assert "cache_every: 0" in text
    settings.write_text(text.replace("cache_every: 0", "cache_every: 1000"))
    yield
    settings.write_text(text)


def test_auto_takes_the_sooner_way(vclust: Vclust, site: Site, four: str, learning: None) -> None:
    """A template that is there; none where one node would wait for it; one made where three nodes gain by it."""
    vclust("create", request(vclust, "ra", 1, "auto"))
    assert starts(vclust, "ra") == {"ra01": ("fork", "")}
    assert "1 of 1 nodes started as clones of a template" in vclust("show", "ra")
    vclust("destroy", "ra")
    before = len(frozen(site))
    vclust("create", request(vclust, "rb", 1, "auto", ram="384MB"))
    assert starts(vclust, "rb") == {"rb01": ("boot", "")}
    vclust("destroy", "rb")
    assert len(frozen(site)) == before
    packed = request(vclust, "rp", 3, "auto", ram="384MB\nSpread: pack")
    vclust("create", packed)
    assert set(starts(vclust, "rp").values()) == {("fork", "")}
    assert len(frozen(site)) == before + 1
    assert "3 of 3 nodes started as clones of a template" in vclust("show", "rp")
    vclust("destroy", "rp")


@pytest.mark.parametrize(
    ("damage", "start"),
    [
        ("virsh -c qemu:///system destroy rx01.rx 2>/dev/null; : > {memory}", "fork"),
        ("cp --preserve=timestamps {memory} {memory}.kept; touch -r {memory} /run/then;"
         " dd if=/dev/zero of={memory} bs=1M count=360 conv=notrunc status=none; touch -r /run/then {memory}", "boot"),
    ],
    ids=["truncated", "other content"],
)  # fmt: skip
def test_a_template_that_is_no_good(
    vclust: Vclust, hosts: list[Host], site: Site, damage: str, start: str
) -> None:
    """One that is seen to be so is made again; one that is not found out until the clone runs lets it boot, once."""
    before = {image.path for image in frozen(site)}
    vclust("create", request(vclust, "rx", 1, "fork", ram="400MB"))
    vclust("destroy", "rx")
    (image,) = (image for image in frozen(site) if image.path not in before)
    place = image.manifest.place
    assert place is not None
    (host,) = (host for host in hosts if host.name == place.host)
    host.ssh(damage.format(memory=f"{CLUSTERS}/{place.folder}/memory"))
    vclust("create", request(vclust, "rx", 1, "fork", ram="400MB"))
    ((how, why),) = starts(vclust, "rx").values()
    assert how == start
    assert bool(why) == (how == "boot")
    assert json.loads(image.path.with_suffix(".json").read_text())["key"] == "retired"
    vclust("destroy", "rx")
    for found in frozen(site):
        if found.path not in before:
            Catalogue(site).remove(found)
    vclust("site", "repair")
    folders = {found.manifest.place.folder for found in frozen(site) if found.manifest.place}
    assert {name for host in hosts for name in there(host) if name.startswith("remote-")} == folders
