"""What recurs on a site manager, within what its unit leaves it of root's rights: a real cache is built and stored."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache.cachesite import caches, remember, status
from emulated.host import Host
from emulatedhost import PATIENCE
from jinja2 import Template
from machine import BIN
from shared import inventory

from vclust_py.image.base import ensure_base
from vclust_py.resolve import closure
from vclust_py.site import PROJECT, Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

UNIT = PROJECT / "roles/site_manager/templates/vclust-upkeep.service.j2"


def quiet(message: str, done: int, total: int) -> None:
    pass


@pytest.fixture
def own(site: Site) -> Iterator[Site]:
    """A site with the others' base image, and five requests for the same."""
    made = Site(root=site.root / "upkeep", cache_every=5)
    shutil.rmtree(made.root, ignore_errors=True)
    made.make_directories()

    def lock(there: Site, *names: str) -> object:
        return closure(
            names,
            suite=site.default_suite,
            architecture="amd64",
            kernel="linux-image-cloud-amd64",
            site=there,
            report=quiet,
        )

    ensure_base(site, lock(site), quiet)
    for path in site.images.iterdir():
        if path.name.startswith(("base-", "kernel-", "installer-")) or path.suffix == ".status":
            os.link(path, made.images / path.name)
    shutil.copytree(site.apt, made.apt, symlinks=True, dirs_exist_ok=True)
    remember(made, *[lock(made, "hello")] * 5)
    yield made
    shutil.rmtree(made.root)


def test_a_cache_is_built_within_what_the_unit_leaves(own: Site, tmp_path: Path) -> None:
    unit = tmp_path / "vclust-upkeep.service"
    variables = {
        "site_manager_name": "t",
        "site_manager_python": sys.executable,
        "_site_manager_root": own.root,
    }
    unit.write_text(Template(UNIT.read_text()).render(variables))
    start = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    done = subprocess.run(
        [
            *("unshare", "--mount", sys.executable, Path(__file__).with_name("sandboxed.py"), unit),
            *start.removeprefix("ExecStart=").split(),
        ],
        cwd="/",
        input=json.dumps(own.to_mapping()),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("built "), done.stdout + done.stderr
    assert status(own)["state"] == "done"
    (cache,) = caches(own)
    assert {package.partition("=")[0] for package in cache.packages} == {"hello"}


PLAYBOOK = """\
---
- name: The part of the role that is for systemd
  hosts: vm_hosts
  gather_facts: false
  tasks:
    - name: Make the timer
      ansible.builtin.include_role:
        name: site_manager
        tasks_from: upkeep
      vars:
        site_manager_site: {cache_every: 7}
        site_manager_name: toy
        site_manager_python: /usr/bin/true
"""


@pytest.mark.kvm
def test_the_timer_on_a_machine_with_systemd(kvm_hosts: list[Host], site: Site, tmp_path: Path) -> None:
    """In place of vclust the service runs a program that does nothing."""
    host, unit = kvm_hosts[0], "vclust-upkeep-toy"
    inventory.write([host], site.root, tmp_path / "inventory")
    path = tmp_path / "timer.yml"
    path.write_text(PLAYBOOK)

    def made() -> bool:
        argv = [BIN / "ansible-playbook", "-i", tmp_path / "inventory", path]
        done = subprocess.run(
            argv, cwd=PROJECT, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return "changed=0 " not in done.stdout

    try:
        assert [made(), made()] == [True, False]
        assert unit in host.ssh("systemctl list-timers --no-legend")
        assert host.ssh("stat -c %a /var/lib/vclust/upkeep.json; cat /var/lib/vclust/upkeep.json").split() == [
            "600", '{"cache_every":', "7}"
        ]  # fmt: skip
        host.ssh(f"systemctl start {unit}.service")
        shown = host.ssh(f"systemctl show {unit}.service --property Result --property ProtectSystem")
        assert set(shown.split()) == {"Result=success", "ProtectSystem=strict"}
    finally:
        host.ssh(
            f"systemctl disable --now {unit}.timer; rm -f /etc/systemd/system/{unit}.* /var/lib/vclust/upkeep.json;"
            " systemctl daemon-reload"
        )
