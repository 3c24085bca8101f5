"""From a file, a text or a variable to a `Request`: which form it has, and what was already read in this process.

Ansible templates a variable again at every use, so each content is checked once a process; a fork knows what its parent
has read.  Mistakes are not kept: who asks again is told again.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from vclust_py.errors import RequestError
from vclust_py.request import ini_form, tree
from vclust_py.request.checks import checked
from vclust_py.request.model import BY_YAML, Request, to_mapping
from vclust_py.request.reading import Entry, Reading
from vclust_py.request.values import shown

MAX_TEXT = 256 * 1024
"""A request is a page or two; 4096 characters of key for each of 60 users still fit."""
_REMEMBERED = 16
"""Requests; a run of a playbook has one, in two or three forms."""

_variables: dict[tree.Node, Request] = {}
"""The requests of variables that were checked; also of the canonical form of every request that was read."""


def read(path: Path) -> Request:
    """The request in the file `path`.  Raises RequestError, also for a file that cannot be read."""
    try:
        with open(path, "rb") as file:
            data = file.read(4 * MAX_TEXT + 1)  # UTF-8 takes up to four bytes; more need not be read
    except OSError as error:
        raise RequestError(
            [f"{path}: got {error.strerror}, expected a request file that can be read"]
        ) from error
    return _decoded(data, str(path))


def read_stream(stream: BinaryIO, source: str) -> Request:
    """The request that comes by a pipe, say; it has to name its cluster.  Raises RequestError."""
    return _decoded(stream.read(4 * MAX_TEXT + 1), source)


def _decoded(data: bytes, source: str) -> Request:
    try:
        return load(data.decode("utf-8"), source)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RequestError(
            [f"{source}:{line}: file: got byte 0x{data[error.start]:02x}, expected UTF-8"]
        ) from error


@lru_cache(maxsize=_REMEMBERED)
def load(text: str, source: str) -> Request:
    """The request in `text`, INI or YAML; `source` is the file's name, which also names the cluster.

    Raises RequestError.
    """
    request = checked(_read_text(text, source))
    _remember(tree.tree_of(to_mapping(request)), request)
    return request


@lru_cache(maxsize=_REMEMBERED)
def load_variable(text: str, source: str, name: str) -> Request:
    """The request in `text`, INI or YAML, that is the value of the variable `source`.

    `name` is the cluster's where the text has none; one of the two must say it, and both only the same.
    Raises RequestError.
    """
    reading = _read_text(text, source)
    key = BY_YAML["name"]
    entries = reading.entries.get(key.yaml, [])
    line, label = reading.place(key)
    if not entries and name:
        reading.entries[key.yaml] = [Entry(name, line, label)]
    elif not entries:
        reading.problem(line, label, f"got nothing, expected {key.kind.expected}")
    elif name not in ("", entries[0].text):
        got = f"got {shown(entries[0].text)} beside {shown(name)}, the answer to the question for it"
        reading.problem(line, label, f"{got}; expected one of the two")
    request = checked(reading)
    _remember(tree.tree_of(to_mapping(request)), request)
    return request


def from_mapping(mapping: Mapping[str, Any], source: str) -> Request:
    """The request in a mapping of the YAML form; `source` is the variable's name, for messages.

    Raises RequestError.
    """
    root = tree.tree_of(mapping)
    request = _variables.get(root)
    if request is None:
        request = checked(tree.read(Reading(source, "variable"), root))
        _remember(root, request)
        _remember(tree.tree_of(to_mapping(request)), request)
    return request


def _remember(root: tree.Node, request: Request) -> None:
    _variables[root] = request
    while len(_variables) > _REMEMBERED:
        del _variables[next(iter(_variables))]


def _read_text(text: str, source: str) -> Reading:
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
        # Only here: who reads stored requests (`vclust list`) need not wait for PyYAML.
        from vclust_py.request import yaml_form

        return yaml_form.read(text, source)
    return ini_form.read(text, source)
