"""A request as a survey gives it: a whole one as text, or a variable for each of its common keys.

AWX gives every question of a survey, those that nobody answered with a blank text; so blank is not given.
"""

from collections.abc import Mapping
from typing import Any

from vclust_py.errors import RequestError
from vclust_py.request.keys import Key
from vclust_py.request.model import BY_YAML, to_mapping
from vclust_py.request.parsing import load_variable

WHOLE = "vclust_request"
"""The variable of a whole request: a mapping, or text in the INI or YAML form."""

COMMON = (
    "name",
    "number_of_nodes",
    "cpus",
    "ram",
    "disk",
    "packages",
    "meta_packages",
    "users",
    "ssh_keys",
    "suite",
    "network",
    "lease",
    "spread",
    "site",
)
"""Keys that a survey asks for, by their YAML names and in the order of its questions."""


def variable(key: Key) -> str:
    """The variable that answers for `key`."""
    return f"{WHOLE}_{key.yaml}"


VARIABLES = {variable(BY_YAML[name]): BY_YAML[name] for name in COMMON}
NAMES = (WHOLE, *VARIABLES)


def request_of(variables: Mapping[str, object]) -> Mapping[str, Any] | None:
    """The request that `variables` give, a mapping in the YAML form; None where they give none.

    A whole request counts alone: the answers beside it are mostly defaults, which nobody can tell from what was typed.
    Only its name may be an answer, where the text has none.  Raises RequestError for a text with mistakes; a mapping is
    for `from_mapping` to judge.
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
    return mapping or None


def blank(value: object) -> bool:
    """Whether a question was left alone."""
    return value is None or value == [] or (isinstance(value, str) and not value.strip())


def _form(key: Key, answer: object) -> object:
    """What YAML would have: several values, which are lines or words of one answer, as a list."""
    if not key.repeated or not isinstance(answer, str):
        return answer
    # A question for secrets has one line.
    return answer.split() if key.kind.secret else [line for line in answer.splitlines() if line.strip()]
