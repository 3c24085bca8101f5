"""Filters and the inventory plugin, without and with a site."""

import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError

from vclust_py import access
from vclust_py.site import PROJECT, Site
from vclust_py.site.store import Store

GROUPS = {
    "all": ["m1", "h1", "h2", "m2", "h3"],
    "site_north": ["m1", "h1", "h2"],
    "site_south": ["m2", "h3"],
    "site_managers": ["m1", "m2"],
    "vm_hosts": ["h1", "h2", "h3"],
}

CLUSTER = {
    "name": "hello-mpi",
    "ssh": {
        "user": "alice",
        "netns": "vc7",
        "key": "/k/user",
        "admin_key": "/k/admin",
        "known_hosts": "/k/known",
    },
    "nodes": [
        {"name": "hello01", "address": "192.168.77.1", "host": "h1", "state": "ready"},
        {"name": "hello02", "address": "192.168.77.2", "host": "h1", "state": "failed"},
    ],
}


@pytest.fixture(scope="module")
def filters() -> dict[str, Callable[..., Any]]:
    found: dict[str, Callable[..., Any]] = runpy.run_path(str(PROJECT / "plugins/filter/vclust.py"))[
        "FilterModule"
    ]().filters()
    return found


def test_site_managers(filters: dict[str, Callable[..., Any]]) -> None:
    managers = filters["vclust_site_managers"]
    assert managers("any", GROUPS) == ["m1", "m2"]
    assert managers("south", GROUPS) == ["m2"]
    with pytest.raises(AnsibleFilterError, match="Site: got 'west', expected any or one of north, south"):
        managers("west", GROUPS)
    with pytest.raises(AnsibleFilterError, match="inventory: no site"):
        managers("any", {"all": []})


def test_which_manager_has_a_cluster(filters: dict[str, Callable[..., Any]]) -> None:
    manager = filters["vclust_cluster_manager"]
    has, lacks = {"vclust_found": {"clusters": [{}]}}, {"vclust_found": {"clusters": []}}
    for one, other, found in ((has, lacks, "m1"), (lacks, has, "m2"), (lacks, lacks, ""), ({}, has, "m2")):
        assert manager(["m1", "m2"], "a", GROUPS, {"m1": one, "m2": other}) == found
    assert manager(["m2"], "a", GROUPS, {}) == "m2"
    with pytest.raises(
        AnsibleFilterError, match="a: there is one in north and south; say which: -e name=SITE/a"
    ):
        manager(["m1", "m2"], "a", GROUPS, {"m1": has, "m2": has})


def test_offers(filters: dict[str, Callable[..., Any]]) -> None:
    """What comes of results as Ansible registers them: done, failed, unreachable, out of time, none."""
    groups = GROUPS | {"site_managers": ["m1", "m2", "h3"]}
    results = {
        "m1": {"choose_offer": {"offer": {"present": ""}, "changed": False}},
        "m2": {"choose_offer": {"failed": False, "msg": "full", "exit_code": 3}},
        "h3": {"choose_offer": {"unreachable": True, "msg": "no route"}},
    }
    found = filters["vclust_offers"](["m1", "m2", "h3"], groups, results)
    assert [one["site"] for one in found] == ["north", "south", "h3"]
    assert [one["result"] for one in found] == [
        {"offer": {"present": ""}, "answered": True},
        {"msg": "full", "exit_code": 3, "answered": True},
        {"msg": "no route", "answered": False},
    ]
    late = {"m1": {"choose_offer": {"msg": "late", "timedout": {}}}, "m2": {}}
    found = filters["vclust_offers"](["m1", "m2"], groups, late)
    assert [one["result"] for one in found] == [{"msg": "late", "answered": False}, {"answered": False}]


def test_site_name(filters: dict[str, Callable[..., Any]]) -> None:
    assert [filters["vclust_site_name"](manager, GROUPS) for manager in ("m1", "m2", "m3")] == [
        "north", "south", "m3"
    ]  # fmt: skip


def test_site_hosts(filters: dict[str, Callable[..., Any]]) -> None:
    hostvars: dict[str, dict[str, Any]] = {
        "m1": {"vclust_site": {"root": "/srv/v c"}},
        "h1": {},
        "h2": {
            "vclust_libvirt_uri": "xen+tls://192.0.2.2/system",
            "vclust_xen_guest": "pv",
            "vclust_rack": "r2",
            "vclust_host_state": "drain",
            "vclust_cpu_overcommit": 2,
        },
        "h3": {"vclust_libvirt_uri": "xen+tls://h3/system?no_verify=0"},
    }
    hosts = filters["vclust_site_hosts"]
    plain = {"guest": "", "rack": "", "state": "active", "cpu_overcommit": 0}
    assert hosts("m1", GROUPS, hostvars) == [
        {"name": "h1", "uri": "qemu:///system", **plain},
        {
            "name": "h2",
            "uri": "xen+tls://192.0.2.2/system?pkipath=/srv/v%20c/pki",
            "guest": "pv",
            "rack": "r2",
            "state": "drain",
            "cpu_overcommit": 2,
        },
    ]
    h3 = "xen+tls://h3/system?no_verify=0&pkipath=/var/lib/vclust/pki"
    assert hosts("m2", GROUPS, hostvars) == [{"name": "h3", "uri": h3, **plain}]
    hostvars["h3"]["vclust_libvirt_uri"] = "xen+tls://h3/system?pkipath=/elsewhere"
    assert hosts("m2", GROUPS, hostvars)[0]["uri"] == "xen+tls://h3/system?pkipath=/elsewhere"
    hostvars["h1"]["vclust_host_state"] = "absent"
    assert [host["name"] for host in hosts("m1", GROUPS, hostvars)] == ["h2"]
    with pytest.raises(AnsibleFilterError, match="m1: vclust_site: rot: unknown setting"):
        hosts("m1", GROUPS, {**hostvars, "m1": {"vclust_site": {"rot": "/"}}})


def test_host_manager(filters: dict[str, Callable[..., Any]]) -> None:
    manager = filters["vclust_host_manager"]
    assert [manager(host, GROUPS) for host in ("h2", "h3", "m2")] == ["m1", "m2", "m2"]
    with pytest.raises(AnsibleFilterError, match="h9: in no site"):
        manager("h9", GROUPS)


def inventory(folder: Path, *words: str, name: str = "vclust.yml") -> Any:
    (folder / "vclust.yml").write_text(f"plugin: vclust\nsite: {{root: {folder / 'site'}}}\n")
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-inventory", "-i", folder / name, *words],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ANSIBLE_INVENTORY_UNPARSED_FAILED": "true"},
    )
    return json.loads(done.stdout)


def test_inventory_without_state(tmp_path: Path) -> None:
    assert inventory(tmp_path, "--list")["_meta"]["hostvars"] == {}


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_inventory_of_a_state_that_is_not_for_this_user(mode: int) -> None:
    """It is not silently empty: the folder is closed, or only the file in it is."""
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are root's
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "site").mkdir(mode=mode)
        site = Site(root=folder / "site")
        Store(site).execute("SELECT 1")
        assert site.database.exists()
        site.database.chmod(0o600)
        (folder / "vclust.yml").write_text(f"plugin: vclust\nsite: {{root: {folder / 'site'}}}\n")
        done = subprocess.run(
            [Path(sys.executable).parent / "ansible-inventory", "-i", folder / "vclust.yml", "--list"],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
            user=65534,
            env={**os.environ, "HOME": str(folder), "ANSIBLE_LOCAL_TEMP": f"/tmp/vclust-{os.getpid()}"},
        )
    assert "hosts" not in json.loads(done.stdout).get("all", {})
    said = " ".join(done.stderr.split())
    assert f"the state in {folder / 'site'} is for root only; as in: sudo " in said


def test_an_inventory_may_be_a_program(tmp_path: Path) -> None:
    """As AWX hands it over."""
    content = {"site_a": {"hosts": ["m1"]}, "_meta": {"hostvars": {"m1": {"vclust_site": {}}}}}
    program = tmp_path / "hosts"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(content)}\nEND\n")
    program.chmod(0o755)
    listed = inventory(tmp_path, "--list", name="hosts")
    assert listed["site_a"] == {"hosts": ["m1"]}
    assert listed["_meta"]["hostvars"] == {"m1": {"vclust_site": {}}}


@pytest.mark.parametrize(
    ("site", "expected_group", "expected"),
    [
        ("", "cluster_hello_mpi", "hello01.hello-mpi"),
        ("north", "cluster_north_hello_mpi", "hello01.hello-mpi.north"),
    ],
)
def test_inventory_of_ready_nodes(site: str, expected_group: str, expected: str) -> None:
    """The plugin's own part: which nodes, under which names, reached how."""
    plugin = runpy.run_path(str(PROJECT / "plugins/inventory/vclust.py"))
    added: dict[str, dict[str, Any]] = {}

    class Inventory:
        def add_group(self, name: str) -> str:
            assert name == expected_group
            return name

        def add_host(self, name: str, group: str) -> str:
            added[name] = {}
            return name

        def set_variable(self, host: str, name: str, value: Any) -> None:
            added[host][name] = value

    module = plugin["InventoryModule"]()
    module.inventory = Inventory()
    module._add(CLUSTER, site)
    assert list(added) == [expected]
    variables = added[expected]
    assert variables["ansible_host"] == expected
    assert variables["ansible_ssh_private_key_file"] == "/k/admin"
    assert "ip netns exec vc7 nc 192.168.77.1 22" in variables["ansible_ssh_common_args"]


def test_ssh_options() -> None:
    options = access.ssh_options(CLUSTER, {"name": "hello01", "address": "192.168.77.1"})
    assert options[::2] == ["-o"] * (len(options) // 2)
    assert "StrictHostKeyChecking=yes" in options


def test_the_example_of_two_sites() -> None:
    """Racks, both kinds of hosts, one that is drained: as the modules get them."""
    argv = [
        Path(sys.executable).with_name("ansible"),
        *("-i", "inventories/example-sites/site.yml", "localhost", "-m", "debug"),
        *("-a", "msg={{ groups.site_managers | map('vclust_site_hosts', groups, hostvars) | to_json }}"),
    ]
    done = subprocess.run(
        argv,
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
    north, south = json.loads(json.loads(done.stdout.partition("=> ")[2])["msg"])
    end = "/system?pkipath=/var/lib/vclust/pki"
    assert [
        (host["name"], host["uri"], host["rack"], host["state"], host["cpu_overcommit"]) for host in north
    ] == [
        ("n1", f"qemu+tls://192.0.2.11{end}", "a", "active", 0),
        ("n2", f"qemu+tls://192.0.2.12{end}", "a", "active", 1),
        ("n3", f"qemu+tls://192.0.2.13{end}", "b", "drain", 0),
        ("n4", f"xen+tls://192.0.2.14{end}", "b", "active", 0),
    ]
    assert [(host["name"], host["uri"], host["guest"]) for host in south] == [
        ("s1", f"qemu+tls://198.51.100.11{end}", ""),
        ("s2", f"xen+tls://198.51.100.12{end}", "pv"),
    ]


@pytest.mark.parametrize("path", sorted((PROJECT / "library").glob("*.py")), ids=lambda path: path.stem)
def test_no_module_returns_what_ansible_takes_for_its_own(path: Path) -> None:
    """It takes such keys out of a result, or for a failure."""
    text = re.search(r'^RETURN = """(.*?)"""', path.read_text(), re.MULTILINE | re.DOTALL)
    returned = yaml.safe_load(text[1]) if text else {}
    assert not {"failed", "skipped", "unreachable", "invocation", "exception"} & set(returned or ())
