"""Types of values: what a user may write, the checked value, and back to text.

Everything that later reaches file names, libvirt XML, shells or apt passes one of the patterns here, so no
value can carry anything else (quotes, newlines, `../`, options).  They match the whole text, and ASCII only.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, Generic, TypeVar

from vclust_py.text import plain

T = TypeVar("T")

MAX_NODES = 4096
MAX_CPUS = 1024
MIN_RAM, MAX_RAM = 256 * 10**6, 16 * 10**12
MIN_DISK, MAX_DISK = 3 * 10**9, 64 * 10**12
"""A node's disk lies over the base image, which is as large as the minimum."""
MIN_LEASE, MAX_LEASE = 60, 366 * 86400
MAX_HOST_NAME = 63

# GB is 10^9 and GiB 2^30, as SI and IEC have it.  Largest first: the order `_text` tries them in.
_SIZES = {
    "TiB": 2**40, "TB": 10**12, "GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6,
    "KiB": 2**10, "KB": 10**3, "B": 1,
}  # fmt: skip
_SPEEDS = {"GHz": 10**9, "MHz": 10**6}
_TIMES = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_ARCHITECTURES = {"x86": "amd64", "x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}

# What a node's own address must not be: this host, loopback, link-local, multicast, reserved and broadcast.
_NOT_FOR_NODES = {
    IPv4Network("0.0.0.0/8"): "this-network",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}


class Wrong(Exception):
    """The text is not such a value; `expected` says what would be one."""

    def __init__(self, expected: str) -> None:
        self.expected = expected
        super().__init__(expected)


def _same(value: Any) -> Any:
    return value


@dataclass(frozen=True, eq=False)
class Kind(Generic[T]):
    """One type of value.  Calling it parses."""

    parse: Callable[[str], T]
    """The value of a user's text.  Raises Wrong."""
    schema: Mapping[str, Any]
    """What `parse` accepts, as JSON schema has it; `parse` may be stricter, and takes words in capitals too."""
    write: Callable[[T], Any] = _same
    """The canonical form: plain data that `parse` accepts, or a mapping of `parts`."""
    restore: Callable[[Any], T] = _same
    """The value of a canonical form that `write` has made.  Trusts it: no limit, pattern or list is looked at."""
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Keys of the mapping that `write` makes, with their JSON schemas; as text, their values are joined by ':'."""
    secret: str = ""
    """The part that no log and no message may show."""

    def __call__(self, text: str) -> T:
        return self.parse(text)

    @property
    def expected(self) -> str:
        """What `parse` says of an empty text, which is no value of any type."""
        try:
            self.parse("")
        except Wrong as wrong:
            return wrong.expected
        raise AssertionError("a type that takes an empty text")


def shown(text: str, limit: int = 60) -> str:
    """`text` in quotes, fit for one line of a terminal: control characters escaped, long text cut."""
    cut = plain(text[:limit], 10 * limit)  # no character takes more
    return f"'{cut}'" if len(text) <= limit else f"'{cut}…' ({len(text)} characters)"


# Makers of types ------------------------------------------------------------------------------------------


def _text_schema(pattern: str) -> dict[str, Any]:
    return {"type": "string", "pattern": f"^({pattern})$"}


def _matching(pattern: str, expected: str) -> Kind[str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Wrong(expected)
        return text

    return Kind(parse, _text_schema(pattern))


def whole(low: int, high: int) -> Kind[int]:
    # Nothing longer reaches int(): Python refuses very long numbers with an error of its own.
    pattern = "0|[1-9][0-9]{0,11}"

    def parse(text: str) -> int:
        if not re.fullmatch(pattern, text) or not low <= int(text) <= high:
            raise Wrong(f"a whole number from {low} to {high}")
        return int(text)

    limits = {"type": ["integer", "string"], "minimum": low, "maximum": high, "pattern": f"^({pattern})$"}
    return Kind(parse, limits)


def choice(*words: str) -> Kind[str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise Wrong(" or ".join(words))
        return text.lower()

    return Kind(parse, {"enum": list(words)})


def _quantity(
    units: Mapping[str, int], low: int, high: int, expected: str, write: Callable[[int], str]
) -> Kind[int]:
    """A number with a unit, such as `2.5GB`, as a whole number of the basic unit; fractions of it are cut off."""
    factors = {name.lower(): factor for name, factor in units.items()}

    def restore(text: str) -> int:
        match = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,9}))? ?([A-Za-z]{1,3})", text)
        if not match or match[3].lower() not in factors:
            raise ValueError(f"{text!r} has none of the units {', '.join(units)}")
        factor, fraction = factors[match[3].lower()], match[2] or "0"
        return int(match[1]) * factor + int(fraction) * factor // int(10 ** len(fraction))

    def parse(text: str) -> int:
        try:
            value = restore(text)
        except ValueError:
            unit = "; its unit is missing" if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) else ""
            raise Wrong(f"{expected}{unit}") from None
        if not low <= value <= high:
            raise Wrong(expected)
        return value

    any_case = ["".join(f"[{letter.upper()}{letter.lower()}]" for letter in name) for name in units]
    pattern = rf"[0-9]{{1,15}}(\.[0-9]{{1,9}})? ?({'|'.join(any_case)})"
    return Kind(parse, _text_schema(pattern), write, restore)


def _text(value: int, units: Mapping[str, int]) -> str:
    """`value` in the largest unit that holds it without a fraction."""
    return next(f"{value // factor}{name}" for name, factor in units.items() if value % factor == 0)


def size_text(value: int) -> str:
    return _text(value, _SIZES)


def _speed_text(value: int) -> str:
    # A speed is written in MHz with a fraction where it must be: 2.4GHz is 2400MHz, 1.5MHz is 1.5MHz.
    if value % 10**6 == 0:
        return _text(value, _SPEEDS)
    return f"{value // 10**6}.{value % 10**6:06d}MHz"


def _lease_text(value: int) -> str:
    return _text(value, _TIMES)


def size(low: int, high: int, example: str) -> Kind[int]:
    """Bytes."""
    expected = f"a size such as {example}, from {size_text(low)} to {size_text(high)}"
    return _quantity(_SIZES, low, high, expected, size_text)


# Types of single keys -------------------------------------------------------------------------------------

speed = _quantity(_SPEEDS, 10**6, 10**11, "a speed such as 3GHz or 2400MHz, from 1MHz to 100GHz", _speed_text)
"""Hz."""
lease = _quantity(_TIMES, MIN_LEASE, MAX_LEASE, "a time such as 30m, 8h or 2d, from 1m to 366d", _lease_text)
"""Seconds."""


def or_zero(kind: Kind[int]) -> Kind[int]:
    """As `kind`, or 0, which stands for never."""

    def parse(text: str) -> int:
        if text == "0":
            return 0
        try:
            return kind.parse(text)
        except Wrong as wrong:
            raise Wrong(f"{wrong.expected}, or 0") from None

    schema = {"anyOf": [dict(kind.schema), {"const": 0}]}
    return Kind(parse, schema, write=lambda value: kind.write(value) if value else 0)


def _parse_architecture(text: str) -> str:
    try:
        return _ARCHITECTURES[text.lower()]
    except KeyError:
        raise Wrong("x86 (or x86_64) or arm64") from None


architecture = Kind(
    _parse_architecture,
    {"enum": list(_ARCHITECTURES)},
    write=lambda value: "x86" if value == "amd64" else value,
    restore=lambda text: _ARCHITECTURES.get(text, text),
)
"""Debian's name of the architecture."""

cluster_name = _matching(
    r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?",
    "up to 31 of a-z, 0-9 and '-', beginning with a letter and not ending with '-'",
)
volume_name = _matching(
    "[a-z]([a-z0-9-]{0,29}[a-z0-9])?",
    "the name of a volume: a-z, 0-9 and '-', 31 at most, beginning with a letter",
)
suite = _matching(r"[a-z][a-z0-9-]{0,40}", "a Debian suite such as bookworm")
kernel = _matching(
    r"linux-image-[a-z0-9][a-z0-9+.-]{0,80}[a-z0-9]", "a kernel package such as linux-image-amd64"
)
site = _matching(r"[a-z][a-z0-9_]{0,40}", "any or a site's name")
meta_package = _matching(r"[a-z][a-z0-9-]{0,40}", "the name of a meta package such as mpi")
package = _matching(
    r"[a-z0-9][a-z0-9+.-]{0,120}[a-z0-9+]",
    "the name of a Debian package, without version, suite or option",
)
"""A name as Debian policy 5.6.7 has it; also no `-` at its end, which apt takes for removal.

A `+` at the end stays, real packages have it (g++, ncbi-blast+): `resolve` compares with the index.
"""

_HOST_NAME = r"[a-z][a-z0-9-]*%(0[1-9])?d([a-z0-9-]*[a-z0-9])?"


def _parse_host_name(text: str) -> str:
    if len(text) > MAX_HOST_NAME or not re.fullmatch(_HOST_NAME, text):
        raise Wrong(
            "a host-name pattern such as vc%02d: a-z, 0-9 and '-', beginning with a letter, "
            "with exactly one %d or %02d so that every node gets its own name"
        )
    return text


host_name = Kind(_parse_host_name, {**_text_schema(_HOST_NAME), "maxLength": MAX_HOST_NAME})
"""A pattern with one `%d` or `%02d` for the node's number."""

_NETWORK = r"[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}"


def _parse_network(text: str) -> IPv4Network:
    example = "a network such as 192.168.10.0/24"
    if not re.fullmatch(_NETWORK, text):
        raise Wrong(example)
    try:
        value = IPv4Network(text, strict=False)
    except ValueError:
        raise Wrong(example) from None
    for forbidden, why in _NOT_FOR_NODES.items():
        if value.overlaps(forbidden):
            raise Wrong(f"{example} ({forbidden} is {why} and not for nodes)")
    if str(value.network_address) != text.partition("/")[0]:
        raise Wrong(f"a network; this is a host's address in {value}")
    return value


network = Kind(_parse_network, _text_schema(_NETWORK), write=str, restore=IPv4Network)
