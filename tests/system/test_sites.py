"""Three sites in one inventory, with real nodes: one with space, one that is full, one that does not answer."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from machine import Vclust, left_since, snapshot

from vclust_py.site import Site

pytestmark = pytest.mark.system

REQUEST = """\
[Hardware]
NumberOfNodes: 1
RAM: {ram}

[Software]
Name: {name}
Hostname: roam%02d
Network: 192.168.93.0/24
"""


@pytest.fixture
def vclust(site: Site, disk_path: Path, tmp_path: Path) -> Vclust:
    full = disk_path / "full"
    full.mkdir()
    shutil.copytree(site.apt, full / "apt")  # the index is the same, and need not be fetched
    managers: dict[str, Any] = {
        "away": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9},
        "crowded": {"vclust_site": {"root": str(full), "cpu_overcommit": 0}},
        "spacious": {"vclust_site": {"root": str(site.root), "cache_every": 0, "base_renewal": 0}},
    }
    managers["away"]["vclust_site"] = {}
    children: dict[str, Any] = {
        "site_managers": {"hosts": managers},
        "vm_hosts": {"hosts": {"crowded": {}, "spacious": {}}},
    }
    children |= {f"site_{name}": {"hosts": {name: {}}} for name in managers}
    variables = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = tmp_path / "three.yml"
    inventory.write_text(yaml.safe_dump({"all": {"vars": variables, "children": children}}))
    return Vclust(inventory, tmp_path)


def test_a_request_for_any_site(vclust: Vclust) -> None:
    before = snapshot()
    request = vclust.request("roam", REQUEST.format(ram="256MB", name="t-roam"))
    said = vclust("create", request)
    try:
        assert "spacious/t-roam is ready: " in said
        assert "warning: away: does not answer: " in said
        said = vclust("show", "t-roam")
        assert "site: spacious (" in said
        assert "crowded has no space" in said
        assert "away does not answer" in said
        assert "roam01" in vclust("ssh", "spacious/t-roam", "--", "hostname")
        assert [line.split()[:3] for line in vclust("list", code=4).splitlines()][:2] == [
            ["NAME", "SITE", "STATE"],
            ["t-roam", "spacious", "ready"],
        ]
        # It goes on where it is, and nothing is made elsewhere.
        assert "spacious/t-roam is ready" in vclust("create", request)
    finally:
        vclust("destroy", "t-roam")
    assert left_since(before) == {}


def test_no_site_has_space(vclust: Vclust) -> None:
    request = vclust.request("large", REQUEST.format(ram="900GB", name="t-large"))
    said = vclust("create", request, code=3)
    assert "t-large: no site has space for it:" in said
    assert "  crowded: " in said
    assert "virtual CPUs left" in said or "memory" in said
    assert "  spacious: " in said
    assert "  away: does not answer: " in said
    assert json.loads(vclust("list", "--json", code=4).splitlines()[0]) == []
