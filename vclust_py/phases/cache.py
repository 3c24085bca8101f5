"""Phase `cache`: the cluster reserves the VD cache that was chosen for it.

The lookup plugin `vclust_cache` chooses; this phase checks that the chosen cache is still there, and chooses again only
if it is not.  Whoever takes images away looks for reservations in a transaction as well.
"""

from typing import Any

from vclust_py import timing
from vclust_py.cache import lookup
from vclust_py.cache.matching import closure, matching, savings
from vclust_py.cache.status import next_choice
from vclust_py.cache.stored import Stored
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters, learning
from vclust_py.site.session import Session


def run(session: Session, inputs: Inputs) -> Result:
    """Write down that the request's cluster starts from the cache `inputs.cache`; empty: from the base.

    A cache that went away meanwhile, or does not fit, is replaced by the best one that is there.  A cluster that is
    placed keeps what it has.
    """
    request = inputs.asked
    lock = Lock.load(session.site, inputs.lock)
    packages = closure(lock)
    with timing.trial(session.store, request, "cache", check=inputs.check) as (cluster, _):
        known = matching(session, lock, request)
        if cluster is not None and cluster.nodes:
            return _result(
                session, Change({"cache": cluster.cache}, {"cache": cluster.cache}), packages, known
            )
        fits = {cache.digest: cache for cache in known if cache.packages <= packages}
        best = fits.get(inputs.cache) or lookup.find(packages, known)
        before = cluster.cache if cluster is not None else {}
        if not inputs.check and cluster is not None:
            with session.store.transaction():
                while best is not None and not _there(session, best):
                    known.remove(best)
                    best = lookup.find(packages, known)
                clusters.update(session.store, cluster, cache=savings(lock, best))
    return _result(session, Change({"cache": before}, {"cache": savings(lock, best)}), packages, known)


def _there(session: Session, cache: Stored) -> bool:
    view = session.images.look()
    try:
        view.chain(view.get(cache.digest))
    except VclustError:
        return False
    return True


def _result(session: Session, change: Change, packages: frozenset[str], known: list[Stored]) -> Result:
    verdicts = [_plain(verdict) for verdict in lookup.explain(packages, known)]
    requests = {
        "recorded": learning.count_requests(session.store) if session.store.exists else 0,
        "next_choice": next_choice(session),
    }
    return Result(change, {"cache": change.after["cache"], "verdicts": verdicts, "requests": requests})


def _plain(verdict: lookup.Verdict) -> dict[str, Any]:
    cache = verdict.cache
    return {
        "digest": cache.digest if isinstance(cache, Stored) else "",
        "chosen": verdict.chosen,
        "foreign": list(verdict.foreign),
        "other_version": list(verdict.other_version),
        "saves": verdict.saves,
        "reason": verdict.reason,
    }
