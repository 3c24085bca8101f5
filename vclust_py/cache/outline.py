"""What past requests have in common, for people: which clusters stand for which caches, the tree as lines of
text, and as lines of a picture."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vclust_py.cache.history import History
from vclust_py.cache.learn import Tree, descent, members

_WHOLE = 60
"""Clusters of a tree that is shown with all of them; of a larger one the marked ones are, and its roots."""


def marked(tree: Tree, history: History, caches: Iterable[Collection[str]]) -> list[int]:
    """Ids of the clusters that stand for caches, each a set of `name=version`: the one with most requests that all
    hold the cache; of those with the same requests the topmost.  A cache that no request holds has none.
    """
    sets = [members(row, history) for row in tree.bits]
    found = set()
    for cache in caches:
        packages = frozenset(cache)
        holding = [id_ for id_, held in enumerate(sets) if packages <= held]
        if holding:
            found.add(max(holding, key=lambda id_: (int(tree.frequencies[id_]), id_)))
    return sorted(found)


def lines(tree: Tree, history: History, chosen: Collection[int]) -> list[dict[str, Any]]:
    """The tree from its roots down: for each cluster its depth, requests, bytes in common and packages.

    `more` are the packages beyond those of the cluster above it, the largest first.
    """
    total = len(tree.sizes)
    parents = np.full(total, -1)
    for number, pair in enumerate(tree.merges):
        parents[pair] = tree.leaves + number
    shown = np.ones(total, dtype=np.bool_)
    if total > _WHOLE:
        shown = parents < 0
        shown[: tree.leaves] = False
        shown[list(chosen)] = True
    weights = dict(zip(history.packages, history.weights.tolist(), strict=True))
    rows: dict[int, dict[str, Any]] = {}
    _, order = descent(tree)
    for id_ in order[::-1].tolist():
        if not shown[id_]:
            continue
        above = parents[id_]
        while above >= 0 and not shown[above]:
            above = parents[above]
        parent = rows.get(int(above))
        packages = members(tree.bits[id_], history)
        more = packages - (parent["packages"] if parent else frozenset())
        rows[id_] = {
            "depth": parent["depth"] + 1 if parent else 0,
            "requests": int(tree.frequencies[id_]),
            "size": int(tree.sizes[id_]),
            "chosen": id_ in chosen,
            "packages": packages,
            "more": sorted(more, key=lambda name: (-weights[name], name)),
        }
    return [row | {"packages": len(row["packages"])} for row in rows.values()]


Point = tuple[float, float]


@dataclass(frozen=True)
class Drawing:
    """A tree as a picture.  Points are (place among the leaves, bytes in common, 1 at least)."""

    lines: list[tuple[int, tuple[Point, Point, Point]]]
    """For each cluster that was merged: up to the height of the merge, then across; and which mark's colour it has
    (-1: none), as its place in `marks`."""
    marks: list[Point]
    """Where the marked clusters are, by their ids."""


def drawing(tree: Tree, chosen: Collection[int]) -> Drawing:
    """Requests below, alike ones side by side; a cluster over the middle of its parts.

    A chosen cluster and all below it have its mark; of several above it the innermost counts.
    """
    _, order = descent(tree)
    across = np.empty(len(order))
    across[order[order < tree.leaves]] = np.arange(tree.leaves)
    for number, (one, other) in enumerate(tree.merges.tolist()):
        across[tree.leaves + number] = (across[one] + across[other]) / 2
    shared = np.maximum(tree.sizes, 1).astype(float)
    places, heights = across.tolist(), shared.tolist()
    mark = [-1] * len(order)
    for number, id_ in enumerate(sorted(chosen)):
        mark[id_] = number
    lines = []
    for id_ in order[::-1].tolist():  # ancestors first, so that the innermost mark is seen
        if id_ < tree.leaves:
            continue
        for child in tree.merges[id_ - tree.leaves].tolist():
            if child not in chosen:
                mark[child] = mark[id_]
            up = (places[child], heights[id_])
            lines.append((mark[id_], ((places[child], heights[child]), up, (places[id_], heights[id_]))))
    return Drawing(lines, [(places[id_], heights[id_]) for id_ in sorted(chosen)])
