"""Histories: what is the same request, parts of a history, packed sets."""

import numpy as np
from cache.made import history
from hypothesis import given
from hypothesis import strategies as st

from vclust_py.cache.history import History, pack, unpack
from vclust_py.cache.traces import TracePackage

SIZES = {"a": 3, "b": 5, "c": 0}
REQUESTS = st.lists(st.text("abc", max_size=4), max_size=8)


@given(REQUESTS, st.integers(0, 8), st.integers(0, 8))
def test_a_part_is_the_history_of_these_requests(requests: list[str], start: int, length: int) -> None:
    part, alone = (
        history(requests, SIZES).part(start, start + length),
        history(requests[start:][:length], SIZES),
    )
    assert part.sets == alone.sets
    assert part.sequence.tolist() == alone.sequence.tolist()
    assert part.counts.tolist() == alone.counts.tolist()
    assert part.table.sizes.tolist() == alone.table.sizes.tolist()
    assert len(part) == len(alone)


@given(REQUESTS)
def test_atoms_stand_for_the_packages(requests: list[str]) -> None:
    taught = history(requests, SIZES)
    for number, columns in enumerate(taught.distinct):
        atoms = taught.table.rows[number]
        assert taught.columns(atoms).tolist() == columns.tolist()
        assert taught.table.sizes[number] == taught.size(columns)
        assert taught.table.weights[atoms].sum() == taught.size(columns)


def test_same_name_and_version_is_the_same_package() -> None:
    one, other = TracePackage("a", "1", 3), TracePackage("a", "1", 4)
    taught = History([[one], [other], [one, other]])
    assert taught.packages == ["a=1"]
    assert taught.weights.tolist() == [3]
    assert taught.sequence.tolist() == [0, 0, 0]


def test_stored_bytes_are_foretold_once_a_package() -> None:
    taught = History([[TracePackage("a", "1", 30)]], stored=lambda package: package.installed_size // 3)
    assert (taught.size(taught.distinct[0]), taught.cost(taught.distinct[0])) == (30, 10)
    assert taught.table.costs.tolist() == [10]


@given(st.integers(0, 3), st.integers(0, 200))
def test_packing(rows: int, width: int) -> None:
    bools = np.random.default_rng(rows * 1000 + width).random((rows, width)) < 0.5
    assert pack(bools).shape == (rows, -(-width // 64))
    assert np.array_equal(unpack(pack(bools), width), bools)
