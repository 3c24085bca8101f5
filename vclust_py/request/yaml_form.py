"""The YAML form of a request, read into a `Reading`; and which YAML is plain enough to be read at all."""

import itertools
from collections.abc import Iterator

import yaml

from vclust_py.request import tree
from vclust_py.request.reading import MAX_PROBLEMS, Reading
from vclust_py.request.tree import MAX_DEPTH, Node
from vclust_py.request.values import shown

_MAX_EVENTS = 20_000
"""Values, and beginnings and ends of lists, in YAML: a list of all packages of a large cluster has a tenth of it."""


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
    return tree.read(reading, Node("nothing", 1) if root is None else _from_yaml(root))


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
        if depth > MAX_DEPTH:
            yield line, f"{depth} levels, expected at most {MAX_DEPTH}"
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
