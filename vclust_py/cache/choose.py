"""Filling a space with caches, one after another, by what they save for what they cost."""

from dataclasses import dataclass

import numpy as np

from vclust_py.cache.history import Bits, Bools, Floats, Ints, Table, unpack

_PRICES = (0.5, 2.0, 8.0)
"""What one of a limited number of caches is charged beside its bytes, as multiples of its even part of the space."""


@dataclass(frozen=True)
class Sets:
    """Sets of atoms that may become caches, each with the distinct requests that could start from it."""

    bits: Bits
    """(sets, words) packed."""
    sizes: Ints
    """(sets,) installed bytes."""
    costs: Ints
    """(sets,) bytes as stored over the base."""
    members: tuple[Ints, ...]
    """Numbers of the distinct requests that hold all of a set."""
    requests: Ints
    """(sets,) how many requests, each as often as it was seen, these are."""
    worth: Ints
    """(sets,) what starting from it saves a request: its bytes, unless something else counts."""

    def __len__(self) -> int:
        return len(self.sizes)


def sets(table: Table, bits: Bits) -> Sets:
    """`bits` without those that are empty or there before, in their order."""
    first = {row.tobytes(): number for number, row in reversed(list(enumerate(bits)))}
    kept = bits[np.array(sorted(first.values()), dtype=np.int64)]
    rows = unpack(kept, len(table.weights))
    sizes = np.array([table.weights[row].sum() for row in rows], dtype=np.int64)
    rows, kept, sizes = rows[sizes > 0], kept[sizes > 0], sizes[sizes > 0]
    costs = np.array([table.costs[row].sum() for row in rows], dtype=np.int64)
    members = tuple(table.holding(np.flatnonzero(row)) for row in rows)
    requests = np.array([table.counts[numbers].sum() for numbers in members], dtype=np.int64)
    return Sets(kept, sizes, costs, members, requests, sizes)


def in_order(candidates: Sets, ranked: list[int], budget: int) -> list[int]:
    """As many of the ranked sets as the space takes, in rank order; what does not fit is passed over."""
    taken: list[int] = []
    for candidate in ranked:
        if candidates.costs[candidate] <= budget:
            taken.append(candidate)
            budget -= int(candidates.costs[candidate])
    return taken


def greedily(table: Table, candidates: Sets, budget: int) -> list[int]:
    """Take again and again the set that saves most past bytes for each byte it stores, until none fits and saves.

    A request starts from the largest set taken that it holds.  Ties: the candidate that comes first.  What a set saves
    only falls as others are taken.  So its last known value is a bound, and is computed again only when that bound
    comes first.
    """
    state = _Savings(table, candidates)
    costs = candidates.costs
    while (candidate := state.first(np.maximum(costs, 1), costs <= budget)) is not None:
        budget -= int(costs[candidate])
        state.take(candidate)
    return state.taken


def nested(
    table: Table,
    candidates: Sets,
    budget: int,
    *,
    limit: int | None = None,
    depth: int | None = None,
    doubt: int = 0,
) -> list[int]:
    """As `greedily`, but a set is stored over the largest one taken that is a subset of it, and pays the difference.

    A set that comes to lie under others taken before makes those cheaper.  `limit`: no more sets than this; what
    one of so many is worth in bytes shows only afterwards, so several prices are tried.  `depth`: no more sets one
    over the other.  `doubt`: what a set saves counts as 1 - doubt / requests, as what few asked for may be an
    accident.  Cost: sets times words for each one taken.
    """
    prices = (0.0,) if limit is None else tuple(price * budget / limit for price in _PRICES)
    runs = []
    for price in prices:
        state, left = _Nested(table, candidates, doubt), budget
        while limit is None or len(state.taken) < limit:
            candidate = state.first(np.maximum(state.cost, 1) + price, state.cost <= left)
            if candidate is None:
                break
            if depth is not None and state.depth(candidate) > depth:
                state.bound[candidate] = 0
                continue
            left -= int(state.cost[candidate])
            state.take(candidate)
        runs.append(state)
    return max(runs, key=lambda state: state.saved).taken


class _Savings:
    """What each set would save, given those taken."""

    def __init__(self, table: Table, candidates: Sets, doubt: int = 0) -> None:
        self.candidates = candidates
        self.taken: list[int] = []
        self._counts = table.counts
        self._trust = np.maximum(1 - doubt / np.maximum(candidates.requests, 1), 0.0)
        self._best = np.zeros(len(table.counts), dtype=np.int64)
        """(distinct requests,) worth of the worthiest taken set that it holds."""
        self.bound = candidates.requests * candidates.worth * self._trust
        """(sets,) what a set saves, or more."""
        self.saved = 0.0
        """What those taken save."""

    def first(self, costs: Ints | Floats, fits: Bools) -> int | None:
        """The set that saves most for its cost, of those that fit; None if none of them saves anything."""
        score = np.where(fits, self.bound / costs, 0.0)
        while len(score):
            candidate = int(score.argmax())
            if score[candidate] <= 0:
                return None
            members = self.candidates.members[candidate]
            more = np.maximum(self.candidates.worth[candidate] - self._best[members], 0)
            exact = int((self._counts[members] * more).sum()) * self._trust[candidate]
            if exact == self.bound[candidate]:
                return candidate
            self.bound[candidate] = exact
            score[candidate] = exact / costs[candidate]
        return None

    def take(self, candidate: int) -> None:
        self.taken.append(candidate)
        self.saved += self.bound[candidate]
        self.bound[candidate] = 0
        members = self.candidates.members[candidate]
        self._best[members] = np.maximum(self._best[members], self.candidates.worth[candidate])


class _Nested(_Savings):
    """And what storing it would cost."""

    def __init__(self, table: Table, candidates: Sets, doubt: int) -> None:
        super().__init__(table, candidates, doubt)
        self.cost = candidates.costs.copy()
        """(sets,) bytes by which the store grows when a set is taken."""
        self._under = np.full(len(candidates), -1)
        """(sets,) the largest taken set that is a subset of it; -1 is the base."""
        self._sizes = np.append(candidates.sizes, 0)
        self._costs = np.append(candidates.costs, 0)
        self._below: dict[int, Ints] = {}
        """The subsets of a taken set."""

    def depth(self, candidate: int) -> int:
        """How many sets would lie one over the other where `candidate` is, if it were taken."""
        sizes, taken = self.candidates.sizes, [*self.taken, candidate]
        bits = self.candidates.bits[taken]
        depths = dict.fromkeys(taken, 1)
        parents = {}
        for other in sorted(taken, key=lambda other: int(sizes[other])):
            under = [
                found
                for found, is_under in zip(taken, subsets(bits, self.candidates.bits[other]), strict=True)
                if is_under and found != other
            ]
            if under:
                parents[other] = max(under, key=lambda found: int(sizes[found]))
                depths[other] = depths[parents[other]] + 1
        return max(depths.values())

    def take(self, candidate: int) -> None:
        bits = self.candidates.bits
        above, below = supersets(bits, bits[candidate]), subsets(bits, bits[candidate])
        above[candidate] = below[candidate] = False
        above &= self._sizes[self._under] < self._sizes[candidate]
        self._below[candidate] = np.flatnonzero(below)
        for other in self.taken:
            if above[other]:  # it will be stored over the new one
                self._relieve(other, -1)
        self.cost[above] -= self._costs[candidate] - self._costs[self._under[above]]
        self._under[above] = candidate
        for other in [*(other for other in self.taken if above[other]), candidate]:
            self._relieve(other, 1)
        super().take(candidate)

    def _relieve(self, taken: int, sign: int) -> None:
        """Sets between a taken one and its parent cost less by what they would save it; with -1 no longer."""
        between, parent = self._below[taken], self._under[taken]
        between = between[self._sizes[between] > self._sizes[parent]]
        self.cost[between] -= sign * (self._costs[between] - self._costs[parent])


def supersets(bits: Bits, of: Bits) -> Bools:
    """(sets,) which of the packed sets hold all of `of`."""
    words = np.flatnonzero(of)
    found: Bools = np.all(bits[:, words] & of[words] == of[words], axis=1)
    return found


def subsets(bits: Bits, of: Bits) -> Bools:
    """(sets,) which of the packed sets hold nothing but `of`'s."""
    found: Bools = np.any(bits & ~of, axis=1)
    return ~found
