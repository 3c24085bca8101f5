"""Which cache a request starts from, and what is said of the others."""

import random
from collections.abc import Set as AbstractSet

from vclust_py.cache import Cache, lookup


def cache(words: str, size: int) -> Cache:
    return Cache(frozenset(words.split()), size, size)


BASE = cache("libc=1", 10)
GCC = cache("libc=1 gcc=12", 50)
OLD = cache("libc=1 gcc=11", 60)
STATS = cache("libc=1 r-base=4 r-cran=1 r-x=1 r-y=1 r-z=1", 90)
CACHES = [BASE, STATS, GCC, OLD]


def test_the_largest_subset_at_the_same_versions() -> None:
    assert lookup.find({"libc=1", "gcc=12", "make=4"}, CACHES) is GCC
    assert lookup.find({"libc=1", "gcc=13"}, CACHES) is BASE
    assert lookup.find({"libc=2", "gcc=12"}, CACHES) is None
    assert lookup.find(set(), CACHES) is None
    assert lookup.find({"libc=1"}, []) is None


def test_of_two_of_a_size_the_first() -> None:
    twins = [cache("a=1", 5), cache("b=1", 5)]
    assert lookup.find({"a=1", "b=1"}, twins) is twins[0]


def test_why_the_others_were_refused() -> None:
    verdicts = lookup.explain({"libc=1", "gcc=12", "make=4"}, CACHES)
    assert [(verdict.cache, verdict.chosen, verdict.reason) for verdict in verdicts] == [
        (GCC, True, "the largest that fits: 2 of 3 packages"),
        (BASE, False, "fits, but a larger one does too"),
        (OLD, False, "holds gcc 11, the request gets gcc 12"),
        (STATS, False, "holds r-base, r-cran, r-x and 2 more, which the request does not ask for"),
    ]
    assert [verdict.saves for verdict in verdicts] == [50, 10, 0, 0]
    assert verdicts[2].other_version == ("gcc=11",)
    assert verdicts[3].foreign == ("r-base", "r-cran", "r-x", "r-y", "r-z")
    assert not any(verdict.chosen for verdict in lookup.explain({"libc=2"}, CACHES))
    assert lookup.explain({"libc=1"}, []) == []


class Counted(frozenset[str]):
    """Counts how often it is compared with a request."""

    compared = 0

    def __le__(self, other: AbstractSet[object]) -> bool:
        Counted.compared += 1
        return super().__le__(other)


def test_a_lookup_compares_each_cache_at_most_once_and_none_that_is_smaller_than_the_best() -> None:
    chance = random.Random(1)  # noqa: S311 - no secret
    names = [f"package-{number}=1:2.3-4" for number in range(9000)]
    # Each holds most of the request and then something else, which is the worst there is.
    closure = frozenset(names[:400])
    caches = []
    for number in range(1000):
        packages = Counted({*chance.sample(names[:400], 300), names[500 + number]})
        caches.append(Cache(packages, number, number))
    caches.append(fitting := Cache(Counted(names[:50]), 5000, 5000))
    for order, comparisons in ((caches, 1001), (caches[::-1], 1)):
        Counted.compared = 0
        assert lookup.find(closure, order) is fitting
        assert Counted.compared == comparisons
