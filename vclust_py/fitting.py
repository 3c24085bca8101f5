"""Fitting the time models to a site's past runs: non-negative least squares of relative errors, with robust weights.

Only this file needs NumPy for it, and only the process in the background imports it (`vclust_py.cache.background`).
"""

import itertools
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vclust_py import estimate
from vclust_py.cache import priority
from vclust_py.estimate import FEATURES, Model
from vclust_py.site import records
from vclust_py.site.session import Session
from vclust_py.site.store import Store
from vclust_py.timing import Run

FEWEST = 6
"""Runs that a forecast needs before it."""
FEWEST_FORECASTS = 4
"""Forecasts that tell how far off a model is; without them there is none."""

_FORECASTS = 40
"""The latest so many runs tell a model's error."""
_ROUNDS = 10
_HUBER = 1.345
"""Residuals above so many standard deviations count less: 95% of efficiency where errors are normal (Huber, 1964)."""
_LEAST_SECONDS = 0.05
"""Runs are not weighted as if they could be told more exactly than a twentieth of this; relative errors neither."""
_LEAST_SPREAD = 1e-6

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Forecast:
    """What a run would have been expected to take from the runs before it; seconds, None where nothing was known."""

    run: Run
    model: float | None
    median: float | None


def nnls(rows: Vector, values: Vector) -> Vector:
    """The x >= 0 that minimises |rows @ x - values|; of equals the one with fewest, and first, positive parts.

    `rows` is (n, p) with p small: every set of columns is tried, 2**p least squares of n rows.
    """
    columns = range(rows.shape[1])
    best, least = np.zeros(rows.shape[1]), float(values @ values)
    scale = least
    for count in columns:
        for chosen in itertools.combinations(columns, count + 1):
            part, *_ = np.linalg.lstsq(rows[:, chosen], values, rcond=None)
            if (part < 0).any():
                continue
            rest = rows[:, chosen] @ part - values
            error = float(rest @ rest)
            if error < least - 1e-12 * scale:
                best, least = np.zeros(rows.shape[1]), error
                best[list(chosen)] = part
    return best


def robust_nnls(rows: Vector, seconds: Vector) -> Vector:
    """`nnls` of relative errors, by Huber's weights: a run that was disturbed hardly counts.

    `rows` (n, p) and `seconds` (n,) are not negative.  At most `_ROUNDS` times the cost of `nnls`.
    """
    scale = 1 / np.maximum(seconds, _LEAST_SECONDS)
    weights = np.ones(len(seconds))
    parts = np.zeros(rows.shape[1])
    for _ in range(_ROUNDS):
        root = scale * np.sqrt(weights)
        before, parts = parts, nnls(rows * root[:, None], seconds * root)
        if np.allclose(before, parts, rtol=1e-6, atol=1e-9):
            break
        residuals = np.abs(rows @ parts - seconds) * scale
        spread = max(1.4826 * float(np.median(residuals)), _LEAST_SPREAD)
        weights = np.minimum(1, _HUBER * spread / np.maximum(residuals, _LEAST_SPREAD))
    return parts


def fit(phase: str, runs: Sequence[Run]) -> dict[str, float]:
    """The parts of a model of these runs, all of one kind, that have the phase's features."""
    found = [(run.seconds, features) for run in runs if (features := estimate.features(phase, run.facts))]
    names = [name for name in found[0][1] if any(features[name] > 0 for _, features in found)]
    rows = np.array([[features[name] for name in names] for _, features in found], dtype=float)
    parts = robust_nnls(rows, np.array([seconds for seconds, _ in found], dtype=float))
    return {name: float(part) for name, part in zip(names, parts, strict=True)}


def forecasts(phase: str, runs: Sequence[Run], latest: int | None = None) -> Iterator[Forecast]:
    """For each of the `latest` runs, all of one kind and oldest first, what those before it let expect.

    The first `FEWEST` have too few before them.
    """
    first = FEWEST if latest is None else max(FEWEST, len(runs) - latest)
    for number in range(first, len(runs)):
        run, before = runs[number], runs[:number]
        features = estimate.features(phase, run.facts) or {}
        model = Model(fit(phase, before), 0.0, number).seconds(features)
        middle = estimate.median(before[::-1], phase, run.facts)
        yield Forecast(run, model, None if middle is None else middle[0])


def relative_error(expected: float, seconds: float) -> float:
    return abs(expected - seconds) / max(seconds, _LEAST_SECONDS)


def by_kind(store: Store) -> tuple[dict[str, tuple[str, list[Run]]], int]:
    """The site's past runs, oldest first, by kind, with their phase; and the last row that was read."""
    found: dict[str, tuple[str, list[Run]]] = {}
    last = 0
    for phase in FEATURES:
        for row, seconds, facts in reversed(records.past(store, phase)):
            last = max(last, row)
            if estimate.features(phase, facts) is not None:
                found.setdefault(estimate.kind(phase, facts), (phase, []))[1].append(Run(seconds, facts))
    return found, last


def models(store: Store) -> tuple[dict[str, Model], int]:
    """A model of each kind of run that has enough of them, and the last row of `phases` that they are fitted to."""
    kinds, last = by_kind(store)
    found = {}
    for name, (phase, runs) in kinds.items():
        errors = [
            relative_error(one.model, one.run.seconds)
            for one in forecasts(phase, runs, _FORECASTS)
            if one.model is not None
        ]
        if len(errors) >= FEWEST_FORECASTS:
            found[name] = Model(fit(phase, runs), statistics.median(errors), len(runs))
    return found, last


def refit(session: Session) -> None:
    """Fit the site's models to its past runs and keep them, with the least priority there is."""
    with priority.lowest():
        found, last = models(session.store)
    estimate.write_models(session.store, found, last)
