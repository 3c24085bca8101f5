"""What the command says on standard error: in colour on a terminal, plain in a pipe or with NO_COLOR."""

import os
import re
import shlex
import shutil
import sys
from pathlib import Path

from vclust_py.site import PROJECT
from vclust_py.text import MESSAGE, plain

_RED, _YELLOW, _CYAN = "1;31", "1;33", "36"
"""Parameters of the terminals' sequence SGR (ECMA-48): bold and a colour, or a colour."""
_HINT = "  hint:"
_COMMAND = re.compile(
    r"(?<![\w./-])vclust (?=(?:audit|cache|create|destroy|init|list|plan|report|scp|send|show|site|ssh)\b)"
)
"""A command in a hint, as the library has it."""

_called = "vclust"


def call(inventory: Path | None) -> None:
    """From now on hints have commands as this user types them: with the checkout's `./vclust`, and the inventory."""
    global _called
    wrapper = PROJECT / "vclust"
    word = "vclust"
    if wrapper.is_file() and shutil.which("vclust") is None:
        word = "./vclust" if Path.cwd() == PROJECT else shlex.quote(str(wrapper))
    _called = word if inventory is None else f"{word} -i {shlex.quote(str(inventory))}"


def as_called(text: str) -> str:
    """The text with its commands of vclust as they are to be typed."""
    return _COMMAND.sub(lambda found: f"{_called} ", text)


def error(text: str, *, source: str = "vclust:") -> None:
    _say(source, text, _RED)


def warning(text: str) -> None:
    _say("vclust: warning:", text, _YELLOW)


def note(text: str) -> None:
    """What follows from an error, in the line under it."""
    print(as_called(plain(text, MESSAGE)), file=sys.stderr)


def coloured() -> bool:
    """Whether standard error shows colours: https://no-color.org, and terminals that have none."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _say(head: str, text: str, colour: str) -> None:
    # Colours go around our own words only: what others wrote has gone through `plain` before.
    text = as_called(plain(text, MESSAGE, lines=True))
    if coloured():
        head = _painted(head, colour)
        text = text.replace(f"\n{_HINT}", f"\n{_painted(_HINT, _CYAN)}")
    print(f"{head} {text}", file=sys.stderr)


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"
