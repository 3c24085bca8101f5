"""Learning against its twin on small random histories, and on tables worked out by hand."""

import random
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
from cache import twin
from cache.made import history, named
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import dendrogram, is_valid_linkage

from vclust_py.cache import learn, traces
from vclust_py.cache.history import History

DATA = Path(__file__).parent / "data"
NAMES = "abcdefgh"
# Few sizes, so that ties are common; 0 is a package without files; the last one is no multiple of the others.
SIZES = st.lists(st.sampled_from([1024, 1024, 2048, 3072, 0, 5000]), min_size=8, max_size=8)
REQUESTS = st.lists(st.frozensets(st.sampled_from(NAMES), max_size=6), max_size=9)


def ranking(taught: History) -> list[tuple[frozenset[str], int, int, int]]:
    tree = learn.cluster(taught.table)
    return [
        (named(learn.members(tree.bits[one.id], taught)), one.frequency, one.size, one.score)
        for one in learn.rank(tree, taught.counts)
    ]


def test_thousands_of_histories_are_ranked_as_by_the_twin() -> None:
    # Beside Hypothesis, which is ten times slower and tries the odd ones first.
    chance = random.Random(4)  # noqa: S311 - no secret
    for _ in range(3000):
        requests = [
            frozenset(chance.sample(NAMES, chance.randint(0, 6))) for _ in range(chance.randint(0, 9))
        ]
        sizes = {name: chance.choice((1024, 1024, 2048, 3072, 0, 5000)) for name in NAMES}
        assert ranking(history(requests, sizes)) == twin.rank(requests, sizes), (requests, sizes)


@settings(max_examples=100)
@given(REQUESTS, SIZES)
def test_same_as_the_twin(requests: list[frozenset[str]], weights: list[int]) -> None:
    sizes = dict(zip(NAMES, weights, strict=True))
    taught = history(requests, sizes)
    assert [tuple(pair) for pair in learn.cluster(taught.table).merges] == twin.merge(requests, sizes)
    assert ranking(taught) == twin.rank(requests, sizes)


@settings(max_examples=40)
@given(
    st.lists(st.frozensets(st.integers(0, 39), min_size=1), min_size=20, max_size=40),
    st.permutations(range(40)),
)
def test_larger_histories_and_permuted_packages(requests: list[frozenset[int]], order: list[int]) -> None:
    names = [[str(package) for package in request] for request in requests]
    sizes = {str(package): 1 + package % 5 for package in range(40)}
    ranked = ranking(history(names, sizes))
    assert ranked == twin.rank([frozenset(request) for request in names], sizes)

    new = {str(old): str(number) for old, number in enumerate(order)}
    permuted = history(
        [sorted(new[name] for name in request) for request in names],
        {new[name]: size for name, size in sizes.items()},
    )
    assert ranking(permuted) == [
        (frozenset(new[name] for name in packages), *rest) for packages, *rest in ranked
    ]


@settings(max_examples=100)
@given(REQUESTS.filter(bool), SIZES, st.data())
def test_duplicates_change_counts_only(
    requests: list[frozenset[str]], weights: list[int], data: st.DataObject
) -> None:
    sizes = dict(zip(NAMES, weights, strict=True))
    again = data.draw(st.lists(st.sampled_from(requests)))
    one, more = history(requests, sizes), history([*requests, *again], sizes)
    before, after = learn.cluster(one.table), learn.cluster(more.table)
    assert np.array_equal(before.merges, after.merges)
    assert np.array_equal(before.bits, after.bits)
    assert after.frequencies[: after.leaves].sum() == len(requests) + len(again)


@settings(max_examples=100)
@given(REQUESTS, SIZES)
def test_linkage_is_what_scipy_takes(requests: list[frozenset[str]], weights: list[int]) -> None:
    tree = learn.cluster(history(requests, dict(zip(NAMES, weights, strict=True))).table)
    matrix = learn.linkage(tree, top=1.0)
    assert len(matrix) == max(tree.leaves - 1, 0)
    if len(matrix):
        assert is_valid_linkage(matrix, throw=True)
        assert matrix[-1, 3] == tree.leaves
        assert list(accumulate(matrix[:, 2], max)) == list(matrix[:, 2])
        assert sorted(dendrogram(matrix, no_plot=True)["leaves"]) == list(range(tree.leaves))
        assert [tuple(row) for row in matrix[: len(tree.merges), :2]] == [tuple(row) for row in tree.merges]


def test_real_requests_are_ranked_as_by_the_twin() -> None:
    taught = traces.read(DATA / "packages.jsonl.gz", DATA / "requests.jsonl.gz").part(0, 90)
    sizes = dict(zip(taught.packages, taught.weights.tolist(), strict=True))
    tree = learn.cluster(taught.table)
    assert [
        (learn.members(tree.bits[one.id], taught), one.frequency, one.size, one.score)
        for one in learn.rank(tree, taught.counts)
    ] == twin.rank([taught.sets[number] for number in taught.sequence], sizes)


HAND = {
    "two alike": (["ab", "ac"], [("a", 2, 10, 20)]),
    # The first merge (ids 0, 1) leaves `abc` to itself: 3 * 10, less the two requests of `ab`, is 1 * 10.
    "chain": (["abx", "aby", "a"], [("ab", 2, 30, 60), ("a", 1, 10, 10)]),
    # Seen twice: the request is a candidate; what is left of `ab` for `a` is one request.
    "seen twice": (["ab", "ab", "a"], [("ab", 2, 30, 60), ("a", 1, 10, 10)]),
    # All three pairs have 10 bytes in common: (0, 1) comes first, then (2, 3).
    "ties": (["ax", "ay", "az"], [("a", 3, 10, 30)]),
    "disjoint": (["a", "b", "c"], []),
    "disjoint but repeated": (["a", "b", "b"], [("b", 2, 20, 40)]),
    "all equal": (["ab", "ab", "ab"], [("ab", 3, 30, 90)]),
    "one request": (["ab"], []),
    "like the base": (["", "", "a"], []),
    "empty": ([], []),
}


@pytest.mark.parametrize(("requests", "expected"), HAND.values(), ids=HAND)
def test_by_hand(requests: Sequence[str], expected: list[tuple[str, int, int, int]]) -> None:
    sizes = {"a": 10, "b": 20, "c": 40, "x": 1, "y": 1, "z": 1}
    assert ranking(history(requests, sizes)) == [(frozenset(names), *rest) for names, *rest in expected]


def test_ties_merge_the_lowest_ids_first() -> None:
    # After (0, 1) -> 4 the pairs (2, 3), (2, 4) and (3, 4) tie.
    tree = learn.cluster(history(["ap", "aq", "ar", "as"], dict.fromkeys("apqrs", 1)).table)
    assert tree.merges.tolist() == [[0, 1], [2, 3], [4, 5]]
    assert tree.sizes[4:].tolist() == [1, 1, 1]
    assert learn.linkage(tree).tolist() == [[0, 1, 1, 2], [2, 3, 1, 2], [4, 5, 1, 4]]


def test_parts_without_common_bytes_are_joined_for_scipy_only() -> None:
    tree = learn.cluster(history(["ab", "ac", "x", "y"], dict.fromkeys("abcxy", 1)).table)
    assert tree.merges.tolist() == [[0, 1]]
    assert learn.linkage(tree).tolist() == [[0, 1, 1, 2], [2, 3, np.inf, 2], [4, 5, np.inf, 4]]


def test_sizes_beyond_float32_are_exact() -> None:
    sizes = {"a": 2**40 + 1, "b": 2**40, "c": 1, "d": 1}
    taught = history(["ac", "ad", "bc", "bd", "acd"], sizes)
    assert taught.table.scale[0].dtype == np.float64
    assert ranking(taught) == twin.rank([frozenset(one) for one in ("ac", "ad", "bc", "bd", "acd")], sizes)


def test_more_rows_than_are_multiplied_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = ["ab", "ac", "bc", "abc", "a", "bd", "cd"]
    sizes = dict.fromkeys("abcd", 3)
    whole = ranking(history(requests, sizes))
    monkeypatch.setattr(learn, "_BLOCK", 2)
    assert ranking(history(requests, sizes)) == whole
