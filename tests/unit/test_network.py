"""Which machine is where in a segment; what is made of that is in tests/security/test_network.py."""

import ast
from ipaddress import IPv4Address, IPv4Network

import pytest

from vclust_py import network
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
    macs = tuple(f"mac-{number}" for number in range(nodes))
    tunnel = Segment(NAME, 255, IPv4Address("10.1.0.1"), {IPv4Address("10.1.0.2"): macs})
    assert network.ensure(NAME, 255, IPv4Network("10.0.0.0/24"), ROUTER, tunnel)
    assert len(commands) <= 20
    (entries,) = [stdin for argv, stdin in commands if argv[:2] == ["bridge", "-batch"] and macs[-1] in stdin]
    assert all(f"{mac} " in entries for mac in macs)
    made = [argv for argv, _ in commands if argv[:3] == ["ip", "link", "add"]]
    assert [argv[3] for argv in made] == [NAME, f"{NAME}r"]
    # The port makes the segment whole: it joins the bridge after the rules and the entries are there.
    joins = [number for number, (argv, _) in enumerate(commands) if argv[-2:] == ["master", NAME]]
    rules = [number for number, (argv, _) in enumerate(commands) if argv[0] == "nft"]
    assert max(rules) < min(joins)
