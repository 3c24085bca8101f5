"""Each content is checked once a process: by text and file name, or by a variable's content."""

from pathlib import Path
from typing import Any

import pytest
from request.samples import ALL_KEYS

from vclust_py import request as requests
from vclust_py.errors import RequestError
from vclust_py.request import parsing


@pytest.fixture(autouse=True)
def nothing_remembered() -> None:
    parsing.load.cache_clear()
    parsing._variables.clear()


def mapping(**hardware: Any) -> dict[str, Any]:
    return {"hardware": {"number_of_nodes": 2, **hardware}, "software": {"name": "x"}}


def test_the_same_text_or_file_is_checked_once(tmp_path: Path) -> None:
    path = tmp_path / "x.ini"
    path.write_text(ALL_KEYS, encoding="utf-8")
    assert requests.read(path) is requests.read(path) is requests.load(ALL_KEYS, str(path))


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "x.ini"
    for nodes in (1, 2, 1):
        path.write_text(f"[Hardware]\nNumberOfNodes: {nodes}\n", encoding="utf-8")
        assert requests.read(path).hardware.number_of_nodes == nodes


def test_the_name_of_the_file_counts() -> None:
    text = "[Hardware]\nNumberOfNodes: 1\n"
    assert [requests.load(text, name).name for name in ("a.ini", "b.ini")] == ["a", "b"]


def test_the_same_variable_is_checked_once_whatever_its_name() -> None:
    assert requests.from_mapping(mapping(), "a") is requests.from_mapping(mapping(), "b")


def test_the_canonical_form_of_what_was_read_is_known() -> None:
    """What the lookup plugin returns comes back as a variable of the modules."""
    from_file = requests.load(ALL_KEYS, "x.ini")
    assert requests.from_mapping(requests.to_mapping(from_file), "request") is from_file
    from_variable = requests.from_mapping(mapping(), "v")
    assert requests.from_mapping(requests.to_mapping(from_variable), "request") is from_variable


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"ram": "1GB"}, {"ram": "2GB"}),
        ({"cpus": 1}, {"cpus": 2}),
        ({"cpus": 1}, {"min_nodes": 1}),
        ({"spread": "any"}, {"spread": "pack"}),
    ],
)
def test_another_variable_is_another_request(one: dict[str, Any], other: dict[str, Any]) -> None:
    made = requests.from_mapping(mapping(**one), "v"), requests.from_mapping(mapping(**other), "v")
    assert made[0] != made[1]


def test_what_only_looks_alike_is_not_taken_for_the_same() -> None:
    """True is 1 for Python, and equal as a key of a dictionary."""
    requests.from_mapping(mapping(cpus=1), "v")
    with pytest.raises(RequestError, match="got the boolean True"):
        requests.from_mapping(mapping(cpus=True), "v")
    with pytest.raises(RequestError, match="got a list, expected text or a number"):
        requests.from_mapping(mapping(cpus=[1]), "v")


def test_a_variable_that_is_changed_afterwards_is_checked_anew() -> None:
    changing = mapping()
    first = requests.from_mapping(changing, "v")
    changing["hardware"]["cpus"] = 4
    assert (first.hardware.cpus, requests.from_mapping(changing, "v").hardware.cpus) == (1, 4)
    # Nor does what the caller does with a canonical form change what is remembered.
    form = requests.to_mapping(first)
    form["software"]["users"].append("root")
    assert requests.from_mapping(mapping(), "v").software.users == ()


def test_mistakes_are_told_every_time_with_the_name_of_the_time() -> None:
    for name in ("a", "a", "b"):
        with pytest.raises(RequestError) as caught:
            requests.from_mapping(mapping(ram="2XB"), name)
        assert caught.value.problems[0].startswith(f"{name}: hardware.ram: got '2XB', expected a size")
    for _ in range(2):
        with pytest.raises(RequestError, match=r"y\.ini:1: NumberOfNodes: got nothing"):
            requests.load("", "y.ini")


def test_not_more_than_a_few_are_kept() -> None:
    for cpus in range(1, 100):
        requests.from_mapping(mapping(cpus=cpus), "v")
        requests.load(f"[Hardware]\nNumberOfNodes: {cpus}\n", "x.ini")
    assert len(parsing._variables) <= 16
    assert parsing.load.cache_info().currsize <= 16
