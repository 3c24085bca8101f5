"""The paper's learning done the slow and plain way, straight from DESIGN §6: the twin of `vclust_py.cache.learn`."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from itertools import combinations

Measure = Callable[[frozenset[str]], int]


def merge(requests: Sequence[frozenset[str]], sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """Pairs of ids as they are merged."""
    clusters = dict(enumerate(dict.fromkeys(requests)))
    following, merges = len(clusters), []
    while True:
        pairs = []
        for one, other in combinations(sorted(clusters), 2):
            common = sum(sizes[package] for package in clusters[one] & clusters[other])
            if common:
                pairs.append((Fraction(1, common), one, other))
        if not pairs:
            return merges
        _, one, other = min(pairs)
        clusters[following] = clusters.pop(one) & clusters.pop(other)
        merges.append((one, other))
        following += 1


def rank(
    requests: Sequence[frozenset[str]], sizes: Mapping[str, int]
) -> list[tuple[frozenset[str], int, int, int]]:
    """(packages, frequency, size, score) of the candidates in the order of their rank."""
    leaves = list(dict.fromkeys(requests))
    merges = merge(requests, sizes)
    packages = dict(enumerate(leaves))
    frequency = {number: list(requests).count(leaf) for number, leaf in packages.items()}
    candidates = {number for number, count in frequency.items() if count >= 2}
    below: dict[int, set[int]] = {number: set() for number in packages}
    for new, (one, other) in enumerate(merges, len(leaves)):
        packages[new] = packages[one] & packages[other]
        frequency[new] = frequency[one] + frequency[other]
        below[new] = {one, other} | below[one] | below[other]
        candidates.add(new)
    size = {number: sum(sizes[name] for name in names) for number, names in packages.items()}
    ranked = []
    while True:
        alive = [number for number in candidates if frequency[number] > 0 and size[number] > 0]
        if not alive:
            return ranked
        best = min(alive, key=lambda number: (-frequency[number] * size[number], -size[number], number))
        count, bytes_ = frequency[best], size[best]
        ranked.append((packages[best], count, bytes_, count * bytes_))
        candidates.remove(best)
        for number in below:
            if best in below[number]:
                frequency[number] -= count
            if number in below[best]:
                size[number] -= bytes_


def greedy(
    requests: Sequence[frozenset[str]],
    sets: Sequence[frozenset[str]],
    sizes: Mapping[str, int],
    costs_of: Mapping[str, int],
    budget: int,
    *,
    nested: bool,
    doubt: int = 0,
) -> list[frozenset[str]]:
    """Sets in the order they are taken, every saving and cost computed anew from all that is taken."""

    def size(packages: frozenset[str]) -> int:
        return sum(sizes[name] for name in packages)

    def cost(packages: frozenset[str]) -> int:
        return sum(costs_of[name] for name in packages)

    def saved(taken: Sequence[frozenset[str]]) -> int:
        return sum(max((size(one) for one in taken if one <= request), default=0) for request in requests)

    taken: list[frozenset[str]] = []
    while True:
        best, chosen = 0.0, None
        for one in sets:
            if one in taken:
                continue
            more = [*taken, one]
            costs = (stored(more, size, cost) - stored(taken, size, cost)) if nested else cost(one)
            left = budget - (stored(taken, size, cost) if nested else sum(cost(other) for other in taken))
            asked = sum(one <= request for request in requests)
            trust = max(1 - doubt / max(asked, 1), 0.0)  # floats, so that ties are ties in both
            score = (saved(more) - saved(taken)) * trust / max(costs, 1)
            if costs <= left and score > best:
                best, chosen = score, one
        if chosen is None:
            return taken
        taken.append(chosen)


def stored(taken: Sequence[frozenset[str]], size: Measure, cost: Measure) -> int:
    """Bytes of layers, each over the largest that is a proper subset (ties: the first)."""
    total = 0
    for one in taken:
        under = [other for other in taken if other < one]
        total += cost(one) - (cost(max(under, key=size)) if under else 0)
    return total


def chains(requests: Sequence[frozenset[str]], sizes: Mapping[str, int]) -> set[frozenset[str]]:
    """All sets of the growth chains."""
    found = set()
    for request in requests:
        grown: frozenset[str] | None = request
        while grown:
            found.add(grown)
            others = [other & grown for other in requests if not grown <= other]
            grown = max(others, key=lambda one: sum(sizes[name] for name in one), default=None)
    return found
