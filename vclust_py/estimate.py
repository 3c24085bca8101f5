"""How long the phases of a create may take, as past runs of the site let expect; and which strategy is sooner."""

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from vclust_py import timing
from vclust_py.cache.stored import Stored
from vclust_py.lock import Lock
from vclust_py.request import Request
from vclust_py.site.store import Store

NODE_PHASES = ("create", "install", "ready")


@dataclass(frozen=True)
class Estimate:
    """Seconds by phase; a phase without past runs is left out."""

    seconds: dict[str, float]
    unknown: tuple[str, ...]


def choose_strategy(store: Store, request: Request, lock: Lock, start: Stored | None = None) -> str:
    """`once` or `each`: as the request says, else whichever is expected to be sooner.

    Without past runs of both it is `once`, whose work does not grow with the number of nodes.
    """
    asked = request.software.install
    if asked != "auto":
        return asked
    nodes = request.hardware.number_of_nodes
    once = _install_seconds(store, lock, start, "once")
    each = _install_seconds(store, lock, start, "each", nodes=nodes)
    return "each" if once is not None and each is not None and each < once else "once"


def estimate(
    store: Store,
    lock: Lock,
    start: Stored | None,
    strategy: str,
    facts: Mapping[str, Any],
    *,
    base_there: bool,
    layer_there: bool,
) -> Estimate:
    """Of a create that starts from the VD cache `start`; `facts` as `vclust_py.nodes.facts` gives them."""
    seconds: dict[str, float] = {}
    if base_there and (layer_there or not lock.packages):
        seconds["image"] = 0.0
    elif base_there:
        expected = _seconds(store, lock, start, strategy, "image", {"strategy": strategy})
        if expected is not None:
            seconds["image"] = expected
    for phase in NODE_PHASES:
        expected = _seconds(store, lock, start, strategy, phase, facts)
        if expected is not None:
            seconds[phase] = expected
    return Estimate(seconds, tuple(name for name in ("image", *NODE_PHASES) if name not in seconds))


def saved_seconds(store: Store, start: Stored, strategy: str) -> float | None:
    """What not unpacking the cache's packages saves; None without past runs."""
    rate = _rate(store, "unpack", strategy)
    return None if rate is None else round(start.size / rate, 1)


def _rate(store: Store, step: str, strategy: str, **facts: Any) -> float | None:
    """Bytes a second of unpacking or configuring, in the builder or in nodes."""
    return timing.median_rate(
        store, "image" if strategy == "once" else "install", step, strategy=strategy, **facts
    )


def _seconds(
    store: Store, lock: Lock, start: Stored | None, strategy: str, phase: str, facts: Mapping[str, Any]
) -> float | None:
    """Seconds of a phase: installing by its bytes, the rest of it by its median."""
    runs = timing.past(store, phase, **facts)
    if not runs:
        return None
    rest = float(
        statistics.median(
            run.seconds - run.facts.get("unpack", 0.0) - run.facts.get("configure", 0.0) for run in runs
        )
    )
    if phase != ("image" if strategy == "once" else "install"):
        return rest
    steps = _install_seconds(store, lock, start, strategy)
    return None if steps is None else rest + steps


def _install_seconds(
    store: Store, lock: Lock, start: Stored | None, strategy: str, **facts: Any
) -> float | None:
    """Seconds of unpacking and configuring; None without past runs."""
    unpack, configure = (_rate(store, step, strategy, **facts) for step in ("unpack", "configure"))
    left = lock.installed_bytes - (start.size if start is not None else 0)
    if unpack is None or configure is None:
        return None
    configured = start is not None and start.state == "configured"
    return left / unpack + (left if configured else lock.installed_bytes) / configure
