"""The forms a request comes in (INI, YAML, Ansible variable), each read into the same `Reading`.

Only the form is looked at here: sections, keys, lines.  What a value means is `request`'s to say.
"""

import difflib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import yaml

from vclust_py.errors import RequestError
from vclust_py.request_values import shown

MAX_TEXT = 256 * 1024
"""A request is a page or two; 4096 characters of key for each of 60 users still fit."""
_MAX_DEPTH = 6
_MAX_EVENTS = 20_000
"""Values, and beginnings and ends of lists, in YAML: a list of all packages of a large cluster has a tenth of it."""
_MAX_PROBLEMS = 100
"""Nobody reads more; whoever sends more only wants the time that it takes to find them."""


@dataclass(frozen=True)
class Key:
    section: str
    ini: str
    yaml: str
    parts: tuple[str, ...] = ()
    """May be given more than once (INI); YAML has a list, whose items may be mappings with these keys."""
    words: bool = False
    """Several words in one value; YAML may have a list."""


KEYS = (
    Key("hardware", "NumberOfNodes", "number_of_nodes"),
    Key("hardware", "CPUArch", "cpu_arch"),
    Key("hardware", "CPUSpeed", "cpu_speed"),
    Key("hardware", "CPUs", "cpus"),
    Key("hardware", "RAM", "ram"),
    Key("hardware", "Disk", "disk"),
    Key("hardware", "Spread", "spread"),
    Key("hardware", "MinNodes", "min_nodes"),
    Key("software", "Name", "name"),
    Key("software", "User", "users", parts=("name", "password_hash")),
    Key("software", "SSHKey", "ssh_keys", parts=("user", "key")),
    Key("software", "Hostname", "hostname"),
    Key("software", "Network", "network"),
    Key("software", "Packages", "packages", words=True),
    Key("software", "MetaPackages", "meta_packages", words=True),
    Key("software", "Suite", "suite"),
    Key("software", "Kernel", "kernel"),
    Key("software", "Lease", "lease"),
    Key("software", "Site", "site"),
    Key("software", "Install", "install"),
)
BY_YAML = {key.yaml: key for key in KEYS}
_SECTIONS = ("hardware", "software")
# The names the INI form has for what is a list in YAML are understood there too.
_YAML_NAMES = {**BY_YAML, "user": BY_YAML["users"], "ssh_key": BY_YAML["ssh_keys"]}
_INI_NAMES = {key.ini.lower(): key for key in KEYS}


@dataclass(frozen=True)
class Given:
    """One value as it stands in the file, and its place."""

    text: str
    line: int
    label: str


@dataclass
class Reading:
    """What a file gives for each key (by its YAML name), and the mistakes found so far with their lines."""

    source: str
    form: str
    given: dict[str, list[Given]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    """Where each section begins: the place of a key that is not there."""
    problems: list[tuple[int, str]] = field(default_factory=list)

    def problem(self, line: int, label: str, text: str) -> None:
        """A variable has no lines; its problems carry the path alone."""
        place = self.source if self.form == "variable" else f"{self.source}:{line}"
        self.problems.append((line, f"{place}: {label}: {text}" if label else f"{place}: {text}"))

    def label(self, key: Key) -> str:
        return key.ini if self.form == "INI" else f"{key.section}.{key.yaml}"

    def place(self, key: Key) -> tuple[int, str]:
        """Line and label of what is given for `key`, or of where it should have been."""
        given = self.given.get(key.yaml)
        return (given[0].line, given[0].label) if given else (self.lines.get(key.section, 1), self.label(key))

    def fail_if_wrong(self) -> None:
        if self.problems:
            raise RequestError([text for _, text in sorted(self.problems, key=lambda problem: problem[0])])


def read(text: str, source: str) -> Reading:
    """INI or YAML, by the name's ending, else by the first line that says something."""
    if len(text) > MAX_TEXT:
        raise RequestError([f"{source}:1: file: got {len(text)} characters, expected at most {MAX_TEXT}"])
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    wrong = Reading(source, "INI")
    for number, line in enumerate(text.split("\n"), start=1):
        if bad := next((c for c in line if c != "\t" and (ord(c) < 32 or 0x7F <= ord(c) <= 0x9F)), None):
            wrong.problem(number, "file", f"got the control character {shown(bad)}, expected plain text")
    wrong.fail_if_wrong()
    ending = source.lower().rpartition(".")[2]
    first = next(
        (line.strip() for line in text.split("\n") if line.strip() and line.strip()[0] not in "#;"), ""
    )
    looks_like_yaml = re.match(r"(---|%YAML|\{|[\"']?(hardware|software)[\"']?\s*:)", first) is not None
    if ending in ("yml", "yaml", "json") or (ending not in ("ini", "cfg", "conf") and looks_like_yaml):
        return _read_yaml(text, source)
    return _read_ini(text, source)


# INI ------------------------------------------------------------------------------------------------------


def _read_ini(text: str, source: str) -> Reading:
    reading = Reading(source, "INI")
    section: str | None = None
    ignored = False
    for number, raw in enumerate(text.split("\n"), start=1):
        # A comment begins a line or follows a blank: hashes and keys may hold a '#' of their own.
        line = re.sub(r"(^|[ \t])#.*", "", raw).strip(" \t")
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            name = line[1:-1].strip().lower() if line.endswith("]") else ""
            section = _nearest(name, _SECTIONS)
            if name not in _SECTIONS:
                expected = f"[{section.title()}]" if section else "[Hardware] or [Software]"
                reading.problem(number, "section", f"got {shown(line)}, expected {expected}")
            ignored = section is None
            if section:
                reading.lines.setdefault(section, number)
            continue
        if ignored:
            continue  # keys of nobody knows what
        found = re.fullmatch(r"([^:=]*)[:=](.*)", line)
        if found is None:
            reading.problem(number, "line", f"got {shown(line)}, expected 'Key: value' or a [Section]")
            continue
        _take_ini(reading, section, number, found[1].strip(), found[2].strip(" \t"))
    return reading


def _take_ini(reading: Reading, section: str | None, line: int, name: str, value: str) -> None:
    # The star marks repeatable keys in the documentation; who copies it means the key.
    key = _INI_NAMES.get(name.lower()) or _INI_NAMES.get(name.lower().removesuffix("*"))
    if section is None:
        reading.problem(
            line, shown(name).strip("'"), "got a key, expected [Hardware] or [Software] before it"
        )
    elif key is None:
        _unknown(reading, line, name, [key.ini for key in KEYS if key.section == section])
    elif key.section != section:
        reading.problem(
            line, key.ini, f"got it in [{section.title()}], expected it in [{key.section.title()}]"
        )
    elif key.yaml in reading.given and not key.parts:
        first = reading.given[key.yaml][0].line
        reading.problem(line, key.ini, f"got it twice, expected it once (first in line {first})")
    else:
        reading.given.setdefault(key.yaml, []).append(Given(value, line, key.ini))


def _nearest(name: str, known: Sequence[str]) -> str | None:
    by_lower = {word.lower(): word for word in known}
    near = difflib.get_close_matches(name.lower()[:100], by_lower, n=1, cutoff=0.5)
    return by_lower[near[0]] if near else None


def _unknown(reading: Reading, line: int, name: str, known: Sequence[str]) -> None:
    """`name` stands as label, as a known key's would."""
    near = _nearest(name.rpartition(".")[2], known)
    expected = f"{near} (the nearest known key)" if near else f"one of {', '.join(known)}"
    reading.problem(line, shown(name).strip("'"), f"got an unknown key, expected {expected}")


# YAML and variables ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Node:
    """A value of the tree with its line: text, list, map, nothing, or `odd` for what no key can take."""

    kind: str
    line: int
    text: str = ""
    items: tuple["_Node", ...] = ()
    pairs: tuple[tuple["_Node", "_Node"], ...] = ()


def _read_yaml(text: str, source: str) -> Reading:
    reading = Reading(source, "YAML")
    try:
        for line, what in itertools.islice(beyond_plain(text), _MAX_PROBLEMS):
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
    _read_tree(reading, _Node("nothing", 1) if root is None else _from_yaml(root))
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


def _from_yaml(node: yaml.Node) -> _Node:
    line = node.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode):
        return _Node("list", line, items=tuple(_from_yaml(item) for item in node.value))
    if isinstance(node, yaml.MappingNode):
        return _Node("map", line, pairs=tuple((_from_yaml(k), _from_yaml(v)) for k, v in node.value))
    kind = node.tag.rpartition(":")[2]
    if kind == "null":
        return _Node("nothing", line)
    return (
        _Node("odd", line, text=f"the boolean {node.value}")
        if kind == "bool"
        else _Node("text", line, node.value)
    )


def read_mapping(mapping: object, source: str) -> Reading:
    """A mapping in the YAML form, as Ansible hands it over."""
    reading = Reading(source, "variable")
    _read_tree(reading, _from_object(mapping, _MAX_DEPTH))
    return reading


def _from_object(value: object, depth: int) -> _Node:
    if value is None:
        return _Node("nothing", 0)
    if isinstance(value, str):
        return _Node("text", 0, text=str(value))
    if isinstance(value, bool):
        return _Node("odd", 0, text=f"the boolean {value}")
    if isinstance(value, int | float) and abs(value) < 10**30:
        return _Node("text", 0, text=str(value))
    if depth > 0 and isinstance(value, Mapping):
        return _Node(
            "map", 0, pairs=tuple((_from_object(k, 0), _from_object(v, depth - 1)) for k, v in value.items())
        )
    if depth > 0 and isinstance(value, list | tuple):
        return _Node("list", 0, items=tuple(_from_object(item, depth - 1) for item in value))
    return _Node("odd", 0, text=f"a {type(value).__name__}")


def _got(node: _Node) -> str:
    return {"text": shown(node.text), "odd": node.text, "nothing": "nothing"}.get(node.kind, f"a {node.kind}")


def _pairs(reading: Reading, node: _Node, label: str, names: Iterable[str]) -> list[tuple[str, _Node]]:
    """The entries of a map under known names; anything else becomes a problem."""
    known = list(names)
    if node.kind != "map":
        reading.problem(node.line, label, f"got {_got(node)}, expected a mapping with {', '.join(known)}")
        return []
    taken: dict[str, _Node] = {}
    for key, value in node.pairs:
        if len(reading.problems) > _MAX_PROBLEMS:
            break
        path = f"{label}.{key.text}" if label else key.text
        if key.kind != "text":
            reading.problem(key.line, label, f"got {_got(key)} as key, expected one of {', '.join(known)}")
        elif key.text not in known:
            _unknown(reading, key.line, path, known)
        elif key.text in taken:
            reading.problem(
                key.line, path, f"got it twice, expected it once (first in line {taken[key.text].line})"
            )
        else:
            taken[key.text] = value
    return list(taken.items())


def _read_tree(reading: Reading, root: _Node) -> None:
    if root.kind == "nothing":
        return  # an empty file: what is missing is told key by key
    for section, content in _pairs(reading, root, "", _SECTIONS):
        reading.lines[section] = content.line
        if content.kind == "nothing":
            continue
        # Known under either name, shown under the canonical one.
        names = [name for name, key in _YAML_NAMES.items() if key.section == section]
        for name, value in _pairs(reading, content, section, names):
            key = _YAML_NAMES[name]
            if key.yaml in reading.given:
                reading.problem(
                    value.line, f"{section}.{name}", f"got it beside {key.yaml}, expected one of the two"
                )
            elif value.kind != "nothing":
                reading.given[key.yaml] = _values(reading, key, value, f"{section}.{name}")


def _values(reading: Reading, key: Key, node: _Node, label: str) -> list[Given]:
    if node.kind == "list" and (key.parts or key.words):
        found: list[Given] = []
        for index, item in enumerate(node.items):
            found += _value(reading, key, item, f"{label}[{index}]")
        return found
    return _value(reading, key, node, label)


def _value(reading: Reading, key: Key, node: _Node, label: str) -> list[Given]:
    if node.kind == "text":
        return [Given(node.text, node.line, label)]
    if node.kind == "map" and key.parts:
        # The INI form of the pair, so that one parser checks both; its patterns allow the first part no ':'.
        parts = dict(_pairs(reading, node, label, key.parts))
        for part in key.parts:
            value = parts.get(part, _Node("nothing", node.line))
            if value.kind != "text":
                reading.problem(value.line, f"{label}.{part}", f"got {_got(value)}, expected text")
                return []
        return [Given(":".join(parts[part].text for part in key.parts), node.line, label)]
    hint = " (put it in quotes)" if node.kind == "odd" else ""
    reading.problem(node.line, label, f"got {_got(node)}, expected text or a number{hint}")
    return []
