"""In a copy of the project this file stands in the place of each phase, so that what is around them is tested quickly.

Written there by `test_cli.py`; environment variables say how the phase `image` behaves: VCLUST_STUB_ERROR (a class of
vclust_py.errors) and VCLUST_STUB_SECONDS (of sleep, between files `begun` and `cleaned` in the site's root).
VCLUST_STUB_SITES (JSON) says of sites, by the name of their root, how many seconds they expect (-1: they are full, -2:
they hang).
"""

import json
import os
import time
from pathlib import Path
from typing import Any

from vclust_py.cache.stub import CLOSURE, KNOWN

from vclust_py import errors, timing
from vclust_py.cache import lookup
from vclust_py.change import Change
from vclust_py.phases import Inputs, Result
from vclust_py.site import clusters
from vclust_py.site.session import Session

PHASE = __name__.rpartition(".")[2]
READY = {"lost": [], "report": ""}
"""What the phase `ready` says."""
start_nodes = more_nodes = require_machines = segments = mtu = way_out = package_names = None
"""`vclust_py.life` takes them from the phases `create`, `place` and `resolve`, and has no nodes here."""


def run(session: Session, inputs: Inputs) -> Result:
    match PHASE:
        case "resolve":
            with timing.trial(session.store, inputs.asked, "resolve", check=inputs.check):
                pass
            packages = sorted(CLOSURE)
            candidates = lookup.candidates(packages, {cache.digest: cache for cache in KNOWN})
            facts = {"lock": "0" * 64, "packages": packages, "bytes": 1500}
            return Result(Change({}, {}), facts | {"caches": [one.to_dict() for one in candidates]})
        case "cache":
            return cached(inputs.cache)
        case "place":
            expected = json.loads(os.environ.get("VCLUST_STUB_SITES", "{}")).get(session.site.root.name, 4.0)
            if expected == -2:
                time.sleep(3600)
            if expected == -1:
                raise errors.CapacityError("only 1 of 2 nodes fit:\n  h1: has 3 MB left")
            placement = dict.fromkeys(inputs.asked.hostnames, inputs.hosts[0].name)
            return Result(Change({}, placement), {"plan": plan(placement, inputs.cache, expected)})
        case "destroy":
            cluster = clusters.find(session.store, inputs.name)
            if cluster is None:
                return Result(Change({}, {}))
            clusters.forget(session.store, cluster)
            return Result(Change({"name": inputs.name}, {}))
        case "image":
            may_fail(session)
    with timing.phase(session.store, clusters.get(session.store, inputs.name), PHASE) as record:
        record.report("half", 1, 2)
        record.report("all", 2, 2)
    return Result(Change({"phase": ""}, {"phase": PHASE}), READY if PHASE == "ready" else {})


def may_fail(session: Session) -> None:
    if problem := os.environ.get("VCLUST_STUB_ERROR"):
        raise getattr(errors, problem)("no such luck")
    root = session.site.root
    Path(root, "begun").touch()
    try:
        time.sleep(float(os.environ.get("VCLUST_STUB_SECONDS", "0")))
    finally:
        Path(root, "cleaned").touch()


def cached(digest: str) -> Result:
    assert digest == KNOWN[0].digest  # the lookup plugin's choice
    cache = {"digest": digest, "packages": 2, "bytes": 30_000_000, "of": 40_000_000, "seconds": 2.5}
    verdicts = [
        {"digest": one.digest, "chosen": one.digest == digest, "foreign": [], "other_version": [], "saves": 0}
        | {"reason": "for a test"}
        for one in KNOWN
    ]
    requests = {"recorded": 3, "next_choice": 50}
    return Result(Change({}, {"cache": digest}), {"cache": cache, "verdicts": verdicts, "requests": requests})


def plan(placement: dict[str, str], cache: str, seconds: float) -> dict[str, Any]:
    return {
        "placement": placement,
        "addresses": {},
        "accelerators": {"localhost": "emulation"},
        "unreachable": {},
        "hosts": {},
        "disk": 4_294_967_296,
        "disk_asked": 4_000_000_000,
        "packages": 3,
        "download": 1500,
        "build": 2_000_000,
        "send": 0,
        "base_there": False,
        "layer_there": False,
        "python": False,
        "quota": [{"whose": "user alice", "what": "nodes", "limit": 16, "used": 3, "asked": 2}],
        "cache": {"digest": cache, "packages": 2, "bytes": 3 * 10**7, "of": 4 * 10**7, "seconds": 2.4},
        "estimate": {"seconds": {"image": seconds}, "unknown": ["ready"], "errors": {}, "medians": []},
    }
