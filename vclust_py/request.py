"""The request (the paper's 2.1 and 4.2, Figure 4): what a user asks for, checked, as one frozen `Request`.

`load` takes the INI and the YAML form, `from_mapping` the same mapping as an Ansible variable.  All mistakes
of a request are told at once, each as `file:line: Key: got '…', expected …`.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, TypeVar

import yaml

from vclust_py import request_forms as forms
from vclust_py import request_values as values
from vclust_py.errors import RequestError

T = TypeVar("T")
Parse = Callable[[str], T]

DEFAULT_NETWORK = IPv4Network("192.168.77.0/24")
DEFAULT_RAM = 512 * 10**6
DEFAULT_DISK = 4 * 10**9


@dataclass(frozen=True)
class User:
    name: str
    password_hash: str
    """As crypt(5) has it; `*` where the user logs in by key only."""


@dataclass(frozen=True)
class SSHKey:
    user: str
    key: str
    """One line of an authorized_keys file: type, data, comment; no options."""


@dataclass(frozen=True)
class Hardware:
    """Of each node; `ram` and `disk` in bytes, `cpu_speed` (the least a host may have) in Hz."""

    number_of_nodes: int
    architecture: str
    cpu_speed: int | None
    cpus: int
    ram: int
    disk: int
    spread: str
    min_nodes: int


@dataclass(frozen=True)
class Software:
    """`hostname` is a pattern with one %d; `lease` in seconds; None stands for the site's default."""

    name: str
    users: tuple[User, ...]
    ssh_keys: tuple[SSHKey, ...]
    hostname: str
    network: IPv4Network
    packages: tuple[str, ...]
    meta_packages: tuple[str, ...]
    suite: str | None
    kernel: str | None
    lease: int | None
    site: str
    install: str


@dataclass(frozen=True)
class Request:
    hardware: Hardware
    software: Software

    @property
    def name(self) -> str:
        return self.software.name

    @cached_property
    def hostnames(self) -> tuple[str, ...]:
        """Of the nodes, counted from 1."""
        return tuple(
            self.software.hostname % number for number in range(1, self.hardware.number_of_nodes + 1)
        )

    @cached_property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Of the nodes: the network's first ones.

        One at least between them and the router is spare, for a node that replaces a failed one.
        """
        first = self.software.network.network_address + 1
        return tuple(first + index for index in range(self.hardware.number_of_nodes))

    @property
    def router(self) -> IPv4Address:
        """The cluster's router: the network's last usable address."""
        return self.software.network.broadcast_address - 1

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the canonical mapping: equal for requests that mean the same."""
        text = json.dumps(to_mapping(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("ascii")).hexdigest()


def read(path: Path) -> Request:
    """The request in the file `path`.  Raises RequestError, also for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(4 * forms.MAX_TEXT + 1)  # UTF-8 takes up to four bytes; more need not be read
    except OSError as error:
        raise RequestError(
            [f"{path}: got {error.strerror}, expected a request file that can be read"]
        ) from error
    try:
        return load(data.decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestError(
            [f"{path}:{line}: file: got byte 0x{data[error.start]:02x}, expected UTF-8"]
        ) from error


def load(text: str, source: str) -> Request:
    """The request in `text`, INI or YAML; `source` is the file's name, which also names the cluster."""
    return _request(forms.read(text, source))


def from_mapping(mapping: Mapping[str, Any], source: str) -> Request:
    """The request in a mapping of the YAML form; `source` is the variable's name, for messages."""
    return _request(forms.read_mapping(mapping, source))


class _Taker:
    """Turns what a reading gives into values, collecting every mistake."""

    def __init__(self, reading: forms.Reading) -> None:
        self.reading = reading
        self.failed: set[str] = set()

    def problem(self, name: str, given: forms.Given, expected: str) -> None:
        self.failed.add(name)
        secret = name == "users"
        got = values.shown_user(given.text) if secret else values.shown(given.text)
        self.reading.problem(given.line, given.label, f"got {got}, expected {expected}")

    def conflict(self, name: str, text: str) -> None:
        """A value that is well formed but does not go with the others."""
        self.failed.add(name)
        line, label = self.reading.place(forms.BY_YAML[name])
        self.reading.problem(line, label, text)

    def one(self, name: str, parse: Parse[T], default: T) -> T:
        """A wrong value yields the default too: see `failed` before relating it to others."""
        taken = [value for _, value in self._parsed(name, self.reading.given.get(name, []), parse)]
        return taken[0] if taken else default

    def many(self, name: str, parse: Parse[T], key: Callable[[T], object]) -> tuple[T, ...]:
        """Values of a repeatable key; two with the same `key` are a mistake."""
        taken: dict[object, T] = {}
        for given, value in self._parsed(name, self.reading.given.get(name, []), parse):
            if key(value) in taken:
                self.problem(name, given, "each only once")
            taken.setdefault(key(value), value)
        return tuple(taken.values())

    def words(self, name: str, parse: Parse[str]) -> tuple[str, ...]:
        """Words separated by blanks, without repetitions, in their order."""
        split = [
            forms.Given(word, given.line, given.label)
            for given in self.reading.given.get(name, [])
            for word in given.text.split()
        ]
        return tuple(dict.fromkeys(value for _, value in self._parsed(name, split, parse)))

    def _parsed(self, name: str, given: list[forms.Given], parse: Parse[T]) -> list[tuple[forms.Given, T]]:
        parsed = []
        for one in given:
            try:
                parsed.append((one, parse(one.text)))
            except values.Wrong as wrong:
                self.problem(name, one, wrong.expected)
        return parsed


def _request(reading: forms.Reading) -> Request:
    take = _Taker(reading)
    hardware = _hardware(take)
    software = _software(take)
    _relations(take, hardware, software)
    reading.fail_if_wrong()
    return Request(hardware, software)


def _hardware(take: _Taker) -> Hardware:
    count = values.whole(1, values.MAX_NODES)
    if "number_of_nodes" not in take.reading.given:
        take.conflict("number_of_nodes", f"got nothing, expected a whole number from 1 to {values.MAX_NODES}")
    nodes = take.one("number_of_nodes", count, 1)
    return Hardware(
        number_of_nodes=nodes,
        architecture=take.one("cpu_arch", values.architecture, "amd64"),
        cpu_speed=take.one("cpu_speed", values.speed, None),
        cpus=take.one("cpus", values.whole(1, values.MAX_CPUS), 1),
        ram=take.one("ram", values.size(values.MIN_RAM, values.MAX_RAM, "2GB or 512MB"), DEFAULT_RAM),
        disk=take.one("disk", values.size(values.MIN_DISK, values.MAX_DISK, "8GB"), DEFAULT_DISK),
        spread=take.one("spread", values.choice("any", "hosts", "pack"), "any"),
        min_nodes=take.one("min_nodes", count, nodes),
    )


def _software(take: _Taker) -> Software:
    name = _name(take)
    return Software(
        name=name,
        users=take.many("users", lambda text: User(*values.user(text)), lambda user: user.name),
        ssh_keys=take.many("ssh_keys", lambda text: SSHKey(*values.ssh_key(text)), lambda key: key),
        hostname=take.one("hostname", values.host_name, f"{name}-%02d"),
        network=take.one("network", values.network, DEFAULT_NETWORK),
        packages=take.words("packages", values.package),
        meta_packages=take.words("meta_packages", values.meta_package),
        suite=take.one("suite", values.suite, None),
        kernel=take.one("kernel", values.kernel, None),
        lease=take.one("lease", values.lease, None),
        site=take.one("site", values.site, "any"),
        install=take.one("install", values.choice("auto", "each", "once"), "auto"),
    )


def _name(take: _Taker) -> str:
    """The name given, else the file's name; a variable has none and must say it."""
    stem = Path(take.reading.source).stem.lower().replace("_", "-").replace(".", "-").replace(" ", "-")
    from_file = "" if take.reading.form == "variable" else stem
    if "name" not in take.reading.given:
        try:
            return values.cluster_name(from_file)
        except values.Wrong as wrong:
            because = f" (the file's name {values.shown(from_file)} does not make one)" if from_file else ""
            take.conflict("name", f"got nothing{because}, expected {wrong.expected}")
    return take.one("name", values.cluster_name, "x")


def _relations(take: _Taker, hardware: Hardware, software: Software) -> None:
    """What only several values together can get wrong."""
    nodes = hardware.number_of_nodes
    if not take.failed & {"number_of_nodes", "min_nodes"} and hardware.min_nodes > nodes:
        take.conflict(
            "min_nodes", f"got '{hardware.min_nodes}', expected at most the number of nodes, {nodes}"
        )
    if not take.failed & {"number_of_nodes", "network"}:
        usable = software.network.num_addresses - 2
        if usable < nodes + 2:
            take.conflict(
                "network",
                f"got '{software.network}' with {max(usable, 0)} usable addresses, "
                f"expected {nodes + 2} at least ({nodes} nodes, the router, one spare)",
            )
    if not take.failed & {"number_of_nodes", "hostname", "name"}:
        longest = len(software.hostname % nodes)
        if longest > values.MAX_HOST_NAME:
            take.conflict(
                "hostname",
                f"got {values.shown(software.hostname)}, which makes names of {longest} characters, "
                f"expected at most {values.MAX_HOST_NAME}",
            )
    names = {user.name for user in software.users}
    if "users" not in take.failed:
        for given in take.reading.given.get("ssh_keys", []):
            name = given.text.partition(":")[0]
            if name not in names:
                known = (
                    f"one of the request's users: {', '.join(sorted(names))}"
                    if names
                    else "a User of that name"
                )
                take.problem("ssh_keys", given, known)


# Writing --------------------------------------------------------------------------------------------------


def to_mapping(request: Request) -> dict[str, Any]:
    """The canonical YAML form: every key that has a value, also where it is the default."""
    hard, soft = request.hardware, request.software
    hardware: dict[str, Any] = {
        "number_of_nodes": hard.number_of_nodes,
        "cpu_arch": values.architecture_text(hard.architecture),
        "cpu_speed": None if hard.cpu_speed is None else values.speed_text(hard.cpu_speed),
        "cpus": hard.cpus,
        "ram": values.size_text(hard.ram),
        "disk": values.size_text(hard.disk),
        "spread": hard.spread,
        "min_nodes": hard.min_nodes,
    }
    software: dict[str, Any] = {
        "name": soft.name,
        "users": [{"name": user.name, "password_hash": user.password_hash} for user in soft.users],
        "ssh_keys": [{"user": key.user, "key": key.key} for key in soft.ssh_keys],
        "hostname": soft.hostname,
        "network": str(soft.network),
        "packages": list(soft.packages),
        "meta_packages": list(soft.meta_packages),
        "suite": soft.suite,
        "kernel": soft.kernel,
        "lease": None if soft.lease is None else values.lease_text(soft.lease),
        "site": soft.site,
        "install": soft.install,
    }
    return {
        "hardware": {name: value for name, value in hardware.items() if value is not None},
        "software": {name: value for name, value in software.items() if value is not None},
    }


def to_yaml(request: Request) -> str:
    return yaml.safe_dump(to_mapping(request), sort_keys=False, width=2**30)


def to_ini(request: Request) -> str:
    mapping = to_mapping(request)
    lines: list[str] = []
    for section, content in mapping.items():
        lines.append(f"[{section.title()}]")
        for name, value in content.items():
            key = forms.BY_YAML[name]
            if key.parts:
                lines += [f"{key.ini}: {':'.join(item[part] for part in key.parts)}" for item in value]
            else:
                lines.append(f"{key.ini}: {' '.join(value) if key.words else value}")
    return "\n".join(lines) + "\n"


def stored(request: Request) -> dict[str, Any]:
    return to_mapping(request)


def from_stored(mapping: Mapping[str, Any]) -> Request:
    return from_mapping(mapping, "stored")
