"""How long the phases of a create may take, as past runs of the site let expect; and which strategy is sooner.

Where there are enough past runs, a phase's seconds are a sum of non-negative parts, one for each of its `FEATURES`;
`vclust_py.fitting` finds them in the background, and the store keeps them.  Before that, medians of like runs serve.
Nothing here needs more than arithmetic.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from vclust_py import timing
from vclust_py.cache.stored import Stored
from vclust_py.lock import Lock
from vclust_py.nodes import facts_of
from vclust_py.request import Request
from vclust_py.site import records
from vclust_py.site.store import Store
from vclust_py.timing import Run

PHASES = ("image", "distribute", "create", "install", "ready")
"""Those that take time; what comes before them is over when an estimate is made."""

_REFIT = 5
"""Creations from one fit of the models to the next."""
_MB = 1e6
_LIKE = {
    "image": ("strategy",),
    "distribute": ("hosts",),
    "create": ("nodes", "strategy", "accelerator"),
    "install": ("nodes", "strategy", "accelerator"),
    "ready": ("nodes", "strategy", "accelerator"),
}
"""Runs that are alike in these facts have one median."""
_FEWEST_ERRORS = 3
"""A median of fewer runs has no error that could be told."""

Facts = Mapping[str, Any]


def _image(facts: Facts) -> dict[str, float]:
    if facts["strategy"] == "each":
        return {"base": 1.0, "mb": facts["bytes"] / _MB}
    return {
        "base": 1.0,
        "unpack_mb": facts["unpack_bytes"] / _MB,
        "configure_mb": facts["configure_bytes"] / _MB,
    }


def _distribute(facts: Facts) -> dict[str, float]:
    return {"base": 1.0, "hosts": facts["hosts"], "mb_per_host": facts["bytes"] / facts["hosts"] / _MB}


def _create(facts: Facts) -> dict[str, float]:
    return {"base": 1.0, "nodes": facts["nodes"], "nodes_per_host": _per_host(facts)}


def _install(facts: Facts) -> dict[str, float]:
    # With `once` nodes have nothing to unpack, whatever the cluster's packages are.
    busy = _per_host(facts)
    work = busy if facts["strategy"] == "each" else 0
    return {
        "base": 1.0,
        "nodes_per_host": busy,
        "unpack_mb": work * facts.get("unpack_bytes", 0) / _MB,
        "configure_mb": work * facts.get("configure_bytes", 0) / _MB,
    }


def _ready(facts: Facts) -> dict[str, float]:
    return {
        "base": 1.0,
        "nodes": facts["nodes"],
        "nodes_per_host": _per_host(facts),
        "installed_mb": facts.get("installed_bytes", 0) / _MB,
    }


def _per_host(facts: Facts) -> float:
    """Nodes that share a host; versions before this one did not record hosts."""
    return float(facts["nodes"] / facts.get("hosts", 1))


FEATURES: Mapping[str, Callable[[Facts], dict[str, float]]] = {
    "image": _image,
    "distribute": _distribute,
    "create": _create,
    "install": _install,
    "ready": _ready,
}
"""What the seconds of a phase are a sum of, by name, none negative; of a run's facts."""


def features(phase: str, facts: Facts) -> dict[str, float] | None:
    """The phase's features; None for a run that did not do the phase's work, or did not write down what it did."""
    try:
        return FEATURES[phase](facts)
    except KeyError:
        return None


def kind(phase: str, facts: Facts) -> str:
    """Runs of one kind have one model: image builds by strategy, what nodes do by the hosts' accelerator."""
    by = {"image": "strategy", "distribute": ""}.get(phase, "accelerator")
    return f"{phase} {facts.get(by, '')}".strip()


@dataclass(frozen=True)
class Model:
    """Seconds of one kind of run: the sum of `parts`, by name of the feature, each times its feature."""

    parts: Mapping[str, float]
    """Non-negative.  A feature that no run had has no part: nothing is known of it."""
    error: float
    """Median relative error of the forecasts of past runs, each made from the runs before it."""
    runs: int

    def seconds(self, run: Mapping[str, float]) -> float | None:
        """None for a run with a feature that no past run had."""
        if any(value > 0 and name not in self.parts for name, value in run.items()):
            return None
        return sum(part * run[name] for name, part in self.parts.items() if name in run)


@dataclass(frozen=True)
class Estimate:
    """Seconds by phase; a phase without past runs is left out."""

    seconds: dict[str, float]
    unknown: tuple[str, ...]
    errors: dict[str, float] = field(default_factory=dict)
    """Seconds that a phase may be off, where its past runs tell: half of them were off by less."""
    medians: tuple[str, ...] = ()
    """Phases that have too few past runs for a model: medians of like runs."""


@dataclass(frozen=True)
class Expected:
    """Seconds of one phase."""

    seconds: float
    error: float | None
    """Seconds that they may be off; None: not known."""
    is_median: bool


class Past:
    """What a site's past runs let expect; each phase's runs are read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._runs: dict[str, list[Run]] = {}
        self._models = read_models(store)

    def expected(self, phase: str, facts: Facts) -> Expected | None:
        """What a run with these facts may take; None where no past run tells."""
        run = features(phase, facts)
        model = self._models.get(kind(phase, facts))
        expected = model.seconds(run) if model is not None and run is not None else None
        if model is not None and expected is not None:
            return Expected(expected, expected * model.error, is_median=False)
        if phase not in self._runs:
            self._runs[phase] = timing.past(self._store, phase)
        found = median(self._runs[phase], phase, facts)
        return None if found is None else Expected(*found, is_median=True)


def read_models(store: Store) -> dict[str, Model]:
    """The fitted models of the store, by kind."""
    return {
        name: Model(value["parts"], value["error"], value["runs"])
        for name, value in records.time_models(store).items()
    }


def write_models(store: Store, models: Mapping[str, Model], until: int) -> None:
    """Keep these models, fitted to the runs up to the row `until`, in place of those before."""
    records.set_time_models(store, {name: asdict(model) for name, model in models.items()}, until)


def is_refit_due(store: Store) -> bool:
    """Whether enough creations have come to their end since the models were fitted last."""
    return records.runs_since_fit(store) >= _REFIT


def median(runs: Sequence[Run], phase: str, facts: Facts) -> tuple[float, float | None] | None:
    """Median seconds of the latest 20 runs (newest first) that are like `facts`, and their median deviation.

    Of unpacking and configuring the median rate counts, so that they go by bytes.  None without such runs.
    """
    like = [
        run
        for run in runs
        if features(phase, run.facts) is not None
        and all(run.facts.get(name) == facts.get(name) for name in _LIKE[phase])
    ][:20]
    if not like:
        return None
    steps = 0.0
    stepped = phase == ("image" if facts.get("strategy") == "once" else "install")
    if stepped:
        for step in ("unpack", "configure"):
            rate = _rate(runs, step, strategy=facts["strategy"])
            if rate is None:
                return None
            steps += facts[f"{step}_bytes"] / rate
    rests = [run.seconds - sum(run.facts.get(step, 0.0) for step in ("unpack", "configure")) for run in like]
    if not stepped:
        rests = [run.seconds for run in like]
    middle = statistics.median(rests)
    error = statistics.median(abs(rest - middle) for rest in rests) if len(rests) >= _FEWEST_ERRORS else None
    return float(middle + steps), error


def _rate(runs: Iterable[Run], step: str, **facts: Any) -> float | None:
    """Median bytes a second of unpacking or configuring in the latest 20 runs with these facts."""
    rates = [
        run.facts[f"{step}_bytes"] / run.facts[step]
        for run in [run for run in runs if facts.items() <= run.facts.items()][:20]
        if run.facts.get(step) and run.facts.get(f"{step}_bytes")
    ]
    return float(statistics.median(rates)) if rates else None


def work(lock: Lock, start: Stored | None, strategy: str) -> dict[str, Any]:
    """Facts of the packages: bytes to unpack and to configure beyond the VD cache `start`, and bytes installed."""
    left = lock.installed_bytes - (start.size if start is not None else 0)
    configured = start is not None and start.state == "configured"
    return {
        "strategy": strategy,
        "bytes": left,
        "unpack_bytes": left,
        "configure_bytes": left if configured else lock.installed_bytes,
        "installed_bytes": lock.installed_bytes,
    }


def choose_strategy(
    store: Store,
    request: Request,
    lock: Lock,
    start: Stored | None = None,
    accelerators: Sequence[str] = (),
) -> str:
    """`once` or `each`: as the request says, else whichever is expected to be sooner on hosts with `accelerators`.

    Without past runs of both it is `once`, whose work does not grow with the number of nodes.
    """
    asked = request.software.install
    if asked != "auto":
        return asked
    past, nodes = Past(store), request.hardware.number_of_nodes
    seconds = {}
    for strategy in ("once", "each"):
        hosts = min(nodes, max(len(accelerators), 1))
        facts = work(lock, start, strategy) | facts_of(nodes, strategy, accelerators, hosts)
        found = [past.expected(phase, facts) for phase in ("image", "install")]
        seconds[strategy] = [one.seconds for one in found if one is not None]
    if any(len(found) < 2 for found in seconds.values()):
        return "once"
    return "each" if sum(seconds["each"]) < sum(seconds["once"]) else "once"


def estimate(
    store: Store,
    lock: Lock,
    start: Stored | None,
    strategy: str,
    facts: Facts,
    *,
    base_there: bool,
    layer_there: bool,
    send: int = 0,
    receivers: int = 0,
) -> Estimate:
    """Of a create that starts from the VD cache `start`; `facts` as `vclust_py.nodes.facts` gives them.

    `send` are bytes that go to hosts on other machines, of which `receivers` lack some.
    """
    past = Past(store)
    known = work(lock, start, strategy) | dict(facts)
    seconds, errors = dict[str, float](), dict[str, float]()
    unknown, medians = list[str](), list[str]()
    for phase in PHASES:
        if phase == "distribute" and not receivers:
            continue
        if phase == "image" and base_there and (layer_there or not lock.packages):
            seconds[phase] = errors[phase] = 0.0
            continue
        asked = known if phase != "distribute" else {"hosts": receivers, "bytes": send}
        found = None if phase == "image" and not base_there else past.expected(phase, asked)
        if found is None:
            unknown.append(phase)
            continue
        seconds[phase] = round(found.seconds, 3)
        if found.error is not None:
            errors[phase] = round(found.error, 3)
        if found.is_median:
            medians.append(phase)
    return Estimate(seconds, tuple(unknown), errors, tuple(medians))


def saved_seconds(store: Store, start: Stored, strategy: str) -> float | None:
    """What not unpacking the cache's packages saves; None without past runs."""
    runs = timing.past(store, "image" if strategy == "once" else "install")
    rate = _rate(runs, "unpack", strategy=strategy)
    return None if rate is None else round(start.size / rate, 1)
