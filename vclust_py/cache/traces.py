"""Request traces in files (JSON lines, gzip-compressed or not), for replay."""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vclust_py.cache.history import History
from vclust_py.errors import RequestError

_SHOWN = 20
"""Problems told of one file; a file of the wrong kind has one in every line."""

_LARGEST = 2**40
"""Of a package, in bytes: sums of many must stay exact in a float64."""


@dataclass(frozen=True)
class TracePackage:
    name: str
    version: str
    installed_size: int


@dataclass(frozen=True)
class _Request:
    closure: tuple[int, ...]
    date: str


def of(plain: Mapping[str, Any]) -> History:
    """A history told by a site (`vclust_py.cache.describe`): `packages` and `requests` as the lines of both files."""
    known = {
        row["id"]: TracePackage(row["name"], row["version"], row["installed_size"])
        for row in plain["packages"]
    }
    return History([known[number] for number in row["closure"]] for row in plain["requests"])


def read(packages: Path, requests: Path, *, order: str = "file") -> History:
    """The trace's requests in the order of the file, or by date (`order` is `date`): then those with a date only.

    `packages` holds objects with `id`, `name`, `version` and `installed_size` (bytes), `requests` objects with
    `closure` (ids of packages) and `date` (text that sorts by time, or null).  Raises RequestError, which names the
    broken lines of both files by number.
    """
    known: dict[int, TracePackage] = {}

    def take_package(row: Mapping[str, Any]) -> None:
        number = _field(row, "id", int)
        if number in known:
            raise ValueError(f"id: got {number} a second time")
        size = _field(row, "installed_size", int)
        if not 0 <= size < _LARGEST:
            raise ValueError(f"installed_size: got {size}, expected bytes, less than {_LARGEST}")
        known[number] = TracePackage(_field(row, "name", str), _field(row, "version", str), size)

    found: list[_Request] = []

    def take_request(row: Mapping[str, Any]) -> None:
        closure = _field(row, "closure", list)
        for number in closure:
            if type(number) is not int or number not in known:
                raise ValueError(f"closure: got {json.dumps(number)[:80]}, expected an id of {packages}")
        if not isinstance(date := row.get("date") or "", str):
            raise ValueError(f"date: got {json.dumps(date)[:80]}, expected text or null")
        found.append(_Request(tuple(closure), date))

    _lines(packages, take_package)
    _lines(requests, take_request)
    if order == "date":
        dated = sorted((request for request in found if request.date), key=lambda request: request.date)
        if found and not dated:
            raise RequestError(
                [f"{requests}: date: no request has one"], "--order file takes them as they stand"
            )
        found = dated
    return History([known[number] for number in request.closure] for request in found)


def _lines(path: Path, take: Callable[[Mapping[str, Any]], None]) -> None:
    """Hand every line to `take`; what it raises ValueError for is told with the line's number."""
    problems: list[str] = []
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(
                            f"got {line[:40].decode(errors='replace')!r}, expected a JSON object"
                        )
                    take(row)
                except (ValueError, RecursionError) as error:  # JSON's and UTF-8's errors are ValueErrors too
                    problems.append(f"{path}:{number}: {error}")
    except (OSError, EOFError, zlib.error) as error:
        problems.append(f"{path}:{number + 1}: {error}" if number else f"{path}: {error}")
    if len(problems) > _SHOWN:
        problems[_SHOWN:] = [f"{path}: {len(problems) - _SHOWN} more broken lines"]
    if problems:
        raise RequestError(problems)


def _field(row: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in row:
        raise ValueError(f"{name}: missing")
    value = row[name]
    if type(value) is not kind:
        expected = {int: "a whole number", str: "text", list: "a list"}[kind]
        raise ValueError(f"{name}: got {json.dumps(value)[:80]}, expected {expected}")
    return value
