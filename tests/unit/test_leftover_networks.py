"""Networks of no cluster, with real bridges and namespaces in a network of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vclust_py.leftover_networks import Leftover
from vclust_py.site import PROJECT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are root's")

ALONE = """
set -e
mount -t sysfs sysfs /sys
mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns
ip link set lo up
exec "$0" "$@"
"""
BEGIN = """
import subprocess, sys, time
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import SimpleNamespace
from fakehost import FakeSession
from vclust_py import network, repair, request as requests
from vclust_py.site import Site, clusters
from vclust_py.site.session import Session

def ip(words):
    subprocess.run(["ip", *words.split()], check=True)

def devices():
    return sorted(path.name for path in Path("/sys/class/net").glob("vc*"))

def make(session, name):
    '''A cluster with its network, as `create` makes it.'''
    asked = requests.from_mapping({"hardware": {"number_of_nodes": 1}, "software": {"name": name}}, "test")
    clusters.register(session.store, asked)
    cluster = clusters.get(session.store, name)
    network.ensure(cluster.segment, cluster.network, IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"))
    network.admit(session.store)
    return cluster.segment

def lose(session, name):
    '''The site's state, without what it was for.'''
    row = "segment = NULL, destroyed = 1, state = 'destroyed'"
    session.store.execute(f"UPDATE clusters SET {row} WHERE name = ?", (name,))

def site(name):
    site = Site(root=Path(sys.argv[1], name))
    site.make_directories()
    return Session(site)

ours, others = site("ours"), site("others")
"""


def run(folder: Path, script: str) -> None:
    """Run it in a network and with mounts of its own."""
    argv = [
        "unshare",
        "--net",
        "--mount",
        "sh",
        "-c",
        ALONE,
        sys.executable,
        "-c",
        BEGIN + script,
        str(folder),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT}/tests/unit:{PROJECT}/tests/unit/phases"}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=PROJECT, env=environment)
    assert done.returncode == 0, done.stderr


def test_only_what_is_surely_ours_and_nobodys_is_removed(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
live, lost = make(ours, "live"), make(ours, "lost")
foreign, forgotten = make(others, "foreign"), make(others, "forgotten")
assert network.leftovers(ours.store) == network.leftovers(others.store) == []
lose(ours, "lost")
lose(others, "forgotten")
nobodys = "vc0123456789"
ip(f"link add {nobodys} type bridge")
ip("netns add vcabcdefabcd")

found = {left.segment: left for left in network.leftovers(ours.store)}
assert found.keys() == {lost, forgotten, nobodys, "vcabcdefabcd"}, found
assert [left.segment for left in found.values() if left.ours] == [lost]
assert found[lost].parts == (f"bridge {lost}", f"port {lost}r", f"namespace {lost}")
assert time.time() - 60 < found[lost].since <= time.time() + 1
assert found[lost].told.endswith("made by this site\\n  hint: vclust site repair removes it")
assert f"the site that is, or was, in {sys.argv[1]}/others" in found[forgotten].told
assert f"ip link delete {nobodys}" in found[nobodys].told
assert found["vcabcdefabcd"].told.endswith("as root: ip netns delete vcabcdefabcd")

result = repair.run(ours, check=True)
assert (result.change.changed, result.facts["removed"]) == (True, [lost])
assert lost in devices()
result = repair.run(ours)
assert (result.change.changed, result.facts) == (True, {"repaired": [], "removed": [lost]})
assert devices() == sorted([live, f"{live}r", foreign, f"{foreign}r", forgotten, f"{forgotten}r", nobodys])
assert not Path("/run/netns", lost).exists()
assert lost not in subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
assert not repair.run(ours).change.changed

# What is said to do by hand does it.
for left in network.leftovers(ours.store):
    for command in left.told.rpartition("as root: ")[2].split("; "):
        subprocess.run(command.split(), check=True)
time.sleep(0.2)
assert network.leftovers(ours.store) == []
assert devices() == sorted([live, f"{live}r", foreign, f"{foreign}r"])
""",
    )


def test_what_a_node_is_on_stays(tmp_path: Path) -> None:
    run(
        tmp_path,
        """
lost = make(ours, "lost")
ip("tuntap add dev vnode mode tap")
ip(f"link set vnode master {lost} up")
lose(ours, "lost")
(left,) = network.leftovers(ours.store)
assert (left.ours, left.nodes) == (False, ("vnode",))
assert "in use: vnode are ports of it" in left.told
assert repair.run(ours).facts["removed"] == []
assert lost in devices()
ip("link delete vnode")
assert repair.run(ours).facts["removed"] == [lost]
assert devices() == []
""",
    )


def test_a_site_of_the_same_name_elsewhere_is_another(tmp_path: Path) -> None:
    """In a container, say, which shares this machine's network; or the folder was removed and made again."""
    run(
        tmp_path,
        """
network_of = make(ours, "live")
ours.site.root.rename(ours.site.root.with_name("moved"))
again = site("ours")
(left,) = network.leftovers(again.store)
assert (left.segment, left.ours) == (network_of, False)
assert repair.run(again).facts["removed"] == []
""",
    )


def test_in_words() -> None:
    left = Leftover("vc0123456789", ("port vc0123456789r",), (), "", 0, None, False)
    assert left.told == (
        "this machine: port vc0123456789r: of no cluster, since when is not known; nothing says by which site it was"
        " made\n  hint: if nobody else needs it, as root: ip link delete vc0123456789r"
    )
