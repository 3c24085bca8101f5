"""The rule of sudo that the manual offers, and requests read with the rights of who calls sudo."""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vclust_py.cli import parse, playbooks
from vclust_py.errors import RequestError
from vclust_py.request import read, to_mapping
from vclust_py.site import PROJECT

REQUEST = "[Hardware]\nNumberOfNodes: 2\n\n[Software]\nName: pair\n"
PROGRAM = "/opt/vclust/.venv/bin/vclust"


def allowed(words: str) -> bool:
    """Whether the rule lets the program be called so.  sudo matches all arguments, joined by spaces (sudoers(5))."""
    text = (PROJECT / "docs/operations.md").read_text(encoding="utf-8")
    rule = text.partition("```sudoers\n")[2].partition("```")[0].replace("\\\n", "")
    alias = rule.partition("VCLUST_USER = ")[2].partition("\n")[0]
    commands = [command.strip().split(" ", 1) for command in alias.split(",")]
    assert len(commands) == 12
    assert all(path == PROGRAM for path, _ in commands)
    patterns = [arguments for _, arguments in commands]
    # Only then sudo takes them for regular expressions.
    assert all(pattern.startswith("^") and pattern.endswith("$") for pattern in patterns)
    return any(re.fullmatch(pattern[1:-1], words) for pattern in patterns)


@pytest.mark.parametrize(
    "words",
    [
        "create my.ini",
        "create ../requests/a_1.yml",
        "plan /home/alice/my.ini",
        "list",
        "list --json",
        "audit",
        "show hello-mpi",
        "destroy hello-mpi",
        "apply my.ini",
        "apply --restart my.ini",
        "resize hello-mpi 4",
        "upgrade hello-mpi",
        "upgrade hello-mpi --at-once --security",
        "renew hello-mpi 4h",
        "capture hello-mpi",
        "snapshot hello-mpi",
        "snapshot hello-mpi before",
        "snapshot hello-mpi before --remove",
        "restore hello-mpi before",
        "volume list",
        "volume remove data",
        "home list",
        "home remove alice",
        "stop hello-mpi",
        "start hello-mpi",
        "heal hello-mpi",
        "events hello-mpi",
        "logs hello-mpi",
        "console hello-mpi 2",
        "console hello-mpi vc02 -f",
        "ssh hello-mpi",
        "ssh hello-mpi vc02",
        "ssh hello-mpi 2",
        "ssh --root hello-mpi",
        "ssh --user bob_1 hello-mpi vc02",
        "ssh-config hello-mpi",
        "ssh-config hello-mpi --remote --user bob_1",
    ],
)
def test_the_rule_lets_users_do_their_work(words: str) -> None:
    assert allowed(words)
    parse(words.split())  # the command knows it


@pytest.mark.parametrize(
    "words",
    [
        "",
        "-i /tmp/evil list",
        "--inventory=/tmp/evil list",
        "create my.ini --locked /etc/shadow",
        "create --locked /etc/shadow my.ini",
        "create my.ini other.ini",
        "-vvv list",
        "send /etc/shadow",
        "site rollout",
        "site backup /tmp/b",
        "cache rebuild",
        "destroy hello-mpi --forget-host a",
        "destroy --forget-host",
        "heal hello-mpi --forget-host a",
        "apply my.ini --nodes vc02",
        "resize hello-mpi 4 --nodes vc02",
        "renew hello-mpi --json",
        "volume remove data --owner bob",
        "home remove -h alice",
        "volume remove data --forget",
        "ssh hello-mpi -- id",
        "ssh hello-mpi vc02 -oProxyCommand=id",
        "ssh hello-mpi -oProxyCommand=id",
        "ssh -oProxyCommand=id",
        "ssh --user -oProxyCommand=id hello-mpi",
        "ssh-config hello-mpi --key /etc/shadow",
        "show hello-mpi\nlist",
    ],
)
def test_the_rule_lets_nothing_else_pass(words: str) -> None:
    assert not allowed(words)


def test_a_request_is_handed_on_as_it_was_read(tmp_path: Path) -> None:
    file = tmp_path / "pair.ini"
    file.write_text(REQUEST)
    name, variables = playbooks.request(argparse.Namespace(request=file, locked=None))
    assert (name, variables) == ("pair", {"vclust_request": to_mapping(read(file))})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
def test_a_request_is_read_with_the_callers_rights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root's own files stay closed to who calls sudo, and what they say stays out of errors."""
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    secret, own = tmp_path / "secret.ini", tmp_path / "own.ini"
    secret.write_text("root:$6$secret")
    secret.chmod(0o600)
    own.write_text(REQUEST)
    os.chown(own, 65534, 65534)
    own.chmod(0o600)
    before = os.geteuid(), os.getegid(), os.getgroups()
    for name, value in (("SUDO_USER", "nobody"), ("SUDO_UID", "65534"), ("SUDO_GID", "65534")):
        monkeypatch.setenv(name, value)
    assert playbooks.request(argparse.Namespace(request=own, locked=None))[0] == "pair"
    with pytest.raises(RequestError, match=r"secret\.ini: got Permission denied"):
        playbooks.request(argparse.Namespace(request=secret, locked=None))
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    monkeypatch.delenv("SUDO_UID")
    with pytest.raises(RequestError, match="secret"):
        playbooks.request(argparse.Namespace(request=secret, locked=None))


SUDO = """#!/bin/sh
printf '%s\\n' "$*" >> "$LOG"
case "$1" in -n) exit "$ALLOWED" ;; esac
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give up rights")
@pytest.mark.parametrize("allowed", ["0", "1", "no sudo"])
def test_who_is_not_root_reads_why_sudo_is_asked(allowed: str) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's folders are root's
        folder = Path(name)
        folder.chmod(0o777)
        if allowed != "no sudo":
            (folder / "sudo").write_text(SUDO)
            (folder / "sudo").chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", "from vclust_py import cli; cli.main()", "list"],
            env={"PATH": name, "LOG": str(folder / "log"), "ALLOWED": allowed, "PYTHONPATH": str(PROJECT)},
            user=65534,
            group=65534,
            extra_groups=[],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        calls = (folder / "log").read_text().splitlines() if (folder / "log").exists() else []
    if allowed == "no sudo":
        assert done.returncode == 4
        assert "got user nobody, expected root or sudo, which is not installed" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert [call.split()[:2] for call in calls] == [["-n", "-l"], ["--", calls[1].split()[1]]]
        assert ("got user nobody, expected root; asking sudo" in done.stderr) == (allowed == "1")
    assert ("docs/operations.md" in done.stderr) == (allowed != "0")
