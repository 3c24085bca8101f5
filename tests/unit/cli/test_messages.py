"""Errors on a terminal and in a pipe."""

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from vclust_py.cli import messages

VCLUST = Path(sys.executable).with_name("vclust")
MISSING = ["-i", "nowhere", "create", "nowhere.ini"]


def on_terminal(*words: str, **environment: str) -> str:
    """What the command says on standard error where that is a terminal."""
    master, slave = pty.openpty()
    clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM")}
    done = subprocess.Popen(
        [VCLUST, *words], env={**clean, **environment}, stdin=subprocess.DEVNULL, stderr=slave
    )
    os.close(slave)
    said = b""
    try:
        while data := os.read(master, 4096):
            said += data
    except OSError:  # the other end is closed
        pass
    os.close(master)
    assert done.wait() == 2
    return said.decode()


@pytest.mark.parametrize("no_color", [{}, {"NO_COLOR": ""}])
def test_colour_on_a_terminal(no_color: dict[str, str]) -> None:
    assert on_terminal(*MISSING, **no_color).startswith(
        "\x1b[1;31mvclust:\x1b[0m nowhere.ini: got No such file"
    )
    assert "\x1b[1;31mvclust: error:\x1b[0m argument COMMAND" in on_terminal("nonsense", **no_color)


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"NO_COLOR": "0"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_none(environment: dict[str, str]) -> None:
    for words in (MISSING, ["nonsense"]):
        assert "\x1b" not in on_terminal(*words, **environment)


def test_hints_stand_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(messages, "coloured", lambda: True)
    messages.error("a\n  hint: b \x1b[2J\n  hint: c")
    assert capsys.readouterr().err == (
        "\x1b[1;31mvclust:\x1b[0m a\n\x1b[36m  hint:\x1b[0m b \\x1b[2J\n\x1b[36m  hint:\x1b[0m c\n"
    )


@pytest.mark.parametrize(
    ("folder", "on_path", "inventory", "expected"),
    [
        ("project", False, None, "./vclust"),
        ("project", False, "two sites", "./vclust -i 'two sites'"),
        ("elsewhere", False, None, "{project}/vclust"),
        ("elsewhere", True, None, "vclust"),
        ("project", True, "two", "vclust -i two"),
    ],
)
def test_commands_as_they_are_to_be_typed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folder: str,
    on_path: bool,
    inventory: str | None,
    expected: str,
) -> None:
    for name in ("project", "elsewhere", "bin"):
        (tmp_path / name).mkdir()
    for place in ("project", *(["bin"] if on_path else [])):
        (tmp_path / place / "vclust").write_text("")
        (tmp_path / place / "vclust").chmod(0o755)
    monkeypatch.setattr(messages, "PROJECT", tmp_path / "project")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path / folder)
    messages.call(None if inventory is None else Path(inventory))
    word = expected.format(project=tmp_path / "project")
    assert messages.as_called("`vclust create x`, or: vclust site status") == (
        f"`{word} create x`, or: {word} site status"
    )
    for other in ("/srv/vclust create", "my-vclust list", "vclust creates", "vclust: no", "vclust_py list"):
        assert messages.as_called(other) == other


def test_plain_in_a_pipe() -> None:
    done = subprocess.run([VCLUST, *MISSING], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("vclust: nowhere.ini: got No such file")
