"""The bundle for AWX: it is as it would be made, whole, and asks what the playbooks read."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vclust_py.awx import __main__ as command
from vclust_py.awx.bundle import TEMPLATES, bundle
from vclust_py.request import answers, from_mapping
from vclust_py.site import PROJECT

BIN = Path(sys.executable).parent


def run(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "vclust_py.awx", *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_committed_bundle_is_as_it_would_be_made() -> None:
    done = run("--check")
    assert done.returncode == 0, done.stderr


def test_a_bundle_that_is_not_as_it_would_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "PATH", tmp_path / "bundle.json")
    assert command.main(["--check"]) == 1
    assert capsys.readouterr().err == (
        "awx: bundle.json: is not as it would be made; python -m vclust_py.awx writes it\n"
    )
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0
    command.PATH.write_text(command.PATH.read_text().replace("4096", "4095"))
    assert command.main(["--check"]) == 1


def test_a_bundle_for_another_repository() -> None:
    done = run(
        "--url", "https://git.example.org/mine.git", "--branch", "b", "--image", "registry.example.org/x:1"
    )
    made = json.loads(done.stdout)
    assert made == bundle("https://git.example.org/mine.git", "b", "registry.example.org/x:1")
    assert (made["projects"][0]["scm_url"], made["projects"][0]["scm_branch"]) == (
        "https://git.example.org/mine.git",
        "b",
    )
    assert made["execution_environments"][0]["image"] == "registry.example.org/x:1"


def test_there_is_no_secret_and_no_credential() -> None:
    made = bundle()
    assert "credentials" not in json.dumps(made)
    fields = made["credential_types"][0]["inputs"]["fields"]
    assert [field["id"] for field in fields if field.get("secret")] == ["key"]


@pytest.mark.parametrize("name", ["vclust create", "vclust plan"])
def test_a_survey_that_is_answered_with_its_defaults_and_a_name_is_a_request(name: str) -> None:
    spec = survey(name)
    answered = {one["variable"]: one["default"] for one in spec} | {"vclust_request_name": "x"}
    mapping = answers.request_of(answered)
    assert mapping is not None
    request = from_mapping(mapping, "test")
    plain = from_mapping({"hardware": {"number_of_nodes": 1}, "software": {"name": "x"}}, "test")
    assert request == plain


def survey(name: str) -> list[dict[str, Any]]:
    (found,) = (one for one in bundle()["job_templates"] if one["name"] == name)
    spec: list[dict[str, Any]] = found["related"]["survey_spec"]["spec"]
    return spec


def test_the_questions_of_a_request() -> None:
    questions = {one["variable"]: one for one in survey("vclust create")}
    assert list(questions) == [*answers.VARIABLES, "vclust_request"]
    nodes = questions["vclust_request_number_of_nodes"]
    assert [nodes[name] for name in ("type", "default", "min", "max")] == ["integer", 1, 1, 4096]
    assert questions["vclust_request_spread"]["choices"] == ["any", "hosts", "racks", "pack"]
    assert questions["vclust_request_meta_packages"]["choices"] == [
        "ansible",
        "bio",
        "dask",
        "home",
        "home-site",
        "jupyter",
        "monitoring",
        "mpi",
        "numeric",
        "openmpi",
        "slurm",
    ]
    # What AWX keeps encrypted, as it may hold hashes of passwords.
    assert [one["variable"] for one in questions.values() if one["type"] == "password"] == [
        "vclust_request_users"
    ]
    assert questions["vclust_request"]["type"] == "textarea"
    assert not any("`" in one["question_description"] for one in questions.values())


def test_a_plan_changes_nothing() -> None:
    types = {one["name"]: one["job_type"] for one in bundle()["job_templates"]}
    assert {name for name, kind in types.items() if kind == "check"} == {"vclust plan"}
    assert len(types) == len(TEMPLATES)


def test_the_workflow_is_plan_approval_creation() -> None:
    nodes = bundle()["workflow_job_templates"][0]["related"]["workflow_nodes"]
    assert [node["identifier"] for node in nodes] == ["plan", "approve", "create"]
    assert [node.get("unified_job_template", {}).get("name") for node in nodes] == [
        "vclust plan",
        None,
        "vclust create",
    ]
    following = [[key["identifier"] for key in node["related"].get("success_nodes", [])] for node in nodes]
    assert following == [["approve"], ["create"], []]
    assert nodes[1]["related"]["create_approval_template"]["timeout"] > 0


def test_the_inventory_of_awx(tmp_path: Path) -> None:
    """What AWX reads from the project, handed on as it does: an executable script; typed variables beside it."""
    source = bundle()["inventory_sources"][0]["source_path"]
    inventory = [BIN / "ansible-inventory", "--list", "-i"]
    listed = subprocess.run(
        [*inventory, source, "--export"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    data = json.loads(listed)
    data["all"]["vars"] = {"vclust_site_manager": "192.0.2.10"}
    script = tmp_path / "hosts"
    script.write_text(f"#!{sys.executable}\nprint({json.dumps(data)!r})\n")
    script.chmod(0o755)
    message = (
        "{{ {'managers': 'any' | vclust_site_managers(groups), 'hosts': 'site-manager' |"
        " vclust_site_hosts(groups, hostvars), 'at': hostvars['site-manager'].ansible_host} | to_json }}"
    )
    done = subprocess.run(
        [BIN / "ansible", "-i", script, "localhost", "-m", "debug", "-a", f"msg={message}"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "1",
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.oneline",
        },
    )
    found = json.loads(json.loads(done.stdout.partition("=> ")[2])["msg"])
    assert found["managers"] == ["site-manager"]
    assert found["at"] == "192.0.2.10"
    assert [(host["name"], host["uri"]) for host in found["hosts"]] == [("site-manager", "qemu:///system")]
