"""Which cache a request starts from, and what is said of the others."""

import json
import random
from collections.abc import Set as AbstractSet

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py.cache import Cache, lookup
from vclust_py.cache.lookup import Candidate


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


# Candidates ---------------------------------------------------------------------------------------------------------

PACKAGES = st.frozensets(st.sampled_from([f"{name}={version}" for name in "abcde" for version in "12"]))
CLOSURES = st.dictionaries(st.sampled_from("abcde"), st.sampled_from("12")).map(
    lambda versions: sorted(f"{name}={version}" for name, version in versions.items())
)
SETS = st.lists(st.builds(Cache, PACKAGES.filter(bool), st.integers(0, 5), st.just(1)), max_size=6)


@given(CLOSURES, SETS)
def test_candidates_are_chosen_and_refused_as_their_caches_are(
    closure: list[str], caches: list[Cache]
) -> None:
    """Through Ansible's JSON, by `find` and `explain`, which see all names."""
    known = {str(number): cache for number, cache in enumerate(caches)}
    sent = json.loads(json.dumps([one.to_dict() for one in lookup.candidates(closure, known)]))
    came = [Candidate.from_dict(one, len(closure)) for one in sent]
    for one in came:
        assert one.fits == (known[one.digest].packages <= set(closure))
    chosen = lookup.choose(came)
    assert (known[chosen.digest] if chosen else None) is lookup.find(set(closure), caches)
    reasons = lookup.reasons(came, chosen, len(closure))
    verdicts = lookup.explain(set(closure), caches)
    assert [reason for _, reason in reasons] == [verdict.reason for verdict in verdicts]


def test_a_candidate_is_small() -> None:
    closure = [f"package-{number}=1:2.3-4+deb12u1" for number in range(1000)]
    caches = {
        "d" * 64: Cache(frozenset(closure[:500]), 1, 1),
        "e" * 64: Cache(frozenset({"x=1", *closure}), 1, 1),
    }
    for one in lookup.candidates(closure, caches):
        assert len(json.dumps(one.to_dict())) < 600


@pytest.mark.parametrize(
    "wrong", [{"shared": "8"}, {"shared": "-1"}, {"shared": "x"}, {"shared": 1}, {"size": "x"}, {"more": 1}]
)
def test_what_is_no_candidate(wrong: dict[str, object]) -> None:
    told = {"digest": "d", "size": 1, "packages": 1, "shared": "4", "refusal": ""}
    assert Candidate.from_dict(told, 3).fits
    with pytest.raises((ValueError, TypeError)):
        Candidate.from_dict({**told, **wrong}, 3)
