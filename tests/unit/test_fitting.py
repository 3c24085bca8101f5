"""Time models: least squares against SciPy's, known parts found again, forecasts from the past only."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pastruns import add, node_facts
from scipy import optimize

from vclust_py import estimate, fitting
from vclust_py.site import Site, records
from vclust_py.site.session import Session
from vclust_py.timing import Run


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    with Session(Site(root=tmp_path / "site")) as session:
        yield session


@st.composite
def problems(draw: st.DrawFn) -> tuple[Any, Any]:
    columns, rows = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    numbers = st.integers(-20, 20).map(float)
    matrix = [[draw(numbers) for _ in range(columns)] for _ in range(rows)]
    return np.array(matrix), np.array([draw(numbers) for _ in range(rows)])


@given(problems())
@settings(deadline=None)
def test_least_squares_are_as_good_as_scipys(problem: tuple[Any, Any]) -> None:
    rows, values = problem
    parts = fitting.nnls(rows, values)
    assert (parts >= 0).all()
    _, least = optimize.nnls(rows, values)
    assert np.linalg.norm(rows @ parts - values) == pytest.approx(least, abs=1e-6)


PARTS = st.tuples(st.floats(0.5, 20), st.floats(0, 5), st.floats(0, 5), st.floats(0, 0.5))


@given(PARTS, st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_known_parts_are_found_though_some_runs_were_disturbed(wanted: tuple[float, ...], seed: int) -> None:
    random = np.random.default_rng(seed)
    count = 40
    rows = np.column_stack(
        [
            np.ones(count),
            random.integers(1, 9, count),
            random.integers(1, 5, count),
            random.uniform(0, 300, count),
        ]
    )
    seconds = rows @ np.array(wanted)
    disturbed = random.choice(count, 4, replace=False)
    seconds[disturbed] *= random.uniform(3, 10, 4)
    calm = np.setdiff1d(np.arange(count), disturbed)
    expected = rows @ fitting.robust_nnls(rows, seconds)
    # Huber's weights bound what the disturbed runs do, they do not take it away.
    assert np.median(np.abs(expected[calm] / seconds[calm] - 1)) < 0.05
    # Without the weights they would be worse by far.
    plain = rows @ fitting.nnls(rows / seconds[:, None], np.ones(count))
    assert np.median(np.abs(expected - rows @ wanted)) <= np.median(np.abs(plain - rows @ wanted)) + 1e-6


def runs(count: int) -> list[Run]:
    return [
        Run(2.0 + 3.0 * (number % 4 + 1), node_facts(number % 4 + 1) | {"bytes": 0})
        for number in range(count)
    ]


def test_a_forecast_knows_only_what_was_before() -> None:
    past = runs(12)
    told = list(fitting.forecasts("install", past))
    assert [one.run for one in told] == past[fitting.FEWEST :]
    assert all(one.model == pytest.approx(one.run.seconds) for one in told)
    changed = [*past[:-1], Run(99.0, past[-1].facts)]
    assert [one.model for one in fitting.forecasts("install", changed)] == [one.model for one in told]
    assert [one.run for one in fitting.forecasts("install", past, latest=2)] == past[-2:]


def test_models_are_kept_with_their_error_and_used(session: Session) -> None:
    store = session.store
    enough = fitting.FEWEST + fitting.FEWEST_FORECASTS
    for number in range(enough):
        nodes = number % 3 + 1
        add(store, "install", 2 + nodes, node_facts(nodes))
        add(store, "ready", 5 + 2 * nodes, node_facts(nodes))
        if number < enough - 1:
            fitting.refit(session)
            assert records.time_models(store) == {}
    assert records.runs_since_fit(store) == 1
    fitting.refit(session)
    assert not estimate.is_refit_due(store)
    models = estimate.read_models(store)
    assert models.keys() == {"install tcg", "ready tcg"}
    assert models["install tcg"].error < 1e-6
    assert models["ready tcg"].runs == enough
    # Of configurations that never ran, too; and on another accelerator nothing is known.
    past = estimate.Past(store)
    found = past.expected("ready", node_facts(8))
    assert found is not None
    assert (found.seconds, found.is_median) == (pytest.approx(21), False)
    assert past.expected("ready", node_facts(8) | {"accelerator": "kvm"}) is None
    for _ in range(5):
        assert not estimate.is_refit_due(store)
        add(store, "ready", 7, node_facts(1))
    assert estimate.is_refit_due(store)


def test_no_model_tells_what_no_run_did(session: Session) -> None:
    """Nodes that installed nothing say nothing of how long installing takes."""
    for number in range(12):
        add(session.store, "install", 3 + number % 2, node_facts(number % 2 + 1))
    fitting.refit(session)
    past = estimate.Past(session.store)
    assert past.expected("install", node_facts(2)) is not None
    each = node_facts(2, strategy="each", unpack_bytes=10**8, configure_bytes=10**8)
    assert past.expected("install", each) is None


def test_runs_of_other_kinds_and_without_facts_are_left_out(session: Session) -> None:
    store = session.store
    add(store, "image", 0.01, {})  # found everything there
    steps = {"unpack": 1.0, "configure": 1.0, "unpack_bytes": 10**8, "configure_bytes": 10**8}
    add(store, "image", 3.0, {"strategy": "once", **steps}, 10**8)
    add(store, "image", 0.3, {"strategy": "each", **steps}, 10**8)
    add(store, "distribute", 2.0, {"hosts": 2}, 10**8)
    kinds, last = fitting.by_kind(store)
    assert {name: len(found) for name, (_, found) in kinds.items()} == {
        "image once": 1,
        "image each": 1,
        "distribute": 1,
    }
    assert last == 4
    assert estimate.features("distribute", kinds["distribute"][1][0].facts) == {
        "base": 1.0,
        "hosts": 2,
        "mb_per_host": 50.0,
    }
