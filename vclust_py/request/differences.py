"""What two requests differ in, key by key, for people; no password hash and no key is shown."""

from typing import Any

from vclust_py.request.keys import Key
from vclust_py.request.model import KEYS, Request

_NAMED = 5
"""So many names are listed; the others are counted."""


def differences(present: Request, asked: Request) -> list[str]:
    """A line for each key whose values mean something else, in the keys' order."""
    found = []
    for key in KEYS:
        before, after = (
            key.write(getattr(getattr(request, key.section), key.field)) for request in (present, asked)
        )
        if before != after:
            found.append(f"{key.ini}: {_several(key, before, after) if key.several else _one(before, after)}")
    return found


def _one(before: Any, after: Any) -> str:
    return f"is {_shown(before)}, the request says {_shown(after)}"


def _shown(form: Any) -> str:
    return "not set" if form is None else str(form)


def _several(key: Key, before: list[Any], after: list[Any]) -> str:
    """What the request has more and less; of values with a secret only whose they are."""
    if key.repeated:
        first = next(iter(key.kind.parts))
        more = [item[first] for item in after if item not in before]
        less = [item[first] for item in before if item not in after]
    else:
        more = [item for item in after if item not in before]
        less = [item for item in before if item not in after]
    other = [name for name in more if name in less]
    parts = [
        _names("has another one of", other),
        _names("also has", [name for name in more if name not in other]),
        _names("lacks", [name for name in less if name not in other]),
    ]
    return f"the request {', '.join(filter(None, parts)) or 'has another order'}"


def _names(verb: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{verb} {' '.join(names[:_NAMED])}{more}"
