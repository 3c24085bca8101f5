"""The JSON schema, by a validator that others have written."""

from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given, settings
from request.samples import ALL_KEYS, HASH, KEY, any_request

from vclust_py import request as requests
from vclust_py.errors import RequestError
from vclust_py.request import Request
from vclust_py.request.model import SECTIONS
from vclust_py.request.schema import json_schema
from vclust_py.site import PROJECT

VALIDATOR = jsonschema.Draft202012Validator(json_schema())


def a_request(section: str, key: str, value: Any) -> dict[str, Any]:
    mapping: dict[str, Any] = {
        "hardware": {"number_of_nodes": 2},
        "software": {"name": "x", "users": ["john:*"]},
    }
    mapping[section][key] = value
    return mapping


def test_it_is_a_schema_that_describes_every_key() -> None:
    jsonschema.Draft202012Validator.check_schema(json_schema())
    for section, keys in SECTIONS.items():
        described = json_schema()["properties"][section]["properties"]
        assert list(described) == [key.yaml for key in keys]
        assert all(described[key.yaml]["description"] == key.doc for key in keys)
    password = json_schema()["properties"]["software"]["properties"]["users"]["anyOf"][1]["anyOf"][1]
    assert password["properties"]["password_hash"]["writeOnly"]


@given(any_request())
@settings(max_examples=50)
def test_it_takes_every_canonical_form(request: Request) -> None:
    VALIDATOR.validate(requests.to_mapping(request))


def test_it_takes_the_examples() -> None:
    for path in (PROJECT / "examples").iterdir():
        VALIDATOR.validate(requests.to_mapping(requests.read(path)))
        if path.suffix == ".yml":
            VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    VALIDATOR.validate(requests.to_mapping(requests.load(ALL_KEYS, "x.ini")))


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("hardware", "number_of_nodes", "3"),
        ("hardware", "ram", "1.5 gib"),
        ("hardware", "cpu_arch", "x86_64"),
        ("hardware", "spread", None),
        ("software", "users", "john:*"),
        ("software", "users", [{"name": "john", "password_hash": HASH}, "ann:*"]),
        ("software", "ssh_keys", f"john:{KEY}"),
        ("software", "ssh_keys", [{"user": "john", "key": KEY}]),
        ("software", "packages", "gcc mpich"),
        ("software", "packages", []),
        ("software", "suite", None),
    ],
)
def test_what_both_take(section: str, key: str, value: Any) -> None:
    mapping = a_request(section, key, value)
    requests.from_mapping(mapping, "v")
    VALIDATOR.validate(mapping)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("hardware", "number_of_nodes", 0),
        ("hardware", "number_of_nodes", 4097),
        ("hardware", "number_of_nodes", "two"),
        ("hardware", "number_of_nodes", None),
        ("hardware", "ram", "2XB"),
        ("hardware", "ram", 512),
        ("hardware", "cpu_arch", "sparc"),
        ("hardware", "rem", "1GB"),
        ("hardware", "name", "x"),
        ("software", "name", "-x"),
        ("software", "users", ["John:*"]),
        ("software", "users", [{"name": "john"}]),
        ("software", "users", [{"name": "john", "password_hash": "secret"}]),
        ("software", "ssh_keys", ["john:ssh-dss AAAA"]),
        ("software", "packages", ["gcc=1"]),
        ("software", "hostname", "vc"),
        ("software", "hostname", "a" * 62 + "%d"),
        ("software", "network", "lan"),
        ("software", "kernel", "gcc"),
        ("software", "lease", "8"),
        ("software", "install", "twice"),
    ],
)
def test_what_both_refuse(section: str, key: str, value: Any) -> None:
    mapping = a_request(section, key, value)
    with pytest.raises(RequestError):
        requests.from_mapping(mapping, "v")
    assert not VALIDATOR.is_valid(mapping)


@pytest.mark.parametrize("mapping", [{}, [], None, {"software": {"name": "x"}}, {"hardware": None}])
def test_what_is_no_request_at_all(mapping: Any) -> None:
    assert not VALIDATOR.is_valid(mapping)
