"""What is typed for a playbook or the command (`-e name=…`, a survey, a word of the command line), by its type.

Whatever it is, it stays a value: nothing here, and nothing that takes a value from here, treats it as a template, a
pattern or an option.  The command and the playbooks (lookup plugin `vclust_argument`) check by the same types.
"""

import argparse
import re
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, TypedDict

from vclust_py.errors import RequestError
from vclust_py.request import accounts, values
from vclust_py.request.values import Wrong, shown

MAX_PATH = 4096
"""Bytes, as the kernel has it (PATH_MAX)."""
MAX_LOCK = 32 << 20
"""Bytes; one of 10,000 packages has 4 million."""
_MAX_FILES = 1024


def cluster(value: object) -> str:
    """A cluster's name; nothing is never a name."""
    return values.cluster_name(_text(value))


class Reference(TypedDict):
    """A cluster by its name and its site; `any` where no site was said."""

    site: str
    name: str


def reference(value: object) -> Reference:
    """NAME, or SITE/NAME where two sites have a cluster of that name."""
    before, slash, name = _text(value).rpartition("/")
    try:
        return {"site": values.site(before) if slash else "any", "name": values.cluster_name(name)}
    except Wrong as wrong:
        raise Wrong(f"NAME or SITE/NAME of a cluster; {wrong.expected}") from None


def node(value: object) -> str:
    """A node's name, as patterns of host names make them."""
    return _matching(value, r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", "the name of a node")


def nodes(value: object) -> list[str]:
    """Nodes by their names: a list, or text with commas."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not 0 < len(words) <= values.MAX_NODES:
        raise Wrong("a list of nodes")
    return [node(word) for word in words]


def count(value: object) -> int:
    """How many nodes."""
    return values.whole(1, values.MAX_NODES)(_text(value))


def site(value: object) -> str:
    return values.site(_text(value))


def machines(value: object) -> str:
    """A group or host of an inventory, by its name; no pattern."""
    return _matching(value, r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,252}", "the name of a group or host")


def hosts(value: object) -> list[str]:
    """Hosts of an inventory, by their names: a list, or text with commas."""
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, list) or not 0 < len(words) <= _MAX_FILES:
        raise Wrong("a list of hosts")
    return [machines(word) for word in words]


def person(value: object) -> str:
    """The name of a user of AWX, or of an account on the site manager."""
    return _matching(value, r"\w[\w.@+-]{0,149}", "the name of a user: letters, digits and . @ + - _")


def login(value: object) -> str:
    """The name of a user of a request, or root."""
    return _matching(value, accounts.NAME, "the name of a user of the request")


def key_file(value: object) -> str:
    """The name of a private key's file, as it can stand in ssh_config(5) and in a proxy command."""
    return _matching(
        value, r"(~/)?[A-Za-z0-9_./][A-Za-z0-9_./@+-]{0,200}", "a path of letters, digits and _ . / @ + -"
    )


def moment(value: object) -> float:
    """A Unix time: as such, as a time ago (30m, 8h, 2d), or as a date with or without the time of day, local."""
    # YAML takes a time with a fraction for a number.
    text = f"{value:f}" if isinstance(value, float) else _text(value)
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,9})?", text):
        return float(text)
    try:
        if re.fullmatch(r"[0-9.]+ ?[a-z]", text):
            return time.time() - values.lease(text)
        return datetime.fromisoformat(text).timestamp()
    except (Wrong, ValueError, OverflowError):
        raise Wrong("a time ago such as 8h or 2d, or a date such as 2026-01-31 or 2026-01-31T12:00") from None


def duration(value: object) -> int:
    """Seconds of a time such as 30m, 4h or 2d."""
    return values.lease(_text(value))


def digest(value: object) -> str:
    """As `cache`; empty for all."""
    return "" if value == "" else cache(value)


def cache(value: object) -> str:
    """A cache by its digest or the beginning of it."""
    return _matching(value, r"[0-9a-f]{1,64}", "the digest of a cache or its beginning (a-f and 0-9)")


def flag(value: object) -> bool:
    """As Ansible's filter `bool` has it, without what that lets pass for no."""
    if isinstance(value, bool):
        return value
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    found = words.get(_text(value).lower())
    if found is None:
        raise Wrong("true or false")
    return found


def path(value: object) -> str:
    """The name of a file or folder; any that the kernel takes and UTF-8 can write."""
    text = _text(value)
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise Wrong("a file name in UTF-8") from None
    if not 0 < size < MAX_PATH or "\0" in text:
        raise Wrong(f"a file name of up to {MAX_PATH} bytes")
    return text


def files(value: object) -> list[dict[str, str]]:
    """Files to send: `path` of each, and `name` and `sha256` where wanted."""
    wanted = 'a list of files, as [{"path": "/srv/a.qcow2"}], each with name and sha256 where wanted'
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_FILES:
        raise Wrong(wanted)
    taken = []
    for one in value:
        if not isinstance(one, Mapping) or "path" not in one or not set(one) <= {"path", "name", "sha256"}:
            raise Wrong(wanted)
        entry = {"path": path(one["path"])}
        if one.get("name"):
            entry["name"] = _matching(one["name"], r"[^/\0]{1,255}", "a file's name on the hosts, without /")
        if one.get("sha256"):
            entry["sha256"] = _matching(one["sha256"], r"[0-9A-Fa-f]{64}", "64 digits of a sha256")
        taken.append(entry)
    return taken


def request(value: object) -> object:
    """A request's file name, or the request as a mapping, which `vclust_py.request` judges."""
    return value if isinstance(value, Mapping) else path(value)


TYPES: Mapping[str, Callable[[object], Any]] = {
    "cluster": cluster,
    "reference": reference,
    "node": node,
    "nodes": nodes,
    "count": count,
    "site": site,
    "machines": machines,
    "person": person,
    "login": login,
    "key_file": key_file,
    "moment": moment,
    "duration": duration,
    "hosts": hosts,
    "cache": cache,
    "digest": digest,
    "flag": flag,
    "path": path,
    "files": files,
    "request": request,
}


def checked(name: str, kind: str, value: object) -> Any:
    """The value as its type has it.  Raises RequestError."""
    try:
        return TYPES[kind](value)
    except Wrong as wrong:
        raise RequestError([f"{name}: got {_got(value)}, expected {wrong.expected}"]) from None


def typed(kind: str) -> Callable[[str], Any]:
    """A type of the list above as argparse takes it."""

    def convert(text: str) -> Any:
        try:
            return TYPES[kind](text)
        except Wrong as wrong:
            raise argparse.ArgumentTypeError(f"got {shown(text)}, expected {wrong.expected}") from None

    return convert


def file(text: str) -> Path:
    """The name of a file, as argparse takes it."""
    return Path(typed("path")(text))


def _got(value: object) -> str:
    return shown(value) if isinstance(value, str) else f"a {type(value).__name__}"


def _text(value: object) -> str:
    """Numbers too: YAML takes a digest of digits for one."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Wrong("text")
    if isinstance(value, int) and abs(value) >= 10**64:
        raise Wrong("text")
    return str(value)


def _matching(value: object, pattern: str, expected: str) -> str:
    text = _text(value)
    if not re.fullmatch(pattern, text):
        raise Wrong(expected)
    return text


def locked(path: Path) -> str:
    """The text of a lock's file.  Raises RequestError when it cannot be read, or is too large to be one."""
    try:
        with open(path, "rb") as opened:
            data = opened.read(MAX_LOCK + 1)
        if len(data) > MAX_LOCK:
            raise RequestError([f"{path}: got more than {MAX_LOCK} bytes, expected a lock (JSON)"])
        return data.decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError([f"{path}: got {error}, expected a lock (JSON)"]) from error
