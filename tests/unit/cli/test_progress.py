"""What a command shows of a cluster while it works on it."""

import io
import os
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vclust_py import request, timing
from vclust_py.cli.playbooks import _InOrder, _seconds
from vclust_py.cli.progress import Follow, LiveDisplay, PlainDisplay, cluster_progress, step
from vclust_py.module import site_manager
from vclust_py.site import Site, clusters, records
from vclust_py.site.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's commands read the state")


def row(phase: str, message: str, node: str = "", done: int = 0, total: int = 0) -> dict[str, Any]:
    return {"phase": phase, "node": node, "message": message, "done": done, "total": total}


class Said(Follow):
    """What is new at each look."""

    def __init__(self, *looks: list[dict[str, Any]]) -> None:
        self._looks = list(looks)

    def rows(self) -> list[dict[str, Any]]:
        return self._looks.pop(0)


def lines(display: LiveDisplay) -> str:
    console = Console(width=100, file=io.StringIO())
    console.print(display._table())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_phases_say_stands_under_their_own_heading(capsys: pytest.CaptureFixture[str]) -> None:
    """Ansible is late with phases, and they are with their last words."""
    looks: list[list[dict[str, Any]]] = [[] for _ in range(6)]
    looks[0] = [row("create", "start"), row("rollout", "of no phase")]
    looks[2] = [row("ready", "log in"), row("install", "installed", "n1")]
    told = _InOrder(PlainDisplay(), Said(*looks), ("create", "install", "ready"))
    for phase in ("create", "install", "ready"):
        told.begin(phase)
    said = [line.partition("] ")[2] for line in capsys.readouterr().err.splitlines()]
    assert said == [
        *("rollout: of no phase", "create", "create: start"),
        *("install", "install: n1: installed", "ready", "ready: log in"),
    ]


def test_steps_stand_under_their_own_phase() -> None:
    shown = LiveDisplay(("install", "ready"))
    shown.phase("install")
    shown.progress([row("install", "unpack", "n1", 3, 9)])
    assert "unpack 3/9" in lines(shown)
    shown.phase("ready")
    shown.progress([row("install", "installed", "n1"), row("ready", "log in")])
    assert "log in" in lines(shown)
    assert "installed" not in lines(shown)
    shown = LiveDisplay(("vm_host",))
    shown.phase("vm_host")
    shown.progress([row("rollout", "Packages", "h1")])
    assert "Packages" in lines(shown), "a roll-out has no phases of its own"


def test_the_time_that_is_left() -> None:
    """Once each phase to come has an estimate; not below nothing when one takes longer."""
    estimate = {"seconds": {"image": 0.0, "install": 30.0, "ready": 50.0}, "unknown": []}
    phases = ("place", "install", "ready")
    shown = LiveDisplay(phases)
    shown.phase("place")
    assert "left" not in lines(shown)
    shown.expect(_seconds(estimate | {"unknown": ["ready"]}, phases))
    assert "left" not in lines(shown)
    shown.expect(_seconds(estimate, phases))
    assert "about 80 s left" in lines(shown)
    shown.phase("install")
    shown._starts["install"] -= 70
    assert "about 50 s left" in lines(shown)
    shown.phase("ready")
    shown._starts["ready"] -= 20
    assert "about 30 s left" in lines(shown)


def test_counts_of_bytes_are_sizes() -> None:
    assert step(row("image", "downloading packages", done=2_500_000, total=63_000_000)) == (
        "downloading packages 2.5 MB of 63 MB"
    )
    assert step(row("image", "unpack packages", done=2, total=49)) == "unpack packages 2/49"
    assert step(row("image", "base image")) == "base image"


def report(store: Store, word: str) -> None:
    with timing.phase(store, clusters.get(store, "pair"), "create") as record:
        record.report(word, 1, 1)


def test_rows_of_this_run_and_all_of_them(tmp_path: Path) -> None:
    """However late Ansible tells where the state is."""
    store = Store(Site(root=tmp_path / "site"))
    wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": "pair"}}
    clusters.register(store, request.from_mapping(wanted, "test"))
    report(store, "an earlier run")
    time.sleep(0.01)
    follow = Follow(cluster_progress("pair"))
    report(store, "before it is known")
    assert follow.rows() == []
    follow.found("vclust_image", {"changed": True})
    assert follow.rows() == []
    follow.found("vclust_request", site_manager(store.site))
    assert [row["message"] for row in follow.rows()] == ["before it is known"]
    report(store, "after")
    assert [row["message"] for row in follow.rows()] == ["after"]
    assert follow.rows() == []


def test_each_step_of_a_phase_is_told_however_soon_it_comes(tmp_path: Path) -> None:
    """It may take minutes; what guests say is bounded."""
    store = Store(Site(root=tmp_path / "site"))
    wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": "pair"}}
    clusters.register(store, request.from_mapping(wanted, "test"))
    with timing.phase(store, clusters.get(store, "pair"), "image") as record:
        for message in ("base image", "packages", "kernel"):
            record.report(message)
        for done in range(100):
            record.report("unpack", done, 100)
        for number in range(100):
            record.report(f"word {number}", node="n1")
    rows = cluster_progress_from_start(store)
    assert [row["message"] for row in rows if not row["node"]][:4] == [
        "base image",
        "packages",
        "kernel",
        "unpack",
    ]
    assert len(rows) < 50


def cluster_progress_from_start(store: Store) -> list[dict[str, Any]]:
    return list(records.progress(store, "pair", 0))


@pytest.mark.parametrize("other", [{"boot_id": "x"}, {"mounts": "mnt:[1]"}])
def test_a_state_elsewhere_is_not_looked_for_here(tmp_path: Path, other: dict[str, str]) -> None:
    place = {**site_manager(Site(root=tmp_path))["site_manager"], **other}
    follow = Follow(lambda site: pytest.fail("read"))
    follow.found("vclust_request", {"site_manager": place})
    assert follow.rows() == []
