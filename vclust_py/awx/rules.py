"""What AWX 24.6.1 refuses in a bundle, and what it silently ignores; found before anybody imports it."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from vclust_py.awx.bundle import Bundle, Object
from vclust_py.request.answers import VARIABLES, WHOLE
from vclust_py.site import PROJECT

_DEFAULTS: Mapping[str, type | tuple[type, ...]] = {
    "text": str,
    "textarea": str,
    "password": str,
    "multiplechoice": str,
    "multiselect": str,
    "integer": int,
    "float": (int, float),
}
"""Types of questions, and of their defaults."""
_KINDS = (
    "organizations",
    "credential_types",
    "execution_environments",
    "projects",
    "inventory",
    "inventory_sources",
    "job_templates",
    "workflow_job_templates",
    "schedules",
)
"""Lists of a bundle; credentials are not among them."""
_ARGUMENT = re.compile(r"lookup\('vclust_argument',((?: '\w+',)+)([^)]*)\)")
"""Where a playbook reads what people give it: the variables, and how it takes them."""


def problems(bundle: Bundle) -> list[str]:
    """What is wrong, each with its place; nothing for a bundle that AWX takes as it is meant."""
    return list(_problems(bundle))


def _problems(bundle: Bundle) -> Iterator[str]:
    for kind in bundle:
        if kind not in _KINDS:
            yield f"{kind}: got this list, expected only {', '.join(_KINDS)}"
    objects = [(kind, one) for kind in _KINDS for one in bundle.get(kind, [])]
    nodes = [
        node
        for workflow in bundle.get("workflow_job_templates", [])
        for node in workflow["related"].get("workflow_nodes", [])
    ]
    known = [one["natural_key"] for _, one in objects] + [node["natural_key"] for node in nodes]
    for kind, one in [*objects, *(("workflow_nodes", node) for node in nodes)]:
        place = f"{kind}: {one.get('name') or one['identifier']}"
        for key in _references(one):
            if key not in known:
                yield f"{place}: refers to {key['type']} {_named(key)}, which is not in the bundle"
        if known.count(one["natural_key"]) > 1:
            yield f"{place}: its natural key is not the only one of that kind"
        if one["natural_key"].get("name", one.get("name")) != one.get("name"):
            yield f"{place}: its natural key has another name"
    for one in bundle.get("credential_types", []):
        yield from _credential_type(one)
    for kind in ("job_templates", "workflow_job_templates"):
        for one in bundle.get(kind, []):
            for problem in _template(one):
                yield f"{kind}: {one['name']}: {problem}"
    by_name = {one["name"]: one for one in bundle.get("job_templates", [])}
    for workflow in bundle.get("workflow_job_templates", []):
        yield from _handed_on(workflow, by_name)
    for one in bundle.get("schedules", []):
        for problem in _schedule(one, by_name):
            yield f"schedules: {one['name']}: {problem}"


def _references(value: object, top: bool = True) -> Iterator[Object]:
    """Natural keys in an object, beside its own."""
    if isinstance(value, list):
        for item in value:
            yield from _references(item, False)
    elif isinstance(value, dict):
        if not top and isinstance(value.get("type"), str) and ("name" in value or "identifier" in value):
            yield value
        for name, item in value.items():
            if name not in ("natural_key", "survey_spec", "inputs", "workflow_nodes"):
                yield from _references(item, False)


def _named(key: Object) -> str:
    return str(key.get("name") or key["identifier"])


def _credential_type(one: Object) -> Iterator[str]:
    place = f"credential_types: {one['name']}"
    if one["kind"] not in ("cloud", "net"):
        yield f"{place}: kind: got '{one['kind']}', expected cloud or net, as AWX has it for types of others"
    for name in one["injectors"].get("env", {}):
        if name.startswith("ANSIBLE_"):
            yield f"{place}: injectors: env: got {name}, expected none of Ansible's variables"
    fields = {field["id"] for field in one["inputs"]["fields"]}
    for name in one["inputs"].get("required", []):
        if name not in fields:
            yield f"{place}: inputs: required: got '{name}', expected one of the fields"


# Templates and their surveys ------------------------------------------------------------------------------------


def _template(one: Object) -> Iterator[str]:
    spec = _questions(one)
    if one["survey_enabled"] != bool(spec):
        yield f"survey_enabled: got {one['survey_enabled']}, expected what its survey is"
    if one["ask_variables_on_launch"]:
        yield "ask_variables_on_launch: got true, expected false: it gives away Ansible's own variables"
    if "credentials" in one["related"]:
        yield "related: got credentials, expected none"
    if spec:
        survey = one["related"]["survey_spec"]
        for name in ("name", "description"):
            if not isinstance(survey.get(name), str):
                yield f"survey: {name}: got nothing, expected text"
        variables = [question.get("variable") for question in spec]
        for question in spec:
            place = question.get("variable")
            if variables.count(place) > 1:
                yield f"survey: {place}: got it twice, expected it once"
            for problem in _question(question):
                yield f"survey: {place}: {problem}"
    if "playbook" in one:
        yield from _playbook(one, spec)


def _questions(one: Object) -> list[Object]:
    spec: list[Object] = one["related"].get("survey_spec", {}).get("spec", [])
    return spec


def _question(question: Object) -> Iterator[str]:
    kind, default, choices = question["type"], question.get("default"), question.get("choices")
    if kind not in _DEFAULTS:
        yield f"type: got '{kind}', expected one of {', '.join(_DEFAULTS)}"
        return
    if not isinstance(question.get("required"), bool):
        yield f"required: got {question.get('required')!r}, expected true or false"
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", question["variable"]):
        yield "variable: expected the name of a variable"
    given = default not in ("", None)
    if given and (isinstance(default, bool) or not isinstance(default, _DEFAULTS[kind])):
        yield f"default: got {default!r}, expected one of type {kind}"
        return
    if question["required"] and given:
        yield "required: got a default beside it, which AWX does not take for an answer"
    if not question["required"] and not given and kind in ("integer", "float", "multiplechoice"):
        yield f"default: got none, expected one: a blank answer is no {kind}"
    if isinstance(default, str) and default.startswith("$encrypted$"):
        yield "default: got $encrypted$, expected none of AWX's own words"
    yield from _limits(question, default if given else None)
    if kind in ("multiplechoice", "multiselect"):
        if not choices:
            yield "choices: got none, expected some"
        # AWX splits a default at its newlines; commas would be a part of it.
        wanted = str(default).split("\n") if given else []
        if kind == "multiplechoice" and len(wanted) > 1:
            yield "default: got several, expected one"
        for word in wanted:
            if word not in (choices or []):
                yield f"default: got {word!r}, expected of the choices, with newlines between"


def _limits(question: Object, default: Any) -> Iterator[str]:
    for name in ("min", "max"):
        limit = question.get(name)
        if limit is None:
            continue
        size = len(default) if isinstance(default, str) else default
        if isinstance(limit, bool) or not isinstance(limit, int):
            yield f"{name}: got {limit!r}, expected an integer"
        elif default is not None and (size < limit if name == "min" else size > limit):
            yield f"default: got {default!r}, beyond {name}, {limit}"


def _playbook(one: Object, spec: list[Object]) -> Iterator[str]:
    """A variable that no playbook reads is a question for nothing, and one may not take a blank answer."""
    path = PROJECT / one["playbook"]
    if not path.is_file():
        yield f"playbook: got {one['playbook']}, expected one of the project"
        return
    text = re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))
    read = {name: options for names, options in _ARGUMENT.findall(text) for name in re.findall(r"\w+", names)}
    if WHOLE in read:
        read |= dict.fromkeys(VARIABLES, read[WHOLE])
    for question in spec:
        name = question["variable"]
        if name not in read:
            yield f"survey: {name}: {one['playbook']} does not read it"
        elif not question["required"] and not question["choices"] and "blank=true" not in read[name]:
            yield f"survey: {name}: required: got false, and {one['playbook']} takes no blank answer"


def _handed_on(workflow: Object, templates: Mapping[str, Object]) -> Iterator[str]:
    """AWX drops an answer to a workflow's survey that a job's own survey does not ask for."""
    for node in workflow["related"].get("workflow_nodes", []):
        template = templates.get(node.get("unified_job_template", {}).get("name", ""))
        if template is None:
            continue
        asked = {question["variable"]: question for question in _questions(template)}
        answered = {question["variable"]: question for question in _questions(workflow)}
        for name in sorted(asked.keys() ^ answered.keys()):
            yield (
                f"workflow_job_templates: {workflow['name']}: {name}: got it in the survey of one only,"
                f" expected in that of {template['name']} too"
            )


def _schedule(one: Object, templates: Mapping[str, Object]) -> Iterator[str]:
    rule = r"DTSTART:[0-9]{8}T[0-9]{6}Z RRULE:FREQ=(HOURLY|DAILY|WEEKLY|MONTHLY);INTERVAL=[1-9][0-9]*"
    if not re.fullmatch(rule, one["rrule"]):
        yield f"rrule: got '{one['rrule']}', expected DTSTART:YYYYMMDDTHHMMSSZ RRULE:FREQ=…;INTERVAL=…"
    template = templates.get(one["unified_job_template"]["name"])
    for question in _questions(template) if template else []:
        if question["required"] and question["variable"] not in one.get("extra_data", {}):
            yield f"nobody is there to answer for {question['variable']}, which is required"
