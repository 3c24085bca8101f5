"""What two requests differ in, in the words of a user."""

from typing import Any

from vclust_py import request as requests
from vclust_py.request.model import KEYS

HASHES = ["$6$abcdefgh$" + letter * 86 for letter in "xy"]
ONE: dict[str, Any] = {
    "hardware": {"number_of_nodes": 2, "ram": "512MB"},
    "software": {
        "name": "a",
        "users": [{"name": name, "password_hash": HASHES[0]} for name in ("alice", "bob")],
        "packages": "gcc mpich",
    },
}


def differences(hardware: dict[str, Any], software: dict[str, Any]) -> list[str]:
    other = {"hardware": ONE["hardware"] | hardware, "software": ONE["software"] | software}
    return requests.differences(requests.from_mapping(ONE, "one"), requests.from_mapping(other, "other"))


def test_none() -> None:
    assert differences({}, {"packages": ["gcc", "mpich"]}) == []


def test_key_by_key() -> None:
    found = differences({"ram": "600MB", "cpu_speed": "3GHz"}, {"packages": "gcc nano", "lease": "8h"})
    assert found == [
        "CPUSpeed: is not set, the request says 3GHz",
        "RAM: is 512MB, the request says 600MB",
        "Packages: the request also has nano, lacks mpich",
        "Lease: is not set, the request says 8h",
    ]
    assert differences({}, {"packages": "mpich gcc"}) == ["Packages: the request has another order"]
    many = " ".join(f"p{number}" for number in range(7))
    assert differences({}, {"packages": f"gcc mpich {many}"}) == [
        "Packages: the request also has p0 p1 p2 p3 p4 and 2 more"
    ]


def test_passwords_are_not_shown() -> None:
    users = [{"name": "alice", "password_hash": HASHES[1]}, {"name": "carol", "password_hash": HASHES[1]}]
    found = differences({}, {"users": users})
    assert found == ["User: the request has another one of alice, also has carol, lacks bob"]


def test_equal_lines_and_equal_digests_go_together() -> None:
    """Whatever key differs is named: the digest decides whether a request is another one."""
    values = {
        "number_of_nodes": 3, "cpu_arch": "arm64", "cpu_speed": "1GHz", "cpus": 2, "ram": "1GB", "disk": "9GB",
        "spread": "pack", "min_nodes": 1, "volume": "data 20GB", "name": "b", "users": [], "hostname": "x%d",
        "network": "10.1.0.0/16", "ssh_keys": [], "packages": "", "meta_packages": "mpi", "home": "shared",
        "suite": "trixie", "kernel": "linux-image-amd64", "lease": "8h", "idle": "2h", "heal": "off", "site": "north",
        "start": "boot", "install": "each",
    }  # fmt: skip
    for key in KEYS:
        if key.yaml != "ssh_keys":
            change = {key.yaml: values[key.yaml]}
            hardware, software = (change, {}) if key.section == "hardware" else ({}, change)
            assert any(line.startswith(f"{key.ini}: ") for line in differences(hardware, software)), key.ini
