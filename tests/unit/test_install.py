"""The project as pip installs it, in a venv of its own that has no libvirt: far from the checkout, and complete."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml
from repository import KERNEL, Repository

from vclust_py.site import PROJECT

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")

SOURCES = (
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "ansible.cfg",
    "docs",
    "examples",
    "inventories",
)
SOURCES += ("library", "metapackages", "playbooks", "plugins", "roles", "vclust_hop", "vclust_py")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """Its packages are those of this environment, but for vclust and for Debian's."""
    source, venv = tmp_path / "source", tmp_path / "venv"
    source.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        copy(PROJECT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    purelib = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    # A line in a .pth file: the .pth files of that folder, the editable vclust's among them, are not read.
    (purelib / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", venv]
    words = ["install", "--no-index", "--no-deps", "--no-build-isolation", source]
    done = subprocess.run([*pip, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ansible = venv / "bin/ansible-playbook"
    ansible.write_text(f"#!{venv}/bin/python\nfrom ansible.cli.playbook import main\nmain()\n")
    ansible.chmod(0o755)
    shutil.rmtree(source)
    return venv


def test_a_plan_far_from_the_checkout(venv: Path, toy: Repository, tmp_path: Path) -> None:
    assert compiled(venv), "pip compiles what it installs, programs of nodes too"
    there = {str(path.relative_to(venv / "share/vclust")) for path in (venv / "share/vclust").rglob("*")}
    for name in ("roles/ready/tasks/main.yml", "inventories/local/group_vars/site_local.yml", "ansible.cfg"):
        assert name in there
    inventory = {
        "site_managers": {"hosts": {"localhost": {"ansible_connection": "local"}}},
        "vm_hosts": {"hosts": {"localhost": None}},
    }
    settings = {"root": str(tmp_path / "site"), "suite": "toy", "sources": str(toy.sources)}
    variables = {"vclust_site": settings, "ansible_python_interpreter": f"{venv}/bin/python"}
    listed = {"all": {"children": {"site_toy": {"children": inventory, "vars": variables}}}}
    (tmp_path / "sites.yml").write_text(yaml.safe_dump(listed))
    (tmp_path / "pair.yml").write_text(
        f"hardware: {{number_of_nodes: 2, ram: 256MB}}\n"
        f"software: {{network: 192.168.61.0/24, hostname: p%d, kernel: {KERNEL}, packages: hello}}\n"
    )
    done = subprocess.run(
        [venv / "bin/vclust", "-i", tmp_path / "sites.yml", "plan", tmp_path / "pair.yml"],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )
    # All but the hypervisor is there.
    assert done.returncode == 4, done.stderr
    assert "place" in done.stderr
    assert f"{venv}/bin/python has no module 'libvirt'" in done.stderr
    assert "python3-libvirt" in done.stderr
    assert "Traceback" not in done.stderr


def compiled(venv: Path) -> list[Path]:
    return list(venv.rglob("vclust_py/image/guest/__pycache__/*.pyc"))
