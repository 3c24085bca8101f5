"""Figures of a site as text for Prometheus: OpenMetrics 1.0, or the older form that its node_exporter reads.

Names, units and types go by Prometheus' conventions: base units, `_total` for what only grows.  Labels have few values:
what people typed is in none of them, but names of hosts.
"""

import bisect
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vclust_py.report.overview import overview
from vclust_py.site import records
from vclust_py.site.condition import DEGRADED, UNKNOWN
from vclust_py.site.session import Session
from vclust_py.site.states import ClusterState, HostState, NodeState
from vclust_py.text import LINE, plain

BUCKETS = (1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Upper ends of a phase's seconds, in seconds."""

_REASONS = (
    ("interrupted", "interrupted"),
    ("killed", "killed"),
    ("not enough space", "disk_full"),
    ("No space left", "disk_full"),
    ("nodes fit", "no_capacity"),
    ("no report after", "timeout"),
    ("its domain stopped", "domain_stopped"),
    ("does not answer", "unreachable"),
    ("not reached", "unreachable"),
    ("certificate", "certificate"),
)
"""Words of an outcome, and the reason that they stand for; the first that is there counts."""

FORMS = ("openmetrics", "prometheus")
"""OpenMetrics 1.0, and the older text form of Prometheus, the only one that node_exporter and promtool read."""

Sample = tuple[str, Mapping[str, str], float]
"""What stands behind the metric's name, the labels beside `site`, the value."""


def measure(session: Session) -> dict[str, Any]:
    """What the metrics of a site are made of, as plain data."""
    told = overview(session)
    return {
        **{key: told[key] for key in ("time", "hosts", "clusters", "space", "cpu_overcommit")},
        "caches": [
            {"bytes": cache["bytes"], "chosen": cache["chosen"]} for cache in told["caches"]["caches"]
        ],
        "creations": _creations(told["caches"]["usage"]),
        "phases": _phases(session),
        "failures": _failures(session),
        "chain": _chain(session),
    }


def _creations(uses: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    total = {"count": 0, "hits": 0, "installed": 0, "saved": 0}
    for use in uses:
        total["count"] += 1
        total["hits"] += bool(use["cache"])
        total["installed"] += use["of"]
        total["saved"] += use["bytes"]
    return total


def _phases(session: Session) -> dict[str, dict[str, Any]]:
    """Of the runs of each phase that came to their end: how many in each bucket, the last one without an upper end."""
    found: dict[str, dict[str, Any]] = {}
    for phase, seconds in records.done_seconds(session.store):
        one = found.setdefault(phase, {"counts": [0] * (len(BUCKETS) + 1), "seconds": 0.0})
        one["counts"][bisect.bisect_left(BUCKETS, seconds)] += 1
        one["seconds"] += seconds
    return found


def _failures(session: Session) -> list[dict[str, Any]]:
    counts = Counter(
        ("part" if is_part else "run", phase, reason(outcome))
        for phase, is_part, outcome in records.failures(session.store)
    )
    return [
        {"of": of, "phase": phase, "reason": why, "count": count}
        for (of, phase, why), count in counts.items()
    ]


def reason(outcome: str) -> str:
    """One word for why something failed, of a few; `other` where none fits."""
    return next((why for words, why in _REASONS if words in outcome), "other")


def _chain(session: Session) -> dict[str, float]:
    # The seconds of the hosts, not of the phase: a run may have waited for another one's transfer.
    count, seconds = records.received(session.store, "distribute")
    return {"bytes": count, "seconds": seconds}


def text(sites: Mapping[str, Mapping[str, Any]], form: str = "openmetrics") -> str:
    """The metrics of these sites, by name what `measure` gave; `form` is one of `FORMS`."""
    lines = []
    is_open = form == "openmetrics"
    for name, kind, unit, words, samples in _FAMILIES:
        # OpenMetrics names the family, the older form the samples.
        family = f"{name}_total" if kind == "counter" and not is_open else name
        lines.append(f"# TYPE {family} {kind}")
        if unit and is_open:
            lines.append(f"# UNIT {family} {unit}")
        lines.append(f"# HELP {family} {words}")
        for site, told in sites.items():
            for suffix, labels, value in samples(told):
                pairs = ",".join(f'{key}="{_label(said)}"' for key, said in {"site": site, **labels}.items())
                lines.append(f"{name}{suffix}{{{pairs}}} {_number(value)}")
    return "\n".join([*lines, *(["# EOF"] if is_open else [])]) + "\n"


def _label(value: str) -> str:
    return plain(value, LINE).replace("\\", "\\\\").replace('"', '\\"')


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf"
    return str(int(value)) if float(value).is_integer() else repr(float(value))


# Families of metrics: samples of what one site told --------------------------------------------------------------

Told = Mapping[str, Any]


def _clusters(told: Told) -> Iterator[Sample]:
    states = Counter(cluster["state"] for cluster in told["clusters"])
    for state in (*ClusterState, DEGRADED, UNKNOWN):
        if state != ClusterState.DESTROYED:
            yield "", {"state": str(state)}, states[state]


def _nodes(told: Told) -> Iterator[Sample]:
    states: Counter[str] = Counter()
    for cluster in told["clusters"]:
        states.update(cluster["node_states"])
    for state in (*NodeState, UNKNOWN):
        yield "", {"state": str(state)}, states[state]


def _durations(told: Told) -> Iterator[Sample]:
    for phase, runs in told["phases"].items():
        count = 0
        for end, runs_there in zip((*BUCKETS, math.inf), runs["counts"], strict=True):
            count += runs_there
            le = "+Inf" if math.isinf(end) else repr(end)
            yield "_bucket", {"phase": phase, "le": le}, count
        yield "_sum", {"phase": phase}, runs["seconds"]
        yield "_count", {"phase": phase}, count


def _failed(of: str) -> Any:
    def samples(told: Told) -> Iterator[Sample]:
        for row in told["failures"]:
            if row["of"] == of:
                yield "_total", {"phase": row["phase"], "reason": row["reason"]}, row["count"]

    return samples


def _creation(key: str) -> Any:
    return lambda told: [("_total", {}, told["creations"][key])]


def _transfer(key: str) -> Any:
    return lambda told: [("_total", {}, told["chain"][key])]


def _of_hosts(value: Any, *, answered: bool = True) -> Any:
    """One sample for each host; with `answered` for those that ever have."""

    def samples(told: Told) -> Iterator[Sample]:
        for host in told["hosts"]:
            if host["facts"] or not answered:
                yield "", {"host": host["name"]}, value(host)

    return samples


def _images(told: Told) -> Iterator[Sample]:
    for kind, count in told["space"]["images"].items():
        yield "", {"kind": kind}, count


def _free(told: Told) -> Iterator[Sample]:
    if told["space"]["free"] is not None:
        yield "", {}, told["space"]["free"]


_FAMILIES: tuple[tuple[str, str, str, str, Any], ...] = (
    ("vclust_clusters", "gauge", "", "Live clusters by state.", _clusters),
    ("vclust_nodes", "gauge", "", "Nodes of live clusters by the state they were last seen in.", _nodes),
    (
        "vclust_phase_duration_seconds",
        "histogram",
        "seconds",
        "Seconds of the runs of each phase that came to their end.",
        _durations,
    ),
    ("vclust_phase_failures", "counter", "", "Runs of a phase that failed, by reason.", _failed("run")),
    (
        "vclust_node_failures",
        "counter",
        "",
        "Nodes, and hosts that images were sent to, that failed in a phase, by reason.",
        _failed("part"),
    ),
    ("vclust_creations", "counter", "", "Clusters that were placed.", _creation("count")),
    ("vclust_cache_hits", "counter", "", "Clusters that started from a VD cache.", _creation("hits")),
    (
        "vclust_installed_bytes",
        "counter",
        "bytes",
        "Installed bytes of the packages of clusters that were placed.",
        _creation("installed"),
    ),
    (
        "vclust_cache_saved_bytes",
        "counter",
        "bytes",
        "Those of them that came from a VD cache.",
        _creation("saved"),
    ),
    ("vclust_caches", "gauge", "", "VD caches.", lambda told: [("", {}, len(told["caches"]))]),
    (
        "vclust_cache_chosen_bytes",
        "gauge",
        "bytes",
        "Bytes of the files of the chosen VD caches.",
        lambda told: [("", {}, sum(cache["bytes"] for cache in told["caches"] if cache["chosen"]))],
    ),
    (
        "vclust_cache_space_bytes",
        "gauge",
        "bytes",
        "Bytes that the chosen VD caches may take.",
        lambda told: [("", {}, told["space"]["cache_space"])],
    ),
    ("vclust_image_bytes", "gauge", "bytes", "Bytes of images on the site manager by kind.", _images),
    ("vclust_free_bytes", "gauge", "bytes", "Free bytes of the file system of the site's folder.", _free),
    (
        "vclust_chain_received_bytes",
        "counter",
        "bytes",
        "Bytes that hosts received by the chain.",
        _transfer("bytes"),
    ),
    (
        "vclust_chain_receive_seconds",
        "counter",
        "seconds",
        "Seconds that hosts took to receive them, those of all hosts together.",
        _transfer("seconds"),
    ),
    (
        "vclust_host_up",
        "gauge",
        "",
        "Whether the host answered when it was asked last.",
        _of_hosts(lambda host: float(host["state"] == HostState.REACHABLE), answered=False),
    ),
    (
        "vclust_host_answered_timestamp_seconds",
        "gauge",
        "seconds",
        "Unix time at which the host answered last, which what it has is of.",
        _of_hosts(lambda host: host["answered"]),
    ),
    ("vclust_host_cpus", "gauge", "", "CPUs of the host.", _of_hosts(lambda host: host["facts"]["cpus"])),
    (
        "vclust_host_reserved_cpus",
        "gauge",
        "",
        "Virtual CPUs of the site's nodes there.",
        _of_hosts(lambda host: host["cpus"]),
    ),
    (
        "vclust_host_foreign_cpus",
        "gauge",
        "",
        "Virtual CPUs of others' domains there.",
        _of_hosts(lambda host: host["facts"].get("foreign", {}).get("cpus", 0)),
    ),
    (
        "vclust_host_memory_bytes",
        "gauge",
        "bytes",
        "Memory of the host.",
        _of_hosts(lambda host: host["facts"]["memory"]),
    ),
    (
        "vclust_host_free_memory_bytes",
        "gauge",
        "bytes",
        "Memory that was free there.",
        _of_hosts(lambda host: host["facts"]["memory_free"]),
    ),
    (
        "vclust_host_reserved_memory_bytes",
        "gauge",
        "bytes",
        "Memory of the site's nodes there.",
        _of_hosts(lambda host: host["memory"]),
    ),
    (
        "vclust_host_free_disk_bytes",
        "gauge",
        "bytes",
        "Free bytes of the file system for nodes' disks.",
        _of_hosts(lambda host: host["facts"]["disk_free"]),
    ),
    (
        "vclust_host_reserved_disk_bytes",
        "gauge",
        "bytes",
        "Bytes of the disks of the site's nodes there.",
        _of_hosts(lambda host: host["disk"]),
    ),
    (
        "vclust_host_nodes",
        "gauge",
        "",
        "Nodes of the site there.",
        _of_hosts(lambda host: host["nodes"]),
    ),
)
"""Name, type, unit, help and samples of each."""

NAMES = tuple(name for name, *_ in _FAMILIES)
