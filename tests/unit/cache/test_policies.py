"""What each policy keeps on small histories, and what it must never do on any."""

import pytest
from cache.made import history, named
from hypothesis import given, settings
from hypothesis import strategies as st

from vclust_py.cache import policies
from vclust_py.cache.history import History
from vclust_py.cache.policies import POLICIES
from vclust_py.cache.simulate import simulate
from vclust_py.cache.traces import TracePackage
from vclust_py.errors import RequestError

SIZES = {"a": 100, "b": 50, "c": 20, "d": 10, "e": 5, "z": 0}
ALL = sorted(POLICIES)
LEARNT = sorted(set(ALL) - {"none"})


def kept(name: str, taught: History, budget: int = 1000) -> list[frozenset[str]]:
    caches = policies.policy(name).choose(taught, budget, {})
    return [named(cache.packages) for cache in caches]


def sets(*words: str) -> list[frozenset[str]]:
    return [frozenset(word) for word in words]


@pytest.mark.parametrize("name", ALL)
@given(
    st.lists(st.frozensets(st.sampled_from(list(SIZES)), max_size=5), max_size=12),
    st.integers(0, 300),
    st.integers(1, 5),
)
@settings(max_examples=60)
def test_always(name: str, requests: list[frozenset[str]], budget: int, every: int) -> None:
    taught = history(requests, SIZES)
    chooser = policies.policy(name)
    result = simulate(taught, chooser, budget, every=every, warmup=0)
    assert 0 <= result.stored_bytes_max <= budget
    assert 0 <= result.bytes_saved <= result.bytes_requested
    assert 0 <= result.hits <= result.requests == len(requests)
    if not requests:
        return
    caches = chooser.choose(taught, budget, {})
    assert len({cache.packages for cache in caches}) == len(caches)
    for number, cache in enumerate(caches):
        assert cache.size == sum(SIZES[package] for package in named(cache.packages)) > 0
        assert cache.bytes == cache.size - (cache.parent.size if cache.parent else 0)
        if cache.parent is not None:
            assert cache.parent.packages < cache.packages
            assert cache.parent in caches[:number]
        assert cache.depth == 1 or name in ("nested", "oracle")
        # A cache that no past request holds would be of no use.
        assert any(cache.packages <= packages for packages in taught.sets)


@pytest.mark.parametrize("name", sorted(set(ALL) - {"lru", "landlord"}))
def test_empty_history(name: str) -> None:
    assert kept(name, history([], SIZES)) == []


def test_one_request() -> None:
    one = history(["abc"], SIZES)
    assert {name: kept(name, one) for name in ALL} == {
        "none": [],
        "paper": [],  # a request is a candidate when it comes again
        "nested": [],  # nothing is trusted that two or fewer asked for
        "common": sets("abc"),
        "greedy": sets("abc"),
        "oracle": sets("abc"),
        "lru": sets("abc"),
        "landlord": sets("abc"),
    }


@pytest.mark.parametrize("name", LEARNT)
def test_all_equal(name: str) -> None:
    assert kept(name, history(["abc"] * 4, SIZES)) == sets("abc")


def test_all_disjoint() -> None:
    apart = history("abcde", SIZES)
    assert {name: kept(name, apart) for name in ("paper", "nested", "common")} == {
        "paper": [],
        "nested": [],
        "common": [],
    }
    assert kept("greedy", apart, 160) == sets("a", "b", "d")


@pytest.mark.parametrize("name", ALL)
def test_nothing_but_the_base(name: str) -> None:
    assert kept(name, history(["", "", ""], SIZES)) == []
    assert kept(name, history(["z", "z", "z"], SIZES)) in ([], sets("z"))


@pytest.mark.parametrize("name", ALL)
def test_space_smaller_than_one_cache(name: str) -> None:
    assert kept(name, history(["abc"] * 4, SIZES), 10) == []


def test_paper_fills_in_rank_order() -> None:
    taught = history(["abd", "abe", "abd", "cd", "cd", "cd"], SIZES)
    # Score 3 * 150 (ab), 3 * 30 (cd), then 2 * 10 (abd less ab), 6 - 3 - 3 requests of d.
    assert kept("paper", taught) == sets("ab", "cd", "abd")
    assert kept("paper", taught, 180) == sets("ab", "cd")
    assert kept("paper", taught, 161) == sets("ab")
    assert kept("paper", taught, 100) == sets("cd")


def test_nested_pays_for_differences_only() -> None:
    taught = history(["abc"] * 4 + ["abd"] * 4 + ["ab"] * 4, SIZES)
    caches = POLICIES["nested"].choose(taught, 180, {})
    assert {"".join(sorted(named(cache.packages))): cache.bytes for cache in caches} == {
        "ab": 150,
        "abc": 20,
        "abd": 10,
    }
    assert [cache.depth for cache in caches] == [1, 2, 2]
    assert [(cache.requests, cache.saves) for cache in caches if cache.depth == 1] == [(4, 600)]
    assert kept("greedy", taught, 180) != kept("nested", taught, 180)


def test_lru_forgets_what_was_used_first() -> None:
    taught = history(["a", "b", "a", "c", "d"], SIZES)
    result = simulate(taught, POLICIES["lru"], 150, warmup=0)
    # a and b fit; c lets b go, which was used before a; d fits beside them.
    assert (result.hits, result.bytes_saved, result.stored_bytes_max) == (1, 100, 150)
    again = history(["a", "b", "a", "c", "a"], SIZES)
    assert simulate(again, POLICIES["lru"], 150, warmup=0).hits == 2


def test_landlord_keeps_what_alike_requests_share() -> None:
    taught = history(["abd", "abe", "ab"], SIZES)
    result = simulate(taught, POLICIES["landlord"], 1000, warmup=0)
    assert (result.hits, result.bytes_saved, result.stored_bytes_max) == (1, 150, 160)
    # c shares nothing with them and is kept beside.
    assert simulate(history(["ab", "c", "c"], SIZES), POLICIES["landlord"], 1000, warmup=0).hits == 1


def test_the_past_alone_decides_but_for_the_oracle() -> None:
    taught = history(["ab"] * 6, SIZES)
    assert simulate(taught, POLICIES["nested"], 1000, every=3, warmup=0).hits == 3
    assert simulate(taught, POLICIES["nested"], 1000, every=6, warmup=0).hits == 0
    assert simulate(taught, POLICIES["oracle"], 1000, every=6, warmup=0).hits == 6
    result = simulate(taught, POLICIES["nested"], 1000, every=3, warmup=4)
    assert (result.requests, result.hits, result.bytes_requested) == (2, 2, 300)
    assert simulate(taught, POLICIES["oracle"], 1000, warmup=50).requests == 0


def test_two_versions_are_two_packages() -> None:
    old, new = TracePackage("a", "1", 100), TracePackage("a", "2", 100)
    taught = History([[old], [old], [old], [new], [new], [new]])
    caches = POLICIES["nested"].choose(taught, 1000, {})
    assert {name for cache in caches for name in cache.packages} == {"a=1", "a=2"}
    assert len(caches) == 2


@pytest.mark.parametrize("name", LEARNT)
def test_the_space_holds_bytes_as_stored(name: str) -> None:
    halved = history(["abc"] * 4, SIZES, {name: size // 2 for name, size in SIZES.items()})
    assert kept(name, halved, 84) == []
    caches = policies.policy(name).choose(halved, 85, {})
    assert [(cache.size, cache.bytes) for cache in caches] == [(170, 85)]


def test_unknown_policy() -> None:
    with pytest.raises(RequestError, match="policy: got 'best', expected one of nested, paper, greedy"):
        policies.policy("best")
