"""`vclust report` and `vclust metrics`: where the pages and figures go."""

import os
from pathlib import Path
from typing import Any

import pytest
from report.told import a_cluster, an_overview

from vclust_py.cli import parse, sites
from vclust_py.cli.sites import Answer, Answers
from vclust_py.errors import RequestError, VclustError


@pytest.fixture
def two_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of what sites answer."""
    monkeypatch.setattr(sites, "cluster", lambda arguments: ("north", a_cluster()))

    def overview(arguments: Any, *, metrics: bool = False) -> Answers:
        result = {"overview": an_overview()}
        return Answers([Answer("north", "n", result), Answer("south", "s", result)])

    monkeypatch.setattr(sites, "overview", overview)


def run(*argv: str) -> int:
    arguments = parse(argv)
    code: int = arguments.command(arguments)
    return code


def test_a_page_goes_into_the_folder(
    two_sites: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("report", "bio", "--output", str(tmp_path)) == 0
    made = tmp_path / "vclust-bio.html"
    assert capsys.readouterr().out == f"{made}\n"
    assert made.read_text().startswith("<!doctype html>")
    assert list(tmp_path.iterdir()) == [made]


def test_a_page_replaces_the_file_and_not_what_a_link_points_to(two_sites: None, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("mine")
    (tmp_path / "page.html").symlink_to(tmp_path / "other")
    assert run("report", "bio", "--output", str(tmp_path / "page.html")) == 0
    assert (tmp_path / "other").read_text() == "mine"
    assert "<!doctype" in (tmp_path / "page.html").read_text()


def test_each_site_has_a_page_of_its_own(two_sites: None, tmp_path: Path) -> None:
    assert run("report", "--output", str(tmp_path)) == 0
    assert sorted(os.listdir(tmp_path)) == ["vclust-site-north.html", "vclust-site-south.html"]
    with pytest.raises(RequestError, match="expected a folder for north, south"):
        run("report", "--output", str(tmp_path / "page.html"))


def test_a_place_that_is_not_there_is_named(two_sites: None, tmp_path: Path) -> None:
    with pytest.raises(VclustError, match=r"none/page\.html: No such file"):
        run("report", "bio", "--output", str(tmp_path / "none/page.html"))


def test_sites_are_asked_by_the_playbook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A real play over a real, empty, site."""
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(
        "all: {vars: {ansible_connection: local, ansible_become: false,"
        " ansible_python_interpreter: '{{ ansible_playbook_python }}'},"
        " children: {site_managers: {hosts: {m: {vclust_site: {root: " + str(tmp_path / "site") + "}}}},"
        " site_lab: {hosts: {m: {}}}}}\n"
    )
    assert run("-i", str(inventory), "metrics", "--format", "prometheus") == 0
    assert 'vclust_creations_total{site="lab"} 0\n' in capsys.readouterr().out
    assert run("-i", str(inventory), "metrics", "--output", str(tmp_path / "vclust.prom")) == 0
    assert (tmp_path / "vclust.prom").read_text().endswith("# EOF\n")
    assert run("-i", str(inventory), "report", "--output", str(tmp_path)) == 0
    assert "No host has been asked yet" in (tmp_path / "vclust-site-lab.html").read_text()
