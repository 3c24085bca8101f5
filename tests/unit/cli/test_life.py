"""What the commands for a cluster's life say of what their playbooks have done."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vclust_py.cli import parse, playbooks
from vclust_py.cli.runner import Outcome
from vclust_py.errors import RequestError

Run = Callable[..., int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command whose playbooks return these results, and note how they were called in `run.calls`."""
    calls: list[dict[str, Any]] = []
    (tmp_path / "one.ini").write_text("[Hardware]\nNumberOfNodes: 3\n")

    def command(*words: str, code: int = 0, **results: dict[str, Any]) -> int:
        def play(playbook: str, variables: dict[str, Any], *_: object, **how: Any) -> Outcome:
            calls.append({"playbook": playbook, "variables": variables, "check": how.get("check", False)})
            return Outcome(exit_code=code, error="no" if code else "", results=dict(results))

        monkeypatch.setattr(playbooks, "run", play)
        arguments = parse([word.replace("one.ini", str(tmp_path / "one.ini")) for word in words])
        return int(arguments.command(arguments))

    monkeypatch.setattr("vclust_py.cli.life.sites.known_sites", lambda arguments: ["local"])
    command.calls = calls  # type: ignore[attr-defined]
    return command


def test_stop_and_start(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("stop", "one", vclust_cluster={"changed": True}) == 0
    assert run("stop", "one", vclust_cluster={"changed": False}) == 0
    assert run("start", "one", vclust_ready={"lost": []}) == 0
    assert run("start", "one", vclust_ready={"lost": ["n2"]}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "one is stopped: vclust start one",
        "one was stopped already",
        "one is ready: vclust ssh one",
        "one is ready without n2, which failed: vclust ssh one",
    ]
    calls = run.calls  # type: ignore[attr-defined]
    assert [call["playbook"] for call in calls] == ["stop_vcluster.yml"] * 2 + ["start_vcluster.yml"] * 2
    assert calls[0]["variables"] == {"name": "one"}


def test_renew(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ends = time.mktime((2026, 11, 26, 8, 0, 0, 0, 0, -1))
    assert run("renew", "one", "4h", vclust_lease={"changed": True, "ends": ends, "state": "ready"}) == 0
    assert run("renew", "one", "1m", vclust_lease={"changed": False, "ends": ends, "state": "stopped"}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "the lease of one ends 2026-11-26 08:00",
        "the lease of one ends 2026-11-26 08:00, as before; it is stopped: vclust start one",
    ]
    assert run.calls[0]["variables"] == {"name": "one", "duration": "4h"}  # type: ignore[attr-defined]


def test_heal(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    well = {"started": [], "not_ready": [], "moved": {}}
    assert run("heal", "one", vclust_heal=well) == 0
    assert run("heal", "one", "--check", vclust_heal=well | {"started": ["n1"]}) == 0
    some = {"started": ["n1"], "not_ready": ["n2"], "moved": {"n1": "b"}}
    assert run("heal", "one", "--forget-host", "a", vclust_heal=some) == 4
    assert capsys.readouterr().out.splitlines() == [
        "one: all its nodes run, as far as its hosts tell",
        "one: would be started again: n1",
        "one: n1 moved to b; started again: n1; started again, and not ready: n2; vclust show one",
    ]
    calls = run.calls  # type: ignore[attr-defined]
    assert [call["check"] for call in calls] == [False, True, False]
    assert calls[2]["variables"] == {"name": "one", "vclust_forget_hosts": ["a"]}


def test_snapshot_and_restore(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    ran = {"changed": True, "restarted": True}
    assert run("snapshot", "one", "a", vclust_snapshot=ran) == 0
    assert run("snapshot", "one", "a", "--check", vclust_snapshot=ran) == 0
    assert run("snapshot", "one", "a", "--remove", vclust_snapshot={**ran, "restarted": False}) == 0
    assert (
        run("snapshot", "one", "a", "--remove", vclust_snapshot={"changed": False, "restarted": False}) == 0
    )
    assert run("restore", "one", "a", vclust_snapshot=ran) == 0
    assert run("restore", "one", "a", code=4) == 4
    assert capsys.readouterr().out.splitlines() == [
        "one: snapshot a is there; vclust restore one a goes back to it; its nodes run again",
        "one: snapshot a: that can be done, and its nodes would be shut down for it",
        "one: snapshot a is removed",
        "one: snapshot a was not there",
        "one: snapshot a is restored; its nodes run again",
    ]
    calls = run.calls  # type: ignore[attr-defined]
    assert [call["check"] for call in calls] == [False, True, False, False, False, False]
    assert calls[0]["variables"] == {"name": "one", "tag": "a"}
    assert calls[2]["variables"] == {"name": "one", "tag": "a", "vclust_remove": True}
    assert calls[4]["playbook"] == "restore_vcluster.yml"


def test_the_list_of_snapshots(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = {"tag": "a", "created": 0.0, "nodes": ["n1", "n2"], "bytes": 3_000_000}
    listed = [whole, {**whole, "tag": "b", "bytes": None}]
    monkeypatch.setattr(
        "vclust_py.cli.life.sites.cluster", lambda arguments: ("local", {"snapshots": listed})
    )
    assert run("snapshot", "one") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["TAG", "a", "b"]
    assert ("3.0 MB" in lines[1], "interrupted" in lines[2]) == (True, True)
    assert run("snapshot", "one", "--json") == 0
    assert json.loads(capsys.readouterr().out) == listed
    with pytest.raises(RequestError, match="--remove: got no TAG"):
        run("snapshot", "one", "--remove")


def test_capture(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    software = {"name": "one", "users": [{"name": "ann", "password_hash": "*"}], "packages": ["gcc", "vim"]}
    result = {
        "request": {"hardware": {"number_of_nodes": 3}, "software": software},
        "node": "n1",
        "added": ["vim"],
        "removed": [],
        "without_hash": ["ann"],
    }
    assert run("capture", "one", vclust_capture=result) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("# What n1 of one has, on 20")
    assert lines[1:] == [
        "# added since it was made: vim",
        "# without the password hashes of: ann",
        "[Hardware]",
        "NumberOfNodes: 3",
        "",
        "[Software]",
        "User: ann:*",
        "Packages: gcc vim",
    ]
    assert run("capture", "one", "--meta", vclust_capture=result) == 0
    assert capsys.readouterr().out == 'description: As in one\npackages: ["gcc", "vim"]\n'
    assert run("capture", "one", "--json", vclust_capture=result) == 0
    assert json.loads(capsys.readouterr().out)["added"] == ["vim"]
    assert run("capture", "one", code=4) == 4


CHANGE = {
    "add": {"n3": "a", "n4": "b"},
    "remove": [],
    "differences": ["NumberOfNodes: is 2, the request says 4"],
    "packages": {"install": ["full=1.0", "hello=2"], "remove": ["old"]},
    "restart": [],
}


def test_what_changes_is_said_before_it_is_done(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("resize", "one", "4", vclust_resize=CHANGE, vclust_teach={"late": []}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "one: NumberOfNodes: is 2, the request says 4",
        "one: packages that come: full=1.0, hello=2",
        "one: packages that go: old",
        "one: new nodes: n3 on a, n4 on b",
        "one is as its request says",
    ]
    calls = run.calls  # type: ignore[attr-defined]
    assert [call["check"] for call in calls] == [True, False]
    assert calls[0]["variables"] == {"name": "one", "number": 4}


def test_apply(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    less = CHANGE | {"add": {}, "remove": ["n3"], "packages": {}}
    assert run("apply", "one.ini", "--check", "--nodes", "n3,n5", vclust_apply=less) == 0
    assert capsys.readouterr().out.splitlines() == [
        "one: NumberOfNodes: is 2, the request says 4",
        "one: these nodes go: n3",
        "one: that would change",
    ]
    (call,) = run.calls  # type: ignore[attr-defined]
    assert call["variables"]["nodes"] == ["n3", "n5"]
    assert call["variables"]["vclust_request"]["software"]["name"] == "one"
    nothing = {"add": {}, "remove": [], "differences": [], "packages": {}, "restart": []}
    assert run("apply", "one.ini", "--check", vclust_apply=nothing) == 0
    assert capsys.readouterr().out == "one: as it should be\n"
    late = {"late": ["n2"], "warnings": ["ssh: n2: no route; it is told when it can be"]}
    assert run("apply", "one.ini", "--json", vclust_apply=nothing, vclust_teach=late) == 4
    said = capsys.readouterr()
    assert json.loads(said.out)["late"] == ["n2"]
    assert "n2: no route" in said.err


def test_restarts_are_said_and_allowed(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    larger = CHANGE | {"add": {}, "packages": {}, "restart": ["n1", "n2"]}
    larger |= {"differences": ["RAM: is 1GB, the request says 2GB"]}
    assert run("apply", "one.ini", "--restart", vclust_apply=larger) == 0
    assert capsys.readouterr().out.splitlines() == [
        "one: RAM: is 1GB, the request says 2GB",
        "one: these nodes restart, one after the other: n1, n2",
        "one is as its request says",
    ]
    calls = run.calls  # type: ignore[attr-defined]
    assert [call["variables"]["vclust_restart"] for call in calls] == [True, True]
    assert run("apply", "one.ini", vclust_apply=CHANGE) == 0
    assert "vclust_restart" not in calls[2]["variables"]


def test_upgrade(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    comes = {"packages": ["core=1.1", "full=2"], "kept": ["old=2"], "kernel": "linux=2", "absent": []}
    assert run("upgrade", "one", "--check", "--security", vclust_upgrade=comes) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] + lines[3:] == [
        "one: packages that come: core=1.1, full=2",
        "one: cannot come without the removal of others: old=2",
        "one: that would come",
    ]
    assert lines[2].startswith(
        "one: the archives have linux=2: nodes boot the kernel of their base image, a restart"
    )
    (call,) = run.calls  # type: ignore[attr-defined]
    assert (call["check"], call["variables"]) == (True, {"name": "one", "vclust_security": True})

    nothing = {"packages": [], "kept": [], "kernel": "", "absent": []}
    assert run("upgrade", "one", "--check", vclust_upgrade=nothing) == 0
    assert run("upgrade", "one", vclust_upgrade=nothing, vclust_teach={"late": []}) == 0
    assert capsys.readouterr().out.splitlines() == [
        "one: nothing would come",
        "one: its nodes have what its lock says",
    ]
    # Nodes that did not bear it, wait for it, or do not run.
    away = {**nothing, "absent": ["n4"], "warnings": ["n4: is not ready"]}
    late = {"late": ["n2", "n3"], "warnings": ["n2: was not changed: service x: no"]}
    assert run("upgrade", "one", "--at-once", vclust_upgrade=away, vclust_teach=late) == 4
    said = capsys.readouterr()
    assert said.out == "one: has not come to all nodes: n2, n3, n4\n"
    assert ("n4: is not ready" in said.err, "n2: was not changed" in said.err) == (True, True)
    calls = run.calls  # type: ignore[attr-defined]
    assert [call["check"] for call in calls] == [True, True, True, False, True, False]
    assert calls[-1]["variables"] == {"name": "one", "vclust_at_once": True}


@pytest.mark.parametrize(
    "words", [("stop", "one"), ("renew", "one", "4h"), ("resize", "one", "3"), ("upgrade", "one")]
)
def test_a_failure_has_its_code(run: Run, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run(*words, "--json", code=3) == 3
    assert json.loads(capsys.readouterr().out) == {"exit_code": 3, "error": "no", "phase": "", "name": "one"}


@pytest.mark.parametrize(
    "words",
    [("renew", "one", "soon"), ("resize", "one", "0"), ("resize", "one", "2", "--nodes", "a b"), ("stop",)],
)
def test_bad_usage(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(words)
    assert ended.value.code == 2
    assert "error:" in capsys.readouterr().err
