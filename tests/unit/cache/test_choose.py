"""Growth chains and greedy choices against their twins: costs and savings kept up to date must be the true ones."""

from dataclasses import replace

import numpy as np
from cache import twin
from cache.made import history, named
from hypothesis import given, settings
from hypothesis import strategies as st

from vclust_py.cache import choose, grow
from vclust_py.cache.choose import Sets
from vclust_py.cache.history import History, unpack

NAMES = "abcdefgh"
SIZES = dict(zip(NAMES, (1, 2, 4, 8, 16, 32, 64, 128), strict=True))
"""No two sets are of one size: ties of ratios are the only ones, and the twin breaks those alike."""
COSTS = dict(zip(NAMES, (1, 1, 3, 7, 2, 30, 5, 50), strict=True))
REQUESTS = st.lists(st.frozensets(st.sampled_from(NAMES), max_size=7), max_size=10)
BUDGET = st.integers(0, 400)


def size(packages: frozenset[str]) -> int:
    return sum(SIZES[name] for name in packages)


def cost(packages: frozenset[str]) -> int:
    return sum(COSTS[name] for name in packages)


def sets(offered: Sets, taught: History) -> list[frozenset[str]]:
    width = taught.table.rows.shape[1]
    return [named(taught.names(taught.columns(unpack(row, width)))) for row in offered.bits]


@settings(max_examples=300)
@given(REQUESTS)
def test_chains(requests: list[frozenset[str]]) -> None:
    taught = history(requests, SIZES, COSTS)
    offered = grow.chains(taught.table)
    found = sets(offered, taught)
    assert set(found) == twin.chains(requests, SIZES)
    assert len(set(found)) == len(found)
    again = choose.sets(taught.table, offered.bits)
    assert again.costs.tolist() == offered.costs.tolist() == [cost(one) for one in found]
    assert again.sizes.tolist() == offered.sizes.tolist()
    assert again.requests.tolist() == offered.requests.tolist()
    for one, members, others in zip(found, offered.members, again.members, strict=True):
        assert members.tolist() == others.tolist()
        assert sum(one <= request for request in requests) == taught.counts[members].sum()


@given(REQUESTS)
def test_packages_without_bytes_are_held_or_not_all_the_same(requests: list[frozenset[str]]) -> None:
    taught = history(requests, SIZES | {"a": 0, "b": 0})
    offered = grow.chains(taught.table)
    for one, members in zip(sets(offered, taught), offered.members, strict=True):
        assert sum(one <= request for request in requests) == taught.counts[members].sum()


@settings(max_examples=300)
@given(REQUESTS, BUDGET, st.integers(0, 2))
def test_nested(requests: list[frozenset[str]], budget: int, doubt: int) -> None:
    for costs in (SIZES, COSTS):
        taught = history(requests, SIZES, costs)
        offered = grow.chains(taught.table)
        found = sets(offered, taught)
        taken = [found[one] for one in choose.nested(taught.table, offered, budget, doubt=doubt)]
        assert taken == twin.greedy(requests, found, SIZES, costs, budget, nested=True, doubt=doubt)


@settings(max_examples=200)
@given(REQUESTS, BUDGET)
def test_greedily(requests: list[frozenset[str]], budget: int) -> None:
    taught = history(requests, SIZES, COSTS)
    offered = grow.chains(taught.table)
    found = sets(offered, taught)
    taken = [found[one] for one in choose.greedily(taught.table, offered, budget)]
    assert taken == twin.greedy(requests, found, SIZES, COSTS, budget, nested=False)


@settings(max_examples=200)
@given(REQUESTS, BUDGET, st.integers(1, 4), st.integers(1, 3))
def test_limits_hold(requests: list[frozenset[str]], budget: int, limit: int, depth: int) -> None:
    taught = history(requests, SIZES)
    offered = grow.chains(taught.table)
    found = sets(offered, taught)
    taken = [found[one] for one in choose.nested(taught.table, offered, budget, limit=limit, depth=depth)]
    assert len(taken) <= limit
    assert twin.stored(taken, size, size) <= budget
    by_size = sorted(taken, key=size)
    depths: dict[frozenset[str], int] = {}
    for one in by_size:
        under = [other for other in by_size if other < one]
        depths[one] = 1 + (depths[under[-1]] if under else 0)
    assert max(depths.values(), default=0) <= depth


def test_in_order_passes_over_what_does_not_fit() -> None:
    taught = history(["h", "g", "ab"], SIZES)
    offered = choose.sets(taught.table, taught.table.bits)
    assert offered.sizes.tolist() == [128, 64, 3]
    assert choose.in_order(offered, [0, 1, 2], 70) == [1, 2]
    assert choose.in_order(offered, [0, 1, 2], 2) == []


def test_sets_are_taken_once_and_empty_ones_not() -> None:
    taught = history(["ab", "", "c"], SIZES)
    bits = taught.table.bits[[0, 1, 2, 0]]
    assert choose.sets(taught.table, bits).sizes.tolist() == [3, 4]
    assert len(choose.sets(taught.table, bits[:0])) == 0
    assert np.array_equal(choose.sets(taught.table, bits).requests, [1, 1])


def test_what_counts_may_be_other_than_bytes() -> None:
    taught = history(["ab"] * 3 + ["c"] * 3, {"a": 50, "b": 50, "c": 90})
    offered = grow.chains(taught.table)
    assert sets(offered, taught) == [frozenset("ab"), frozenset("c")]
    assert choose.nested(taught.table, offered, 100) == [0]
    # Say c takes long to configure.
    slow = replace(offered, worth=np.array([10, 20]))
    assert choose.nested(taught.table, slow, 100) == choose.greedily(taught.table, slow, 100) == [1]
