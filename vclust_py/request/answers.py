"""A request as a survey gives it: a whole one as text, or a variable for each of its common keys.

AWX gives every question of a survey, those that nobody answered with a blank text; so blank is not given.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from vclust_py.errors import RequestError
from vclust_py.request.keys import Key
from vclust_py.request.model import BY_YAML, to_mapping
from vclust_py.request.parsing import from_mapping, load_variable

WHOLE = "vclust_request"
"""The variable of a whole request: a mapping, or text in the INI or YAML form."""

QUESTIONS = {
    "name": "Name of the cluster",
    "number_of_nodes": "Nodes",
    "cpus": "Virtual CPUs of a node",
    "ram": "Memory of a node",
    "disk": "Disk of a node",
    "packages": "Packages",
    "meta_packages": "Bundles of packages",
    "users": "Users",
    "ssh_keys": "Their ssh keys",
    "suite": "Debian suite",
    "network": "Network of the nodes",
    "lease": "Lease",
    "spread": "Spread of the nodes",
    "site": "Site",
}
"""What a survey asks for each of the common keys, by their YAML names and in the order of its questions."""


def variable(key: Key) -> str:
    """The variable that answers for `key`."""
    return f"{WHOLE}_{key.yaml}"


VARIABLES = {variable(BY_YAML[name]): BY_YAML[name] for name in QUESTIONS}
NAMES = (WHOLE, *VARIABLES)

_PROBLEM = re.compile(
    rf"{WHOLE}: \w+\.(?P<key>\w+)[^:]*: (?P<got>got .*?)(?P<rest>, expected.*|$)", re.DOTALL
)


def request_of(variables: Mapping[str, object]) -> Mapping[str, Any] | None:
    """The request that `variables` give, a mapping in the YAML form; None where they give none.

    A whole request counts alone: the answers beside it are mostly defaults, which nobody can tell from what was typed.
    Only its name may be an answer, where the text has none.  Raises RequestError for a text with mistakes, or answers
    with mistakes, which it names by their questions; a mapping that was given is for `from_mapping` to judge.
    """
    whole = variables.get(WHOLE)
    answers = {name: variables[name] for name in VARIABLES if not blank(variables.get(name))}
    if isinstance(whole, Mapping):
        return whole
    if isinstance(whole, str) and not blank(whole):
        return to_mapping(load_variable(whole, WHOLE, str(answers.get(variable(BY_YAML["name"]), ""))))
    if not blank(whole):
        raise RequestError([f"{WHOLE}: got a {type(whole).__name__}, expected a mapping or text"])
    mapping: dict[str, dict[str, Any]] = {}
    for name, answer in answers.items():
        key = VARIABLES[name]
        mapping.setdefault(key.section, {})[key.yaml] = _form(key, answer)
    if not mapping:
        return None
    try:
        return to_mapping(from_mapping(mapping, WHOLE))
    except RequestError as error:
        raise RequestError(_by_question(error.problems)) from error


def _by_question(problems: Iterable[str]) -> list[str]:
    """Each answer's mistakes under the name of its question; of two about the same words the first."""
    told: dict[str, str] = {}
    for problem in problems:
        found = _PROBLEM.match(problem)
        if found is None or found["key"] not in QUESTIONS:
            told[problem] = problem
            continue
        key = BY_YAML[found["key"]]
        place = f"{QUESTIONS[key.yaml]} ({variable(key)})"
        told.setdefault(f"{place}: {found['got']}", f"{place}: {found['got']}{found['rest']}")
    return list(told.values())


def blank(value: object) -> bool:
    """Whether a question was left alone."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _form(key: Key, answer: object) -> object:
    """What YAML would have: several values, which are lines or words of one answer, as a list."""
    if not key.repeated or not isinstance(answer, str):
        return answer
    # A question for secrets has one line.
    return answer.split() if key.kind.secret else [line for line in answer.splitlines() if line.strip()]
