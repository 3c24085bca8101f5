"""What the command says on standard error: in colour on a terminal, plain in a pipe or with NO_COLOR."""

import os
import sys

from vclust_py.text import MESSAGE, plain

_RED, _YELLOW, _CYAN = "1;31", "1;33", "36"
"""Parameters of the terminals' sequence SGR (ECMA-48): bold and a colour, or a colour."""
_HINT = "  hint:"


def error(text: str, *, source: str = "vclust:") -> None:
    _say(source, text, _RED)


def warning(text: str) -> None:
    _say("vclust: warning:", text, _YELLOW)


def note(text: str) -> None:
    """What follows from an error, in the line under it."""
    print(plain(text, MESSAGE), file=sys.stderr)


def coloured() -> bool:
    """Whether standard error shows colours: https://no-color.org, and terminals that have none."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _say(head: str, text: str, colour: str) -> None:
    # Colours go around our own words only: what others wrote has gone through `plain` before.
    text = plain(text, MESSAGE, lines=True)
    if coloured():
        head = _painted(head, colour)
        text = text.replace(f"\n{_HINT}", f"\n{_painted(_HINT, _CYAN)}")
    print(f"{head} {text}", file=sys.stderr)


def _painted(text: str, colour: str) -> str:
    return f"\x1b[{colour}m{text}\x1b[0m"
