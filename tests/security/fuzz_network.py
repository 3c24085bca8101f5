"""What libvirt's network hook is given: anything, and things that are nearly right."""

import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from vclust_py import network_hook

_ADDRESS, _MAC, _BRIDGE = r"\d+(?:\.\d+){3}", r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", r"vc[0-9a-f]{10}"
_COMMANDS = {
    "nft -f -": r"[a-z0-9_@,.:;&!={}/ \-\n]*",
    "ip -batch -": rf"link add {_BRIDGE}x mtu \d{{3,5}} type vxlan id \d{{1,8}} local {_ADDRESS} dstport 4789"
    rf" nolearning\n"
    rf"link set {_BRIDGE}x master {_BRIDGE}\nlink set {_BRIDGE}x type bridge_slave learning off\n"
    rf"|(?:neighbour replace {_ADDRESS} lladdr {_MAC} dev {_BRIDGE} nud permanent\n)*",
    "bridge -batch -": rf"(?:fdb (?:append|replace) {_MAC} dev {_BRIDGE}x (?:dst {_ADDRESS}|master static sticky)\n)*",
}
_OTHER = re.compile(
    rf"ip link set {_BRIDGE}x (?:up|type bridge_slave neigh_suppress on)|ip -json link show"
    rf"|bridge -json fdb show dev {_BRIDGE}x|ip -json neighbour show dev {_BRIDGE}|ip -json -batch -"
)
_VALUES = re.compile(rf"(?:{_ADDRESS}, )*{_ADDRESS}|{_BRIDGE}|numbers {{ \d+")


def _skeleton(rules: str) -> str:
    """What nft is told to do, without values."""
    return _VALUES.sub("_", rules)


_SKELETONS = {
    _skeleton(rules)
    for rules in (
        network_hook.rules("vc0123456789", 7, ["10.0.0.1"]),
        network_hook.without_number("vc0123456789", 7),
        network_hook.without_bridge("vc0123456789"),
    )
}


def _mostly(usual: SearchStrategy[Any], *others: SearchStrategy[Any]) -> SearchStrategy[Any]:
    other = st.one_of(*others)
    # Not 0: hypothesis likes the ends of a range.
    return st.integers(0, 15).flatmap(lambda which: other if which == 7 else usual)


def _values(right: SearchStrategy[str], *wrong: str) -> SearchStrategy[str]:
    """Mostly such values, now and then another one or anything that XML can hold."""
    some = _mostly(right, st.sampled_from(wrong), st.text(max_size=20))
    return some.map(lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;"))


_addresses = _values(
    st.integers(0, 255).map("10.0.0.{}".format),
    "",
    "10.0.0.1, 10.0.0.2",
    "10.0.0.1/8",
    "::1",
    "10.0.0.1 } accept",
    "256.0.0.1",
)
_mac = st.sampled_from(["52:54:0a:00:00:01", "52:54:0a:00:00:02"])
_macs = _values(
    st.lists(_mac, max_size=4).map(" ".join),
    "01:00:5e:00:00:01",
    "52:54:0a:00:00",
    "52:54:0a:00:00:01\ndst 1.1.1.1",
    "g",
)
_numbers = _values(
    st.integers(1, (1 << 24) - 1).map(str),
    "",
    "\u0667",
    "0x7",
    "1_0",
    "9" * 5000,
    "0",
    "-7",
    str(1 << 24),
    "7 : accept",
)
_names = _values(
    st.just("vc0123456789"), "virbr0", "", "vc012345678", "vc0123456789; reboot", "vc0123456789\n"
)
_peer = st.builds('<peer address="{}" macs="{}"/>'.format, _addresses, _macs)
_broken_peer = st.sampled_from(["<peer/>", '<peer address="10.0.0.1"/>', "<other/>", "text", "<!-- -->"])
_mtus = _mostly(
    st.just(""), _values(st.integers(576, 9000).map(str), "0", "-1", "70000").map(' mtu="{}"'.format)
)
_end = st.builds(' number="{}" address="{}"{}'.format, _numbers, _addresses, _mtus)
_members = st.builds(
    "{}={}".format, _addresses, _values(st.lists(_mac, max_size=3).map(",".join), "x", "52:54:0a:00:00:01;")
)
_group = st.builds(
    '<portgroup name="vclust {} {}"/>'.format,
    _values(st.integers(0, 99).map(str), "", "-1", "9" * 50, "x"),
    st.lists(_members, max_size=3).map(" ".join),
)
_earlier = st.builds(' vni="{}" local="{}" peers="10.0.0.1"'.format, _numbers, _addresses)


def _network(end: str, peers: list[str], name: str, form: str, groups: list[str], depth: int) -> str:
    segment = f'<segment xmlns="https://vclust.invalid/segment"{end}>{"".join(peers)}</segment>'
    text = form.format(segment=segment, bridge=f'<bridge name="{name}"/>')
    return f"{'<hookData>' * depth}<network>{text}{''.join(groups)}</network>{'</hookData>' * depth}"


_networks = st.builds(
    _network,
    _mostly(_end, _earlier, st.just("")),
    st.lists(_mostly(_peer, _broken_peer), max_size=3),
    _names,
    _mostly(
        st.just("<metadata>{segment}</metadata>{bridge}"),
        st.sampled_from(["{segment}{bridge}", "<metadata>{segment}</metadata>", "{bridge}", "", "<bridge/>"]),
    ),
    st.lists(_group, max_size=2),
    _mostly(st.just(1), st.sampled_from([0, 5000])),
)


def _hook(text: str) -> None:
    """Refused in a short line, or every command has checked values only."""

    def run(*argv: str, text: str = "") -> str:
        command = " ".join(argv)
        if command in _COMMANDS:
            assert re.fullmatch(_COMMANDS[command], text), f"{command}: {text!r}"
            assert command != "nft -f -" or _skeleton(text) in _SKELETONS, text
        else:
            assert _OTHER.fullmatch(command), command
        return ""

    try:
        end = network_hook.segment(text)
        if end is not None:
            network_hook.connect(end, run)
            network_hook.update(end, run)
            network_hook.disconnect(end, run)
    except network_hook.REFUSALS as error:
        line = network_hook.reason(error)
        assert len(line) <= 1000
        assert line.isprintable()


CASES: dict[str, tuple[SearchStrategy[Any], Callable[[Any], None]]] = {
    "network hook: networks": (_networks, _hook),
    "network hook: anything": (st.text(max_size=200), _hook),
}
