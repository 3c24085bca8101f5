"""Tables and lines that the `vclust` command shows of what the sites have told."""

import itertools
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vclust_py.cli.messages import as_called
from vclust_py.cli.progress import step
from vclust_py.text import DETAIL, age, counted, plain, size, when

_RUNS_BY = {"kvm": "KVM", "tcg": "emulation (no usable KVM)", "xen": "Xen"}
_SHORT = 12
"""Letters of a digest that people see."""
_REFUSALS = 3
"""So many caches that do not fit are named."""
_BARS = "▁▂▃▄▅▆▇█"


class _Table(Table):
    """Its cells hold text that others have written; none of it is markup."""

    def add(self, *cells: str) -> None:
        self.add_row(*(Text(plain(cell, DETAIL, lines=True)) for cell in cells))


def say(text: str = "") -> None:
    """Print a line of ours that may quote others."""
    print(as_called(plain(text, 1 << 16, lines=True)))


def _table(*columns: str, right: Sequence[str] = ()) -> _Table:
    table = _Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _print(*parts: object) -> None:
    # In a pipe a table is as wide as its content, not as a terminal that is not there.
    Console(width=None if sys.stdout.isatty() else 200, highlight=False, markup=False, emoji=False).print(
        *parts
    )


def _part(count: float, whole: float) -> str:
    return f"{100 * count / whole:.1f}%" if whole else "-"


def _cache(cache: Mapping[str, Any]) -> str:
    """What a cluster has of its VD cache."""
    if not cache:
        return "cache: miss, it starts from the base image"
    seconds = "" if cache["seconds"] is None else f" and {cache['seconds']:.0f} s"
    return (
        f"cache: hit, {cache['digest'][:_SHORT]} with {counted(cache['packages'], 'package')}"
        f" saves {size(cache['bytes'])} of {size(cache['of'])}{seconds}"
    )


def show_list(clusters: Sequence[Mapping[str, Any]], *, sites: bool = False) -> None:
    """With the site of each where there are several `sites`."""
    if not clusters:
        say("no clusters")
        return
    leased = any(cluster["ends"] is not None for cluster in clusters)
    lease = ["LEASE"] if leased else []
    table = _table(
        "NAME", *(["SITE"] if sites else []), "STATE", "NODES", "SEEN", *lease, "CREATED", right=("NODES",)
    )
    for cluster in clusters:
        site = [cluster["site"]] if sites else []
        seen, lease = _seen(cluster), [_lease(cluster)] if leased else []
        nodes, created = str(len(cluster["nodes"])), when(cluster["created"])
        table.add(cluster["name"], *site, _state(cluster), nodes, seen, *lease, created)
    _print(table)


def _state(cluster: Mapping[str, Any]) -> str:
    """What a cluster is now, with how many of its nodes are well where not all are."""
    if cluster["state"] == "unknown":
        return f"unknown since {_since(cluster['seen'])}"
    if cluster["state"] != "degraded":
        return str(cluster["state"])
    unknown = sum(node["state"] == "unknown" for node in cluster["nodes"])
    also = f", {unknown} unknown since {_since(cluster['seen'])}" if unknown else ""
    return f"degraded ({cluster['ready_nodes']} of {len(cluster['nodes'])} nodes{also})"


def _lease(cluster: Mapping[str, Any]) -> str:
    """How much of a cluster's lease is left."""
    now = time.time()
    if cluster["ends"] is None:
        return ""
    if cluster["removed"] is not None:
        return f"ended, removed in {age(max(cluster['removed'] - now, 0))}"
    return f"{age(cluster['ends'] - now)} left" if cluster["ends"] > now else "ended"


def _since(moment: float) -> str:
    """The time of the day, with the date where that is another one."""
    then = time.localtime(moment)
    today = time.strftime("%Y-%m-%d", then) == time.strftime("%Y-%m-%d")
    return time.strftime("%H:%M" if today else "%Y-%m-%d %H:%M", then)


def _seen(known: Mapping[str, Any]) -> str:
    """How old the knowledge of a state is; nothing where that says it itself."""
    if known["state"] == "unknown":
        return ""
    seconds = max(time.time() - known["seen"], 0)  # the clock may have been set back
    return "now" if seconds < _NOW else f"{age(seconds)} ago"


_NOW = 20
"""Seconds that are no age worth a word."""


def show_cluster(cluster: Mapping[str, Any], site: str = "") -> None:
    """With its `site`, where there are several."""
    hardware = cluster["request"]["hardware"]
    detail = f" ({cluster['detail']})" if cluster["detail"] else ""
    strategy = f", installed {cluster['strategy']}" if cluster["strategy"] else ""
    say(f"{cluster['name']}: {_state(cluster)}{detail}")
    if site:
        say(_site(site, cluster["reason"]))
    nodes_of = counted(hardware["number_of_nodes"], "node")
    say(f"{nodes_of} of {counted(hardware['cpus'], 'CPU')}, {hardware['ram']}{strategy}")
    if cluster["ends"] is not None:
        say(f"lease: {_lease(cluster)}, until {when(cluster['ends'])}")
    if cluster["homes"]:
        say(f"homes: of {cluster['owner']}, kept by the site")
    if cluster["updates"]:
        say(_updates(cluster["updates"]))
    say(f"{_cache(cluster['cache'])}\n" if cluster["strategy"] else "")
    nodes = _table("NODE", "ADDRESS", "HOST", "RUNS BY", "STATE", "SEEN")
    for node in cluster["nodes"]:
        runs_by = _RUNS_BY.get(node["accelerator"], node["accelerator"])
        state = f"unknown since {_since(node['seen'])}" if node["state"] == "unknown" else node["state"]
        nodes.add(node["name"], node["address"], node["host"], runs_by, state, _seen(node))
    _print(nodes)
    _starts(cluster["nodes"])
    numbers = ("SECONDS", "ESTIMATE", "BYTES")
    phases = _table("PHASE", *numbers, "OUTCOME", right=numbers)
    expected = cluster["estimate"]
    for record in cluster["phases"]:
        moved = size(record["bytes"]) if record["bytes"] else ""
        seconds = f"{record['seconds']:.1f}"
        phases.add(record["phase"], seconds, _expected(expected, record["phase"]), moved, record["outcome"])
    say()
    _print(phases)
    slowest = cluster["slowest_node"]
    if slowest:
        # A cluster that was taken up again has several records of one node and phase: the last one counts.
        latest = {record["phase"]: record for record in cluster["node_phases"] if record["node"] == slowest}
        times = ", ".join(f"{phase} {record['seconds']:.1f} s" for phase, record in latest.items())
        say(f"\nslowest node: {slowest} ({times})")
    for number, log in enumerate(cluster["logs"]):
        say(
            f"{'' if number else chr(10)}log of {log['name']}, which failed {when(log['time'])}: {log['path']}"
        )


def _updates(known: Mapping[str, Any]) -> str:
    """How many updates a cluster lacks."""
    asked = f"(as of {_since(known['time'])})"
    if not known["updates"]:
        return f"updates: none lacks {asked}"
    said = f"updates: {counted(len(known['updates']), 'package')} older than in the archives"
    return f"{said}, {len(known['security'])} of them for security {asked}"


def _starts(nodes: Sequence[Mapping[str, Any]]) -> None:
    """How many nodes are clones, and why those are not that were to be."""
    for start, how in (("fork", "as clones of a template"), ("resume", "from a suspended installer")):
        if count := sum(node["start"] == start for node in nodes):
            say(f"{count} of {len(nodes)} nodes started {how}")
    reasons: dict[str, list[str]] = {}
    for node in nodes:
        if node["start_detail"]:
            reasons.setdefault(node["start_detail"], []).append(node["name"])
    for why, names in reasons.items():
        say(f"booted instead: {', '.join(names)}: {why}")


def show_events(cluster: Mapping[str, Any]) -> None:
    """What has happened to a cluster, oldest first."""
    table = _table("TIME", "WHO", "WHAT", "DETAIL")
    for event in cluster["events"]:
        who = f"{event['who']} (by {event['via']})" if event["via"] else event["who"]
        table.add(when(event["time"]), who, event["action"], event["detail"])
    _print(table)


def show_snapshots(cluster: Mapping[str, Any]) -> None:
    """The snapshots of a cluster, oldest first."""
    table = _table("TAG", "TAKEN", "SIZE", "NODES")
    for one in cluster["snapshots"]:
        bytes_ = "interrupted" if one["bytes"] is None else size(one["bytes"])
        table.add(one["tag"], when(one["created"]), bytes_, str(len(one["nodes"])))
    _print(table)


def show_volumes(volumes: Sequence[Mapping[str, Any]], *, several: bool) -> None:
    """Volumes, with their sites where there are several."""
    first = ["SITE"] if several else []
    table = _table(*first, "VOLUME", "OWNER", "SIZE", "HOST", "CLUSTER", "KEPT")
    for one in volumes:
        row = [one["name"], one["owner"], size(one["size"]), one["host"], one["cluster"] or "-"]
        table.add(*([one["site"]] if several else []), *row, "yes" if one["keep"] else "no")
    _print(table)


def show_homes(homes: Sequence[Mapping[str, Any]], *, several: bool) -> None:
    """Homes that sites keep, with their sites where there are several."""
    first = ["SITE"] if several else []
    table = _table(*first, "OWNER", "USERS", "SIZE", "CLUSTERS")
    for one in homes:
        row = [one["owner"], " ".join(one["users"]), size(one["size"]), " ".join(one["clusters"]) or "-"]
        table.add(*([one["site"]] if several else []), *row)
    _print(table)


def show_logs(cluster: Mapping[str, Any]) -> None:
    """What each phase and node has said of itself, oldest first, and the logs of what has failed, kept or at hand."""
    for row in sorted([*cluster["phases"], *cluster["node_phases"]], key=lambda row: float(row["start"])):
        what = f"{row['phase']}: {row['node']}" if row["node"] else row["phase"]
        say(f"{_clock(row['start'])} {what}: {row['outcome']} ({row['seconds']:.1f} s)")
    kept = {log["name"]: log["text"] for log in cluster["logs"]}
    for node, text in cluster["consoles"].items():
        if node not in kept:  # what is kept has its end, and more of it
            _show_log(f"console of {node}, its end:", text)
    for log in reversed(cluster["logs"]):
        _show_log(f"log of {log['name']}, which failed {when(log['time'])}: {log['path']}", log["text"])


def _show_log(title: str, text: str) -> None:
    say(f"\n{title}")
    for line in text.splitlines():
        say(f"  {line}")


def _clock(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def _expected(estimate: Mapping[str, Any], phase: str) -> str:
    """What a phase was expected to take, and how much it may be off."""
    if phase not in estimate.get("seconds", {}):
        return ""
    error = estimate["errors"].get(phase)
    return f"{estimate['seconds'][phase]:.1f}" + ("" if error is None else f" ± {error:.1f}")


def _estimate(estimate: Mapping[str, Any]) -> str:
    seconds, errors = estimate["seconds"], estimate["errors"]
    # A phase with nothing to do takes no time, known or not.
    if not any(seconds.values()):
        return "estimate: none, this site has no past runs to go by"
    # What disturbs one phase, another cluster say, mostly disturbs the next as well: errors add up.
    error = f" ± {sum(errors.values()):.0f} s" if any(errors.values()) else ""
    notes = []
    if medians := estimate["medians"]:
        notes.append(f"{', '.join(medians)} by the median of few past runs")
    if unknown := estimate["unknown"]:
        notes.append(f"no past runs of {', '.join(unknown)}")
    return "; ".join([f"estimate: {sum(seconds.values()):.0f} s{error}", *notes])


def _site(site: str, reason: str) -> str:
    return f"site: {site}" + (f" ({reason})" if reason else "")


def show_plan(plan: Mapping[str, Any]) -> None:
    if plan["site"]:
        say(f"{_site(plan['site'], plan['reason'])}\n")
    table = _table("NODE", "ADDRESS", "HOST", "RUNS BY")
    for node, host in plan["placement"].items():
        accelerator = plan["accelerators"].get(host, "")
        table.add(node, plan["addresses"].get(node, ""), host, _RUNS_BY.get(accelerator, accelerator))
    _print(table)
    there = "" if plan["base_there"] else ", after the base image"
    for host, error in plan["unreachable"].items():
        say(f"\n{host} does not answer, takes no node: {error}\n  {_last_known(plan['hosts'][host])}")
    if drained := [host for host, known in plan["hosts"].items() if known["state"] == "drain"]:
        say(f"\ndrained, take no new nodes: {', '.join(drained)}")
    more = ", for its packages need more than asked for" if plan["disk"] > plan["disk_asked"] else ""
    say(f"\ndisk: {size(plan['disk'])} a node{more}")
    say(_reuse(plan))
    say(f"download: {size(plan['download'])}, of {counted(plan['packages'], 'package')}")
    say(f"build: {size(plan['build'])}{there}")
    say(f"send: {size(plan['send'])}")
    if not plan["python"]:
        say("no python3 in the nodes: Ansible cannot work there (MetaPackages: ansible)")
    for one in plan["quota"]:
        say(_quota(one))
    say(_estimate(plan["estimate"]))


def _reuse(plan: Mapping[str, Any]) -> str:
    """What is there already of the nodes' disks; where no cache is, why not, or when there will be some."""
    if not plan["packages"]:
        return "no packages beyond the base image"
    if plan["layer_there"]:
        return (
            f"reused: the layer with {counted(plan['packages'], 'package')} of an earlier request, as it is"
        )
    if plan["cache"]:
        return _cache(plan["cache"])
    if verdicts := plan["verdicts"]:
        lines = [f"  {verdict['digest'][:_SHORT]} {verdict['reason']}" for verdict in verdicts[:_REFUSALS]]
        if more := len(verdicts) - _REFUSALS:
            lines += [f"  {counted(more, 'more cache')}: vclust cache explain"] if more > 0 else []
        return "\n".join(["cache: none fits, it starts from the base image", *lines])
    return f"cache: none over its base image yet; {_next_choice(plan['requests'])}"


def _next_choice(requests: Mapping[str, Any]) -> str:
    if requests["next_choice"] is None:
        return "they are made by `vclust cache rebuild` only"
    return f"the next are chosen after request {requests['next_choice']}, so far: {requests['recorded']}"


def _quota(limit: Mapping[str, Any]) -> str:
    """What would be left of it."""
    amount = size if limit["what"] in ("memory", "disk") else str
    if limit["what"] == "lease":
        return f"quota of {limit['whose']}: a lease of {limit['limit'] / 3600:g} h at most"
    used = limit["used"] + limit["asked"]
    return f"quota of {limit['whose']}: {amount(used)} of {amount(limit['limit'])} {limit['what']} with this"


def _last_known(host: Mapping[str, Any]) -> str:
    """What a host that does not answer had, and how old that is."""
    facts, nodes = host["facts"], f"{host['nodes']} nodes of this site are there"
    if not facts:
        return f"it has never answered; {nodes}"
    had = f"{facts['cpus']} CPUs, {size(facts['memory'])} of memory, {size(facts['memory_free'])} of it free"
    return f"{age(host['age'])} ago it had {had}; {nodes}"


def show_rank(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        say("no candidates: no two requests have anything in common")
        return
    numbers = ("RANK", "REQUESTS", "SIZE", "SCORE", "PACKAGES")
    table = _table(*numbers, "AMONG THEM", right=numbers)
    for row in rows:
        names = row["packages"]
        among = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        score = size(row["score"])
        table.add(str(row["rank"]), str(row["frequency"]), size(row["size"]), score, str(len(names)), among)
    _print(table)


def show_simulation(result: Mapping[str, Any]) -> None:
    requested, saved = result["bytes_requested"], result["bytes_saved"]
    table = _table("", "", "")
    table.show_header = False
    table.add("policy", result["policy"], "")
    table.add("requests", str(result["requests"]), "after the warm-up")
    table.add("hits", _part(result["hits"], result["requests"]), f"{result['hits']} started from a cache")
    table.add("saved", _part(saved, requested), f"{size(saved)} of {size(requested)} installed")
    table.add("stored", size(result["stored_bytes_max"]), "at most")
    table.add("computing", f"{result['seconds']:.1f} s", "")
    _print(table)


def show_caches(told: Mapping[str, Any], manager: str) -> None:
    """The caches of a site, each under the one it stands on, and what they were good for."""
    if manager:
        say(f"{manager}:")
    caches, status = told["caches"], told["status"]
    if caches:
        right = ("PACKAGES", "SIZE", "FILE", "USES")
        table = _table("DIGEST", *right, "LAST USE", "STATE", "KEPT", right=right)
        for cache in _nested(caches):
            table.add(
                "  " * (cache["depth"] - 1) + cache["digest"][:_SHORT],
                str(cache["packages"]),
                size(cache["size"]),
                size(cache["bytes"]),
                str(cache["uses"]),
                when(cache["used"]) if cache["used"] else "never",
                cache["state"],
                _kept(cache),
            )
        _print(table)
    chosen = [cache["bytes"] for cache in caches if cache["chosen"]]
    others = [cache["bytes"] for cache in caches if not cache["chosen"]]
    more = f", and {size(sum(others))} in {len(others)} no longer chosen" if others else ""
    say(f"{len(chosen)} caches, {size(sum(chosen))} of {size(status['space'])}{more}; {_rebuild(status)}")
    if newer := status.get("newer"):
        say(f"of a newer version of vclust, kept and not used: {', '.join(newer)}")
    show_usage(told["usage"])


def _nested(caches: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Each cache after the one it stands on; the more used first."""
    above: dict[str, list[Mapping[str, Any]]] = {}
    known = {cache["digest"] for cache in caches}
    for cache in sorted(caches, key=lambda cache: (cache["uses"], cache["size"]), reverse=True):
        above.setdefault(cache["parent"] if cache["parent"] in known else "", []).append(cache)
    found: list[Mapping[str, Any]] = []

    def add(digest: str) -> None:
        for cache in above.get(digest, []):
            found.append(cache)
            add(cache["digest"])

    add("")
    return found


def _kept(cache: Mapping[str, Any]) -> str:
    """Why a cache is there."""
    chosen = ["chosen"] if cache["chosen"] else []
    used = [f"used by {', '.join(cache['clusters'])}"] if cache["clusters"] else []
    return ", ".join(chosen + used) or "until its space is needed"


def _rebuild(status: Mapping[str, Any]) -> str:
    """The last recomputation, and the next."""
    if status["state"] == "never":
        last = "never chosen"
    elif status["state"] == "running":
        last = f"being chosen since {when(status['started'])}: {step(status)}"
    else:
        last = f"last chosen {when(status['started'])}: {status['state']}"
        if status["detail"]:
            last += f": {status['detail']}"
    new = status["recorded"] - status["seen"]
    return f"{last}; {new} requests since" + (", due" if status["due"] else "")


def show_usage(usage: Sequence[Mapping[str, Any]]) -> None:
    """Use over time as a row of bars: the share of its bytes that a cache saved each creation, or some in a row."""
    if not usage:
        return
    hits = sum(bool(use["cache"]) for use in usage)
    saved, asked = sum(use["bytes"] for use in usage), sum(use["of"] for use in usage)
    say(
        f"\n{len(usage)} creations, {hits} from a cache;"
        f" saved {size(saved)} of {size(asked)} installed ({_part(saved, asked)})"
    )
    columns = min(len(usage), 60)
    edges = [number * len(usage) // columns for number in range(columns + 1)]
    bars = ""
    for start, end in itertools.pairwise(edges):
        part = usage[start:end]
        share = sum(use["bytes"] for use in part) / (sum(use["of"] for use in part) or 1)
        bars += _BARS[min(int(share * len(_BARS)), len(_BARS) - 1)] if share else "·"
    say(f"{when(usage[0]['time'])} {bars} {when(usage[-1]['time'])}")


def show_history(lines: Sequence[Mapping[str, Any]], requests: int) -> None:
    """The tree of what requests have in common, each cluster with what it has beyond the one above it."""
    say(f"{requests} requests{':' if lines else ''}")
    if not lines:
        return
    table = _table("REQUESTS", "IN COMMON", "PACKAGES", "CACHE", "MORE THAN ABOVE", right=("PACKAGES",))
    for line in lines:
        names = [package.partition("=")[0] for package in line["more"]]
        more = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        table.add(
            "  " * line["depth"] + str(line["requests"]),
            size(line["size"]),
            str(line["packages"]),
            "●" if line["chosen"] else "",
            more,
        )
    _print(table)


def show_cache(cache: Mapping[str, Any]) -> None:
    parent = cache["parent"]
    under = f"cache {parent[:_SHORT]}" if parent else "the base image"
    base = f"{cache['suite']} {cache['architecture']} {cache['base'][:_SHORT]}"
    used = f"{cache['uses']} times, last {when(cache['used'])}" if cache["used"] else "never"
    rest = sorted(set(cache["holds"]) - set(cache["own"]))
    say(f"cache {cache['digest']}")
    say(f"stands on {under} (layer {cache['depth']} over the base image {base})")
    say(f"{cache['packages']} packages, {cache['state']}, {size(cache['size'])} as installed")
    say(f"its own file has {size(cache['bytes'])}")
    say(f"used {used}; {_kept(cache)}")
    for title, packages in (("in it", cache["own"]), ("in the caches under it", rest)):
        if packages:
            say(f"\n{title}:")
            for package in packages:
                say(f"  {package.replace('=', ' ')}")


def show_verdicts(told: Mapping[str, Any]) -> None:
    say(_cache(told["cache"]))
    chosen = [verdict["digest"] for verdict in told["verdicts"] if verdict["chosen"]]
    if chosen and chosen != [told["cache"].get("digest")]:
        say("its cluster is placed and keeps that; a new one would start from the one marked")
    if told["verdicts"]:
        table = _table("", "CACHE", "WOULD SAVE", "WHY", right=("WOULD SAVE",))
        for verdict in told["verdicts"]:
            mark = "✓" if verdict["chosen"] else ""
            saves = size(verdict["saves"]) if verdict["saves"] else "-"
            table.add(mark, verdict["digest"][:_SHORT], saves, verdict["reason"])
        _print(table)
    else:
        say("there is no cache over its base image, or its cluster is placed already")


def show_rebuilt(result: Mapping[str, Any], manager: str, *, check: bool) -> None:
    built = f"{len(result['built'])} {'would be ' if check else ''}built"
    # Those not chosen any more are dropped when their space is needed.
    removed = f"{len(result['removed'])} {'no longer chosen' if check else 'dropped'}"
    start = f"{manager}: " if manager else ""
    say(
        f"{start}policy {result['policy']}, {result['requests']} requests: {result['chosen']} caches chosen,"
        f" {built}, {removed};"
        f" {size(result['stored_bytes'])} of {size(result['space'])}, {result['seconds']:.1f} s"
    )


def show_hosts(told: Mapping[str, Any], *, title: bool, first: bool) -> None:
    """The hosts of a site as `vclust_hosts` tells them, then what is wrong, each with its next step."""
    if title:
        say(f"{'' if first else chr(10)}{told['site']} ({told['manager']}):")
    if not told["hosts"]:
        say("no hosts")
        _show_leftovers(told["leftovers"])
        return
    right = ("CPUS", "MEMORY", "DISK")
    table = _table(
        "HOST", "STATE", "RUNS BY", *right, "NODES", "KNOWN", "VERSIONS", "CERTIFICATES", right=right
    )
    for host in told["hosts"]:
        facts, used = host["facts"], host["used"]
        accelerator = facts.get("accelerator", host["driver"])
        ends = host["certificates"].values()
        table.add(
            host["name"],
            host["state"] if host["reachable"] else f"{host['state']}, away",
            accelerator if accelerator == host["driver"] else f"{host['driver']}, {accelerator}",
            f"{used['cpus']} of {facts['cpus']}" if facts else "",
            f"{size(used['memory'])} of {size(facts['memory'])}" if facts else "",
            f"{size(facts['disk_free'])} free" if facts else "",
            host["there"],
            "never" if host["age"] is None else f"{age(host['age'])} ago",
            ", ".join(f"{what} {version}" for what, version in host["versions"].items()),
            f"until {_day(min(ends))}" if ends else "",
        )
    _print(table)
    for host in told["hosts"]:
        for problem in host["problems"]:
            say(f"\n{problem}")
    _show_leftovers(told["leftovers"])
    for what, end in told["authority"].items():
        if end - time.time() < _SOON:
            say(f"\nthe certificate of the {what} ends on {_day(end)}\n  hint: vclust site rollout")


def _show_leftovers(leftovers: Sequence[Mapping[str, Any]]) -> None:
    for left in leftovers:
        say(f"\n{left['told']}")


def show_audit(rows: Sequence[Mapping[str, Any]], *, sites: bool) -> None:
    """Who has done what, with the site where there are several."""
    table = _table("TIME", *(["SITE"] if sites else []), "WHO", "ACTION", "CLUSTER", "DETAIL")
    for row in rows:
        who = f"{row['who']} (by {row['via']})" if row["via"] else row["who"]
        where = [row["site"]] if sites else []
        table.add(when(row["time"]), *where, who, row["action"], row["cluster"], row["detail"])
    if rows:
        _print(table)
    else:
        say("nothing was done")


_SOON = 60 * 86400
"""Seconds before its end from which on a roll-out issues a certificate again (`vclust_py.x509.RENEW`)."""


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(moment))
