"""A request as a site keeps it: trusted data, which no later rule for users can make unreadable.

It is the canonical form with a schema number; rows of the first version are the same without one.  `SCHEMA` grows when
the canonical form of a key changes its meaning.  A new key needs no new number: its default stands in for old rows.
"""

from collections.abc import Mapping
from typing import Any

from vclust_py.errors import VclustError
from vclust_py.request.model import SECTIONS, Hardware, Request, Software, to_mapping
from vclust_py.request.values import shown

SCHEMA = 1


def stored(request: Request) -> dict[str, Any]:
    """Plain data for `from_stored`.  It holds password hashes."""
    return {"schema": SCHEMA, **to_mapping(request)}


def from_stored(mapping: Mapping[str, Any]) -> Request:
    """The request that `stored` has written, in this version or an earlier one; nothing in it is checked.

    Raises VclustError when a newer vclust has written it, or it is damaged.
    """
    schema = mapping.get("schema", 0)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise VclustError(
            f"stored request{_of(mapping)}: got schema {schema}, expected {SCHEMA} at most",
            "a newer vclust has written it; use that one on this site",
        )
    try:
        return Request(
            Hardware(**_values("hardware", mapping["hardware"])),
            Software(**_values("software", mapping["software"])),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise VclustError(
            f"stored request{_of(mapping)}: got {error!r}, expected what vclust has written"
        ) from error


def _of(mapping: Mapping[str, Any]) -> str:
    """Which cluster's it is, as far as that can be read."""
    software = mapping.get("software")
    return f" of {shown(str(software['name']))}" if isinstance(software, dict) and "name" in software else ""


def _values(section: str, forms: Mapping[str, Any]) -> dict[str, Any]:
    by_key: dict[str, Any] = {}
    for key in SECTIONS[section]:
        if key.yaml in forms:
            by_key[key.yaml] = key.restore(forms[key.yaml])
        elif key.required:
            raise KeyError(key.yaml)
        else:
            by_key[key.yaml] = key.absent(by_key)
    return {key.field: by_key[key.yaml] for key in SECTIONS[section]}
