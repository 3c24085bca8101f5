"""The replay of a trace under a policy: what its caches would have saved."""

import time
from dataclasses import dataclass

from vclust_py.cache import Cache, lookup
from vclust_py.cache.history import History
from vclust_py.cache.policies import Policy


@dataclass(frozen=True)
class Result:
    """Over the requests after the warm-up; bytes as installed, beyond the base."""

    policy: str
    requests: int
    hits: int
    """Requests that started from a cache."""
    bytes_requested: int
    bytes_saved: int
    stored_bytes_max: int
    seconds: float
    """Of computing: choosing caches and looking them up."""


class _Store:
    """What a site would have stored, and who started from what."""

    def __init__(self, policy: Policy, budget: int) -> None:
        self.policy, self.budget = policy, budget
        self.used: dict[Cache, int] = {}
        """The stored caches, with the number of the request that used each last."""
        self.most = 0

    def learn(self, history: History) -> None:
        caches = self.policy.choose(history, self.budget, self.used)
        self.used = {cache: self.used.get(cache, len(history)) for cache in caches}
        self.most = max(self.most, sum(cache.bytes for cache in caches))

    def serve(self, packages: frozenset[str], number: int) -> Cache | None:
        cache = lookup.find(packages, self.used)
        if cache is not None:
            self.used[cache] = number
        return cache


def simulate(trace: History, policy: Policy, budget: int, *, every: int = 50, warmup: int = 50) -> Result:
    """Replay `trace`: each request starts from the largest cache that fits it, and only then becomes history.

    Caches are chosen again after every `every` requests, from the past alone.  The first `warmup` requests are not
    counted.
    """
    store = _Store(policy, budget)
    counted = range(min(warmup, len(trace)), len(trace))
    sets, sizes = trace.sets, [trace.size(columns) for columns in trace.distinct]
    hits = saved = 0
    started = time.perf_counter()
    if policy.hindsight and counted:
        store.learn(trace.part(warmup, len(trace)))
    for number, request in enumerate(trace.sequence.tolist()):
        cache = store.serve(sets[request], number)
        if cache is not None and number >= warmup:
            hits += 1
            saved += cache.size
        seen = number + 1
        if not policy.hindsight and (policy.every_request or seen % every == 0) and seen < len(trace):
            store.learn(trace.part(0, seen))
    seconds = time.perf_counter() - started
    requested = sum(sizes[trace.sequence[number]] for number in counted)
    return Result(policy.name, len(counted), hits, requested, saved, store.most, round(seconds, 3))
