"""The single values of a request: text in, checked value out, and back.

Everything that later reaches file names, libvirt XML, shells or apt passes one of the patterns here, so no
value can carry anything else (quotes, newlines, `../`, options).  They match the whole text, and ASCII only.
"""

import base64
import binascii
import re
from collections.abc import Callable
from ipaddress import IPv4Network
from typing import TypeVar

from vclust_py.system_names import PREFIXES, SYSTEM_NAMES
from vclust_py.text import plain

T = TypeVar("T")

MAX_NODES = 4096
MAX_CPUS = 1024
MIN_RAM, MAX_RAM = 256 * 10**6, 16 * 10**12
MIN_DISK, MAX_DISK = 3 * 10**9, 64 * 10**12
"""A node's disk lies over the base image, which is as large as the minimum."""
MIN_LEASE, MAX_LEASE = 60, 366 * 86400
MAX_HOST_NAME = 63

# GB is 10^9 and GiB 2^30, as SI and IEC have it.  Largest first: the order `size_text` tries them in.
_SIZES = {
    "TiB": 2**40, "TB": 10**12, "GiB": 2**30, "GB": 10**9, "MiB": 2**20, "MB": 10**6,
    "KiB": 2**10, "KB": 10**3, "B": 1,
}  # fmt: skip
_SPEEDS = {"GHz": 10**9, "MHz": 10**6}
_TIMES = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_ARCHITECTURES = {"x86": "amd64", "x86_64": "amd64", "amd64": "amd64", "arm64": "arm64", "aarch64": "arm64"}

_HASHES = (
    re.compile(r"\$6\$(rounds=[1-9][0-9]{3,8}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{86}"),
    re.compile(r"\$5\$(rounds=[1-9][0-9]{3,8}\$)?[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{43}"),
    re.compile(r"\$(y|gy)\$[./0-9A-Za-z]{1,16}\$[./0-9A-Za-z]{1,86}\$[./0-9A-Za-z]{43}"),
    re.compile(r"\$2[aby]\$[0-3][0-9]\$[./0-9A-Za-z]{53}"),
    re.compile(r"\*"),
)

_KEY_TYPES = (
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
)
_MAX_KEY = 8192

# What a node's own address must not be: this host, loopback, link-local, multicast, reserved and broadcast.
_NOT_FOR_NODES = {
    "0.0.0.0/8": "this-network",
    "127.0.0.0/8": "loopback",
    "169.254.0.0/16": "link-local",
    "224.0.0.0/4": "multicast",
    "240.0.0.0/4": "reserved",
}


class Wrong(Exception):
    """The text is not such a value; `expected` says what would be one."""

    def __init__(self, expected: str) -> None:
        self.expected = expected
        super().__init__(expected)


def shown(text: str, limit: int = 60) -> str:
    """`text` in quotes, fit for one line of a terminal: control characters escaped, long text cut."""
    cut = plain(text[:limit], 10 * limit)  # no character takes more
    return f"'{cut}'" if len(text) <= limit else f"'{cut}…' ({len(text)} characters)"


def shown_user(text: str) -> str:
    """A `User` value without what may be its password."""
    name, colon, _ = text.partition(":")
    return shown(name.partition("$")[0] + ("…" if colon or "$" in name else ""))


def _matching(pattern: str, expected: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)

    def parse(text: str) -> str:
        if not compiled.fullmatch(text):
            raise Wrong(expected)
        return text

    return parse


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        # Nothing longer reaches int(): Python refuses very long numbers with an error of its own.
        if not re.fullmatch(r"0|[1-9][0-9]{0,11}", text) or not low <= int(text) <= high:
            raise Wrong(f"a whole number from {low} to {high}")
        return int(text)

    return parse


def choice(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise Wrong(" or ".join(words))
        return text.lower()

    return parse


def _quantity(text: str, units: dict[str, int]) -> int | None:
    """`2.5GB` as a whole number of the basic unit, fractions of it cut off; None if it is no such thing."""
    found = re.fullmatch(r"([0-9]{1,15})(?:\.([0-9]{1,9}))? ?([A-Za-z]{1,3})", text)
    if not found:
        return None
    factor = {name.lower(): value for name, value in units.items()}.get(found[3].lower())
    if factor is None:
        return None
    fraction = found[2] or "0"
    return int(found[1]) * factor + int(int(fraction) * factor // 10 ** len(fraction))


def size(low: int, high: int, example: str) -> Callable[[str], int]:
    """Bytes."""

    def parse(text: str) -> int:
        value = _quantity(text, _SIZES)
        if value is None or not low <= value <= high:
            raise Wrong(f"a size such as {example}, from {size_text(low)} to {size_text(high)}")
        return value

    return parse


def speed(text: str) -> int:
    """Hz."""
    value = _quantity(text, _SPEEDS)
    if value is None or not 10**6 <= value <= 10**11:
        raise Wrong("a speed such as 3GHz or 2400MHz, from 1MHz to 100GHz")
    return value


def lease(text: str) -> int:
    """Seconds."""
    value = _quantity(text, _TIMES)
    if value is None or not MIN_LEASE <= value <= MAX_LEASE:
        raise Wrong("a time such as 30m, 8h or 2d, from 1m to 366d")
    return value


def _text(value: int, units: dict[str, int]) -> str:
    """`value` in the largest unit that holds it without a fraction."""
    return next(f"{value // factor}{name}" for name, factor in units.items() if value % factor == 0)


def size_text(value: int) -> str:
    return _text(value, _SIZES)


def speed_text(value: int) -> str:
    # A speed is written in MHz with a fraction where it must be: 2.4GHz is 2400MHz, 1.5MHz is 1.5MHz.
    if value % 10**6 == 0:
        return _text(value, _SPEEDS)
    return f"{value // 10**6}.{value % 10**6:06d}MHz"


def lease_text(value: int) -> str:
    return _text(value, _TIMES)


def architecture(text: str) -> str:
    """Debian's name of the architecture."""
    try:
        return _ARCHITECTURES[text.lower()]
    except KeyError:
        raise Wrong("x86 (or x86_64) or arm64") from None


def architecture_text(value: str) -> str:
    return "x86" if value == "amd64" else value


cluster_name = _matching(
    r"[a-z]([a-z0-9-]{0,29}[a-z0-9])?",
    "up to 31 of a-z, 0-9 and '-', beginning with a letter and not ending with '-'",
)
suite = _matching(r"[a-z][a-z0-9-]{0,40}", "a Debian suite such as bookworm")
kernel = _matching(
    r"linux-image-[a-z0-9][a-z0-9+.-]{0,80}[a-z0-9]", "a kernel package such as linux-image-amd64"
)
site = _matching(r"[a-z][a-z0-9_]{0,40}", "any or a site's name")
meta_package = _matching(r"[a-z][a-z0-9-]{0,40}", "the name of a meta package such as mpi")

_package = _matching(r"[a-z0-9][a-z0-9+.-]{0,120}[a-z0-9+]", "")


def package(text: str) -> str:
    """A name as Debian policy 5.6.7 has it; also no `-` at its end, which apt takes for removal.

    A `+` at the end stays, real packages have it (g++, ncbi-blast+): `resolve` compares with the index.
    """
    try:
        return _package(text)
    except Wrong:
        raise Wrong("the name of a Debian package, without version, suite or option") from None


def host_name(text: str) -> str:
    """A pattern with one `%d` or `%02d` for the node's number."""
    if len(text) > MAX_HOST_NAME or not re.fullmatch(
        r"[a-z][a-z0-9-]*%(0[1-9])?d([a-z0-9-]*[a-z0-9])?", text
    ):
        raise Wrong(
            "a host-name pattern such as vc%02d: a-z, 0-9 and '-', beginning with a letter, "
            "with exactly one %d or %02d so that every node gets its own name"
        )
    return text


def network(text: str) -> IPv4Network:
    example = "a network such as 192.168.10.0/24"
    if not re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,3}){3}/[0-9]{1,2}", text):
        raise Wrong(example)
    try:
        value = IPv4Network(text, strict=False)
    except ValueError:
        raise Wrong(example) from None
    for forbidden, why in _NOT_FOR_NODES.items():
        if value.overlaps(IPv4Network(forbidden)):
            raise Wrong(f"{example} ({forbidden} is {why} and not for nodes)")
    if str(value.network_address) != text.partition("/")[0]:
        raise Wrong(f"a network; this is a host's address in {value}")
    return value


def user(text: str) -> tuple[str, str]:
    """Name and crypt(5) hash."""
    name, colon, password_hash = text.partition(":")
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,30}", name):
        raise Wrong("name:hash, the name up to 31 of a-z, 0-9, '_' and '-', beginning with a letter")
    if name in SYSTEM_NAMES or name.startswith(PREFIXES):
        raise Wrong("a name that Debian does not use for an account or a group of its own")
    if not colon or not any(pattern.fullmatch(password_hash) for pattern in _HASHES):
        raise Wrong(
            "name:hash, the hash as crypt(5) has it with yescrypt, SHA-512, SHA-256 or bcrypt "
            "(made with: openssl passwd -6), or * for login by key only"
        )
    return name, password_hash


def ssh_key(text: str) -> tuple[str, str]:
    """User and public key: type, data and, where it is there, a comment."""
    form = "user:key, the key as one line of an OpenSSH .pub file"
    name, colon, key = text.partition(":")
    if not colon or len(key) > _MAX_KEY:
        raise Wrong(form)
    words = key.strip(" \t").split(maxsplit=2)
    if len(words) < 2 or words[0] not in _KEY_TYPES:
        raise Wrong(f"{form}, of type {', '.join(_KEY_TYPES[:3])}, …")
    try:
        data = base64.b64decode(words[1].encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise Wrong(f"{form}; its data is not base64") from None
    # RFC 4253 6.6: the data begins with the length and name of the type, and more follows.
    head = len(words[0]).to_bytes(4, "big") + words[0].encode("ascii")
    if not data.startswith(head) or len(data) < len(head) + 32:
        raise Wrong(f"{form}; its data is not a whole {words[0]} key")
    if len(words) == 3 and not re.fullmatch(r"[A-Za-z0-9@._+:/-][A-Za-z0-9@._+:/ -]{0,99}", words[2]):
        raise Wrong(f"{form}; its comment may hold letters, digits, blanks and @ . _ + : / -")
    return name, " ".join(words)
