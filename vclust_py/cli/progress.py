"""The progress of a playbook, shown while it works: read from the site's state where that is on this machine; else from
what our action plugins print (`vclust_py.steps`).
"""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from vclust_py.cli.sites import is_here
from vclust_py.errors import VclustError
from vclust_py.site import Site
from vclust_py.text import LINE, age, plain, size

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

    from vclust_py.site.session import Session

# Rich is imported where it is used: what has no terminal need not wait for it.

Rows = list[dict[str, Any]]
"""Progress: phase, node, message, done, total."""

_BYTES = 10**6
"""Nothing else is counted that far."""
_PLAIN_INTERVAL = 2.0
"""Seconds between two plain lines of one node: a log needs no more."""


class Follow:
    """Reads progress from the site's store, if that is on this machine; a context manager, which closes it."""

    def __init__(self, read: Callable[["Session"], Rows]) -> None:
        self._read = read
        self._session: Session | None = None

    def __enter__(self) -> "Follow":
        return self

    def __exit__(self, *error: object) -> None:
        if self._session is not None:
            self._session.close()

    def found(self, module: str, result: Mapping[str, Any]) -> None:
        """The first module says where it ran and where the store is."""
        place = result.get("site_manager")
        if self._session is None and place and is_here(place):
            from vclust_py.site.session import Session

            self._session = Session(Site(root=Path(place["root"])))

    def started(self, host: str, task: str) -> None:
        """A machine of the inventory begins with a task."""

    def rows(self) -> Rows:
        if self._session is None:
            return []
        try:
            return self._read(self._session)
        except VclustError:
            # Only the display is the poorer for it: the modules will say what is wrong with the state.
            return []


def cluster_progress(name: str) -> Callable[["Session"], Rows]:
    """Reads what is new of one cluster.  One that is taken up has rows of earlier runs, too."""
    last, begun = 0, time.time()

    def read(session: "Session") -> Rows:
        from vclust_py.site import records

        nonlocal last
        rows = records.progress(session.store, name, last)
        if rows:
            last = rows[-1]["id"]
        return [row for row in rows if row["time"] >= begun]

    return read


def as_row(phase: str, message: str) -> dict[str, Any]:
    """Progress of a site manager that is another machine, which has its counts in the message."""
    return {"phase": phase, "node": "", "message": message, "done": 0, "total": 0}


def step(row: Mapping[str, Any]) -> str:
    """A row's message and count: of bytes where it is that large."""
    done, total = row["done"], row["total"]
    count = f" {size(done)} of {size(total)}" if total >= _BYTES else f" {done}/{total}" if total else ""
    return plain(f"{row['message']}{count}", LINE)


class Display(Protocol):
    """Shows the phases of one run; a context manager, since a terminal must be set right again."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *error: object) -> None: ...
    def phase(self, name: str) -> None: ...
    def progress(self, rows: Sequence[Mapping[str, Any]]) -> None: ...
    def expect(self, seconds: Mapping[str, float]) -> None:
        """What the phases are expected to take; those that nothing is known of are left out."""
        ...


def display(phases: Sequence[str], *, live: bool) -> Display:
    """Live, or plain lines where there is no terminal; on standard error, which leaves the output to results."""
    return LiveDisplay(phases) if live else PlainDisplay()


class PlainDisplay:
    """Lines such as `[ 12.3 s] image: unpack 12/81`."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._shown: dict[tuple[str, str], tuple[float, str]] = {}

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def phase(self, name: str) -> None:
        self._line(name)

    def progress(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for row in rows:
            key, now = (row["phase"], row["node"]), time.monotonic()
            last, message = self._shown.get(key, (0.0, ""))
            if now - last < _PLAIN_INTERVAL and message == row["message"] and row["done"] != row["total"]:
                continue
            self._shown[key] = now, row["message"]
            node = f"{row['node']}: " if row["node"] else ""
            self._line(f"{row['phase']}: {plain(node, LINE)}{step(row)}")

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Its lines have the time that has passed; what is left is in `vclust plan`."""

    def _line(self, text: str) -> None:
        print(f"[{time.monotonic() - self._start:5.1f} s] {text}", file=sys.stderr, flush=True)


class LiveDisplay:
    """The list of phases with their seconds, and under the one at work a line for each node."""

    def __init__(self, phases: Sequence[str]) -> None:
        from rich.console import Console
        from rich.live import Live

        self._phases = phases
        self._starts: dict[str, float] = {}
        self._expected: Mapping[str, float] = {}
        self._steps: dict[str, str] = {}
        self._end: float | None = None
        self._live = Live(
            get_renderable=self._table,
            console=Console(stderr=True, markup=False, emoji=False, highlight=False),
            refresh_per_second=4,
            redirect_stdout=False,
        )

    def __enter__(self) -> "LiveDisplay":
        self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._end = time.monotonic()
        self._steps.clear()
        self._live.__exit__(None, None, None)

    def phase(self, name: str) -> None:
        self._starts[name] = time.monotonic()
        self._steps.clear()

    def progress(self, rows: Sequence[Mapping[str, Any]]) -> None:
        at_work = next(reversed(self._starts), "")
        for row in rows:
            # The last words of a phase are read after the next one has begun.
            if row["phase"] == at_work or row["phase"] not in self._phases:
                self._steps[row["node"]] = step(row)

    def expect(self, seconds: Mapping[str, float]) -> None:
        self._expected = seconds

    def _table(self) -> "Group":
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        now = self._end or time.monotonic()
        begun = list(self._starts)
        table = Table.grid(padding=(0, 2))
        for name in [*begun, *(one for one in self._phases if one not in self._starts)]:
            if name not in self._starts:
                table.add_row("·", Text(name, "dim"), "")
                continue
            last = name == begun[-1]
            end = now if last else self._starts[begun[begun.index(name) + 1]]
            mark = Text(">", "bold") if last and self._end is None else Text("✓", "green")
            table.add_row(mark, name, f"{end - self._starts[name]:6.1f} s")
        nodes = Table.grid(padding=(0, 2))
        for node, step in sorted(self._steps.items()):
            nodes.add_row("", plain(node, LINE), step)
        return Group(table, nodes, *self._left(now))

    def _left(self, now: float) -> "list[RenderableType]":
        """A bar with the time that is left, once all phases that are still to come have an estimate."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        begun = list(self._starts)
        to_come = [phase for phase in self._phases if phase not in self._starts]
        if self._end is not None or not begun or not self._expected.keys() >= {begun[-1], *to_come}:
            return []
        current = self._expected[begun[-1]] - (now - self._starts[begun[-1]])
        left = max(current, 0.0) + sum(self._expected[phase] for phase in to_come)
        passed = now - self._starts[begun[0]]
        bar = Table.grid(padding=(0, 2))
        bar.add_row(
            "", ProgressBar(total=passed + left, completed=passed, width=40), f"about {age(left)} left"
        )
        return [bar]
