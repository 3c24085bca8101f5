"""Each rule of AWX: a bundle that breaks it is found out."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from vclust_py.awx.bundle import Bundle, bundle
from vclust_py.awx.rules import problems

Break = Callable[[Bundle], Any]


def test_our_bundle_breaks_none() -> None:
    assert problems(bundle()) == []


def question(made: Bundle, name: str = "vclust_request_ram") -> dict[str, Any]:
    """A question of the template that creates."""
    spec = made["job_templates"][0]["related"]["survey_spec"]["spec"]
    found: dict[str, Any] = next(one for one in spec if one["variable"] == name)
    return found


def asked(name: str, **changed: object) -> Break:
    return lambda made: question(made, f"vclust_request_{name}").update(changed)


BROKEN: dict[str, tuple[Break, str]] = {
    "a boolean": (asked("ram", type="boolean"), "ram: type: got 'boolean', expected one of text"),
    "text for an integer": (
        asked("cpus", default="1"),
        "cpus: default: got '1', expected one of type integer",
    ),
    "true for an integer": (
        asked("cpus", default=True),
        "cpus: default: got True, expected one of type integer",
    ),
    "no default of an integer": (asked("cpus", default=""), "cpus: default: got none, expected one"),
    "a number for a text": (asked("ram", default=5), "ram: default: got 5, expected one of type text"),
    "a list for a multiselect": (
        asked("meta_packages", default=["mpi"]),
        "meta_packages: default: got ['mpi'], expected one of type multiselect",
    ),
    "commas in a multiselect": (
        asked("meta_packages", default="mpi,bio"),
        "meta_packages: default: got 'mpi,bio', expected of the choices, with newlines between",
    ),
    "no choices": (asked("meta_packages", choices=[]), "meta_packages: choices: got none"),
    "a default beside the choices": (
        asked("spread", default="all"),
        "spread: default: got 'all', expected of the",
    ),
    "several defaults": (asked("spread", default="any\nhosts"), "spread: default: got several, expected one"),
    "required with a default": (asked("ram", required=True), "ram: required: got a default beside it"),
    "required, in words": (asked("ram", required="yes"), "ram: required: got 'yes', expected true or false"),
    "a limit as text": (asked("cpus", max="9"), "cpus: max: got '9', expected an integer"),
    "a default beyond its limit": (asked("cpus", min=2), "cpus: default: got 1, beyond min, 2"),
    "a default that is too long": (asked("ram", max=2), "ram: default: got '512MB', beyond max, 2"),
    "a word of AWX": (asked("ram", default="$encrypted$"), "ram: default: got $encrypted$, expected none"),
    "no variable": (asked("ram", variable="a-b"), "a-b: variable: expected the name of a variable"),
    "a variable nobody reads": (
        asked("ram", variable="ramm"),
        "ramm: playbooks/create_vcluster.yml does not read it",
    ),
    "a blank answer that is refused": (
        lambda made: made["job_templates"][2]["related"]["survey_spec"]["spec"][0].update(required=False),
        "vclust destroy: survey: name: required: got false, and playbooks/destroy_vcluster.yml takes no blank",
    ),
    "a variable twice": (asked("ram", variable="vclust_request_cpus"), "vclust_request_cpus: got it twice"),
    "any variable": (
        lambda made: made["job_templates"][0].update(ask_variables_on_launch=True),
        "job_templates: vclust create: ask_variables_on_launch: got true, expected false",
    ),
    "a survey that is not asked": (
        lambda made: made["job_templates"][0].update(survey_enabled=False),
        "job_templates: vclust create: survey_enabled: got False",
    ),
    "a survey without a description": (
        lambda made: made["job_templates"][0]["related"]["survey_spec"].pop("description"),
        "job_templates: vclust create: survey: description: got nothing",
    ),
    "no such playbook": (
        lambda made: made["job_templates"][0].update(playbook="playbooks/x.yml"),
        "job_templates: vclust create: playbook: got playbooks/x.yml, expected one of the project",
    ),
    "a credential": (lambda made: made.update(credentials=[]), "credentials: got this list, expected only"),
    "a credential of a template": (
        lambda made: made["job_templates"][0]["related"].update(credentials=[]),
        "job_templates: vclust create: related: got credentials, expected none",
    ),
    "a reference to nothing": (
        lambda made: made["projects"].clear(),
        "job_templates: vclust create: refers to project vclust, which is not in the bundle",
    ),
    "a step that is not there": (
        lambda made: made["workflow_job_templates"][0]["related"]["workflow_nodes"].pop(),
        "workflow_nodes: approve: refers to workflow_job_template_node create, which is not in the bundle",
    ),
    "one natural key for two": (
        lambda made: made["projects"].append(copy.deepcopy(made["projects"][0])),
        "projects: vclust: its natural key is not the only one of that kind",
    ),
    "a natural key of another": (
        lambda made: made["inventory"][0].update(name="other"),
        "inventory: other: its natural key has another name",
    ),
    "an answer that is dropped": (
        lambda made: made["workflow_job_templates"][0]["related"]["survey_spec"]["spec"].pop(),
        "vclust_request: got it in the survey of one only, expected in that of vclust plan too",
    ),
    "Ansible's environment": (
        lambda made: made["credential_types"][0]["injectors"].update(env={"ANSIBLE_USER": "x"}),
        "credential_types: vclust site manager: injectors: env: got ANSIBLE_USER",
    ),
    "a kind of credential": (
        lambda made: made["credential_types"][0].update(kind="ssh"),
        "credential_types: vclust site manager: kind: got 'ssh', expected cloud or net",
    ),
    "a field that is not there": (
        lambda made: made["credential_types"][0]["inputs"]["required"].append("user"),
        "credential_types: vclust site manager: inputs: required: got 'user'",
    ),
    "a schedule without interval": (
        lambda made: made["schedules"][0].update(rrule="DTSTART:20260101T023000Z RRULE:FREQ=DAILY"),
        "schedules: vclust caches every night: rrule: got",
    ),
    "a schedule nobody answers for": (
        lambda made: made["schedules"][0]["unified_job_template"].update(name="vclust destroy"),
        "schedules: vclust caches every night: nobody is there to answer for name, which is required",
    ),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_rule_is_found(broken: str) -> None:
    change, expected = BROKEN[broken]
    made = copy.deepcopy(bundle())
    change(made)
    assert any(expected in problem for problem in problems(made)), problems(made)
