"""The YAML form of a request, as text or as an Ansible variable, read into a `Reading`.

Both become the same tree of `Node`s first.  What a value means is not looked at here.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import yaml

from vclust_py.request.keys import Key
from vclust_py.request.model import BY_YAML, SECTIONS
from vclust_py.request.reading import MAX_PROBLEMS, Entry, Reading
from vclust_py.request.values import shown

_MAX_DEPTH = 6
_MAX_EVENTS = 20_000
"""Values, and beginnings and ends of lists, in YAML: a list of all packages of a large cluster has a tenth of it."""

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


def read(text: str, source: str) -> Reading:
    reading = Reading(source, "YAML")
    try:
        for line, what in itertools.islice(beyond_plain(text), MAX_PROBLEMS):
            reading.problem(line, "YAML", f"got {what}")
        reading.fail_if_wrong()
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reading.problem(
            mark.line + 1 if mark else 1,
            "YAML",
            f"got {shown(error.problem or '')}, expected well-formed YAML",
        )
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        # PyYAML lets errors of chr() and int() through for some absurd escapes and directives.
        reading.problem(1, "YAML", f"got {shown(str(error))}, expected well-formed YAML")
    reading.fail_if_wrong()
    _read_tree(reading, Node("nothing", 1) if root is None else _from_yaml(root))
    return reading


def beyond_plain(text: str) -> Iterator[tuple[int, str]]:
    """Line and words for what no file of ours needs, and all can be turned against a reader: anchors, aliases, tags,
    deep nesting, very many values.  Raises as yaml.parse does.
    """
    depth = 0
    for number, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            yield line, f"{depth} levels, expected at most {_MAX_DEPTH}"
            return
        if number > _MAX_EVENTS:
            yield line, f"more than {_MAX_EVENTS} values, expected fewer"
            return
        if isinstance(event, yaml.NodeEvent) and event.anchor is not None:
            yield line, f"the anchor or alias {shown(event.anchor)}, expected plain values"
        tag = getattr(event, "tag", None)
        if tag is not None:
            yield line, f"the tag {shown(tag)}, expected plain values"


def _from_yaml(node: yaml.Node) -> Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return Node("list", line, items=tuple(_from_yaml(item) for item in node.value))
    if isinstance(node, yaml.MappingNode):
        return Node("map", line, pairs=tuple((_from_yaml(k), _from_yaml(v)) for k, v in node.value))
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return Node("nothing", line)
    return (
        Node("odd", line, text=f"the boolean {node.value}")
        if kind == "bool"
        else Node("text", line, node.value)
    )


def read_variable(tree: Node, source: str) -> Reading:
    """The reading of a variable, as `tree_of` has made a tree of it."""
    reading = Reading(source, "variable")
    _read_tree(reading, tree)
    return reading


def tree_of(value: object, depth: int = _MAX_DEPTH) -> Node:
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


def _read_tree(reading: Reading, root: Node) -> None:
    if root.kind == "nothing":
        return  # an empty file: what is missing is told key by key
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
