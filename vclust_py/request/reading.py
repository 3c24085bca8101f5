"""What a form of a request gives for each key, with its places, and the mistakes found so far."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field

from vclust_py.errors import RequestError
from vclust_py.request.keys import Key
from vclust_py.request.values import shown

MAX_PROBLEMS = 100
"""Nobody reads more; whoever sends more only wants the time that it takes to find them."""


@dataclass(frozen=True)
class Entry:
    """One value as it stands in the file, and its place."""

    text: str
    line: int
    label: str


@dataclass
class Reading:
    """`entries` by the keys' YAML names."""

    source: str
    form: str
    """`INI`, `YAML` or `variable`."""
    entries: dict[str, list[Entry]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """Where each section begins: the place of a key that is not there."""
    problems: list[tuple[int, str]] = field(default_factory=list)

    def problem(self, line: int, label: str, text: str) -> None:
        """A variable has no lines; its problems carry the path alone."""
        place = self.source if self.form == "variable" else f"{self.source}:{line}"
        self.problems.append((line, f"{place}: {label}: {text}" if label else f"{place}: {text}"))

    def unknown(self, line: int, name: str, known: Sequence[str]) -> None:
        """`name` stands as label, as a known key's would; the nearest of the `known` ones is the hint."""
        near = nearest(name.rpartition(".")[2], known)
        expected = f"{near} (the nearest known key)" if near else f"one of {', '.join(known)}"
        self.problem(line, shown(name).strip("'"), f"got an unknown key, expected {expected}")

    def place(self, key: Key) -> tuple[int, str]:
        """Line and label of what is given for `key`, or of where it should have been."""
        entries = self.entries.get(key.yaml)
        if entries:
            return entries[0].line, entries[0].label
        label = key.ini if self.form == "INI" else f"{key.section}.{key.yaml}"
        return self.lines.get(key.section, 1), label

    def fail_if_wrong(self) -> None:
        if self.problems:
            raise RequestError([text for _, text in sorted(self.problems, key=lambda problem: problem[0])])


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The one of `known` that was probably meant; None where none is like it."""
    by_lower = {word.lower(): word for word in known}
    if len(name) > 3 and (end := next((word for word in by_lower if word.endswith(name.lower())), None)):
        return by_lower[end]  # `nodes` for NumberOfNodes
    near = difflib.get_close_matches(name.lower()[:100], by_lower, n=1, cutoff=0.5)
    return by_lower[near[0]] if near else None
