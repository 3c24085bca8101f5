"""A job as AWX runs it: a copy of the project, an inventory that is a program, answers in a file of variables."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from vclust_py import request
from vclust_py.awx.bundle import bundle
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")

HASH = "$6$abcdefgh$" + 86 * "x"


@dataclass
class Job:
    folder: Path

    @property
    def site(self) -> dict[str, Any]:
        return {"root": str(self.folder / "site"), "administrators": ["carol"]}

    @property
    def store(self) -> Store:
        return Store(Site.from_mapping(self.site))

    def launch(
        self, template: str, answers: dict[str, Any], *words: str, who: str = "alice"
    ) -> "subprocess.CompletedProcess[str]":
        """Questions that are not answered have the survey's defaults, as AWX fills them in."""
        (found,) = (one for one in bundle()["job_templates"] if one["name"] == template)
        spec = found["related"]["survey_spec"]["spec"]
        defaults = {one["variable"]: one["default"] for one in spec if one["type"] != "multiselect"}
        assert answers.keys() <= {one["variable"] for one in spec}
        launched = {"awx_user_name": who, "awx_job_id": 7}
        (self.folder / "extravars").write_text(json.dumps(defaults | answers | launched))
        argv = ["-u", "root", "-i", self.folder / "hosts", "-e", f"@{self.folder / 'extravars'}", *words]
        if found["job_type"] == "check":
            argv.append("--check")
        done = subprocess.run(
            [Path(sys.executable).with_name("ansible-playbook"), *argv, found["playbook"]],
            cwd=self.folder / "project",
            env={
                "PATH": os.environ["PATH"],
                "HOME": os.environ["HOME"],
                "LC_ALL": "C.UTF-8",
                "PYTHONPATH": str(self.folder / "project"),
                "ANSIBLE_SHOW_CUSTOM_STATS": "true",
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert HASH not in done.stdout + done.stderr
        return done


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job(tmp_path)
    (tmp_path / "project").mkdir()
    for name in ("vclust_py", "playbooks", "roles", "library", "plugins", "metapackages"):
        shutil.copytree(PROJECT / name, tmp_path / "project" / name)
    shutil.copy(PROJECT / "ansible.cfg", tmp_path / "project")
    manager = {"hosts": ["site-manager"]}
    variables = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "vclust_site": job.site,
    }
    listed = {
        "site_main": manager,
        "site_managers": manager,
        "vm_hosts": manager,
        "_meta": {"hostvars": {"site-manager": variables}},
    }
    (tmp_path / "hosts").write_text(f"#!{sys.executable}\nprint({json.dumps(listed)!r})\n")
    (tmp_path / "hosts").chmod(0o755)
    return job


def test_answers_become_a_request(job: Job) -> None:
    answers = {
        "vclust_request_name": "pair",
        "vclust_request_number_of_nodes": 2,
        "vclust_request_users": f"alice:{HASH}",
        "vclust_request_meta_packages": ["mpi"],
    }
    done = job.launch("vclust create", answers, "--tags", "request")
    assert done.returncode == 0, done.stdout + done.stderr
    found = clusters.get(job.store, "pair").request
    assert (found.hardware.number_of_nodes, found.software.meta_packages) == (2, ("mpi",))
    assert found.software.users[0].password_hash == HASH
    rows = job.store.rows("SELECT who, action, cluster FROM audit")
    assert [tuple(row) for row in rows] == [("alice", "create", "pair")]


def test_a_phase_without_the_one_it_goes_by_says_which(job: Job) -> None:
    answers = {"vclust_request_name": "pair", "vclust_request_number_of_nodes": 2}
    for words in (("--skip-tags", "resolve"), ("--tags", "cache"), ("--tags", "place")):
        done = job.launch("vclust create", answers, *words)
        assert done.returncode == 2
        assert "expected --tags resolve,cache,place, or all phases" in " ".join(done.stdout.split())


def test_a_whole_request_as_text(job: Job) -> None:
    text = "[Hardware]\r\nNumberOfNodes: 3\r\n[Software]\r\nName: bio1\r\nPackages: {{ 1 }}\r\n"
    done = job.launch("vclust create", {"vclust_request": text}, "--tags", "request")
    assert "vclust_request:5: Packages: got '{{'" in done.stdout + done.stderr
    done = job.launch(
        "vclust create", {"vclust_request": text.replace("{{ 1 }}", "gcc")}, "--tags", "request"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert clusters.get(job.store, "bio1").request.hardware.number_of_nodes == 3


@pytest.mark.parametrize("template", ["vclust create", "vclust plan"])
def test_wrong_answers_start_nothing(job: Job, template: str) -> None:
    answers = {"vclust_request_ram": "2XB", "vclust_request_site": "../x", "vclust_request_users": "alice"}
    done = job.launch(template, answers)
    assert done.returncode != 0
    said = done.stdout + done.stderr
    for problem in (
        "Memory of a node (vclust_request_ram): got '2XB', expected",
        "Site (vclust_request_site): got '../x', expected",
        "Name of the cluster (vclust_request_name): got nothing, expected",
    ):
        assert problem in said
    assert not Site.from_mapping(job.site).database.exists()


def test_the_artifact_of_a_creation(job: Job) -> None:
    """Of a cluster without nodes, which is proven at once."""
    asked = request.from_mapping(
        {
            "hardware": {"number_of_nodes": 1},
            "software": {"name": "x", "users": [{"name": "al", "password_hash": HASH}]},
        },
        "test",
    )
    store = job.store
    clusters.register(store, asked)
    store.execute("UPDATE clusters SET state = 'ready'")  # every other way there has nodes
    store.close()
    done = job.launch("vclust create", {"vclust_request_name": "x"}, "--tags", "ready")
    assert done.returncode == 0, done.stdout + done.stderr
    told = done.stdout.partition("CUSTOM STATS")[2]
    for said in ('"site": "main"', '"manager": "site-manager"', '"login": "vclust ssh x"', '"user": "al"'):
        assert said in told, done.stdout


def test_a_destruction_with_a_blank_answer(job: Job) -> None:
    done = job.launch("vclust destroy", {"name": "x", "vclust_forget_hosts": ""})
    assert done.returncode == 0, done.stdout + done.stderr
    done = job.launch("vclust destroy", {"name": "x", "vclust_forget_hosts": "{{ 1 }}"})
    assert "vclust_forget_hosts: got '{{ 1 }}', expected" in done.stdout + done.stderr


def test_a_backup_that_stays_on_the_site_manager(job: Job) -> None:
    store = job.store
    clusters.register(
        store,
        request.from_mapping({"hardware": {"number_of_nodes": 1}, "software": {"name": "x"}}, "test"),
    )
    store.close()
    path = job.folder / "kept.tar.gz"
    refused = job.launch("vclust backup", {"there": str(path)})
    assert "x: belongs to root: got alice, expected" in refused.stdout + refused.stderr
    would = job.launch("vclust backup", {"there": str(path)}, "--check", who="carol")
    assert would.returncode == 0, would.stdout + would.stderr
    assert not path.exists()
    done = job.launch("vclust backup", {"there": str(path)}, who="carol")
    assert done.returncode == 0, done.stdout + done.stderr
    assert path.stat().st_mode & 0o777 == 0o600
    with tarfile.open(path) as archive:
        assert "state.db" in archive.getnames()
