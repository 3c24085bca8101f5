"""`vclust audit` of two sites: by the playbook, and from the stores once these are known to be here."""

import json
import os
import sys
from pathlib import Path

import pytest
import yaml

from vclust_py import request
from vclust_py.cli import parse, sites
from vclust_py.site import Site, clusters
from vclust_py.site.session import Session

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's commands read the state")


@pytest.fixture
def inventory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sites, "MEMORY", tmp_path / "memory")
    monkeypatch.delenv("SUDO_USER", raising=False)
    managers = {
        name: {
            "vclust_site": {"root": str(tmp_path / name)},
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
        }
        for name in ("n", "s")
    }
    children = {
        "site_managers": {"hosts": managers},
        "site_north": {"hosts": {"n": {}}},
        "site_south": {"hosts": {"s": {}}},
    }
    file = tmp_path / "hosts.yml"
    file.write_text(yaml.safe_dump({"all": {"children": children}}))
    for name, who, cluster in (("n", "alice", "one"), ("s", "bob", "two"), ("n", "bob", "three")):
        with Session(Site(root=tmp_path / name), who=who) as session:
            wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": cluster}}
            clusters.register(session.store, request.from_mapping(wanted, "test"))
    return file


def test_who_has_done_what_at_all_sites_in_its_order(
    inventory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> str:
        arguments = parse(["-i", str(inventory), "audit", *words])
        assert arguments.command(arguments) == 0
        return capsys.readouterr().out

    def rows(*words: str) -> list[tuple[str, ...]]:
        names = ("site", "who", "via", "action", "cluster")
        return [tuple(row[name] for name in names) for row in json.loads(told("--json", *words))]

    one = ("north", "alice", "root", "create", "one")
    two, three = (("south", "bob", "root", "create", "two"), ("north", "bob", "root", "create", "three"))
    assert rows("--user", "bob", "--since", "1h") == [two, three]  # by the playbook
    arguments = parse(["-i", str(inventory), "audit"])
    assert len(sites.known_sites(arguments)) == 2
    assert rows() == [one, two, three]
    assert rows("--user", "bob") == [two, three]
    assert rows("--since", "2100-01-01") == []
    lines = [line.split() for line in told().splitlines()]
    assert lines[0] == ["TIME", "SITE", "WHO", "ACTION", "CLUSTER", "DETAIL"]
    assert lines[1][2:8] == ["north", "alice", "(by", "root)", "create", "one"]
    assert told("--since", "2100-01-01") == "nothing was done\n"
