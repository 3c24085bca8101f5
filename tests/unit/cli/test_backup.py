"""`vclust site backup`, `restore` and `repair`, with the playbooks, roles and modules that they run."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from vclust_py import cli, pki, request
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


def an_inventory(folder: Path) -> Path:
    """Of one site, whose root is below `folder`."""
    shutil.copytree(PROJECT / "inventories/local", folder / "inventory")
    variables = folder / "inventory/group_vars/site_local.yml"
    settings = yaml.safe_load(variables.read_text()) | {"vclust_site": {"root": str(folder / "site")}}
    variables.write_text(yaml.safe_dump(settings))
    return folder / "inventory"


def vclust(inventory: Path, *words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["-i", str(inventory), "site", *words])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_from_one_site_manager_to_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new = (an_inventory(tmp_path / name) for name in ("old", "new"))
    store = Store(Site(root=tmp_path / "old/site"))
    asked = {"hardware": {"number_of_nodes": 1}, "software": {"name": "kept"}}
    clusters.register(store, request.from_mapping(asked, "test"))
    pki.roll_out(store.site)
    file = tmp_path / "a folder/of {{ the }} day.tar.gz"
    file.parent.mkdir()
    monkeypatch.chdir(file.parent)
    assert vclust(old, "backup", file.name) == 0
    assert capsys.readouterr().out.endswith("MB, 1 cluster\n")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(file.parent.iterdir()) == [file]

    assert vclust(new, "restore", "--check", str(file)) == 0
    assert "would restore the state of 20" in capsys.readouterr().out
    fresh = Store(Site(root=tmp_path / "new/site"))
    assert not fresh.exists
    assert vclust(new, "restore", str(file)) == 0
    assert "restored the state of 20" in capsys.readouterr().out
    assert clusters.names(fresh) == ["kept"]
    assert (fresh.site.pki / "cakey.pem").read_bytes() == (store.site.pki / "cakey.pem").read_bytes()
    assert vclust(new, "restore", str(file)) == 2
    assert "got a site with a state of its own (clusters: kept; authority:" in capsys.readouterr().err
    assert vclust(new, "restore", "--replace", str(file)) == 0
    assert "what was there before is in" in capsys.readouterr().out
    assert vclust(new, "repair") == 0
    assert "nothing repaired" in capsys.readouterr().out


def test_one_file_holds_one_site(tmp_path: Path) -> None:
    managers = {
        name: {"vclust_site": {"root": str(tmp_path / name)}, "ansible_connection": "local"} for name in "ns"
    }
    children = {
        "site_managers": {"hosts": managers},
        "site_north": {"hosts": {"n": {}}},
        "site_south": {"hosts": {"s": {}}},
    }
    two = tmp_path / "two.yml"
    variables = {"ansible_python_interpreter": "{{ ansible_playbook_python }}", "ansible_become": False}
    two.write_text(yaml.safe_dump({"all": {"children": children, "vars": variables}}))

    def play(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                Path(sys.executable).parent / "ansible-playbook",
                "-i",
                two,
                PROJECT / "playbooks/backup.yml",
                *words,
            ],
            cwd=tmp_path,
            env={**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "PWD": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

    done = play("-e", "file=both.tar.gz")
    assert done.returncode != 0
    assert "got several sites, expected one for a file: -e site=SITE" in done.stdout
    done = play("-e", json.dumps({"file": "north.tar.gz", "site": "north"}))
    assert done.returncode == 0, done.stdout
    # Relative to where the command was given.
    assert stat.S_IMODE((tmp_path / "north.tar.gz").stat().st_mode) == 0o600
    would = play("--check", "--diff", "-e", "file=never.tar.gz", "-e", "site=south")
    assert would.returncode == 0, would.stdout
    assert not (tmp_path / "s").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"two.yml", "n", "north.tar.gz"}
