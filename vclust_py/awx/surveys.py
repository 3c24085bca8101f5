"""Surveys: what people are asked before a job of AWX starts (form of AWX 24.6.1).

AWX knows no booleans, and takes a blank answer for none only in texts: a number has a default, the rest may stay blank.
"""

from typing import Any

from vclust_py import metapackages
from vclust_py.request.answers import QUESTIONS, VARIABLES, WHOLE
from vclust_py.request.keys import Key

Question = dict[str, Any]
Survey = dict[str, Any]

_TEXT = 1024
"""Characters of an answer of one line."""
_LINES = 32 * 1024
"""Characters of an answer of several lines: 200 nodes' users and their keys fit."""


def survey(name: str, *questions: Question) -> Survey:
    return {"name": name, "description": "", "spec": list(questions)}


def of_request() -> tuple[Question, ...]:
    """The common keys of a request, and a whole one."""
    return (
        *(_of_key(variable, key) for variable, key in VARIABLES.items()),
        text(
            WHOLE,
            "Or a whole request",
            "INI or YAML; the questions above do not count then, but for the name where the request has none. All who"
            " may see the job can read it: let users log in by their ssh keys (name:*), without a hash",
            lines=True,
        ),
    )


def text(
    variable: str,
    name: str,
    description: str,
    *,
    default: str = "",
    required: bool = False,
    lines: bool = False,
) -> Question:
    kind = "textarea" if lines else "text"
    return _question(variable, name, description, kind, default, required=required) | {
        "min": 0,
        "max": _LINES if lines else _TEXT,
    }


def secret(variable: str, name: str, description: str) -> Question:
    """One line, which AWX keeps encrypted and does not show."""
    return _question(variable, name, description, "password", "") | {"min": 0, "max": _LINES}


def number(variable: str, name: str, description: str, low: int, high: int) -> Question:
    """A whole number that must be given."""
    found = _question(variable, name, description, "integer", "", required=True)
    return found | {"min": low, "max": high}


def yes_or_no(variable: str, name: str, description: str) -> Question:
    """The playbooks take the words for what they mean."""
    return _question(variable, name, description, "multiplechoice", "no") | {"choices": ["no", "yes"]}


def _of_key(variable: str, key: Key) -> Question:
    name, about, schema = QUESTIONS[key.yaml], _description(key), key.kind.schema
    default = None if key.several or key.unset else key.write(key.default)
    if key.yaml == "meta_packages":
        shipped = sorted(path.stem for path in metapackages.SHIPPED.glob("*.yml"))
        return _question(variable, name, about, "multiselect", "") | {"choices": shipped}
    if "enum" in schema:
        return _question(variable, name, about, "multiplechoice", default) | {"choices": list(schema["enum"])}
    if "minimum" in schema:
        limits = {"min": schema["minimum"], "max": schema["maximum"]}
        return _question(variable, name, about, "integer", default) | limits
    if key.kind.secret:
        return secret(variable, name, f"{about}; several with blanks between")
    if key.repeated:
        return text(variable, name, f"{about}; one on a line", lines=True)
    return text(variable, name, about, default=default or "", lines=key.words)


def _description(key: Key) -> str:
    """Of one line, without marks; with the default where that is said in words."""
    if key.yaml == "name":
        return "Up to 31 of a-z, 0-9 and '-'; blank only where a whole request says it"
    unset = f"; blank: {key.unset}" if key.unset else ""
    return f"{key.doc}{unset}".replace("`", "")


def _question(
    variable: str, name: str, description: str, kind: str, default: object, *, required: bool = False
) -> Question:
    return {
        "variable": variable,
        "question_name": name,
        "question_description": description,
        "type": kind,
        "required": required,
        "default": default,
        "choices": [],
    }
