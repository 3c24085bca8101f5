"""The definition of the execution environment: it holds what vclust_py needs, in the form of ansible-builder 3."""

import os
import subprocess
import tomllib
from pathlib import Path

import yaml

from vclust_py.awx.bundle import IMAGE
from vclust_py.site import PROJECT

FOLDER = PROJECT / "awx/execution-environment"
DEFINITION = yaml.safe_load((FOLDER / "execution-environment.yml").read_text())


def test_it_has_what_the_project_depends_on() -> None:
    wanted = DEFINITION["dependencies"]
    has = [wanted["ansible_core"]["package_pip"], wanted["ansible_runner"]["package_pip"], *wanted["python"]]
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    assert has == project["dependencies"]


def test_it_is_made_by_apt() -> None:
    """What ansible-builder would do on other systems, and cannot here."""
    assert DEFINITION["version"] == 3
    assert DEFINITION["options"] == {"package_manager_path": "/usr/bin/apt-get", "skip_pip_install": True}
    assert DEFINITION["build_arg_defaults"]["PKGMGR_PRESERVE_CACHE"] == "always"
    first = "\n".join(DEFINITION["additional_build_steps"]["prepend_base"])
    assert "python3-pip" in first
    assert "PIP_BREAK_SYSTEM_PACKAGES=1" in first


def test_the_project_is_on_the_path() -> None:
    last = "\n".join(DEFINITION["additional_build_steps"]["append_final"])
    assert "PYTHONPATH=/runner/project:. " in last
    # A module's process on another machine must not find it: nothing of the project is installed in the image.
    assert not any("vclust" in word for word in DEFINITION["dependencies"]["python"])


def test_the_script_builds_what_the_bundle_names(tmp_path: Path) -> None:
    """With stand-ins for both programs, which write down how they were called."""
    for name in ("ansible-builder", "podman"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> "{tmp_path}/calls"\n')
        program.chmod(0o755)
    path = {**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([FOLDER / "build"], env=path, capture_output=True, text=True, check=True)
    assert done.stdout == f"{IMAGE} is built\n"
    create, build = (tmp_path / "calls").read_text().splitlines()
    context = create.split(" --context ")[1].split()[0]
    assert create.startswith(f"ansible-builder create --file {FOLDER}/execution-environment.yml ")
    assert build == f"podman build --file {context}/Containerfile --tag {IMAGE} {context}"
    assert not Path(context).exists()
    argv = [FOLDER / "build", "--base", "localhost/debian:12", "registry.example.org/x:1"]
    subprocess.run(argv, env=path, capture_output=True, check=True)
    build = (tmp_path / "calls").read_text().splitlines()[3]
    assert build.startswith("podman build --build-arg EE_BASE_IMAGE=localhost/debian:12 --file ")
    assert " --tag registry.example.org/x:1 " in build
    for wrong in (["--base"], ["--bas", "x"], ["a", "b"]):
        done = subprocess.run(
            [FOLDER / "build", *wrong], env=path, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (1, "build: usage: build [--base BASE] [IMAGE]\n"), wrong
    (tmp_path / "ansible-builder").unlink()
    done = subprocess.run([FOLDER / "build"], env=path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("build: ansible-builder is not there; pip install")
