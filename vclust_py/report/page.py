"""The pages: a cluster's, and a site's.  Each is one HTML file that needs nothing else.

What users, guests and hosts wrote goes through `vclust_py.text.plain` and is escaped wherever a template shows it.
"""

import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vclust_py.report import charts, timeline
from vclust_py.report.charts import Bars, Piece
from vclust_py.text import DETAIL, age, plain, size, when

if TYPE_CHECKING:  # numpy takes longer to import than a cluster's page to make
    from vclust_py.cache.history import History
    from vclust_py.cache.learn import Tree

MOST_ROWS = 1000
"""Rows of a table; of more the page says how many are left out."""
_BOUND = 2 * DETAIL
"""Bytes of one value on a page."""
_MOST_BARS = 60
_MOST_FAILED = 20
"""Failed nodes whose last words are shown."""
_MOST_RUNS = 50
"""The latest runs of phases: a cluster may have been taken up again many times."""
_ROWS_OF_PICTURE = 20
_LARGEST = 5
"""Packages named of a cluster of requests."""
_RUNS_BY = {"kvm": "KVM", "tcg": "emulation", "xen": "Xen"}


def cluster(told: Mapping[str, Any], site: str = "") -> str:
    """The page of a cluster as `vclust_py.site.describe` has it; of its `site`, where that is known."""
    runs = timeline.runs(told["phases"], told["node_phases"])[-_MOST_RUNS:]
    hosts = {node["name"]: node["host"] for node in told["nodes"]}
    clock = timeline.clock(runs)
    rows = timeline.rows(runs, hosts)
    return _render(
        "cluster.html.j2",
        site=site,
        cluster=told,
        runs=runs,
        total=clock.seconds,
        phases=list(dict.fromkeys(run.phase for run in runs)),
        timeline=_timeline(told["name"], runs, rows, clock),
        aggregated=len({part.name for run in runs for part in run.parts}) > timeline.ROWS,
        critical=[(run, run.critical) for run in runs if run.critical],
        estimates=_estimates(told["estimate"], runs),
        chain=_chain(told["node_phases"]),
        cache=_cache(told["cache"]),
        failures=_failures(told),
        nodes=_nodes(told),
        runs_by=_RUNS_BY,
    )


def site(told: Mapping[str, Any], name: str) -> str:
    """The page of a site as `vclust_py.report.overview` has it."""
    return _render(
        "site.html.j2",
        site=name,
        told=told,
        hosts=_hosts(told),
        usage=_usage(told["caches"]["usage"]),
        history=_history(told),
        space=_space(told),
        runs_by=_RUNS_BY,
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "when": when, "age": age}
    environment.globals["MOST_ROWS"] = MOST_ROWS
    return environment


def _shown(value: Any) -> Any:
    """What every expression of a template goes through before it is escaped; pictures are escaped already."""
    return (
        plain(value, _BOUND, lines=True)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


def _render(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values, now=time.time())


def _bars(name: str, title: str, rows: Sequence[Bars]) -> Markup:
    """As many pictures as it takes that a printed page has space for each."""
    starts = range(0, len(rows), _ROWS_OF_PICTURE)
    pictures = [
        charts.bars(f"{name}-{start + 1}", title, rows[start : start + _ROWS_OF_PICTURE]) for start in starts
    ]
    return Markup("").join(Markup('<div class="figure">{}</div>').format(picture) for picture in pictures)


# A cluster --------------------------------------------------------------------------------------------------------


def _timeline(
    name: str, runs: Sequence[timeline.Run], rows: Sequence[timeline.Row], clock: timeline.Clock
) -> list[Markup]:
    """The phases, then nodes and hosts in pictures that a printed page has space for."""
    if not runs:
        return []
    found = [charts.timeline("phases", f"When each phase of {name} ran", runs, (), clock)]
    for start in range(0, len(rows), _ROWS_OF_PICTURE):
        title = f"When each node and host of {name} worked, from row {start + 1} on"
        part = rows[start : start + _ROWS_OF_PICTURE]
        found.append(charts.timeline(f"rows-{start + 1}", title, (), part, clock))
    return found


def _estimates(estimate: Mapping[str, Any], runs: Sequence[timeline.Run]) -> Markup | None:
    """Of each phase that was expected to take some time, and of the phase's last run."""
    seconds = {run.phase: run.seconds for run in runs if run.outcome == "done"}
    expected = {phase: value for phase, value in estimate.get("seconds", {}).items() if phase in seconds}
    if not expected:
        return None
    whole = max(*(seconds[phase] for phase in expected), *expected.values(), 0.001) * 1.02
    rows = []
    for phase, value in expected.items():
        error = estimate["errors"].get(phase)
        off = "" if error is None else f" ± {error:.1f}"
        label = f"{phase}: {seconds[phase]:.1f} s, expected {value:.1f}{off} s"
        rows.append(Bars(label, [Piece(seconds[phase], f"p-{phase}", label)], whole, value))
    return charts.bars("estimates", "Seconds of each phase, and what was expected", rows)


def _chain(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """What each host received, and how fast."""
    hosts: dict[str, dict[str, Any]] = {}
    for part in parts:
        if part["phase"] == "distribute":
            host = hosts.setdefault(part["node"], {"host": part["node"], "bytes": 0, "seconds": 0.0})
            host["bytes"] += part["bytes"]
            host["seconds"] += part["seconds"]
            host["outcome"] = part["outcome"]
    if not hosts:
        return None
    whole = max(host["bytes"] for host in hosts.values())
    rows = []
    for host in list(hosts.values())[:_MOST_BARS]:
        host_rate = f", {size(host['bytes'] / host['seconds'])}/s" if host["seconds"] else ""
        label = f"{host['host']}: {size(host['bytes'])} in {host['seconds']:.1f} s{host_rate}"
        rows.append(Bars(label, [Piece(host["bytes"], "p-distribute", label)], whole))
    return {
        "hosts": list(hosts.values()),
        "left_out": len(hosts) - len(rows),
        "bytes": sum(host["bytes"] for host in hosts.values()),
        "chart": _bars("chain", "Bytes that each host received along the chain", rows),
    }


def _cache(saved: Mapping[str, Any]) -> Markup | None:
    if not saved:
        return None
    rest = max(saved["of"] - saved["bytes"], 0)
    pieces = [
        Piece(saved["bytes"], "m0", f"from the cache: {size(saved['bytes'])}"),
        Piece(rest, "m1", f"installed for this request: {size(rest)}"),
    ]
    label = f"{size(saved['bytes'])} from the cache, {size(rest)} beyond it"
    return charts.bars(
        "cache-bytes", "What the cache saved of what is installed", [Bars(label, pieces, saved["of"])]
    )


def _failures(told: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of nodes that have failed, the last words of each."""
    outcomes = {part["node"]: part for part in told["node_phases"] if not part["outcome"].startswith("done")}
    failed = [node["name"] for node in told["nodes"] if node["state"] == "failed"]
    # Hosts that got no images are among those that failed as well.
    nodes = {node["name"] for node in told["nodes"]}
    failed += [name for name in outcomes if name not in nodes]
    return {
        "count": len(failed),
        "left_out": failed[_MOST_FAILED:],
        "shown": [
            {
                "name": name,
                "phase": outcomes.get(name, {}).get("phase", ""),
                "outcome": outcomes.get(name, {}).get("outcome", "no reason was noted"),
                "console": told["consoles"].get(name, ""),
            }
            for name in failed[:_MOST_FAILED]
        ],
    }


def _nodes(told: Mapping[str, Any]) -> list[dict[str, Any]]:
    seconds: dict[str, dict[str, float]] = {}
    for part in told["node_phases"]:
        seconds.setdefault(part["node"], {})[part["phase"]] = part["seconds"]
    return [node | {"seconds": seconds.get(node["name"], {})} for node in told["nodes"][:MOST_ROWS]]


# A site -----------------------------------------------------------------------------------------------------------


def _hosts(told: Mapping[str, Any]) -> dict[str, Any]:
    """Their load as the site has reserved it, beside what others were seen to take, and how old that is."""
    cpus, memory = [], []
    answered = [host for host in told["hosts"] if host["facts"]]
    if len(answered) > _MOST_BARS:
        answered.sort(key=lambda host: -host["cpus"] / host["facts"]["cpus"])
    for host in answered[:_MOST_BARS]:
        facts = host["facts"]
        old = f", {age(told['time'] - host['answered'])} ago"
        foreign = facts.get("foreign", {})
        allowed = facts["cpus"] * told["cpu_overcommit"]
        others = foreign.get("cpus", 0)
        label = f"{host['name']}: {host['cpus'] + others} of {allowed} virtual CPUs{old}"
        pieces = [
            Piece(host["cpus"], "m0", f"{host['cpus']} of the site's nodes"),
            Piece(others, "m1", f"{others} of others"),
        ]
        # More than the host has is promised from there on.
        cpus.append(Bars(label, pieces, allowed, facts["cpus"]))
        others = foreign.get("memory", 0)
        label = f"{host['name']}: {size(host['memory'] + others)} of {size(facts['memory'])}{old}"
        pieces = [
            Piece(host["memory"], "m0", f"{size(host['memory'])} of the site's nodes"),
            Piece(others, "m1", f"{size(others)} of others"),
        ]
        memory.append(Bars(label, pieces, facts["memory"]))
    if not cpus:
        return {"cpus": None, "memory": None, "drawn": 0, "left_out": 0}
    return {
        "cpus": _bars("host-cpus", "Virtual CPUs promised on each host", cpus),
        "memory": _bars("host-memory", "Memory promised on each host", memory),
        "drawn": len(cpus),
        "left_out": len(answered) - len(cpus),
    }


def _usage(uses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    saved, asked = sum(use["bytes"] for use in uses), sum(use["of"] for use in uses)
    return {
        "count": len(uses),
        "hits": sum(bool(use["cache"]) for use in uses),
        "saved": saved,
        "asked": asked,
        "chart": charts.usage("usage", "Use of caches over time", uses) if len(uses) > 1 else None,
    }


def _history(told: Mapping[str, Any]) -> dict[str, Any]:
    """The picture of what past requests have in common, and the caches marked in it; or why there is none."""
    caches = [cache for cache in told["caches"]["caches"] if cache["chosen"]]
    if "history" not in told["caches"]:
        return {"chart": None, "why": told["history_error"] or "no request was recorded yet"}
    from vclust_py.cache import learn, outline, traces

    history = traces.of(told["caches"]["history"])
    tree = learn.cluster(history.table)
    if tree.leaves < 2 or not len(tree.merges):
        why = {0: "no request was recorded yet", 1: "all requests so far are the same one"}.get(
            tree.leaves, f"no two of {tree.leaves} requests have anything in common"
        )
        return {"chart": None, "why": why}
    marked = outline.marked(tree, history, [cache["holds"] for cache in caches])
    return {
        "chart": charts.dendrogram("history", "What past requests have in common", tree, marked),
        "why": "",
        "requests": len(history),
        "distinct": tree.leaves,
        "marked": [_marked(tree, history, id_) for id_ in marked],
    }


def _marked(tree: "Tree", history: "History", id_: int) -> dict[str, Any]:
    """A cluster of requests that stands for a cache."""
    from vclust_py.cache import learn

    packages = learn.members(tree.bits[id_], history)
    weights = dict(zip(history.packages, history.weights.tolist(), strict=True))
    largest = sorted(packages, key=lambda package: (-weights[package], package))[:_LARGEST]
    return {
        "requests": int(tree.frequencies[id_]),
        "size": int(tree.sizes[id_]),
        "packages": len(packages),
        "largest": [package.partition("=")[0] for package in largest],
    }


def _space(told: Mapping[str, Any]) -> Markup | None:
    space = told["space"]
    if space["free"] is None:
        return None
    images = space["images"]
    whole = sum(images.values()) + space["free"]
    rows = [
        Bars(f"{kind}: {size(count)}", [Piece(count, "m0", f"{kind}: {size(count)}")], whole)
        for kind, count in sorted(images.items(), key=lambda item: -item[1])
    ]
    free = f"free: {size(space['free'])}"
    return charts.bars(
        "space",
        "Images by kind, and free space",
        [*rows, Bars(free, [Piece(space["free"], "plain", free)], whole)],
    )
