"""The JSON schema of a request in the YAML form: for editors, and for whoever makes requests by a program.

It accepts the canonical form and all that docs/request.md says of the YAML form.  The parser has the last word: it
takes words in capitals too (`Hosts`), and refuses what no schema can tell: sizes out of their range, networks that are
not for nodes, names of Debian's accounts, ssh keys that are not whole, values that do not go together.
"""

from typing import Any

from vclust_py.request.keys import Key
from vclust_py.request.model import SECTIONS


def json_schema() -> dict[str, Any]:
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Request for a virtual cluster",
        **_mapping({section: _section(keys) for section, keys in SECTIONS.items()}, ["hardware"]),
    }


def _mapping(properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": False,
    }


def _section(keys: tuple[Key, ...]) -> dict[str, Any]:
    required = [key.yaml for key in keys if key.required and not key.unset]
    section = _mapping({key.yaml: _key(key) for key in keys}, required)
    return section if required else {**section, "type": ["object", "null"]}


def _key(key: Key) -> dict[str, Any]:
    """A key without a value (`suite:`) is one that is not given."""
    form = key.write(key.default)
    return {
        "description": key.doc,
        **({} if form is None or key.several or key.required else {"default": form}),
        **(dict(key.kind.schema) if key.required and not key.unset else _forms(key)),
    }


def _forms(key: Key) -> dict[str, Any]:
    item: dict[str, Any] = dict(key.kind.schema)
    if key.repeated:
        item = {"anyOf": [item, _mapping(dict(key.kind.parts), list(key.kind.parts))]}
    alone = {"type": "string"} if key.words else item
    forms = [{"type": "null"}, alone, *([{"type": "array", "items": item}] if key.several else [])]
    return {"anyOf": forms}
