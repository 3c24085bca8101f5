"""Modules as Ansible runs them, in a process of their own."""

import fcntl
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from vclust_py import module, request
from vclust_py.errors import CapacityError
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.session import Session
from vclust_py.site.store import Store

HASH = "$6$abcdefgh$" + 86 * "x"
ASKED = {
    "hardware": {"number_of_nodes": 2},
    "software": {"name": "pair", "users": [{"name": "alice", "password_hash": HASH}]},
}

RUN = """
import json, runpy, sys
from ansible.module_utils.testing import patch_module_args
with patch_module_args(json.load(sys.stdin)):
    runpy.run_path(sys.argv[1], run_name="__main__")
"""


def call(name: str, arguments: Mapping[str, Any], *, check: bool = False) -> dict[str, Any]:
    """What the module answers; its exit status must fit `failed`."""
    done = subprocess.run(
        [sys.executable, "-c", RUN, PROJECT / "library" / f"{name}.py"],
        input=json.dumps({**arguments, "_ansible_check_mode": check}),
        capture_output=True,
        text=True,
        check=False,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (1 if answer.get("failed") else 0), done.stderr
    return answer


@pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")
def test_request_four_ways(tmp_path: Path) -> None:
    site = {"root": str(tmp_path / "site")}
    arguments = {"site": site, "request": ASKED}

    would = call("vclust_request", arguments, check=True)
    assert would["changed"]
    assert not Site.from_mapping(site).database.exists()
    real = call("vclust_request", arguments)
    assert real["changed"]
    assert real["diff"] == would["diff"]
    assert not call("vclust_request", arguments)["changed"]
    assert not call("vclust_request", arguments, check=True)["changed"]

    cluster = clusters.get(Store(Site.from_mapping(site)), "pair")
    assert cluster.request == request.from_mapping(ASKED, "test")
    assert HASH not in json.dumps([would, real])

    assert [one["name"] for one in call("vclust_info", {"site": site})["clusters"]] == ["pair"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")
def test_caches_of_a_site_without_any(tmp_path: Path) -> None:
    site = {"root": str(tmp_path / "site"), "cache_space": "1GB"}
    told = call("vclust_caches", {"site": site})
    assert (told["caches"], told["usage"], told["status"]["state"]) == ([], [], "never")
    for check in (True, False, False, True):
        rebuilt = call("vclust_rebuild", {"site": site}, check=check)
        assert not rebuilt["changed"]
        assert (rebuilt["requests"], rebuilt["built"], rebuilt["removed"]) == (0, [], [])
        assert rebuilt["diff"] == {"before": {"caches": []}, "after": {"caches": []}}
    told = call("vclust_caches", {"site": site, "history": True})
    assert (told["status"]["state"], told["status"]["due"]) == ("done", False)
    assert told["history"] == {"packages": [], "requests": []}


@pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")
def test_one_recomputation_at_a_time(tmp_path: Path) -> None:
    root = tmp_path / "site"
    call("vclust_rebuild", {"site": {"root": str(root)}})
    with open(root / "held" / "caches", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        answer = call("vclust_rebuild", {"site": {"root": str(root)}})
    assert answer["exit_code"] == 4
    assert "caches: another vclust process is at work on it" in answer["msg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="the state is root's")
def test_who_asks_is_whose_it_is_and_in_the_audit(tmp_path: Path) -> None:
    site = {"root": str(tmp_path / "site"), "administrators": ["carol"]}
    assert call("vclust_request", {"site": site, "request": ASKED, "who": "alice"})["changed"]
    absent = {"site": site, "name": "pair", "state": "absent"}
    for check in (True, False):
        refused = call("vclust_cluster", {**absent, "who": "dave"}, check=check)
        assert (refused["exit_code"], refused["msg"].partition(",")[0]) == (
            2,
            "pair: belongs to alice: got dave",
        )
    (info,) = call("vclust_info", {"site": site, "who": "dave"})["clusters"]
    assert (info["owner"], info["ssh"]) == ("alice", {})
    for who, code in (("dave", 2), ("root", 2), ("al ice", 2)):
        wrong = call("vclust_backup", {"site": site, "path": str(tmp_path / "b"), "who": who})
        assert wrong["exit_code"] == code
    assert call("vclust_cluster", {**absent, "who": "carol"})["changed"]
    audit = call("vclust_audit", {"site": site, "user": "carol"}, check=True)
    assert not audit["changed"]
    assert [(row["who"], row["action"], row["cluster"]) for row in audit["audit"]] == [
        ("carol", "destroy", "pair")
    ]
    assert len(call("vclust_audit", {"site": site, "since": 1.5})["audit"]) == 2


def test_every_site_change_is_in_the_audit(tmp_path: Path) -> None:
    site = {"root": str(tmp_path / "site")}
    call("vclust_pki", {"site": site}, check=True)
    call("vclust_pki", {"site": site})
    call("vclust_pki", {"site": site})  # changes nothing
    call("vclust_pki", {"site": site, "rotate": True})
    call("vclust_pki", {"site": site, "hosts": []})
    call("vclust_backup", {"site": site, "path": str(tmp_path / "backup")})
    rows = call("vclust_audit", {"site": site})["audit"]
    assert [(row["action"], row["detail"]) for row in rows] == [
        ("make keys", ""),
        ("replace keys", ""),
        ("replace keys", "new"),
        ("backup", "backup"),
    ]


def test_all_mistakes_at_once_and_no_hash_told() -> None:
    wrong = {
        "hardware": {"number_of_nodes": 0, "ram": "2XB"},
        "software": {"name": "pair", "users": [{"name": "Al ice", "password_hash": HASH}]},
    }
    answer = call("vclust_request", {"request": wrong})
    assert answer["exit_code"] == 2
    assert len(answer["problems"]) == 3
    assert HASH not in json.dumps(answer)


def test_unknown_setting_of_the_site() -> None:
    answer = call("vclust_info", {"site": {"rot": "/srv"}})
    assert answer["exit_code"] == 4
    assert "vclust_site: rot: unknown setting" in answer["msg"]


def test_given_leaves_out_what_was_not_said() -> None:
    options = {
        "hardware": {"ram": None, "cpus": 1},
        "software": {"users": [{"name": "a", "hash": None}], "name": None},
    }
    assert module.given(options) == {"hardware": {"cpus": 1}, "software": {"users": [{"name": "a"}]}}


def test_what_the_library_warns_of_is_in_the_result() -> None:
    def work(session: Session, params: dict[str, Any], check: bool) -> dict[str, Any]:
        logging.getLogger("vclust_py.cache.manager").warning("%s is %s", "x", check)
        logging.getLogger("vclust_py.cache.manager").info("no warning")
        if params["fails"]:
            raise CapacityError("full")
        return {"changed": True}

    warnings = {"warnings": ["x is True"]}
    params = {"site": {}, "fails": False}
    assert module.perform(work, params, True) == {"changed": True, **warnings}
    failure = {"failed": True, "msg": "full", "exit_code": 3}
    assert module.perform(work, params | {"fails": True}, True) == failure | warnings
    assert "warnings" not in module.perform(lambda site, params, check: {}, params, True)


def test_signals_are_as_before_when_the_work_is_done() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with module.stopping_with_controller():
        assert [signal.getsignal(number) for number in numbers] != before
    assert [signal.getsignal(number) for number in numbers] == before
    end = time.monotonic() + 20
    while any("_watch" in thread.name for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


WORK = """
import pathlib, subprocess, sys, time
from vclust_py import module
class Fake:
    params = {"site": {}}
    check_mode = False
    def fail_json(self, msg, **values):
        pathlib.Path(sys.argv[1], "ended").write_text(f"{msg} {values}")
        sys.exit(1)
def work(site, params, check):
    pathlib.Path(sys.argv[1], "begun").touch()
    time.sleep(60)
module.run_module(Fake(), work)
"""


def ended(folder: Path) -> str:
    end = time.monotonic() + 120
    while not (folder / "ended").exists() or not (folder / "ended").read_text():
        assert time.monotonic() < end, "the module goes on"
        time.sleep(0.05)
    return (folder / "ended").read_text()


def begin(folder: Path, *argv: str | Path, **options: Any) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen([*argv, sys.executable, "-c", WORK, folder], **options)
    end = time.monotonic() + 120
    while not (folder / "begun").exists():
        assert time.monotonic() < end
        time.sleep(0.05)
    return process


def test_sigterm_is_an_interruption(tmp_path: Path) -> None:
    process = begin(tmp_path)
    process.terminate()
    assert ended(tmp_path) == "interrupted {'exit_code': 130}"
    process.wait()


def test_a_module_ends_when_nobody_reads_it(tmp_path: Path) -> None:
    process = begin(tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert ended(tmp_path) == "interrupted {'exit_code': 130}"
    process.wait()


def test_a_module_ends_with_its_controller(tmp_path: Path) -> None:
    controller = tmp_path / "vclust"
    controller.write_text('#!/bin/sh\n"$@" &\nwait\n')
    controller.chmod(0o755)
    process = begin(tmp_path, controller)
    process.kill()
    assert ended(tmp_path) == "interrupted {'exit_code': 130}"
    process.wait()
