"""Pictures as SVG with text, made to be read at any width: places across are in percent, text keeps its size.

Whatever is put into a picture goes through `vclust_py.text` and is escaped.
"""

import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from vclust_py.report.timeline import Clock, Row, Run
from vclust_py.text import LINE, age, plain, size

if TYPE_CHECKING:  # numpy takes longer to import than a cluster's page to make
    from vclust_py.cache.learn import Tree
    from vclust_py.cache.outline import Point

_ROW = 38
"""Pixels of a row: a line of text with a bar under it."""
_BAR = 12
_TICKS = 5
_STEPS = [step * unit for unit in (0.001, 0.01, 0.1, 1, 10) for step in (1, 2, 5)]
_STEPS += [60, 120, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400, 7 * 86400]
_RECENT = 20
"""The share of the last so many creations is a line of the use over time."""
_POINTS = 1000
"""A line has no more points than a screen."""
_COLOURS = 7
"""Colours of marks that are told apart by number (`.m0` … in page.html.j2)."""


@dataclass(frozen=True)
class Piece:
    """A part of a bar: how much, the class that gives its colour, and what it is."""

    amount: float
    kind: str
    title: str


@dataclass(frozen=True)
class Bars:
    """One bar: its label, its pieces side by side, and what the whole width stands for."""

    label: str
    pieces: Sequence[Piece]
    whole: float
    mark: float | None = None
    """An amount that is marked by a line, such as what was expected."""


def _svg(name: str, title: str, height: int, parts: Iterable[Markup]) -> Markup:
    head = Markup(
        '<svg id="{}" role="img" aria-labelledby="{}-title" width="100%" height="{}"><title id="{}-title">{}</title>'
    ).format(name, name, height, name, plain(title, LINE))
    return head + Markup("").join(parts) + Markup("</svg>")


def _rect(start: float, width: float, top: float, kind: str, title: str, height: int = _BAR) -> Markup:
    """Across in percent."""
    return Markup(
        '<rect class="{}" x="{:.3f}%" width="{:.3f}%" y="{:g}" height="{}"><title>{}</title></rect>'
    ).format(kind, start, max(width, 0.15), top, height, plain(title, LINE))


def _text(across: float, top: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text class="{}" x="{:.3f}%" y="{:g}" text-anchor="{}">{}</text>').format(
        kind, across, top, anchor, plain(text, LINE)
    )


def _vertical(across: float, top: float, bottom: float, kind: str) -> Markup:
    return Markup('<line class="{0}" x1="{1:.3f}%" x2="{1:.3f}%" y1="{2:g}" y2="{3:g}"/>').format(
        kind, across, top, bottom
    )


def bars(name: str, title: str, rows: Sequence[Bars]) -> Markup:
    """Horizontal bars, each under its label."""
    parts = []
    for number, row in enumerate(rows):
        top = number * _ROW
        parts.append(_text(0, top + 14, row.label))
        parts.append(_rect(0, 100, top + 19, "track", row.label))
        at, whole = 0.0, row.whole or 1.0
        for piece in row.pieces:
            width = min(100 * piece.amount / whole, 100 - at)
            if width > 0:
                parts.append(_rect(at, width, top + 19, piece.kind, piece.title))
                at += width
        if row.mark is not None:
            parts.append(_vertical(min(100 * row.mark / whole, 99.8), top + 16, top + 34, "mark"))
    return _svg(name, title, len(rows) * _ROW, parts)


def timeline(name: str, title: str, runs: Sequence[Run], rows: Sequence[Row], clock: Clock) -> Markup:
    """The runs of the phases, then the rows of nodes and hosts, all by the same clock.

    What the next phase waited for has a frame and a ◆ in its label.
    """
    whole = clock.seconds or 1.0
    # Pauses are written above all rows.
    top = 18 if clock.pauses else 0
    height = top + (len(runs) + len(rows)) * _ROW + 24

    def across(time: float) -> float:
        return 100 * clock.at(time) / whole

    parts = []
    for at in _ticks(whole):
        place = 100 * at / whole
        parts.append(_vertical(place, 0, height - 18, "grid"))
        anchor = "start" if place < 5 else "end" if place > 95 else "middle"
        parts.append(_text(place, height - 4, _seconds(at), "note", anchor))
    for at, seconds in clock.pauses:
        parts.append(_vertical(100 * at / whole, 0, height - 18, "pause"))
        anchor = "start" if at < whole / 2 else "end"
        parts.append(_text(100 * at / whole, 11, f" pause of {age(seconds)} ", "note", anchor))
    for run in runs:
        waited = f", waited for {run.critical.name}" if run.critical else ""
        failed = "" if run.outcome == "done" else " ✗"
        label = f"{run.phase} {_seconds(run.seconds)}{failed}"
        parts.append(_text(0, top + 14, label, "strong"))
        start = across(run.start)
        width = across(run.end) - start
        said = f"{run.phase}: {_seconds(run.seconds)}{waited}; {run.outcome}"
        parts.append(_rect(start, width, top + 19, f"p-{run.phase}", said))
        top += _ROW
    for row in rows:
        waited = "◆ " if any(bar.critical for bar in row.bars) else ""
        failed = " ✗" if any(bar.failed for bar in row.bars) else ""
        parts.append(_text(0, top + 14, f"{waited}{row.label}{failed}"))
        for bar in row.bars:
            start, end = across(bar.start), across(bar.end)
            said = f"{bar.phase}: {_seconds(bar.end - bar.start)}"
            if bar.middle is not None:
                said += f" at most, half of them {_seconds(bar.middle - bar.start)}"
                parts.append(_rect(start, end - start, top + 19, f"p-{bar.phase} faint", said))
                end = across(bar.middle)
            kind = f"p-{bar.phase}{' critical' if bar.critical else ''}{' failed' if bar.failed else ''}"
            parts.append(_rect(start, end - start, top + 19, kind, said))
        top += _ROW
    return _svg(name, title, height, parts)


def _ticks(whole: float) -> list[float]:
    step = next((step for step in _STEPS if whole / step <= _TICKS), whole)
    return [number * step for number in range(int(whole / step) + 1)]


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds:.0f} s" if seconds < 600 else age(seconds)


def usage(name: str, title: str, uses: Sequence[Mapping[str, Any]]) -> Markup:
    """Share of creations from a cache, of the last some, and of bytes that caches saved until then; in percent."""
    hits = [bool(use["cache"]) for use in uses]
    counted = list(itertools.accumulate(hits, initial=0))
    recent = [
        (counted[end] - counted[max(end - _RECENT, 0)]) / min(end, _RECENT) for end in range(1, len(uses) + 1)
    ]
    asked = list(itertools.accumulate(use["of"] for use in uses))
    saved = list(itertools.accumulate(use["bytes"] for use in uses))
    shares = [part / whole if whole else 0.0 for part, whole in zip(saved, asked, strict=True)]
    height, top = 220, 16
    inner = height - 40
    parts = []
    for percent in (0, 50, 100):
        y = top + inner * (1 - percent / 100)
        parts.append(Markup('<line class="grid" x1="0" x2="100%" y1="{0:g}" y2="{0:g}"/>').format(y))
        parts.append(_text(0, y - 3, f"{percent}%", "note"))
    parts.append(_stretched(top, inner))
    for kind, values in (("line m0", recent), ("line m1 dashed", shares)):
        last = max(len(values) - 1, 1)
        points = [(1000 * number / last, 1000 * (1 - value)) for number, value in enumerate(values)]
        parts.append(Markup('<path class="{}" d="{}"/>').format(kind, _path(_thinned(points))))
    parts.append(Markup("</svg>"))
    parts.append(_text(0, height - 4, "creation 1", "note"))
    parts.append(_text(100, height - 4, f"creation {len(uses)}", "note", "end"))
    return _svg(name, title, height, parts)


def _stretched(top: int, height: int) -> Markup:
    """The beginning of a part whose points go from 0 to 1000, whatever its width is."""
    return Markup(
        '<svg y="{}" width="100%" height="{}" viewBox="0 0 1000 1000" preserveAspectRatio="none">'
    ).format(top, height)


def _thinned(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most some `_POINTS` of them, the last among them."""
    step = len(points) // _POINTS + 1
    return points[::step] + ([points[-1]] if (len(points) - 1) % step else [])


def _path(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def dendrogram(name: str, title: str, tree: "Tree", marked: Collection[int]) -> Markup:
    """The tree, requests below and what they share above; `marked` clusters and all below them in colour."""
    from vclust_py.cache import outline

    drawing = outline.drawing(tree, marked)
    least, most = max(int(tree.sizes.min()), 1), max(int(tree.sizes.max()), 2)
    span = math.log(most / least) or 1.0
    height, top, bottom = 320, 18, 22
    inner = height - top - bottom

    def place(point: "Point") -> tuple[float, float]:
        """Both from 0 to 1."""
        return (point[0] + 0.5) / tree.leaves, math.log(point[1] / least) / span

    parts = [_stretched(top, inner)]
    paths: dict[int, list[str]] = {}
    for mark, points in drawing.lines:
        corners = [(1000 * x, 1000 * y) for x, y in map(place, points)]
        paths.setdefault(mark % _COLOURS if mark >= 0 else -1, []).append(_path(corners))
    for mark, lines in sorted(paths.items()):
        kind = "line plain" if mark < 0 else f"line m{mark}"
        parts.append(Markup('<path class="{}" d="{}"/>').format(kind, "".join(lines)))
    parts.append(Markup("</svg>"))
    for number, (x, y) in enumerate(map(place, drawing.marks)):
        parts.append(
            Markup('<circle class="m{}" cx="{:.2f}%" cy="{:.1f}" r="5"><title>{}</title></circle>').format(
                number % _COLOURS, 100 * x, top + inner * y, f"cache {number + 1}"
            )
        )
        parts.append(_text(min(100 * x + 1, 97), top + inner * y - 4, str(number + 1), "note"))
    parts.append(_text(0, 11, f"{size(least)} in common", "note"))
    parts.append(_text(0, height - 4, f"{size(most)} in one request", "note"))
    return _svg(name, title, height, parts)
