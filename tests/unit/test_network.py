"""Which machine is where in a segment; what is made of that is in tests/security/test_network.py."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import network, network_hook
from vclust_py.addresses import mac_of
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Segment
from vclust_py.site import PROJECT

NAME, ROUTER = "vc0000ff3456", IPv4Address("10.0.0.254")
ROUTER_MAC = "52:54:0a:00:00:fe"


def test_segments() -> None:
    """Two names of one machine are one member."""
    nodes = {None: ["mac 0"], "127.0.0.2": ["mac 1", "mac 2"], "127.0.0.3": ["mac 3"], "127.3": ["mac 4"]}
    found = network.segments(NAME, 255, ROUTER, nodes)
    second, third, manager = (found[machine] for machine in ("127.0.0.2", "127.0.0.3", None))
    assert found["127.3"] == third
    assert {(end.name, end.vni) for end in found.values()} == {(NAME, 255)}
    here, there = (manager.local, (ROUTER_MAC, "mac 0")), (third.local, ("mac 3", "mac 4"))
    assert dict(second.peers) == dict([here, there])
    assert dict(third.peers) == dict([here, (second.local, ("mac 1", "mac 2"))])
    assert dict(manager.peers) == dict([there, (second.local, ("mac 1", "mac 2"))])


def test_no_tunnel_on_one_machine() -> None:
    assert network.segments(NAME, 255, ROUTER, {None: ["mac 0"]}) == {}
    assert network.addresses([]) == {}


def test_a_machine_that_nobody_knows() -> None:
    with pytest.raises(VclustError, match=r"^no-such\.invalid: no IPv4 address"):
        network.segments(NAME, 255, ROUTER, {"no-such.invalid": []})


def test_the_hook_is_for_python_3_9() -> None:
    ast.parse((PROJECT / "vclust_py/network_hook.py").read_text(), feature_version=(3, 9))


@pytest.mark.parametrize("nodes", [2, 1000])
def test_a_segment_costs_as_many_processes_whatever_its_size(
    monkeypatch: pytest.MonkeyPatch, nodes: int
) -> None:
    """What they do is in tests/security/test_network.py; here they are only written down."""
    commands: list[tuple[list[str], str]] = []

    def run(argv: list[str], *, stdin: str = "", **options: object) -> str:
        commands.append((argv, stdin))
        return ""

    monkeypatch.setattr(network, "run", run)
    macs = tuple(mac_of(IPv4Address(f"10.0.{number // 250}.{number % 250}")) for number in range(nodes))
    tunnel = Segment(NAME, 255, IPv4Address("10.1.0.1"), {IPv4Address("10.1.0.2"): macs})
    assert network.ensure(NAME, 255, IPv4Network("10.0.0.0/24"), ROUTER, tunnel)
    assert len(commands) <= 25
    for tool, of in (("bridge", "fdb replace"), ("ip", "neighbour replace")):
        (entries,) = [
            stdin
            for argv, stdin in commands
            if argv[:2] == [tool, "-batch"] and of in stdin and macs[-1] in stdin
        ]
        assert all(f"{mac} " in entries for mac in macs)
    made = [argv for argv, _ in commands if argv[:3] == ["ip", "link", "add"]]
    assert [argv[3] for argv in made] == [NAME, f"{NAME}r"]
    # The port makes the segment whole: it joins the bridge after the rules and the entries are there.
    joins = [number for number, (argv, _) in enumerate(commands) if argv[-2:] == ["master", NAME]]
    rules = [number for number, (argv, _) in enumerate(commands) if argv[0] == "nft"]
    assert max(rules) < min(joins)


# Members that come and go ---------------------------------------------------------------------------------------------

DEVICE = network_hook.device(NAME)
MACS = [mac_of(IPv4Address(f"10.0.0.{number}")) for number in range(1, 6)]
PEERS = st.dictionaries(
    st.sampled_from(["10.1.0.1", "10.1.0.2", "10.1.0.3"]), st.just(()), max_size=3
).flatmap(
    lambda peers: st.lists(st.sampled_from(["none", *peers]), min_size=len(MACS), max_size=len(MACS)).map(
        lambda places: {
            peer: [mac for mac, at in zip(MACS, places, strict=True) if at == peer] for peer in peers
        }
    )
)
OWN = "9a:00:00:00:00:01"


class Tables:
    """What the kernel keeps of a VXLAN device and its bridge, and what iproute2's commands do to it."""

    def __init__(self) -> None:
        self.tunnel: list[tuple[str, str]] = []
        self.pinned: set[str] = set()
        self.neighbours: dict[str, str] = {}

    def bridge(self, lines: str) -> None:
        for line in lines.splitlines():
            _, what, mac, _, device, *rest = line.split()
            assert device == DEVICE
            if rest[0] == "master":
                assert what == "replace" or mac in self.pinned
                (self.pinned.add if what == "replace" else self.pinned.remove)(mac)
            elif what == "delete":
                self.tunnel.remove((mac, rest[1]))
            else:
                if what == "replace":
                    self.tunnel = [entry for entry in self.tunnel if entry[0] != mac]
                assert (mac, rest[1]) not in self.tunnel, "the kernel refuses an entry that is there"
                self.tunnel.append((mac, rest[1]))

    def ip(self, lines: str) -> None:
        for line in lines.splitlines():
            _, what, address, *rest = line.split()
            if what == "replace":
                self.neighbours[address] = rest[1]
            else:
                del self.neighbours[address]

    def shown(self) -> tuple[str, str]:
        entries = [
            {"mac": mac, "ifname": DEVICE, "dst": dst, "flags": ["self"], "state": "permanent"}
            for mac, dst in self.tunnel
        ]
        entries += [
            {"mac": mac, "ifname": DEVICE, "flags": [], "master": NAME, "state": "static"}
            for mac in self.pinned
        ]
        entries.append({"mac": OWN, "ifname": DEVICE, "flags": [], "master": NAME, "state": "permanent"})
        neighbours = [
            {"dst": dst, "lladdr": mac, "state": ["PERMANENT"]} for dst, mac in self.neighbours.items()
        ]
        return json.dumps(entries), json.dumps(neighbours)


@given(st.lists(PEERS, min_size=1, max_size=4))
def test_changed_members_leave_what_new_ones_would(changes: list[dict[str, list[str]]]) -> None:
    tables = Tables()
    for peers in changes:
        fdb, neighbours = tables.shown()
        tables.bridge(network_hook.entries(NAME, peers, fdb))
        tables.ip(network_hook.neighbours(NAME, peers, neighbours))
    fresh = Tables()
    fresh.bridge(network_hook.entries(NAME, changes[-1]))
    fresh.ip(network_hook.neighbours(NAME, changes[-1]))
    assert sorted(tables.tunnel) == sorted(fresh.tunnel)
    assert (tables.pinned, tables.neighbours) == (fresh.pinned, fresh.neighbours)
    assert network_hook.entries(NAME, {}, tables.shown()[0]).count("append") == 0


def hook_data(*groups: str, mtu: str = "") -> str:
    listed = "".join(f'<portgroup name="{group}"/>' for group in groups)
    return (
        "<hookData><network><metadata>"
        f'<s:segment xmlns:s="https://vclust.invalid/segment" number="5" address="10.1.0.9"{mtu}>'
        f'<s:peer address="10.1.0.1" macs="{MACS[0]}"/></s:segment></metadata><bridge name="{NAME}"/>{listed}'
        "</network></hookData>"
    )


def test_the_newest_members_count() -> None:
    end = network_hook.segment(hook_data())
    assert end is not None
    assert (end.generation, end.peers, end.mtu) == (0, {"10.1.0.1": [MACS[0]]}, 1450)
    groups = [
        f"vclust 9 10.1.0.1={MACS[1]}",
        f"vclust 10 10.1.0.2={MACS[0]},{MACS[2]} 10.1.0.3=",
        "other 99 x",
    ]
    end = network_hook.segment(hook_data(*groups, mtu=' mtu="8950"'))
    assert end is not None
    assert (end.generation, end.mtu) == (10, 8950)
    assert end.peers == {"10.1.0.2": [MACS[0], MACS[2]], "10.1.0.3": []}


@pytest.mark.parametrize("group", ["vclust 1 10.1.0.1=x", "vclust 1 h1=", f"vclust 1 10.1.0.1={MACS[0]};x"])
def test_members_that_are_none(group: str) -> None:
    with pytest.raises((network_hook.Failed, ValueError)):
        network_hook.segment(hook_data(group))


def test_the_least_mtu_of_device_and_route() -> None:
    devices = json.dumps([{"ifname": "eth0", "mtu": 9000}, {"ifname": "eth1", "mtu": 1500}])
    routes = [
        [{"dst": "10.1.0.1", "dev": "eth0"}],
        [{"dst": "10.1.0.2", "dev": "eth0", "metrics": [{"mtu": 4000}]}],
    ]
    assert network_hook.least_mtu("\n".join(map(json.dumps, routes[:1])), devices) == 9000
    assert network_hook.least_mtu("\n".join(map(json.dumps, routes)), devices) == 4000
    assert network_hook.least_mtu(json.dumps([{"dev": "eth1"}]), devices) == 1500


REBUILD = """
set -e
mount -t sysfs sysfs /sys
mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns
ip link set lo up
"$0" -c "$1"
ip tuntap add dev vnode mode tap
ip link set vnode master vc0123456789 up
${IP:-ip} link delete vc0123456789r
"$0" -c "$1"
ip -json link show master vc0123456789
"""
ENSURE = """
from ipaddress import IPv4Address, IPv4Network
from vclust_py import network
assert network.ensure("vc0123456789", 255, IPv4Network("10.0.0.0/24"), IPv4Address("10.0.0.1"))
"""


def rebuilt(environment: Mapping[str, str] = os.environ) -> set[str]:
    """Ports of the bridge after `REBUILD`."""
    argv = ["unshare", "--net", "--mount", "sh", "-c", REBUILD, sys.executable, ENSURE]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=PROJECT, env=environment)
    assert done.returncode == 0, done.stderr
    return {link["ifname"] for link in json.loads(done.stdout) if link}


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are root's")
def test_nodes_stay_on_a_segment_that_is_made_again() -> None:
    """Their ports are on the old bridge, and libvirt puts them on one only when they start."""
    assert rebuilt() == {"vnode", "vc0123456789r"}


@pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are root's")
def test_what_goes_while_it_is_taken_away(tmp_path: Path) -> None:
    """The kernel takes a namespace's port away when it comes to it: here, just before `ip link delete` would."""
    first = tmp_path / "ip"
    real = shutil.which("ip")
    first.write_text(f'#!/bin/sh\n[ "$1 $2" != "link delete" ] || {real} "$@"\nexec {real} "$@"\n')
    first.chmod(0o755)
    # The shell takes the real one, so that only vclust's own deletions are doubled.
    assert rebuilt({**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "IP": str(real)}) == {
        "vnode",
        "vc0123456789r",
    }
