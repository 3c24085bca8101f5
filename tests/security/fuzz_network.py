"""What libvirt's network hook is given: anything, and things that are nearly right."""

import re
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from vclust_py import network_hook

_ADDRESS, _MAC, _BRIDGE = r"\d+(?:\.\d+){3}", r"[0-9a-f]{2}(?::[0-9a-f]{2}){5}", r"vc[0-9a-f]{10}"
_COMMANDS = {
    "nft -f /etc/vclust/vxlan.nft": r"",
    # What is ours, with only names, numbers and addresses in the places of ours.
    "nft -f -": rf"(?:{_BRIDGE}|{_ADDRESS}|\d+|vclust_segments|[\w@,.:;&!={{}}/\-\s])*",
    "ip -batch -": rf"link add {_BRIDGE}x mtu 1450 type vxlan id \d{{1,8}} local {_ADDRESS} dstport 4789 nolearning\n"
    rf"link set {_BRIDGE}x master {_BRIDGE}\nlink set {_BRIDGE}x type bridge_slave learning off\n",
    "bridge -batch -": rf"(?:fdb (?:append|replace) {_MAC} dev {_BRIDGE}x (?:dst {_ADDRESS}|master static sticky)\n)*",
}
_UP = re.compile(rf"ip link set {_BRIDGE}x up")
_SHAPE = network_hook.rules("vc0123456789", 7, ["10.0.0.1"])


def _text(values: SearchStrategy[str]) -> SearchStrategy[str]:
    """Mostly such values, now and then anything that XML can hold."""
    return st.one_of(values, values, values, st.text(max_size=40)).map(
        lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    )


def _attributes(**values: SearchStrategy[str]) -> SearchStrategy[str]:
    some = st.fixed_dictionaries({}, optional={name: _text(value) for name, value in values.items()})
    return some.map(lambda found: "".join(f' {name}="{value}"' for name, value in found.items()))


_BYTE = st.integers(0, 300).map(str)
_addresses = st.lists(_BYTE, min_size=3, max_size=5).map(".".join)
_macs = st.one_of(
    st.just("52:54:0a:00:00:01"), st.from_regex(r"[0-9a-f]{1,2}(:[0-9a-g]{2}){4,6}", fullmatch=True)
)
_peers = _attributes(address=_addresses, macs=st.lists(_macs, max_size=4).map(" ".join)).map(
    "<peer{}/>".format
)
_numbers = st.one_of(
    st.integers(-5, 1 << 25).map(str), st.sampled_from(["", "7", "٧", "0x7", "1_0", "9" * 5000])
)
_bridges = st.sampled_from(
    ["vc0123456789", "vc0123456789", "virbr0", "", "vc012345678", "vc0123456789; reboot"]
)


@st.composite
def _networks(draw: Callable[[SearchStrategy[Any]], Any]) -> str:
    end = draw(_attributes(number=_numbers, address=_addresses, vni=_numbers, local=_addresses))
    peers = "".join(draw(st.lists(_peers, max_size=4)))
    segment = f'<segment xmlns="https://vclust.invalid/segment"{end}>{peers}</segment>'
    name = draw(_text(_bridges))
    metadata = draw(st.sampled_from([f"<metadata>{segment}</metadata>", segment, "<metadata/>", ""]))
    bridge = draw(st.sampled_from([f'<bridge name="{name}"/>', "<bridge/>", ""]))
    depth = draw(st.sampled_from([1, 1, 1, 0, 500]))
    return f"{'<hookData>' * depth}<network>{metadata}{bridge}</network>{'</hookData>' * depth}"


def _hook(text: str) -> None:
    """Refused in a short line, or every command has checked values only."""

    def run(*argv: str, text: str = "") -> None:
        command = " ".join(argv)
        if command in _COMMANDS:
            assert re.fullmatch(_COMMANDS[command], text), f"{command}: {text!r}"
            if command == "nft -f -" and "ip saddr" in text:
                # One statement more would be one line more.
                assert len(text.splitlines()) == len(_SHAPE.splitlines()), text
        else:
            assert _UP.fullmatch(command), command

    try:
        end = network_hook.segment(text)
        if end is not None:
            network_hook.connect(end, run)
            network_hook.disconnect(end, run)
    except network_hook.REFUSALS as error:
        line = network_hook.reason(error)
        assert len(line) <= 1000
        assert line.isprintable()


CASES: dict[str, tuple[SearchStrategy[Any], Callable[[Any], None]]] = {
    "network hook: networks": (_networks(), _hook),
    "network hook: anything": (st.text(max_size=200), _hook),
}
