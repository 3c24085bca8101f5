"""The definitions of the keys: each of them fits the field that it stands beside."""

from dataclasses import fields
from typing import Any, get_type_hints

import pytest
from hypothesis import given, settings
from request.samples import ALL_KEYS, any_request

from vclust_py import request as requests
from vclust_py.request.keys import Key
from vclust_py.request.model import KEYS, SECTIONS, Hardware, Request, Software, to_mapping

PARTS: dict[str, type] = {"hardware": Hardware, "software": Software}


def test_every_field_has_a_key_and_every_key_a_field() -> None:
    assert list(SECTIONS) == [field.name for field in fields(Request)]
    for section, keys in SECTIONS.items():
        assert [key.field for key in keys] == [field.name for field in fields(PARTS[section])]
        assert {key.section for key in keys} == {section}


def test_names_are_each_only_once() -> None:
    assert len({key.ini.lower() for key in KEYS}) == len({key.yaml for key in KEYS}) == len(KEYS) == 25


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.yaml)
def test_a_key_says_what_people_need(key: Key) -> None:
    assert key.doc == key.doc.strip()
    assert "\n" not in key.doc
    assert "|" not in key.doc  # it stands in a table
    assert key.kind.schema
    assert key.kind.secret in ("", *key.kind.parts)
    # Whoever leaves the key out knows what then holds.
    assert key.unset or key.required or key.default is not None


def matches(value: Any, hint: Any) -> bool:
    if getattr(hint, "__origin__", None) is tuple:
        return isinstance(value, tuple) and all(isinstance(item, hint.__args__[0]) for item in value)
    return isinstance(value, hint)


def test_values_have_the_types_of_their_fields() -> None:
    given_all = requests.load(ALL_KEYS, "x.ini")
    given_none = requests.load("[Hardware]\nNumberOfNodes: 1\n", "x.ini")
    for request in (given_all, given_none):
        for section, keys in SECTIONS.items():
            hints = get_type_hints(PARTS[section])
            for key in keys:
                assert matches(getattr(getattr(request, section), key.field), hints[key.field]), key.yaml


def test_a_default_is_what_writing_it_down_gives() -> None:
    """For every key whose default is a value: the parser takes its canonical form, and it is the same."""
    plain = requests.from_mapping({"hardware": {"number_of_nodes": 1}, "software": {"name": "x"}}, "v")
    for section, keys in SECTIONS.items():
        for key in keys:
            if key.default is not None:
                mapping = {"hardware": {"number_of_nodes": 1}, "software": {"name": "x"}}
                mapping[section][key.yaml] = key.write(key.default)
                assert requests.from_mapping(mapping, "v") == plain, key.yaml


@given(any_request())
@settings(max_examples=50)
def test_write_and_restore_are_reverse(request: Request) -> None:
    for section, forms in to_mapping(request).items():
        by_yaml = {key.yaml: key for key in SECTIONS[section]}
        for name, form in forms.items():
            assert by_yaml[name].restore(form) == getattr(getattr(request, section), by_yaml[name].field)
