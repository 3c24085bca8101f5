"""Which caches to keep: the paper's policy, ours (`nested`), and others to compare them with.

A policy is one function of the history, the space and, for those that go by it, what is stored now.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vclust_py.cache import Cache, choose, grow, learn, lookup
from vclust_py.cache.choose import Sets
from vclust_py.cache.history import History, unpack
from vclust_py.errors import RequestError

LIMIT = 64
"""Caches that `nested` keeps at most: each costs a build."""

DEPTH = 8
"""Layers of caches that `nested` puts one over the other at most: each costs reading."""

DOUBT = 2
"""`nested` trusts what a set saved in the past as 1 - DOUBT / requests: sets that two asked for may be accidents."""

ALPHA = 0.8
"""`landlord` merges images whose Jaccard distance is below this: a free parameter of Shaffer et al., too."""

Stored = Mapping[Cache, int]
"""The caches that are there, with the number of the request that used each last."""


@dataclass(frozen=True)
class Candidate:
    """What `rank` tells of a set; `frequency` and `size` as they were when its turn came."""

    packages: frozenset[str]
    frequency: int
    size: int
    score: int


@dataclass(frozen=True)
class Policy:
    name: str
    text: str
    choose: Callable[[History, int, Stored], tuple[Cache, ...]]
    """The caches for the history within a space of so many bytes."""
    rank: Callable[[History], list[Candidate]] | None = None
    """All candidates, best first, whatever the space."""
    every_request: bool = False
    """Changes what is stored with every request, rather than now and then."""
    hindsight: bool = False
    """Shall be shown the requests it is measured by."""


def policy(name: str) -> Policy:
    """Raises RequestError when there is none of this name."""
    if name not in POLICIES:
        raise RequestError([f"policy: got '{name}', expected one of {', '.join(POLICIES)}"])
    return POLICIES[name]


def rank(of: Policy, history: History) -> list[Candidate]:
    """All candidates of a policy, best first, whatever the space.

    Where it has no ranking of its own: what it would take if the space were large enough for all, in order, each with
    the requests that it is the largest for by then and the bytes it saves them.  Raises RequestError for policies that
    only go by what is stored.
    """
    if of.every_request:
        raise RequestError([f"policy: got '{of.name}', which ranks nothing: it keeps what was used last"])
    if of.rank is not None:
        return of.rank(history)
    everything = sum(history.size(columns) for columns in history.distinct)
    best = np.zeros(len(history.distinct), dtype=np.int64)
    ranked = []
    for candidate in of.choose(history, everything, {}):
        better = np.array([candidate.packages <= packages for packages in history.sets]) & (
            best < candidate.size
        )
        requests, saved = history.counts[better], candidate.size - best[better]
        ranked.append(
            Candidate(candidate.packages, int(requests.sum()), candidate.size, int((requests * saved).sum()))
        )
        best[better] = candidate.size
    return ranked


def _none(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    return ()


def _common(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    table = history.table
    bits = np.bitwise_and.reduce(table.bits, axis=0)[np.newaxis] if len(table.bits) else table.bits
    candidates = choose.sets(table, bits)
    return caches(history, candidates, choose.in_order(candidates, list(range(len(candidates))), budget))


def _paper(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    tree = learn.cluster(history.table)
    ranked = [candidate.id for candidate in learn.rank(tree, history.counts)]
    candidates = choose.sets(history.table, tree.bits[ranked])
    return caches(history, candidates, choose.in_order(candidates, list(range(len(candidates))), budget))


def _paper_rank(history: History) -> list[Candidate]:
    tree = learn.cluster(history.table)
    return [
        Candidate(
            learn.members(tree.bits[candidate.id], history),
            candidate.frequency,
            candidate.size,
            candidate.score,
        )
        for candidate in learn.rank(tree, history.counts)
    ]


def _greedy(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    candidates = choose.sets(history.table, learn.cluster(history.table).bits)
    return caches(history, candidates, choose.greedily(history.table, candidates, budget))


def _nested(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    table, candidates = history.table, grow.chains(history.table, DOUBT)
    taken = choose.nested(table, candidates, budget, limit=LIMIT, depth=DEPTH, doubt=DOUBT)
    return caches(history, candidates, taken, nested=True)


def _oracle(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    table, candidates = history.table, grow.chains(history.table)
    return caches(history, candidates, choose.nested(table, candidates, budget), nested=True)


def _lru(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    request = history.distinct[history.sequence[-1]]
    image = Cache(history.names(request), history.size(request), history.cost(request))
    used = dict(stored)
    if image.size and all(cache.packages != image.packages for cache in used):
        used[image] = len(history)
    return _latest(used, budget)


def _landlord(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
    request = history.distinct[history.sequence[-1]]
    packages, size = history.names(request), history.size(request)
    column_of = {history.packages[column]: column for column in request}
    used = dict(stored)
    if lookup.find(packages, used) is not None or not size:
        return _latest(used, budget)
    merged, nearest = Cache(packages, size, history.cost(request)), None
    least = ALPHA
    for cache in used:
        shared = np.array([column_of[package] for package in cache.packages & packages], dtype=np.int64)
        common = history.size(shared)
        distance = 1 - common / (cache.size + size - common) if common else 1.0
        if distance < least:
            least, nearest = distance, cache
            merged = Cache(cache.packages & packages, common, history.cost(shared))
    if nearest is not None:
        del used[nearest]
    used[merged] = len(history)
    return _latest(used, budget)


def _latest(used: Stored, budget: int) -> tuple[Cache, ...]:
    """The caches used last, as many as the space takes; in their order."""
    kept = set()
    for cache in sorted(used, key=lambda cache: -used[cache]):
        if cache.bytes <= budget:
            kept.add(cache)
            budget -= cache.bytes
    return tuple(cache for cache in used if cache in kept)


def caches(
    history: History, candidates: Sets, taken: Sequence[int], *, nested: bool = False
) -> tuple[Cache, ...]:
    """The taken sets as caches, parents before children, otherwise as taken."""
    table = history.table
    best = np.full(len(table.counts), -1)
    second = np.zeros(len(table.counts), dtype=np.int64)
    for candidate in sorted(taken, key=lambda candidate: int(candidates.sizes[candidate])):
        members = candidates.members[candidate]
        second[members] = np.where(best[members] >= 0, candidates.sizes[best[members]], 0)
        best[members] = candidate
    made: dict[int, Cache] = {}
    bits = candidates.bits[list(taken)]
    for candidate in sorted(taken, key=lambda candidate: int(candidates.sizes[candidate])):
        size, cost, parent = int(candidates.sizes[candidate]), int(candidates.costs[candidate]), None
        if nested:
            within = choose.subsets(bits, candidates.bits[candidate])
            under = [
                other for other, is_under in zip(taken, within, strict=True) if is_under and other in made
            ]
            if under:
                largest = max(under, key=lambda other: int(candidates.sizes[other]))
                parent, cost = made[largest], cost - int(candidates.costs[largest])
        starts = np.flatnonzero(best == candidate)
        counts = table.counts[starts]
        made[candidate] = Cache(
            history.names(history.columns(unpack(candidates.bits[candidate], len(table.weights)))),
            size,
            cost,
            parent,
            int(counts.sum()),
            int((counts * (size - second[starts])).sum()),
        )
    place = {cache: taken.index(candidate) for candidate, cache in made.items()}
    return tuple(sorted(made.values(), key=lambda cache: (cache.depth, place[cache])))


POLICIES = {
    policy.name: policy
    for policy in (
        Policy("nested", "growth chains, layers over layers, each paid for by its difference", _nested),
        Policy("paper", "clusters by speedup score (paper 3.2)", _paper, _paper_rank),
        Policy("greedy", "clusters and requests by saved bytes per stored byte", _greedy),
        Policy(
            "landlord",
            "images merged by Jaccard distance, least recently used go",
            _landlord,
            every_request=True,
        ),
        Policy("lru", "images of past requests, least recently used go", _lru, every_request=True),
        Policy("common", "one cache of what all requests share", _common),
        Policy("none", "no caches", _none),
        Policy(
            "oracle", "as nested, without limit, and knowing the requests to come", _oracle, hindsight=True
        ),
    )
}
