"""The stored form: what an earlier version has written is read whatever today's rules say of it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from request.samples import ALL_KEYS, HASH, KEY, any_request

from vclust_py import request as requests
from vclust_py.errors import RequestError, VclustError
from vclust_py.request import Request
from vclust_py.request.model import KEYS

# As the first version wrote the request of ALL_KEYS into its database.
FIRST_VERSION = (
    '{"hardware": {"number_of_nodes": 7, "cpu_arch": "arm64", "cpu_speed": "1.500000MHz", "cpus": 3, '
    '"ram": "1536MiB", "disk": "5000000001B", "spread": "hosts", "min_nodes": 4}, '
    '"software": {"name": "all-keys", "users": [{"name": "john", "password_hash": "' + HASH + '"}, '
    '{"name": "ann", "password_hash": "*"}], "ssh_keys": [{"user": "john", "key": "' + KEY + ' john@home"}, '
    '{"user": "ann", "key": "' + KEY + '"}], "hostname": "n%dx", "network": "10.1.2.0/28", '
    '"packages": ["zlib1g", "gcc"], "meta_packages": ["mpi", "numeric"], "suite": "trixie", '
    '"kernel": "linux-image-amd64", "lease": "90s", "site": "s1", "install": "once"}}'
)

REFUSED: dict[str, Any] = {
    "number_of_nodes": 5000,
    "cpu_arch": "riscv64",
    "cpu_speed": "900GHz",
    "cpus": 4096,
    "ram": "64MB",
    "disk": "1GB",
    "spread": "rooms",
    "min_nodes": 9999,
    "volume": "Data 1MB",
    "name": "Name_of_old",
    "users": [{"name": "munge", "password_hash": "$1$old$hash"}],
    "ssh_keys": [{"user": "nobody-else", "key": "ssh-dss AAAA"}],
    "hostname": "%dx",
    "network": "127.0.0.0/30",
    "packages": ["gcc=1"],
    "meta_packages": ["Old_Name"],
    "home": "away",
    "suite": "../stable",
    "kernel": "vmlinuz",
    "lease": "1000d",
    "idle": "1s",
    "heal": "later",
    "site": "a-b",
    "start": "jump",
    "install": "never",
}
"""For every key a value that the rules of today refuse."""


def minimal(**more: Any) -> dict[str, Any]:
    return {"hardware": {"number_of_nodes": 2}, "software": {"name": "x"}, **more}


@given(any_request())
@settings(max_examples=100)
def test_what_is_stored_comes_back(request: Request) -> None:
    assert requests.from_stored(json.loads(json.dumps(requests.stored(request)))) == request
    assert requests.from_stored(json.loads(json.dumps(requests.to_mapping(request)))) == request


def test_a_row_of_the_first_version() -> None:
    request = requests.from_stored(json.loads(FIRST_VERSION))
    assert request == requests.load(ALL_KEYS, "x.ini")
    assert request.digest == "605686c17189c2b31f3fd2fea9bf90a9b8822a74f2a2196d40a8c2ec315f8a88"


def test_every_key_has_a_refused_value() -> None:
    assert list(REFUSED) == [key.yaml for key in KEYS]


@pytest.mark.parametrize("schema", [{}, {"schema": 1}])
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.yaml)
def test_what_the_rules_of_today_refuse_is_read(key: Any, schema: dict[str, int]) -> None:
    mapping = {**minimal(), **schema}
    mapping[key.section] = {**mapping[key.section], key.yaml: REFUSED[key.yaml]}
    with pytest.raises(RequestError):
        requests.from_mapping({name: mapping[name] for name in ("hardware", "software")}, "v")
    request = requests.from_stored(mapping)
    # It goes on as it is: stored again and compared by its digest.
    assert requests.to_mapping(request)[key.section][key.yaml] == REFUSED[key.yaml]
    assert requests.from_stored(requests.stored(request)).digest == request.digest


def test_missing_keys_have_defaults_and_unknown_ones_are_ignored() -> None:
    mapping = minimal(schema=1, later={"x": 1})
    mapping["software"] |= {"colour": "red", "users": [{"name": "a", "password_hash": "*", "shell": "zsh"}]}
    request = requests.from_stored(mapping)
    same = minimal()
    same["software"]["users"] = ["a:*"]
    assert request == requests.from_mapping(same, "v")


def test_a_newer_schema_is_told() -> None:
    with pytest.raises(
        VclustError, match=r"request of 'x': got schema 2, expected 1 at most\n  hint: a newer vclust"
    ) as caught:
        requests.from_stored(minimal(schema=2))
    assert not isinstance(caught.value, RequestError)  # the user's request is not at fault


@pytest.mark.parametrize(
    "mapping",
    [
        {},
        {"hardware": {}, "software": {}},
        {"hardware": {"number_of_nodes": 1}, "software": {}},
        {"hardware": [], "software": {"name": "x"}},
        minimal(schema="1.x"),
        minimal(hardware={"number_of_nodes": 1, "ram": "much"}),
        minimal(software={"name": "x", "users": ["x"]}),
        minimal(software={"name": "x", "users": 3}),
        minimal(software={"name": "x", "network": "lan"}),
    ],
)
def test_damaged_rows(mapping: dict[str, Any]) -> None:
    with pytest.raises(VclustError, match=r"^stored request( of 'x')?: got "):
        requests.from_stored(mapping)
