"""The INI form of a request, as in the paper's Figure 4, read into a `Reading`."""

import re
from collections.abc import Mapping
from typing import Any

from vclust_py.request.model import KEYS, SECTIONS
from vclust_py.request.reading import Entry, Reading, nearest
from vclust_py.request.values import shown

_NAMES = {key.ini.lower(): key for key in KEYS}


def read(text: str, source: str) -> Reading:
    reading = Reading(source, "INI")
    section: str | None = None
    ignored = False
    for number, raw in enumerate(text.split("\n"), start=1):
        # A comment begins a line or follows a blank: hashes and keys may hold a '#' of their own.
        line = re.sub(r"(^|[ \t])#.*", "", raw).strip(" \t")
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            section = _section(reading, number, line)
            ignored = section is None
            continue
        if ignored:
            continue  # the keys of an unknown section
        match = re.fullmatch(r"([^:=]*)[:=](.*)", line)
        if match is None:
            reading.problem(number, "line", f"got {shown(line)}, expected 'Key: value' or a [Section]")
            continue
        _add(reading, section, number, match[1].strip(), match[2].strip(" \t"))
    return reading


def written(mapping: Mapping[str, Any]) -> str:
    """The INI form of a request's canonical mapping, but for its name, which the file's is."""
    lines = list[str]()
    for section, keys in SECTIONS.items():
        lines += ["", f"[{section.title()}]"] if lines else [f"[{section.title()}]"]
        for key in keys:
            form = mapping[section].get(key.yaml)
            if form in (None, []) or key.yaml == "name":
                continue
            if key.repeated:
                lines += [f"{key.ini}: {':'.join(item[part] for part in key.kind.parts)}" for item in form]
            else:
                lines.append(f"{key.ini}: {' '.join(form) if key.words else form}")
    return "".join(f"{line}\n" for line in lines)


def _section(reading: Reading, number: int, line: str) -> str | None:
    """The section that `line` begins; the nearest one, with a problem, where it names none."""
    name = line[1:-1].strip().lower() if line.endswith("]") else ""
    section = nearest(name, list(SECTIONS))
    if name not in SECTIONS:
        expected = f"[{section.title()}]" if section else "[Hardware] or [Software]"
        reading.problem(number, "section", f"got {shown(line)}, expected {expected}")
    if section:
        reading.lines.setdefault(section, number)
    return section


def _add(reading: Reading, section: str | None, line: int, name: str, value: str) -> None:
    # The star marks repeatable keys in the documentation; who copies it means the key.
    key = _NAMES.get(name.lower()) or _NAMES.get(name.lower().removesuffix("*"))
    if section is None:
        reading.problem(
            line, shown(name).strip("'"), "got a key, expected [Hardware] or [Software] before it"
        )
    elif key is None:
        reading.unknown(line, name, [key.ini for key in SECTIONS[section]])
    elif key.section != section:
        reading.problem(
            line, key.ini, f"got it in [{section.title()}], expected it in [{key.section.title()}]"
        )
    elif key.yaml in reading.entries and not key.repeated:
        first = reading.entries[key.yaml][0].line
        reading.problem(line, key.ini, f"got it twice, expected it once (first in line {first})")
    else:
        reading.entries.setdefault(key.yaml, []).append(Entry(value, line, key.ini))
