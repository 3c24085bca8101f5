"""The runs of a cluster's phases, what each waited for, and a clock without the pauses between them."""

import bisect
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROWS = 60
"""Nodes and hosts of a timeline that has a row for each; of more, those that say something have one."""
_SLOWEST = 20
"""Of more than `ROWS`: so many of the slowest, and of the failed, have a row."""
_HOSTS = 30
"""The others have a row for each host, or one for all where they are on more than so many."""
_LEAST_PAUSE = 5.0
_PAUSE = 0.05
"""A pause is shown as a mark where it is longer than so many seconds, and than this part of all work."""


@dataclass(frozen=True)
class Part:
    """One node's, or host's, part in a run; Unix times."""

    name: str
    start: float
    end: float
    outcome: str

    @property
    def failed(self) -> bool:
        # What went well may have a warning behind it.
        return not self.outcome.startswith("done")


@dataclass(frozen=True)
class Run:
    """One run of a phase; Unix times."""

    phase: str
    start: float
    end: float
    outcome: str
    bytes: int
    parts: tuple[Part, ...] = ()

    @property
    def seconds(self) -> float:
        return self.end - self.start

    @property
    def critical(self) -> Part | None:
        """The part that the run waited for: it ended last."""
        return max(self.parts, key=lambda part: part.end, default=None)


def runs(phases: Sequence[Mapping[str, Any]], parts: Sequence[Mapping[str, Any]]) -> list[Run]:
    """The runs, oldest first, each with its parts: those of its phase that began after it, and before the next.

    Both as `vclust_py.site.describe` has them.  What has not ended lasts until now.
    """
    of_phase: dict[str, list[tuple[float, list[Part]]]] = {}
    found = []
    for row in phases:
        taken: list[Part] = []
        of_phase.setdefault(row["phase"], []).append((row["start"], taken))
        found.append((row, taken))
    for row in parts:
        begun = of_phase.get(row["phase"], [])
        place = bisect.bisect_right(begun, row["start"], key=lambda one: one[0]) - 1
        if place >= 0:
            part = Part(row["node"], row["start"], row["start"] + row["seconds"], row["outcome"])
            begun[place][1].append(part)
    return [
        Run(
            row["phase"],
            row["start"],
            row["start"] + row["seconds"],
            row["outcome"],
            row["bytes"],
            tuple(taken),
        )
        for row, taken in found
    ]


@dataclass(frozen=True)
class Clock:
    """Unix times as seconds of work: pauses between runs take none."""

    spans: tuple[tuple[float, float], ...]
    """Start and end of each stretch of work, in their order."""

    @property
    def seconds(self) -> float:
        return sum(end - start for start, end in self.spans)

    @property
    def pauses(self) -> list[tuple[float, float]]:
        """Where each pause is, in seconds of work, and how many seconds it took."""
        found, at = [], 0.0
        for (start, end), (following, _) in zip(self.spans, self.spans[1:], strict=False):
            at += end - start
            found.append((at, following - end))
        return found

    def at(self, time: float) -> float:
        """Seconds of work until that time."""
        return sum(min(max(time - start, 0.0), end - start) for start, end in self.spans)


def clock(done: Sequence[Run]) -> Clock:
    """The clock of these runs.  Short pauses stay in it."""
    spans: list[tuple[float, float]] = []
    least = max(_LEAST_PAUSE, _PAUSE * sum(run.seconds for run in done))
    for run in sorted(done, key=lambda run: run.start):
        if spans and run.start - spans[-1][1] <= least:
            spans[-1] = (spans[-1][0], max(spans[-1][1], run.end))
        else:
            spans.append((run.start, run.end))
    return Clock(tuple(spans))


@dataclass
class Bar:
    """A stretch of a row; `middle`: where half of the parts that it stands for have ended."""

    phase: str
    start: float
    end: float
    critical: bool = False
    failed: bool = False
    middle: float | None = None


@dataclass
class Row:
    """One node or host, or several."""

    label: str
    bars: list[Bar] = field(default_factory=list)


def rows(done: Sequence[Run], hosts: Mapping[str, str]) -> list[Row]:
    """A row for each that had a part; of more than `ROWS`, for what was waited for, what failed and what was slowest,
    and for the others of each host together.

    `hosts` has the host of each node, in the nodes' order; other names are of hosts.
    """
    bars: dict[str, list[Bar]] = {}
    for run in done:
        critical = run.critical
        for part in run.parts:
            bar = Bar(run.phase, part.start, part.end, part is critical, part.failed)
            bars.setdefault(part.name, []).append(bar)
    order = [name for name in bars if name not in hosts] + [name for name in hosts if name in bars]
    if len(order) <= ROWS:
        return [Row(_label(name, hosts), bars[name]) for name in order]
    shown = {name for name in order if any(bar.critical for bar in bars[name])}
    shown |= set([name for name in order if any(bar.failed for bar in bars[name])][:_SLOWEST])
    total = {name: sum(bar.end - bar.start for bar in bars[name]) for name in order}
    shown |= set(sorted(order, key=lambda name: -total[name])[:_SLOWEST])
    found = [Row(_label(name, hosts), bars[name]) for name in order if name in shown]
    return found + _together([name for name in order if name not in shown], bars, hosts)


def _label(name: str, hosts: Mapping[str, str]) -> str:
    return f"{name} on {hosts[name]}" if name in hosts else f"host {name}"


def _together(names: Sequence[str], bars: Mapping[str, Sequence[Bar]], hosts: Mapping[str, str]) -> list[Row]:
    groups: dict[str, list[str]] = {}
    of_hosts = {hosts[name] for name in names if name in hosts}
    for name in names:
        label = "other hosts"
        if name in hosts:
            label = f"other nodes on {hosts[name] if len(of_hosts) <= _HOSTS else f'{len(of_hosts)} hosts'}"
        groups.setdefault(label, []).append(name)
    found = []
    for label, members in groups.items():
        row = Row(f"{len(members)} {label}")
        phases: dict[str, list[Bar]] = {}
        for name in members:
            for bar in bars[name]:
                phases.setdefault(bar.phase, []).append(bar)
        for phase, alike in phases.items():
            ends = [bar.end for bar in alike]
            start = min(bar.start for bar in alike)
            failed = any(bar.failed for bar in alike)
            row.bars.append(Bar(phase, start, max(ends), failed=failed, middle=statistics.median(ends)))
        found.append(row)
    return found
