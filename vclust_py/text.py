"""Text that users, guests and hosts have written, made fit for a terminal, a log and the site's state.

`plain` is used wherever such text is put into an error, shown or stored: nothing else needs to think of it.  Beside it
stand the forms that people see sizes and times in.
"""

import time

LINE = 200
"""Bytes of one line of progress, or one cell of a table."""
DETAIL = 2000
"""Bytes of why something failed, as the site's state keeps it."""
MESSAGE = 3900
"""Bytes of a whole error: with what the command puts before it, it stays under 4 KB."""


def plain(text: str, limit: int, *, lines: bool = False) -> str:
    """`text` without control characters, cut to some `limit` bytes of UTF-8; what was cut is counted.

    Everything that is not printable is escaped as Python does it (`\\x1b`): terminal controls of 7 and 8 bits, line
    ends (kept with `lines`), what reverses the direction of writing, invisible characters, halves of surrogates.
    Text that went through here is not changed again.
    """
    if len(text) <= limit and text.isprintable() and len(text.encode()) <= limit:
        return text
    kept: list[str] = []
    size = 0
    for index, character in enumerate(text):
        if not character.isprintable() and not (lines and character == "\n"):
            character = character.encode("unicode_escape").decode("ascii")
        size += len(character.encode())
        if size > limit:
            return f"{''.join(kept)}… ({len(text) - index} more characters)"
        kept.append(character)
    return "".join(kept)


def counted(count: int, noun: str) -> str:
    """`1 package`, `2 packages`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size(count: float) -> str:
    """Bytes for people, decimal as in a request."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def when(moment: float) -> str:
    """A Unix time for people, in the machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def age(seconds: float) -> str:
    """How old something is, or how long it took, for people."""
    for most, unit, name in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < most:
            return f"{seconds / unit:.0f} {name}"
    return f"{seconds / 86400:.0f} days"
