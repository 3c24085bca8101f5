"""The request as an option of Ansible's modules: its argument specification and its documentation."""

import re
from typing import Any

from vclust_py.request.keys import Key
from vclust_py.request.model import SECTIONS

_ABOUT = {"hardware": "The machines.", "software": "What runs on them."}


def suboptions() -> dict[str, Any]:
    """Argument specification of what stands in a request: every key, so that only the secret parts are kept from logs.

    Values are `raw`: the request's own parser judges them, all at once and in words that fit a request.
    """
    return {
        section: {"type": "dict", "options": {key.yaml: _option(key) for key in keys}}
        for section, keys in SECTIONS.items()
    }


def _option(key: Key) -> dict[str, Any]:
    if not key.kind.secret:
        return {"type": "raw"}
    parts = {
        part: {"type": "raw", **({"no_log": True} if part == key.kind.secret else {})}
        for part in key.kind.parts
    }
    return {"type": "list", "elements": "dict", "options": parts}


def documentation() -> str:
    """The same as a module's documentation has it (YAML)."""
    import yaml  # modules need the specification only

    request = {
        "description": [
            "What is asked for, as read by the lookup plugin P(vclust_request#lookup).",
            "Values are checked as those of a request file are; all mistakes are reported at once.",
        ],
        "type": "dict",
        "required": True,
        "suboptions": {
            section: {
                "description": _ABOUT[section],
                "type": "dict",
                "suboptions": {key.yaml: _documented(key) for key in keys},
            }
            for section, keys in SECTIONS.items()
        },
    }
    return yaml.safe_dump({"options": {"request": request}}, sort_keys=False)


def _documented(key: Key) -> dict[str, Any]:
    option = _option(key)
    documented = {"description": _markup(key.doc), **option}
    if "options" in option:
        del documented["options"]
        documented["suboptions"] = {
            part: {"description": f"The user's {part.replace('_', ' ')}.", "type": "raw"}
            for part in option["options"]
        }
    return documented


def _markup(doc: str) -> str:
    """A sentence in Ansible's markup."""
    text = re.sub(r"`([^`]*)`", r"C(\1)", doc)
    return f"{text[0].upper()}{text[1:]}."
