"""`vclust init`: what is written is a request, by options and by answers at a terminal."""

import base64
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from vclust_py import cli, request
from vclust_py.cli import init
from vclust_py.errors import RequestError
from vclust_py.request.model import KEYS

VCLUST = Path(sys.executable).with_name("vclust")
HASH = "$6$salt$" + "a" * 86
SSH_KEY = "ssh-ed25519 " + base64.b64encode((11).to_bytes(4, "big") + b"ssh-ed25519" + bytes(36)).decode()
EVERY = {
    "number_of_nodes": ["3"],
    "cpu_arch": ["arm64"],
    "cpu_speed": ["2.5GHz"],
    "cpus": ["2"],
    "ram": ["1GB"],
    "disk": ["8 GB"],
    "spread": ["hosts"],
    "min_nodes": ["2"],
    "volume": ["data 20GB keep"],
    "name": ["mine"],
    "users": [f"alice:{HASH}", "bob:*"],
    "ssh_keys": [f"alice:{SSH_KEY}", f"bob:{SSH_KEY} bob@home"],
    "hostname": ["mine%02d"],
    "network": ["10.1.0.0/24"],
    "packages": ["gcc", "g++"],
    "meta_packages": ["mpi", "slurm"],
    "home": ["shared"],
    "suite": ["trixie"],
    "kernel": ["linux-image-amd64"],
    "lease": ["8h"],
    "idle": ["2h"],
    "heal": ["off"],
    "site": ["north"],
    "start": ["fork"],
    "install": ["once"],
}


@pytest.mark.parametrize("yaml", [False, True])
def test_every_key_by_its_option(yaml: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert list(EVERY) == [key.yaml for key in KEYS]
    path = tmp_path / ("a.yml" if yaml else "a.ini")
    words = []
    for key in KEYS:
        option = f"--{(key.yaml.removesuffix('s') if key.repeated else key.yaml).replace('_', '-')}"
        for text in EVERY[key.yaml]:
            words += [option, text]
    arguments = cli.parse(["init", *words, str(path)])
    assert arguments.command(arguments) == 0
    assert f" create {path}" in capsys.readouterr().out
    assert path.stat().st_mode & 0o777 == 0o600  # it has a password's hash
    software = {
        "name": "mine",
        "users": [{"name": "alice", "password_hash": HASH}, {"name": "bob", "password_hash": "*"}],
        "ssh_keys": [{"user": "alice", "key": SSH_KEY}, {"user": "bob", "key": f"{SSH_KEY} bob@home"}],
    }
    plain = {key.yaml: EVERY[key.yaml] for key in KEYS if key.section == "software" and not key.repeated}
    software |= {name: texts if name.endswith("packages") else texts[0] for name, texts in plain.items()}
    hardware = {key.yaml: EVERY[key.yaml][0] for key in KEYS if key.section == "hardware"}
    assert request.read(path) == request.from_mapping({"hardware": hardware, "software": software}, "test")


@pytest.mark.parametrize("yaml", [False, True])
def test_comments_are_the_keys_documentation_and_defaults(yaml: bool) -> None:
    text = init.written({}, yaml=yaml)
    asked = request.load(text, "some.yml" if yaml else "some.ini")
    assert (asked.name, asked.hardware.number_of_nodes) == ("some", 1)
    words = re.sub(r"\n *# ", " ", text)
    for key in KEYS:
        assert key.doc.replace("`", "") in words
    # A default that loses its mark is still the same request.
    marked = re.compile(r"^( *)# (\w+: \S+)$", re.MULTILINE)
    names = {key.yaml if yaml else key.ini for key in KEYS}
    lines = [match[2].partition(":")[0] for match in marked.finditer(text)]
    assert len(set(lines) & names) >= 8
    opened = marked.sub(lambda match: match[1] + match[2], text)
    assert request.load(opened, "some.yml" if yaml else "some.ini") == asked


def answered(folder: Path, *words: str, answers: str) -> tuple[int, str]:
    """Exit code and what is said, where somebody at a terminal gives these answers."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [VCLUST, "init", *words],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if key != "SUDO_UID"},
        stdin=slave,
        stdout=subprocess.DEVNULL,
        stderr=slave,
    )
    os.write(master, answers.encode())
    os.close(slave)
    said = b""
    try:
        while data := os.read(master, 4096):
            said += data
    except OSError:  # the other end is closed
        pass
    os.close(master)
    return process.wait(), said.decode()


def test_questions(tmp_path: Path) -> None:
    answers = ["many", "4", "", f"alice:{HASH[:50]}", "alice", "gcc  make", "MPI!", "mpi", "\x04"]
    code, said = answered(tmp_path, "lab.ini", "--cpus", "2", answers="\n".join(answers))
    assert code == 0, said
    assert "got 'many', expected a whole number from 1 to 4096" in said
    assert "got 'MPI!', expected" in said
    assert "got 'alice…', expected name:hash" in said
    assert "CPUs:" not in said  # it was given
    asked = request.read(tmp_path / "lab.ini")
    assert (asked.name, asked.hardware.number_of_nodes, asked.hardware.cpus) == ("lab", 4, 2)
    assert (asked.software.packages, asked.software.meta_packages) == (("gcc", "make"), ("mpi",))
    assert [(user.name, user.password_hash) for user in asked.software.users] == [("alice", "*")]


def test_the_end_of_the_answers_writes_nothing(tmp_path: Path) -> None:
    code, _ = answered(tmp_path, answers="4\n\x04")
    assert code == 130
    assert list(tmp_path.iterdir()) == []


def test_without_a_terminal(tmp_path: Path) -> None:
    argv = [VCLUST, "init"]
    done = subprocess.run(
        argv, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    path = tmp_path / "cluster.ini"
    assert request.read(path).name == "cluster"
    before = path.read_text()
    again = subprocess.run(
        argv, cwd=tmp_path, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    assert (again.returncode, again.stdout, path.read_text()) == (2, "", before)
    assert "cluster.ini: got a file that is there, expected the name of a new one" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a.ini", "--ram", "2XB"], "argument --ram: got '2XB', expected a size such as 2GB"),
        (["a.ini", "--packages", " "], "argument --packages: got ' ', expected"),
        (["a.ini", "--user", f"alice:{HASH}x"], "argument --user: got 'alice…', expected name:hash"),
        (["nowhere/a.ini"], "nowhere/a.ini: got No such file or directory"),
        (["a.ini", "--number-of-nodes", "2", "--min-nodes", "3"], "MinNodes: got '3'"),
        (["a.ini", "--ssh-key", f"alice:{SSH_KEY}"], "SSHKey: "),
    ],
)
def test_mistakes_write_nothing(
    words: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((RequestError, SystemExit)) as caught:
        init.init(cli.parse(["init", *words]))
    assert said in f"{caught.value}{capsys.readouterr().err}"
    assert list(tmp_path.iterdir()) == []


def test_own_keys_let_the_user_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/id_ed25519.pub").write_text(f"{SSH_KEY} me@home\n")
    (tmp_path / ".ssh/id_odd.pub").write_text("nonsense\n")
    (tmp_path / ".ssh/id_odder.pub").write_bytes(b"\xff")
    monkeypatch.setattr(init.pwd, "getpwuid", lambda number: type("Entry", (), {"pw_dir": str(tmp_path)}))
    monkeypatch.chdir(tmp_path)
    arguments = cli.parse(["init", "a.ini", "--user", "alice", "--user", f"bob:{HASH}"])
    assert init.init(arguments) == 0
    keys = [(key.user, key.key) for key in request.read(Path("a.ini")).software.ssh_keys]
    assert keys == [("alice", f"{SSH_KEY} me@home")]
