"""The execution environment's image, and a job of AWX in it: all that AWX does, without AWX.

Only with --container: it takes three minutes on two processors, and podman (apt-get install podman runc).
"""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible_runner
import pytest
import yaml
from containers import Podman, debian, podman
from repository import KERNEL, Repository
from sshd import Sshd, sshd

from vclust_py.awx.bundle import bundle
from vclust_py.site import PROJECT, Site

pytestmark = [pytest.mark.system, pytest.mark.container]

IMAGE = "localhost/vclust-ee:test"


@pytest.fixture(scope="module")
def engine(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """With the image, which the project's script has built."""
    for program, package in (("podman", "podman"), ("/usr/sbin/sshd", "openssh-server")):
        if shutil.which(program) is None:
            pytest.skip(f"no {program}: apt-get install {package}")
    folder = site.root / "containers"
    folder.mkdir()
    engine = podman(folder)
    try:
        base = debian(engine)
        if why := engine.why_not():
            pytest.skip(f"podman cannot run a container here: {why}")
        tools = tmp_path_factory.mktemp("tools")
        subprocess.run([sys.executable, "-m", "venv", tools], check=True)
        subprocess.run([tools / "bin/pip", "-q", "install", "ansible-builder>=3"], check=True)
        done = subprocess.run(
            [PROJECT / "awx/execution-environment/build", "--base", base, IMAGE],
            env=engine.environment | {"PATH": f"{tools}/bin:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        assert done.stdout.endswith(f"{IMAGE} is built\n")
        yield engine
    finally:
        engine.remove()
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with sshd(tmp_path_factory.mktemp("manager") / "sshd") as server:
        yield server


def injected(folder: Path, manager: Sshd) -> dict[str, str]:
    """The variables of the credential: its files are in the job's folder, which the container has as /runner."""
    (kind,) = bundle()["credential_types"]
    values = {"key": manager.key.read_text(), "known_hosts": manager.known_hosts.read_text()}
    variables = dict(kind["injectors"]["extra_vars"])
    for name, template in kind["injectors"]["file"].items():
        name = name.removeprefix("template.")
        path = folder / "env" / name
        path.write_text(template.replace(f"{{{{ {name} }}}}", values[name]))
        path.chmod(0o600)
        for variable, text in variables.items():
            variables[variable] = text.replace(f"{{{{ tower.filename.{name} }}}}", f"/runner/env/{name}")
    assert "{{" not in "".join(variables.values())
    return variables


def a_job(folder: Path, manager: Sshd, site: Site, answers: dict[str, Any]) -> Path:
    """What AWX hands to ansible-runner: the project without .git, a program for an inventory, files of variables."""
    (folder / "env").mkdir(parents=True)
    (folder / "inventory").mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=True
    ).stdout
    for name in listed.rstrip("\0").split("\0"):
        (folder / "project" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, folder / "project" / name)
    place = {"ansible_port": manager.port, "ansible_user": "root"} | {
        "vclust_site_manager": "127.0.0.1",
        "vclust_site_python": sys.executable,
        "vclust_site": site.to_mapping(),
    }
    listed = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-inventory"),
            *("--list", "-i", PROJECT / "inventories/awx/site.yml", "-e", json.dumps(place)),
        ],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    inventory = json.loads(listed)
    inventory["_meta"]["hostvars"]["site-manager"] |= place
    program = folder / "inventory/hosts"
    program.write_text(f"#!/usr/bin/env python3\nprint({json.dumps(inventory)!r})\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    launched = {"awx_user_name": "alice", "awx_job_id": 7}
    (folder / "env/extravars").write_text(json.dumps(answers | launched))
    (folder / "env/credvars").write_text(yaml.safe_dump(injected(folder, manager)))
    return folder


def test_a_plan_in_the_execution_environment(
    engine: Podman,
    manager: Sshd,
    toy: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = f"[Hardware]\nNumberOfNodes: 2\nRAM: 256MB\n[Software]\nName: pair\nSuite: toy\nKernel: {KERNEL}\n"
    site = toy.site(tmp_path / "site", administrators=["alice"])
    folder = a_job(tmp_path / "job", manager, site, {"vclust_request": text})
    for name, value in engine.environment.items():
        monkeypatch.setenv(name, value)
    runner = ansible_runner.run(
        private_data_dir=str(folder),
        playbook="playbooks/create_vcluster.yml",
        cmdline="-u root -e @/runner/env/credvars --check",
        process_isolation=True,
        process_isolation_executable="podman",
        container_image=IMAGE,
        container_options=["--user=root"],
        quiet=True,
    )
    told = runner.stdout.read()
    assert runner.rc == 0, told
    done = {
        event["event_data"]["task_action"]: event
        for event in runner.events
        if event["event"] == "runner_on_ok"
    }
    placed = done["vclust_place"]["event_data"]["res"]
    assert placed["diff"]["after"] == {"pair-01": "site-manager", "pair-02": "site-manager"}
    assert placed["invocation"]["module_args"]["who"] == "alice"
    assert "vclust_image" not in done
    assert not site.database.exists()
