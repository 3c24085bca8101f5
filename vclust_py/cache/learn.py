"""Clusters of alike requests and their rank (paper 3.2, 4.3), exactly as DESIGN §6 says."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from vclust_py.cache.history import Bits, Floats, History, Ints, Table, pack, unpack

_BLOCK = 512
"""Rows multiplied at a time: bounds the memory, and enough for BLAS to be quick."""


@dataclass(frozen=True)
class Tree:
    """The merges of the clustering; a forest where requests have nothing in common.

    Ids are those of SciPy's linkage: distinct requests are leaves 0 … n-1, the k-th merge is n + k.
    """

    leaves: int
    merges: Ints
    """(merges, 2) ids of what was merged, the lower one first."""
    bits: Bits
    """(ids, words) atoms of each cluster: those that all its requests hold."""
    sizes: Ints
    """(ids,) installed bytes of these."""
    frequencies: Ints
    """(ids,) requests below, each as often as it was seen."""


class Ranked(NamedTuple):
    """A candidate as it was when its turn came."""

    id: int
    frequency: int
    size: int

    @property
    def score(self) -> int:
        return self.frequency * self.size


def cluster(table: Table) -> Tree:
    """Merge the closest pair of clusters until no two have a byte in common.

    The dissimilarity is 1 / bytes in common.  Ties go to the pair with the smaller (lower id, higher id).
    Cost: n² memory of 4 or 8 bytes, about n² m time for n distinct requests and m atoms.

    What a merged cluster has in common with another is never more than either part had.  So the best neighbour that
    a cluster once had stays a bound, and is looked up again only when that bound is the highest of all.
    """
    count = len(table.rows)
    common, columns = _pairs(table), table.columns.copy()
    rows, weights = table.rows.copy(), table.scale[0]
    bits = np.zeros((max(2 * count - 1, 0), table.bits.shape[1]), dtype=np.uint64)
    bits[:count] = table.bits
    sizes = np.concatenate([table.sizes, np.zeros(max(count - 1, 0), dtype=np.int64)])
    frequencies = np.concatenate([table.counts, np.zeros(max(count - 1, 0), dtype=np.int64)])
    merges: list[tuple[int, int]] = []

    # A merged cluster takes the place of one of its parts; the other's place has nothing in common with any.
    ids = np.arange(count)
    best = common.max(axis=1, initial=0)
    neighbour = common.argmax(axis=1) if count else ids
    stale = np.zeros(count, dtype=np.bool_)

    def look_up(place: int) -> None:
        row = common[place]
        best[place] = row.max()
        neighbour[place] = _lowest(np.flatnonzero(row == best[place]), ids)
        stale[place] = False

    while count and best.max() > 0:
        one = _lowest(np.flatnonzero(best == best.max()), ids)
        if stale[one]:
            look_up(one)
            continue
        # `one` has the lowest id of all in such a pair, so it is the lower one of the first such pair.
        other = int(neighbour[one])
        new = count + len(merges)
        merges.append((int(ids[one]), int(ids[other])))
        together = rows[one] & rows[other]
        bits[new] = pack(together)
        sizes[new] = table.weights[together].sum()
        frequencies[new] = frequencies[ids[one]] + frequencies[ids[other]]

        # What the new cluster has in common with each other, over as few atoms as will do.
        kept, lost, less = together, rows[one] & ~together, rows[other] & ~together
        fewest = min(np.count_nonzero(part) for part in (kept, lost, less))
        if fewest == np.count_nonzero(kept):
            shared = weights[kept] @ columns[kept]
        elif fewest == np.count_nonzero(lost):
            shared = common[one] - weights[lost] @ columns[lost]
        else:
            shared = common[other] - weights[less] @ columns[less]
        shared[[one, other]] = 0
        common[one], common[:, one] = shared, shared
        common[other], common[:, other] = 0, 0
        columns[lost, one] = 0
        columns[rows[other], other] = 0
        rows[one] = together
        ids[one] = new
        best[other] = 0
        stale |= (neighbour == one) | (neighbour == other)
        look_up(one)

    total = count + len(merges)
    return Tree(
        count,
        np.array(merges, dtype=np.int64).reshape(-1, 2),
        bits[:total],
        sizes[:total],
        frequencies[:total],
    )


def _pairs(table: Table) -> Floats:
    """(n, n) bytes that two requests have in common, 0 on the diagonal; in units of the table's scale."""
    count = len(table.rows)
    common = np.empty((count, count), dtype=table.scale[0].dtype)
    for start in range(0, count, _BLOCK):
        table.common(table.rows[start : start + _BLOCK], out=common[start : start + _BLOCK])
    np.fill_diagonal(common, 0)
    return common


def _lowest(places: Ints, ids: Ints) -> int:
    return int(places[ids[places].argmin()])


def linkage(tree: Tree, top: float = np.inf) -> Floats:
    """(n - 1, 4) SciPy's linkage matrix: two ids, dissimilarity, leaves below.

    SciPy knows no forests: what has nothing in common is joined at dissimilarity `top`, in the order of ids.
    """
    below = [1] * tree.leaves
    parted = set(range(tree.leaves + len(tree.merges))) - set(tree.merges.ravel().tolist())
    result: list[tuple[float, float, float, int]] = []

    def join(one: int, other: int, dissimilarity: float) -> None:
        below.append(below[one] + below[other])
        result.append((one, other, dissimilarity, below[-1]))

    for number, (one, other) in enumerate(tree.merges.tolist()):
        join(one, other, 1 / int(tree.sizes[tree.leaves + number]))
    roots = sorted(parted)
    while len(roots) > 1:
        one, other, *roots = roots
        roots.append(len(below))
        join(one, other, top)
    return np.array(result, dtype=np.float64).reshape(-1, 4)


def rank(tree: Tree, counts: Ints) -> list[Ranked]:
    """Candidates by speedup score, frequency times size, each as it is when its turn came.

    Candidates are all merges, and requests seen at least twice.  One that is taken leaves its ancestors without its
    requests and its descendants without its bytes.  Ties: larger size, then lower id.  `counts` is (leaves,).
    """
    total = len(tree.sizes)
    parents = np.full(total, -1)
    for number, pair in enumerate(tree.merges):
        parents[pair] = tree.leaves + number
    start, order = descent(tree)
    place = np.empty(total, dtype=np.int64)
    place[order] = np.arange(total)
    # From here on by place: the descendants of a cluster are the places from its start up to its own.
    frequency, size = tree.frequencies[order], tree.sizes[order]
    open_ = np.ones(total, dtype=np.bool_)
    open_[place[: tree.leaves]] = counts >= 2
    score = np.where(open_ & (size > 0), frequency * size, 0)
    ranked: list[Ranked] = []
    while total and (highest := score.max()) > 0:
        tied = np.flatnonzero(score == highest)
        taken = int(tied[np.lexsort((order[tied], -size[tied]))[0]])
        ranked.append(Ranked(int(order[taken]), int(frequency[taken]), int(size[taken])))
        open_[taken] = False
        above = []
        ancestor = parents[order[taken]]
        while ancestor >= 0:
            above.append(place[ancestor])
            ancestor = parents[ancestor]
        below = np.arange(start[order[taken]], taken)
        frequency[above] -= frequency[taken]
        size[below] -= size[taken]
        changed = np.concatenate([np.array([*above, taken], dtype=np.int64), below])
        alive = open_[changed] & (frequency[changed] > 0) & (size[changed] > 0)
        score[changed] = np.where(alive, frequency[changed] * size[changed], 0)
    return ranked


def descent(tree: Tree) -> tuple[Ints, Ints]:
    """(ids,) where in the order a cluster's descendants begin; (ids,) the ids, descendants before ancestors."""
    total = len(tree.sizes)
    start = np.empty(total, dtype=np.int64)
    order: list[int] = []
    roots = np.ones(total, dtype=np.bool_)
    roots[tree.merges.ravel()] = False
    stack = [(int(root), False) for root in np.flatnonzero(roots)[::-1]]
    while stack:
        id_, seen = stack.pop()
        if not seen:
            start[id_] = len(order)
        if seen or id_ < tree.leaves:
            order.append(id_)
            continue
        one, other = tree.merges[id_ - tree.leaves].tolist()
        stack += [(id_, True), (other, False), (one, False)]
    return start, np.array(order, dtype=np.int64)


def members(bits: Bits, history: History) -> frozenset[str]:
    """The packages, as `name=version`, of a row of a tree's `bits`."""
    return history.names(history.columns(unpack(bits, history.table.rows.shape[1])))
