"""Action plugins: the same work as the module's, in Ansible's own process where the module would run as it does."""

import json
import os
import pwd
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from vclust_py import action
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")

HASH = "$6$abcdefgh$" + 86 * "x"
ASKED = {
    "hardware": {"number_of_nodes": 2},
    "software": {"name": "pair", "users": [{"name": "alice", "password_hash": HASH}]},
}


def test_there_is_one_for_each_module_that_runs_on_a_site_manager() -> None:
    modules = {path.name for path in (PROJECT / "library").glob("vclust_*.py")}
    plugins = {path.name for path in (PROJECT / "plugins/action").glob("*.py")}
    # These run on hosts, and import nothing of vclust.
    assert modules - plugins == {"vclust_files.py", "vclust_host_info.py"}
    assert plugins < modules


def test_a_controller_needs_nothing_that_only_a_site_manager_has() -> None:
    """Ansible loads every plugin of a playbook, also where the module runs on another machine."""
    code = (
        "import sys; from pathlib import Path; from vclust_py.action import action\n"
        f"for path in Path('{PROJECT}/plugins/action').glob('*.py'): action(str(path))\n"
        "print([name for name in ('libvirt', 'seccomp', 'numpy', 'rich') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(("setup", "imported"), [("", "True"), ("sys.modules['libvirt'] = None", "False")])
def test_drivers_are_imported_before_ansible_forks_where_they_can_be(setup: str, imported: str) -> None:
    code = (
        f"import runpy, sys\n{setup}\nrunpy.run_path('{PROJECT}/plugins/action/vclust_place.py')\n"
        "print('vclust_py.hypervisor.qemu' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{imported}\n"


def task(
    folder: Path, module: str, arguments: Mapping[str, Any], *words: str, **keywords: Any
) -> tuple[dict[str, Any], bool]:
    """What one task of a playbook returns, and whether it was a module's process that did it."""
    kept = {"content": "{{ result | to_json }}", "dest": str(folder / "result")}
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "connection": "local",
        "vars": {"ansible_python_interpreter": sys.executable},
        "tasks": [
            {module: dict(arguments), "register": "result", "ignore_errors": True, **keywords},
            {"ansible.builtin.copy": kept, "check_mode": False},
        ],
    }
    book = folder / "book.yml"
    book.write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-vvv", "-i", "localhost,", book, *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert HASH not in done.stdout + done.stderr
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((folder / "result").read_text()), f"library/{module}.py" in done.stdout


MODULE = {"environment": {"A": "b"}}
"""What a process of its own is needed for."""


@pytest.mark.parametrize("keywords", [{}, MODULE], ids=["action", "module"])
def test_request_four_ways(tmp_path: Path, keywords: dict[str, Any]) -> None:
    site = {"root": str(tmp_path / "site")}
    arguments = {"site": site, "request": ASKED}

    def run(*words: str) -> dict[str, Any]:
        result, in_a_module = task(tmp_path, "vclust_request", arguments, *words, **keywords)
        assert in_a_module == bool(keywords)
        return result

    would = run("--check", "--diff")
    assert would["changed"]
    assert not Site.from_mapping(site).database.exists()
    real = run()
    assert real["changed"]
    assert real["diff"] == would["diff"]
    assert not run()["changed"]
    assert not run("--check")["changed"]
    assert clusters.get(Store(Site.from_mapping(site)), "pair").name == "pair"
    assert real["site_manager"]["root"] == site["root"]


WRONG: dict[str, tuple[str, dict[str, Any]]] = {
    "several": (
        "vclust_request",
        {"request": {"hardware": {"number_of_nodes": 0, "ram": "2XB"}, "software": {"name": "Al ice"}}},
    ),
    "a setting": ("vclust_info", {"site": {"rot": "/srv"}}),
    "an option": ("vclust_info", {"nom": "x"}),
    "a choice": ("vclust_cluster", {"name": "x", "state": "there"}),
    "a type": ("vclust_info", {"site": 5}),
    "a secret": (
        "vclust_request",
        {"request": {"software": {"name": "Sec ret", "users": [{"name": "a", "password_hash": "Sec ret"}]}}},
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_failure_says_what_the_module_says(tmp_path: Path, wrong: str) -> None:
    module, arguments = WRONG[wrong]
    here, in_a_module = task(tmp_path, module, arguments)
    assert not in_a_module
    there, in_a_module = task(tmp_path, module, arguments, **MODULE)
    assert in_a_module
    assert here["failed"]
    for key in ("msg", "exit_code", "problems"):
        assert here.get(key) == there.get(key), key
    assert "Sec ret" not in str(here)


# Who asks ---------------------------------------------------------------------------------------------------------


def audited(site: dict[str, str]) -> list[str]:
    return [row["who"] for row in Store(Site.from_mapping(site)).rows("SELECT who FROM audit ORDER BY id")]


@pytest.mark.parametrize("keywords", [{}, MODULE], ids=["action", "module"])
def test_the_user_of_awx_is_in_the_audit_table(tmp_path: Path, keywords: dict[str, Any]) -> None:
    site = {"root": str(tmp_path / "site")}
    extra = json.dumps({"awx_user_name": "alice.o@example.org"})
    task(tmp_path, "vclust_request", {"site": site, "request": ASKED}, "-e", extra, **keywords)
    assert audited(site) == ["alice.o@example.org"]
    other = {**ASKED, "software": {"name": "other"}}
    task(tmp_path, "vclust_request", {"site": site, "request": other}, **keywords)
    assert audited(site)[1] not in ("", "alice.o@example.org")


def test_a_name_from_awx_is_never_a_template(tmp_path: Path) -> None:
    site = {"root": str(tmp_path / "site")}
    extra = json.dumps({"awx_user_name": "{{ 'ali' ~ 'ce' }}"})
    refused, _ = task(tmp_path, "vclust_request", {"site": site, "request": ASKED}, "-e", extra)
    assert refused["failed"]
    assert "awx_user_name: got '{{ 'ali' ~ 'ce' }}', expected the name of a user" in refused["msg"]
    assert refused["exit_code"] == 2
    assert not Site.from_mapping(site).database.exists()


# Where the module is needed ---------------------------------------------------------------------------------------


class Templar:
    def template(self, text: str) -> str:
        return text


def works_here(**changed: Any) -> bool:
    plugin = object.__new__(action.action(str(PROJECT / "plugins/action/vclust_info.py")))
    me = pwd.getpwuid(os.geteuid()).pw_name
    become = changed.get("become")
    plugin._task = SimpleNamespace(
        async_val=changed.get("async_val", 0),
        environment=changed.get("environment", [{}]),
        delegate_to=changed.get("delegate_to"),
    )
    plugin._connection = SimpleNamespace(transport=changed.get("transport", "local"), become=become)
    plugin.get_become_option = lambda name: {"me": me}.get(become, become)
    plugin._templar = Templar()
    variables = {
        "ansible_python_interpreter": changed.get("interpreter", sys.executable),
        "ansible_delegated_vars": {"other": {"ansible_python_interpreter": "/usr/bin/python9"}},
    }
    found: bool = plugin._works_here(variables)
    return found


def test_a_module_runs_where_anything_differs() -> None:
    assert works_here()
    assert works_here(become="me")
    assert works_here(interpreter=f"{Path(sys.executable).parent}/python3")
    for changed in (
        {"transport": "ssh"},
        {"become": "nobody"},
        {"async_val": 10},
        {"environment": [{}, {"LANG": "C"}]},
        {"delegate_to": "other"},
        {"interpreter": ""},
        {"interpreter": os.path.realpath(sys.executable)},
        {"interpreter": "/nowhere/python3"},
    ):
        assert not works_here(**changed), changed
