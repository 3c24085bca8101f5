"""Which sites an inventory has: what is remembered of it, and when it must be asked again."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from vclust_py import request
from vclust_py.arguments import reference
from vclust_py.cli import runner, sites
from vclust_py.errors import RequestError, VclustError
from vclust_py.module import site_manager
from vclust_py.site import Site, clusters
from vclust_py.site.describe import describe
from vclust_py.site.store import Store

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root's commands read the state")


def asked(inventory: Path, name: str = "none") -> argparse.Namespace:
    return argparse.Namespace(inventory=inventory, verbose=0, cluster=reference(name))


def register(folder: Path, name: str) -> None:
    wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": name}}
    clusters.register(Store(Site(root=folder)), request.from_mapping(wanted, "test"))


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    """Of two sites."""
    folder = tmp_path / "inventory"
    (folder / "group_vars").mkdir(parents=True)
    managers = {
        name: {"vclust_site": {"root": str(tmp_path / name)}, "ansible_connection": "local"}
        for name in ("n", "s")
    }
    children = {
        "site_managers": {"hosts": managers},
        "site_north": {"hosts": {"n": {}}},
        "site_south": {"hosts": {"s": {}}},
    }
    (folder / "hosts.yml").write_text(yaml.safe_dump({"all": {"children": children}}))
    (folder / "vclust.yml").write_text("plugin: vclust\n")
    (folder / "group_vars/all.yml").write_text(
        'ansible_python_interpreter: "{{ ansible_playbook_python }}"\n'
    )
    return folder


class Plays:
    """In place of ansible-runner: what two sites would answer, and how often they were asked."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.unreachable = folder, 0, set[str]()

    def __call__(self, playbook: str, variables: dict[str, Any], **_: Any) -> runner.Outcome:
        self.count += 1
        outcome = runner.Outcome()
        for manager, name in (("n", "north"), ("s", "south")):
            if manager in self.unreachable:
                outcome.failures[manager], outcome.exit_code = "no route to host", 4
                continue
            site = Site(root=self.folder / manager)
            wanted = variables.get("name")
            store = Store(site)
            found = describe(store, wanted) if wanted is None or clusters.find(store, wanted) else []
            where = dict(site_manager(site)["site_manager"]) | {"site": name}
            outcome.hosts[manager] = {"vclust_info": {"clusters": found, "site_manager": where}}
        return outcome


@pytest.fixture
def plays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plays:
    made = Plays(tmp_path)
    monkeypatch.setattr(runner, "play", made)
    monkeypatch.setattr(sites, "MEMORY", tmp_path / "memory")
    return made


def names(answers: sites.Answers) -> dict[str, list[str]]:
    return {answer.site: [one["name"] for one in answer.result["clusters"]] for answer in answers.sites}


@root
def test_ansible_is_asked_once(inventory: Path, plays: Plays, tmp_path: Path) -> None:
    register(tmp_path / "n", "alpha")
    assert names(sites.clusters(asked(inventory))) == {"north": ["alpha"], "south": []}
    register(tmp_path / "s", "beta")
    for name, found in (
        (None, {"north": ["alpha"], "south": ["beta"]}),
        ("beta", {"north": [], "south": ["beta"]}),
    ):
        assert names(sites.clusters(asked(inventory), name)) == found
    assert plays.count == 1
    assert (sites.MEMORY.stat().st_mode & 0o777, len(list(sites.MEMORY.iterdir()))) == (0o700, 1)
    assert sites.known_sites(asked(inventory)) == ["north", "south"]


def changed(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


CHANGES: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "a file": lambda inventory, patch: changed(inventory / "hosts.yml"),
    "a file of variables": lambda inventory, patch: changed(inventory / "group_vars/all.yml"),
    "a new file": lambda inventory, patch: (inventory / "more.yml").write_text("all: {}\n") and None,
    "a file less": lambda inventory, patch: (inventory / "vclust.yml").unlink(),
    "the environment": lambda inventory, patch: patch.setenv("ANSIBLE_X", "1"),
    "another machine": lambda inventory, patch: patch.setattr(
        sites, "this_machine", lambda: {"boot_id": "other"}
    ),
    "another user": lambda inventory, patch: patch.setattr(os, "geteuid", lambda: 1000),
}


@root
@pytest.mark.parametrize("change", CHANGES)
def test_ansible_is_asked_again_after_a_change(
    inventory: Path, plays: Plays, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    sites.clusters(asked(inventory))
    CHANGES[change](inventory, monkeypatch)
    sites.clusters(asked(inventory))
    assert plays.count == 2


def test_a_change_of_no_byte_more_and_no_second_later(inventory: Path) -> None:
    file = inventory / "hosts.yml"
    before, status = sites._fingerprint(inventory), file.stat()
    file.write_text(file.read_text().replace("site_north", "site_worth"))
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert before is not None
    assert sites._fingerprint(inventory) not in (None, before)


STATIC = (
    "a: b\n",
    'a: "{{ b }}"\n',
    "a: xen+tls://{{ ansible_host }}/system\n",
    "plugin: vclust\n",
    "# plugin: vclust\nplugin:  vclust \nsite: {}\n",
    "[all]\nh vclust_rack=r1\n",
)
DYNAMIC = (
    "a: \"{{ lookup('env', 'HOME') }}\"\n",
    'a: "{{ b | default(c) }}"\n',
    'a: "{{ b.c }}"\n',
    "a: '{% if b %}c{% endif %}'\n",
    "a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n",
    "$ANSIBLE_VAULT;1.1;AES256\n",
    "plugin: constructed\n",
    '{"plugin": "amazon.aws.aws_ec2"}\n',
    "plugin: vclust.other.name\n",
    b"\xff\xfe",
)


@pytest.mark.parametrize("text", STATIC)
def test_inventories_that_files_tell_all_of(inventory: Path, text: str) -> None:
    (inventory / "x.yml").write_text(text)
    assert sites._fingerprint(inventory) is not None
    assert sites._fingerprint(inventory / "x.yml") is not None


@pytest.mark.parametrize("text", DYNAMIC)
def test_inventories_that_something_else_tells(inventory: Path, text: str | bytes) -> None:
    for path in (inventory / "x.yml", inventory / "group_vars/x.yml"):
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        assert sites._fingerprint(inventory) is None
        # Variables beside a file count as well.
        assert sites._fingerprint(inventory / ("x.yml" if path.parent == inventory else "hosts.yml")) is None
        path.unlink()


def test_programs_and_pipes(inventory: Path) -> None:
    (inventory / "hosts.yml").chmod(0o755)
    assert sites._fingerprint(inventory) is None
    (inventory / "hosts.yml").chmod(0o644)
    os.mkfifo(inventory / "pipe")
    assert sites._fingerprint(inventory) is None
    assert sites._fingerprint(inventory / "pipe") is None
    assert sites._fingerprint(Path("/dev/zero")) is None


@root
def test_which_site_has_a_cluster(
    inventory: Path, plays: Plays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(tmp_path / "n", "alpha")
    register(tmp_path / "s", "beta")
    for folder in ("n", "s"):
        register(tmp_path / folder, "both")
    for name, site in (
        ("alpha", "north"),
        ("beta", "south"),
        ("south/both", "south"),
        ("north/both", "north"),
    ):
        assert sites.cluster(asked(inventory, name))[0] == site
    for name, said in (
        ("both", "both: there is one in north and south\n  hint: say which: north/both or south/both"),
        ("quux", r"quux: no such cluster\n  hint"),
        ("bta", "bta: no such cluster; the nearest: beta"),
        ("south/alpha", "south/alpha: no such cluster; the nearest: north/alpha"),
        ("west/alpha", "west/alpha: got site 'west', expected one of north, south"),
    ):
        with pytest.raises(RequestError, match=said):
            sites.cluster(asked(inventory, name))
    assert capsys.readouterr().err == ""


@root
def test_the_only_site_that_has_something(inventory: Path, plays: Plays, tmp_path: Path) -> None:
    register(tmp_path / "n", "alpha")
    register(tmp_path / "s", "beta")
    answers = sites.clusters(asked(inventory))
    assert [(row["site"], row["name"]) for row in answers.rows("clusters")] == [
        ("north", "alpha"),
        ("south", "beta"),
    ]
    assert sites.only_site(answers, ["south", "south"], "x: is in") == "south"
    assert sites.only_site(answers, [], "x: is in") == "north"
    with pytest.raises(RequestError, match="x: is in north and south\n  hint: say which: --site"):
        sites.only_site(answers, ["north", "south", "north"], "x: is in")


@root
def test_a_site_that_does_not_answer_hides_no_other(
    inventory: Path, plays: Plays, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    register(tmp_path / "n", "alpha")
    plays.unreachable = {"s"}
    answers = sites.clusters(asked(inventory))
    assert (names(answers), answers.exit_code) == ({"north": ["alpha"]}, 4)
    assert sites.cluster(asked(inventory, "alpha"))[0] == "north"
    assert capsys.readouterr().err == "vclust: s: no route to host\n"
    with pytest.raises(VclustError, match="s: no route to host"):
        sites.cluster(asked(inventory, "beta"))
    plays.unreachable = {"n", "s"}
    with pytest.raises(VclustError, match="n: no route to host\ns: no route to host") as caught:
        sites.clusters(asked(inventory))
    assert caught.value.exit_code == 4
    # Nothing was remembered of it.
    assert plays.count == 4
    assert not sites.MEMORY.exists()


@root
def test_a_store_that_cannot_be_read_hides_no_other(inventory: Path, plays: Plays, tmp_path: Path) -> None:
    sites.clusters(asked(inventory))
    register(tmp_path / "n", "alpha")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/state.db").write_bytes(b"rubbish" * 1000)
    answers = sites.clusters(asked(inventory))
    assert (names(answers), answers.exit_code, plays.count) == ({"north": ["alpha"]}, 4, 1)
    assert "file is not a database" in answers.failures["s"]


def test_reading_imports_little() -> None:
    """What only reads must not wait for what computes, draws or runs playbooks."""
    import subprocess

    heavy = (
        *("ansible", "ansible_runner", "asyncio", "numpy", "libvirt", "cryptography", "rich.live"),
        "vclust_py.network",
    )
    code = (
        f"import sys, vclust_py.cli, vclust_py.site.session; print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
