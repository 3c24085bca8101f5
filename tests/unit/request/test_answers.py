"""A request from a survey: single answers, or a whole one as text."""

from typing import Any

import pytest
from request.samples import ALL_KEYS, HASH, KEY

from vclust_py import request
from vclust_py.errors import RequestError
from vclust_py.request import answers
from vclust_py.request.model import BY_YAML

BLANK = dict.fromkeys(answers.NAMES, "")


def asked(**given: object) -> request.Request | None:
    """The request of a survey whose other questions were left alone."""
    mapping = answers.request_of(BLANK | {f"vclust_request{name}": value for name, value in given.items()})
    return None if mapping is None else request.from_mapping(mapping, answers.WHOLE)


def problems(**given: object) -> list[str]:
    with pytest.raises(RequestError) as caught:
        asked(**given)
    return caught.value.problems


def test_nothing_answered() -> None:
    assert asked() is None
    assert answers.request_of({}) is None
    assert answers.request_of({"vclust_request": " \n", "vclust_request_meta_packages": []}) is None


def test_every_answer_is_in_the_request() -> None:
    given: dict[str, Any] = {
        "_name": "bio1",
        "_number_of_nodes": 3,
        "_cpus": 2,
        "_ram": "1GB",
        "_disk": "8GB",
        "_packages": "gcc\nmpich  python3",
        "_meta_packages": ["mpi", "numeric"],
        "_users": f"alice:{HASH}  bob:*",
        "_ssh_keys": f"alice:{KEY} alice@home\n\nbob:{KEY}\r\n",
        "_suite": "trixie",
        "_network": "10.1.2.0/24",
        "_lease": "8h",
        "_spread": "hosts",
        "_site": "north",
    }
    assert {f"vclust_request{name}" for name in given} == set(answers.VARIABLES)
    found = asked(**given)
    assert found is not None
    assert request.to_mapping(found) == {
        "hardware": {
            "number_of_nodes": 3,
            "cpu_arch": "x86",
            "cpus": 2,
            "ram": "1GB",
            "disk": "8GB",
            "spread": "hosts",
            "min_nodes": 3,
        },
        "software": {
            "name": "bio1",
            "users": [{"name": "alice", "password_hash": HASH}, {"name": "bob", "password_hash": "*"}],
            "ssh_keys": [{"user": "alice", "key": f"{KEY} alice@home"}, {"user": "bob", "key": KEY}],
            "hostname": "bio1-%02d",
            "network": "10.1.2.0/24",
            "packages": ["gcc", "mpich", "python3"],
            "meta_packages": ["mpi", "numeric"],
            "suite": "trixie",
            "lease": "8h",
            "site": "north",
            "install": "auto",
        },
    }


def test_wrong_answers_are_told_all_at_once() -> None:
    told = problems(_number_of_nodes=0, _ram="2XB", _users="alice:secret")
    assert len(told) == 4
    assert told[0].startswith("Nodes (vclust_request_number_of_nodes): got '0', expected")
    assert told[1].startswith("Memory of a node (vclust_request_ram): got '2XB', expected")
    assert told[2].startswith("Name of the cluster (vclust_request_name): got nothing, expected")
    assert told[3].startswith("Users (vclust_request_users): got 'alice…', expected")


# For each question answers that AWX lets pass, or that come by its API, and what the error says was found.
WRONG: dict[str, list[tuple[object, str]]] = {
    "_name": [("Bad Name", "'Bad Name'"), (40 * "x", f"'{40 * 'x'}'"), ("{{ 1 }}", "'{{ 1 }}'"), (5, "'5'")],
    "_number_of_nodes": [("many", "'many'"), (0, "'0'"), (5000, "'5000'"), (2.5, "'2.5'")],
    "_cpus": [("two", "'two'"), (0, "'0'")],
    "_ram": [("2XB", "'2XB'"), ("lots", "'lots'"), (2, "'2'"), ("1B", "'1B'")],
    "_disk": [("big", "'big'"), ("8", "'8'"), ("1KB", "'1KB'")],
    "_packages": [("gcc -t=x", "'-t=x'"), ("gcc GCC", "'GCC'"), ("gcc;make", "'gcc;make'")],
    "_meta_packages": [(["Mpi!"], "'Mpi!'"), (5, "'5'")],
    "_users": [("alice", "'alice'"), ("alice:plain", "'alice…'"), ("root:*", "'root…'"), ("a:*,b:*", "'a…'")],
    "_ssh_keys": [("alice:xx", "'alice:xx'"), (f"bob:{KEY}", "'bob:ssh-"), (KEY, "'ssh-")],
    "_suite": [("Book worm", "'Book worm'"), ("sid!", "'sid!'")],
    "_network": [
        ("10.0.0.0", "'10.0.0.0'"),
        ("10.0.0.1/24", "'10.0.0.1/24'"),
        ("10.0.0.0/31", "'10.0.0.0/31' with 0 usable addresses"),
    ],
    "_lease": [("8", "'8'"), ("forever", "'forever'"), ("0h", "'0h'")],
    "_spread": [("all", "'all'")],
    "_site": [("../x", "'../x'"), ("a b", "'a b'")],
}


@pytest.mark.parametrize(
    ("variable", "answer", "found"), [(v, *one) for v, all_ in WRONG.items() for one in all_]
)
def test_a_wrong_answer_is_one_error_with_question_found_and_allowed(
    variable: str, answer: object, found: str
) -> None:
    (told,) = problems(**{"_name": "x", "_number_of_nodes": 1, "_users": "", variable: answer})
    question = answers.QUESTIONS[variable.removeprefix("_")]
    place = f"{question} (vclust_request{variable}): got {found}"
    assert told.startswith(place)
    assert " expected " in told


def test_every_question_can_be_answered_wrongly() -> None:
    assert {f"vclust_request{variable}" for variable in WRONG} == set(answers.VARIABLES)


@pytest.mark.parametrize("text", ["INI", "YAML"])
def test_a_whole_request_counts_alone(text: str) -> None:
    whole = request.load(ALL_KEYS, "a.ini")
    import yaml

    given = ALL_KEYS if text == "INI" else yaml.safe_dump(request.to_mapping(whole))
    assert asked(**{"": given, "_ram": "512MB", "_number_of_nodes": 1}) == whole
    assert asked(**{"": given, "_name": "all-keys"}) == whole
    assert asked(**{"": given.replace("\n", "\r\n")}) == whole


def test_the_name_of_a_whole_request() -> None:
    text = "[Hardware]\nNumberOfNodes: 2\n"
    found = asked(**{"": text, "_name": "bio1"})
    assert found is not None
    assert found.name == "bio1"
    assert problems(**{"": text}) == [
        f"vclust_request:1: Name: got nothing, expected {BY_YAML['name'].kind.expected}"
    ]
    assert problems(**{"": text, "_name": "../x"})[0].startswith("vclust_request:1: Name: got '../x'")
    told = problems(**{"": f"{text}[Software]\nName: bio2\nRAM: 1GB\n", "_name": "bio1"})
    assert told == [
        "vclust_request:4: Name: got 'bio2' beside 'bio1', the answer to the question for it; expected one of"
        " the two",
        "vclust_request:5: RAM: got it in [Software], expected it in [Hardware]",
    ]


def test_a_mapping_is_left_as_it_is() -> None:
    mapping = {"hardware": {"number_of_nodes": 2}, "software": {"name": "x"}}
    assert answers.request_of({"vclust_request": mapping}) is mapping


@pytest.mark.parametrize(
    "odd", [5, True, ["a"], "just text", "/etc/passwd", "{{ 1 }}", "hardware: [", "a: &x 1"]
)
def test_what_is_no_request(odd: object) -> None:
    assert all(problem.startswith("vclust_request") for problem in problems(**{"": odd}))
