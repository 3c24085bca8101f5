"""Pictures: the clusters of a history, and the use of caches over time."""

import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vclust_py.cache import outline
from vclust_py.cache.history import History
from vclust_py.cache.learn import Tree, members
from vclust_py.errors import VclustError
from vclust_py.text import counted, plain, size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d")
_IN_LEGEND = 10
_NAMED = 3
"""Packages of a cluster that the legend names."""
_GREY = "#b0b0b0"


def dendrogram(tree: Tree, history: History, marked: Collection[int], path: Path) -> None:
    """Draw the tree, requests below and what they share above; `marked` clusters and all below them in colour.

    The height is the bytes a cluster's requests have in common, fewer further up: clusters that never merge stay
    apart.  Each marked cluster is in the legend, with its requests and largest packages.  Raises VclustError without
    matplotlib, when the file cannot be written, and for fewer than two different requests.
    """
    if tree.leaves < 2:
        raise VclustError(
            f"plot: got {counted(tree.leaves, 'distinct request')}, expected two at least:"
            " a tree shows what requests share"
        )
    figure = _figure(min(12 + tree.leaves / 200, 40))
    from matplotlib.collections import LineCollection

    drawing = outline.drawing(tree, marked)
    colours = [_COLOURS[mark % len(_COLOURS)] if mark >= 0 else _GREY for mark, _ in drawing.lines]
    axes = figure.add_subplot(
        yscale="log",
        ylabel="in common, as installed",
        xlabel=f"{tree.leaves} distinct requests, alike ones side by side",
    )
    lines = [points for _, points in drawing.lines]
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.6))
    weights = dict(zip(history.packages, history.weights.tolist(), strict=True))
    for number, ((across, shared), id_) in enumerate(zip(drawing.marks, sorted(marked), strict=True)):
        names = members(tree.bits[id_], history)
        label = None
        if number < _IN_LEGEND:
            largest = sorted(names, key=lambda name: (-weights[name], name))[:_NAMED]
            # Between dollars matplotlib would read mathematics.
            among = ", ".join(plain(name.partition("=")[0], 60).replace("$", r"\$") for name in largest)
            label = (
                f"{counted(int(tree.frequencies[id_]), 'request')}, {size(int(tree.sizes[id_]))},"
                f" {counted(len(names), 'package')}: {among}{', …' if len(names) > _NAMED else ''}"
            )
        colour = _COLOURS[number % len(_COLOURS)]
        axes.plot([across], [shared], "o", color=colour, markersize=5, label=label)
    if marked:
        more = f"; {len(marked) - _IN_LEGEND} more" if len(marked) > _IN_LEGEND else ""
        # Under the tree: inside it there is no corner that is always empty.
        figure.legend(title=f"chosen as caches{more}", loc="outside lower left", ncols=2, fontsize="small")
    if len(tree.sizes):
        axes.set_xlim(-1, tree.leaves)
        axes.set_ylim(max(tree.sizes.max(), 1) * 1.2, max(tree.sizes.min(), 1) / 1.2)
    axes.yaxis.set_major_formatter(lambda count, _: size(count))
    axes.yaxis.set_minor_formatter(lambda count, _: "")
    axes.set_xticks([])
    axes.set_title(f"what requests have in common; {len(marked)} clusters chosen as caches")
    _save(figure, path)


def usage(uses: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw what each creation, in order, had to install, the part that a cache saved it, and the share so far.

    `uses` as of `vclust_py.cache.status.usage`.  Raises VclustError as `dendrogram` does.
    """
    if not uses:
        raise VclustError("plot: got no creations, expected one at least: there is nothing to draw yet")
    figure = _figure(12)
    each, share = figure.subplots(2, 1, sharex=True)
    number = np.arange(1, len(uses) + 1)
    asked = np.array([use["of"] for use in uses], dtype=float)
    saved = np.array([use["bytes"] for use in uses], dtype=float)
    names = {use["cache"]: None for use in uses if use["cache"]}
    colours = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    each.bar(number, asked / 1e6, width=0.9, color=_GREY, label="installed")
    each.bar(number, saved / 1e6, width=0.9, color=[colours.get(use["cache"], _GREY) for use in uses])
    each.set_ylabel("MB as installed")
    each.set_title(f"{len(uses)} creations; coloured: saved by a cache, one colour for each of {len(names)}")
    so_far = 100 * np.cumsum(saved) / np.maximum(np.cumsum(asked), 1)
    share.plot(number, so_far, color=_COLOURS[0])
    share.set(ylabel="% saved so far", xlabel="creation", ylim=(0, 100))
    _save(figure, path)


def _figure(width: float) -> "Figure":
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VclustError(
            f"plot: {error}", f"{shlex.quote(sys.executable)} -m pip install 'matplotlib>=3.7'"
        ) from error
    return Figure(figsize=(width, 7), layout="constrained")


def _save(figure: "Figure", path: Path) -> None:
    try:
        figure.savefig(path)
    except OSError as error:
        raise VclustError(f"{path}: {error}") from error
