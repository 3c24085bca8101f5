"""The lookup plugin, as Ansible loads it and by a whole ansible-playbook run."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader

PROJECT = Path(__file__).parents[4]
REQUEST = {"hardware": {"number_of_nodes": 2, "ram": "1GB"}, "software": {"name": "demo"}}


@pytest.fixture
def lookup() -> Any:
    lookup_loader.add_directory(str(PROJECT / "plugins" / "lookup"))
    return lookup_loader.get("vclust_request")


def test_a_file_becomes_the_canonical_mapping(lookup: Any) -> None:
    (mapping,) = lookup.run([str(PROJECT / "examples" / "hello-mpi.ini")])
    assert mapping["hardware"]["number_of_nodes"] == 2
    assert mapping["software"]["packages"] == ["gcc", "mpich", "python3"]
    assert mapping["software"]["users"][0]["name"] == "alice"


def test_what_comes_out_goes_in_again(lookup: Any) -> None:
    (mapping,) = lookup.run([REQUEST])
    assert lookup.run([mapping]) == [mapping]
    assert mapping["hardware"]["ram"] == "1GB"


def test_paths_are_of_the_working_directory_then_of_the_playbook(
    lookup: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cwd").mkdir()
    (tmp_path / "play").mkdir()
    for number, folder in enumerate(("cwd", "play"), start=1):
        (tmp_path / folder / "both.ini").write_text(f"[Hardware]\nNumberOfNodes: {number}\n")
    (tmp_path / "play" / "one.ini").write_text("[Hardware]\nNumberOfNodes: 3\n")
    monkeypatch.chdir(tmp_path / "cwd")
    found = lookup.run(["both.ini", "one.ini"], variables={"playbook_dir": str(tmp_path / "play")})
    assert [mapping["hardware"]["number_of_nodes"] for mapping in found] == [1, 3]


def test_all_mistakes_are_in_the_error(lookup: Any) -> None:
    wrong = {"hardware": {"number_of_nodes": 0, "ram": "2XB"}, "software": {"name": "demo"}}
    with pytest.raises(AnsibleLookupError) as caught:
        lookup.run([wrong])
    assert "vclust_request: hardware.number_of_nodes: got '0'" in str(caught.value)
    assert "vclust_request: hardware.ram: got '2XB'" in str(caught.value)


def test_a_file_that_is_not_there(lookup: Any) -> None:
    with pytest.raises(AnsibleLookupError, match=r"none\.ini: got No such file or directory"):
        lookup.run(["none.ini"], variables={"playbook_dir": "/"})


def run(playbook: Path, **environment: str) -> None:
    """A playbook on the machine itself."""
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            "-i",
            "localhost,",
            "-c",
            "local",
            playbook,
        ],
        cwd=PROJECT,
        env={**os.environ, "ANSIBLE_LOCALHOST_WARNING": "false", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_in_a_playbook_with_templates(tmp_path: Path) -> None:
    playbook = tmp_path / "play.yml"
    playbook.write_text(
        """
- hosts: localhost
  gather_facts: false
  vars:
    nodes: 5
    wanted: {hardware: {number_of_nodes: "{{ nodes }}", ram: 1GB}, software: {name: demo}}
    request: "{{ lookup('vclust_request', wanted) }}"
  tasks:
    - ansible.builtin.assert:
        that:
          - request.hardware.number_of_nodes == 5
          - request.hardware.disk == '4GB'
"""
    )
    run(playbook)


COUNTING = """

_counted = checked


def checked(reading):
    with open(os.environ["COUNT"], "a") as file:
        file.write("checked\\n")
    return _counted(reading)
"""


@pytest.mark.parametrize("given", ["file", "mapping"])
def test_a_playbook_checks_its_request_once(tmp_path: Path, given: str) -> None:
    """Ansible templates the variable at every use, in the playbook's process and in a fork for each task."""
    shutil.copytree(PROJECT / "vclust_py", tmp_path / "vclust_py")
    checks = tmp_path / "vclust_py/request/checks.py"
    checks.write_text(checks.read_text().replace("from pathlib", "import os\nfrom pathlib") + COUNTING)
    term = {"file": str(PROJECT / "examples" / "slurm.yml"), "mapping": REQUEST}[given]
    tasks = [{"ansible.builtin.debug": {"msg": "{{ asked.software.name }} {{ asked.hardware.ram }}"}}] * 4
    play = {
        "hosts": "{{ 'localhost' if asked.hardware.number_of_nodes else '' }}",
        "gather_facts": False,
        "vars": {"term": term, "asked": "{{ lookup('vclust_request', term) }}"},
        "tasks": tasks,
    }
    (tmp_path / "play.yml").write_text(json.dumps([play]))
    run(tmp_path / "play.yml", COUNT=str(tmp_path / "count"), PYTHONPATH=str(tmp_path))
    assert (tmp_path / "count").read_text() == "checked\n"
