"""Failures.  The library raises these; modules, plugins and the command convert them at the edge.

A message may quote what users, guests and hosts said: here it becomes plain text of at most 4 KB, whoever raises it.
"""

from collections.abc import Iterable

from vclust_py.text import MESSAGE, plain

_HINT = 900
_TEXT = MESSAGE - _HINT - 100  # what is left for the words before the hint, and for saying how much was cut
_PROBLEM = 600


class VclustError(Exception):
    """Something did not work part-way.  `exit_code` is what the `vclust` command ends with."""

    exit_code = 4

    def __init__(self, message: str, hint: str | None = None) -> None:
        text = plain(message, _TEXT if hint is not None else MESSAGE - 50, lines=True)
        super().__init__(text if hint is None else f"{text}\n  hint: {plain(hint, _HINT, lines=True)}")


class NoAnswerError(VclustError):
    """A host does not answer any more; whoever calls it again waits as long again."""


class RequestError(VclustError):
    """The request cannot be taken.  `problems` holds the mistakes that were found, one line each.

    Very many are counted instead: nobody reads them.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[str], hint: str | None = None) -> None:
        self.problems = _first(list(problems))
        super().__init__("\n".join(self.problems), hint)


class CapacityError(VclustError):
    """The site has not enough free CPU, memory or disk."""

    exit_code = 3


class BusyError(VclustError):
    """Another process is at work on it."""


def _first(problems: list[str]) -> list[str]:
    """As many of the problems as an error has space for."""
    kept: list[str] = []
    size = 0
    for number, problem in enumerate(problems):
        line = plain(problem, _PROBLEM)
        size += len(line.encode()) + 1
        if size > _TEXT - 50:
            return [*kept, f"and {len(problems) - number} more"]
        kept.append(line)
    return kept
