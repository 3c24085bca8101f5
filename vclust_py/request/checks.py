"""A `Reading` becomes a `Request`: each value by its type, then what only several together can get wrong.

All mistakes of a request are told at once, each as `file:line: Key: got '…', expected …`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vclust_py.request import values
from vclust_py.request.accounts import shown_user
from vclust_py.request.keys import Key
from vclust_py.request.model import BY_YAML, SECTIONS, Hardware, Request, Software
from vclust_py.request.reading import Entry, Reading


def checked(reading: Reading) -> Request:
    """The request.  Raises RequestError with all problems, those of the reading too."""
    checker = _Checker(reading)
    hardware = Hardware(**checker.section("hardware"))
    software = Software(**checker.section("software"))
    _check_relations(checker, hardware, software)
    reading.fail_if_wrong()
    return Request(hardware, software)


class _Checker:
    """Turns entries into values, collecting every mistake."""

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.failed: set[str] = set()
        """Keys whose value is wrong, by their YAML names: not to be related to others."""

    def section(self, name: str) -> dict[str, Any]:
        """Values by the fields of the section's dataclass; the default stands for a wrong one."""
        by_key: dict[str, Any] = {}
        for key in SECTIONS[name]:
            default = self._name() if key.yaml == "name" else key.absent(by_key)
            if key.required and not key.unset and key.yaml not in self.reading.entries:
                self.conflict(key.yaml, f"got nothing, expected {key.kind.expected}")
            by_key[key.yaml] = self._value(key, default)
        return {key.field: by_key[key.yaml] for key in SECTIONS[name]}

    def problem(self, name: str, entry: Entry, expected: str) -> None:
        self.failed.add(name)
        secret = BY_YAML[name].kind.secret
        got = shown_user(entry.text) if secret else values.shown(entry.text)
        self.reading.problem(entry.line, entry.label, f"got {got}, expected {expected}")

    def conflict(self, name: str, text: str) -> None:
        """A value that is not there, or is well formed but does not go with the others."""
        self.failed.add(name)
        line, label = self.reading.place(BY_YAML[name])
        self.reading.problem(line, label, text)

    def _value(self, key: Key, default: Any) -> Any:
        entries = self.reading.entries.get(key.yaml, [])
        if key.words:
            entries = [
                Entry(word, entry.line, entry.label)
                for entry in entries
                # No name has a comma: who writes one means the blank.
                for word in entry.text.replace(",", " ").split()
            ]
        parsed = self._parsed(key, entries)
        if key.words:
            return tuple(dict.fromkeys(value for _, value in parsed))
        if key.repeated:
            return self._each_once(key, parsed)
        return parsed[0][1] if parsed else default

    def _parsed(self, key: Key, entries: list[Entry]) -> list[tuple[Entry, Any]]:
        parsed = []
        for entry in entries:
            try:
                parsed.append((entry, key.kind.parse(entry.text)))
            except values.Wrong as wrong:
                self.problem(key.yaml, entry, wrong.expected)
        return parsed

    def _each_once(self, key: Key, parsed: list[tuple[Entry, Any]]) -> tuple[Any, ...]:
        different: dict[object, Any] = {}
        for entry, value in parsed:
            identity = getattr(value, key.unique) if key.unique else value
            if identity in different:
                self.problem(key.yaml, entry, "each only once")
            different.setdefault(identity, value)
        return tuple(different.values())

    def _name(self) -> str:
        """Where none is given: of the file's name; a variable has no file and must say it."""
        stem = Path(self.reading.source).stem.lower().replace("_", "-").replace(".", "-").replace(" ", "-")
        from_file = "" if self.reading.form == "variable" else stem
        if "name" not in self.reading.entries:
            try:
                return values.cluster_name(from_file)
            except values.Wrong as wrong:
                because = (
                    f" (the file's name {values.shown(from_file)} does not make one)" if from_file else ""
                )
                self.conflict("name", f"got nothing{because}, expected {wrong.expected}")
        return "x"  # stands in for a name until the mistakes are told


def _check_relations(checker: _Checker, hardware: Hardware, software: Software) -> None:
    """What only several values together can get wrong."""
    for check, keys in _RELATIONS:
        if not checker.failed & keys:
            check(checker, hardware, software)


def _min_nodes(checker: _Checker, hardware: Hardware, software: Software) -> None:
    nodes, least = hardware.number_of_nodes, hardware.min_nodes
    if least > nodes:
        checker.conflict("min_nodes", f"got '{least}', expected at most the number of nodes, {nodes}")


def _network(checker: _Checker, hardware: Hardware, software: Software) -> None:
    nodes, usable = hardware.number_of_nodes, software.network.num_addresses - 2
    if usable < nodes + 2:
        checker.conflict(
            "network",
            f"got '{software.network}' with {max(usable, 0)} usable addresses, "
            f"expected {nodes + 2} at least ({nodes} nodes, the router, one spare)",
        )


def _host_names(checker: _Checker, hardware: Hardware, software: Software) -> None:
    longest = len(software.hostname % hardware.number_of_nodes)
    if longest > values.MAX_HOST_NAME:
        checker.conflict(
            "hostname",
            f"got {values.shown(software.hostname)}, which makes names of {longest} characters, "
            f"expected at most {values.MAX_HOST_NAME}",
        )


def _key_owners(checker: _Checker, hardware: Hardware, software: Software) -> None:
    users = sorted(user.name for user in software.users)
    expected = f"one of the request's users: {', '.join(users)}" if users else "a User of that name"
    for entry in checker.reading.entries.get("ssh_keys", []):
        if entry.text.partition(":")[0] not in users:
            checker.problem("ssh_keys", entry, expected)


_RELATIONS: tuple[tuple[Callable[[_Checker, Hardware, Software], None], set[str]], ...] = (
    (_min_nodes, {"number_of_nodes", "min_nodes"}),
    (_network, {"number_of_nodes", "network"}),
    (_host_names, {"number_of_nodes", "hostname", "name"}),
    (_key_owners, {"users"}),
)
"""Each relation, and the keys whose values it needs."""
