"""The clusters of a history as a picture."""

from collections.abc import Collection
from pathlib import Path

import numpy as np

from vclust_py.cache.learn import Tree, descent
from vclust_py.errors import RequestError, VclustError

FORMATS = (".svg", ".png")
_COLOURS = ("#1b9e77", "#d95f02", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d")


def dendrogram(tree: Tree, marked: Collection[int], path: Path) -> None:
    """Draw the tree, requests below and what they share above; `marked` clusters and all below them in colour.

    The height is the bytes a cluster's requests have in common, fewer further up: clusters that never merge stay
    apart.  Raises RequestError unless `path` ends as a picture does, and VclustError without matplotlib.
    """
    if path.suffix not in FORMATS:
        raise RequestError([f"plot: got '{path}', expected a file that ends in {' or '.join(FORMATS)}"])
    try:
        import matplotlib

        matplotlib.use("agg")
        from matplotlib.collections import LineCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise VclustError(f"plot: {error}", "pip install matplotlib") from error

    _, order = descent(tree)
    total = len(order)
    across = np.empty(total)
    across[order[order < tree.leaves]] = np.arange(tree.leaves)
    shared = np.maximum(tree.sizes, 1).astype(float)
    colour = ["#b0b0b0"] * total
    lines: list[list[tuple[float, float]]] = []
    colours: list[str] = []
    for number, (one, other) in enumerate(tree.merges.tolist()):
        across[tree.leaves + number] = (across[one] + across[other]) / 2
    for number, id_ in enumerate(sorted(marked)):
        colour[id_] = _COLOURS[number % len(_COLOURS)]
    for id_ in order[::-1]:  # ancestors first, so that the innermost mark is seen
        if id_ < tree.leaves:
            continue
        for child in tree.merges[id_ - tree.leaves].tolist():
            if child not in marked:
                colour[child] = colour[id_]
            lines.append(
                [(across[child], shared[child]), (across[child], shared[id_]), (across[id_], shared[id_])]
            )
            colours.append(colour[id_])
    figure = Figure(figsize=(min(12 + tree.leaves / 200, 40), 7), layout="constrained")
    axes = figure.add_subplot(
        yscale="log",
        ylabel="bytes in common",
        xlabel=f"{tree.leaves} distinct requests, alike ones side by side",
    )
    axes.add_collection(LineCollection(lines, colors=colours, linewidths=0.6))
    for id_ in sorted(marked):
        axes.plot(across[id_], shared[id_], "o", color=colour[id_], markersize=4)
    if total:
        axes.set_xlim(-1, tree.leaves)
        axes.set_ylim(shared.max() * 1.2, shared.min() / 1.2)
    axes.set_xticks([])
    axes.set_title(f"what requests have in common; {len(marked)} clusters chosen as caches")
    try:
        figure.savefig(path)
    except OSError as error:
        raise VclustError(f"{path}: {error}") from error
