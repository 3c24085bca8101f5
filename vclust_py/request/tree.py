"""A request as a tree of values, which YAML and Ansible variables have in common, read into a `Reading`.

What a value means is not looked at here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vclust_py.request.keys import Key
from vclust_py.request.model import BY_YAML, SECTIONS
from vclust_py.request.reading import MAX_PROBLEMS, Entry, Reading
from vclust_py.request.values import shown

MAX_DEPTH = 6

# `user` for `users`: the names the INI form has for what is a list in YAML are understood here too.
_NAMES = {**BY_YAML, **{key.yaml.removesuffix("s"): key for key in BY_YAML.values() if key.repeated}}


@dataclass(frozen=True)
class Node:
    """A value of the tree with its line: text, list, map, nothing, or `odd` for what no key can take."""

    kind: str
    line: int
    text: str = ""
    items: tuple["Node", ...] = ()
    pairs: tuple[tuple["Node", "Node"], ...] = ()


def tree_of(value: object, depth: int = MAX_DEPTH) -> Node:
    """The tree of a mapping in the YAML form, as Ansible hands it over: plain, hashable, of limited depth."""
    if value is None:
        return Node("nothing", 0)
    if isinstance(value, str):
        return Node("text", 0, text=str(value))
    if isinstance(value, bool):
        return Node("odd", 0, text=f"the boolean {value}")
    if isinstance(value, int | float) and abs(value) < 10**30:
        return Node("text", 0, text=str(value))
    if depth > 0 and isinstance(value, Mapping):
        return Node("map", 0, pairs=tuple((tree_of(k, 0), tree_of(v, depth - 1)) for k, v in value.items()))
    if depth > 0 and isinstance(value, list | tuple):
        return Node("list", 0, items=tuple(tree_of(item, depth - 1) for item in value))
    return Node("odd", 0, text=f"a {type(value).__name__}")


def read(reading: Reading, root: Node) -> Reading:
    """Fill the reading from the tree, and return it."""
    if root.kind == "nothing":
        return reading  # an empty file: what is missing is told key by key
    for section, content in _pairs(reading, root, "", SECTIONS):
        reading.lines[section] = content.line
        if content.kind == "nothing":
            continue
        # Known under either name, shown under the canonical one.
        names = [name for name, key in _NAMES.items() if key.section == section]
        for name, value in _pairs(reading, content, section, names):
            key = _NAMES[name]
            if key.yaml in reading.entries:
                reading.problem(
                    value.line, f"{section}.{name}", f"got it beside {key.yaml}, expected one of the two"
                )
            elif value.kind != "nothing":
                reading.entries[key.yaml] = _values(reading, key, value, f"{section}.{name}")
    return reading


def _got(node: Node) -> str:
    return {"text": shown(node.text), "odd": node.text, "nothing": "nothing"}.get(node.kind, f"a {node.kind}")


def _pairs(reading: Reading, node: Node, label: str, names: Iterable[str]) -> list[tuple[str, Node]]:
    """The entries of a map under known names; anything else becomes a problem."""
    known = list(names)
    if node.kind != "map":
        reading.problem(node.line, label, f"got {_got(node)}, expected a mapping with {', '.join(known)}")
        return []
    values: dict[str, Node] = {}
    for key, value in node.pairs:
        if len(reading.problems) > MAX_PROBLEMS:
            break
        path = f"{label}.{key.text}" if label else key.text
        if key.kind != "text":
            reading.problem(key.line, label, f"got {_got(key)} as key, expected one of {', '.join(known)}")
        elif key.text not in known:
            reading.unknown(key.line, path, known)
        elif key.text in values:
            reading.problem(
                key.line, path, f"got it twice, expected it once (first in line {values[key.text].line})"
            )
        else:
            values[key.text] = value
    return list(values.items())


def _values(reading: Reading, key: Key, node: Node, label: str) -> list[Entry]:
    if node.kind == "list" and key.several:
        return [
            entry
            for index, item in enumerate(node.items)
            for entry in _value(reading, key, item, f"{label}[{index}]")
        ]
    return _value(reading, key, node, label)


def _value(reading: Reading, key: Key, node: Node, label: str) -> list[Entry]:
    if node.kind == "text":
        return [Entry(node.text, node.line, label)]
    if node.kind == "map" and key.kind.parts:
        # The INI form of the pair, so that one parser checks both; its patterns allow the first part no ':'.
        parts = dict(_pairs(reading, node, label, key.kind.parts))
        for part in key.kind.parts:
            value = parts.get(part, Node("nothing", node.line))
            if value.kind != "text":
                reading.problem(value.line, f"{label}.{part}", f"got {_got(value)}, expected text")
                return []
        return [Entry(":".join(parts[part].text for part in key.kind.parts), node.line, label)]
    hint = " (put it in quotes)" if node.kind == "odd" else ""
    reading.problem(node.line, label, f"got {_got(node)}, expected text or a number{hint}")
    return []
