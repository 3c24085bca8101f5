"""`vclust cache`: the caches of the sites, and traces, which need no site and no root to be replayed."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclust_py.arguments import file, typed
from vclust_py.cli import messages, playbooks, sites
from vclust_py.cli.progress import Follow, Rows
from vclust_py.errors import RequestError
from vclust_py.request import values

if TYPE_CHECKING:
    from vclust_py.site.session import Session

# NumPy and what computes are imported where they are used: `vclust --help` must not wait for them.

_REBUILT = ("policy", "requests", "chosen", "built", "removed", "stored_bytes", "space", "seconds")
"""What is told of a recomputation."""


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """`vclust cache` with its own commands."""
    text = "what to keep pre-installed: caches learnt from past requests"
    caches = commands.add_parser("cache", help=text, description=text[0].upper() + text[1:] + ".")
    inner = caches.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = inner.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        added.set_defaults(command=command)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    listing = add("list", _list, "list the caches of the site, and how they were used")
    listing.add_argument("--plot", type=_picture, metavar="FILE", help="draw their use over time (svg, png)")
    show = add("show", _show, "show a cache and what is in it")
    show.add_argument(
        "id", type=typed("cache"), metavar="ID", help="its digest, or the first few letters of it"
    )
    explain = add("explain", _explain, "say which cache a request would start from, and why not from another")
    explain.add_argument("request", type=file, metavar="REQUEST", help="request file, INI or YAML")
    explain.add_argument("--locked", type=file, metavar="FILE", help="use the package versions of this lock")
    history = add("history", _history, "show what past requests have in common, with the caches chosen of it")
    history.add_argument("--plot", type=_picture, metavar="FILE", help="draw it as a tree (svg, png)")
    rebuild = add("rebuild", _rebuild, "choose, build and drop the caches of the site now")
    rebuild.add_argument("--check", action="store_true", help="only say what would be built and dropped")
    rank = add("rank", _rank, "rank the sets of packages that a trace's requests have in common")
    rank.add_argument("--policy", default="paper", metavar="P", help="default: paper")
    rank.add_argument(
        "--plot",
        type=_picture,
        metavar="FILE",
        help="draw the clusters, with those marked that the policy keeps in the budget (svg, png)",
    )
    simulate = add("simulate", _simulate, "replay a trace: what the caches of a policy would have saved")
    simulate.add_argument("--policy", default="nested", metavar="P", help="default: nested")
    simulate.add_argument(
        "--every", type=_count, default=50, metavar="N", help="requests from choice to choice (default: 50)"
    )
    simulate.add_argument(
        "--warmup", type=_number, default=50, metavar="N", help="first requests not counted (default: 50)"
    )
    simulate.add_argument(
        "--order", choices=("file", "date"), default="file", help="by date: dated ones only (default: file)"
    )
    for one, use in ((rank, " of the plot"), (simulate, "")):
        one.set_defaults(root=False)
        one.add_argument("--packages", type=file, required=True, metavar="FILE", help="packages of the trace")
        one.add_argument("--requests", type=file, required=True, metavar="FILE", help="requests of the trace")
        one.add_argument(
            "--budget",
            type=_size,
            default="5GB",
            metavar="SIZE",
            help=f"space for caches{use} (default: 5GB)",
        )


def _list(arguments: argparse.Namespace) -> int:
    answers = sites.caches(arguments)
    managers = {answer.manager: answer.result for answer in answers.sites}
    # Sites side by side, one sequence of creations.
    usage = [{"manager": host, **use} for host, told in managers.items() for use in told["usage"]]
    usage.sort(key=lambda use: use["time"])
    if arguments.plot is not None:
        from vclust_py.cache import plot

        plot.usage(usage, arguments.plot)
    if arguments.json:
        caches = [{"manager": host, **cache} for host, told in managers.items() for cache in told["caches"]]
        status = {host: told["status"] for host, told in managers.items()}
        print(json.dumps({"caches": caches, "status": status, "usage": usage}, indent=2))
    else:
        from vclust_py.cli.tables import show_caches

        for host, told in managers.items():
            show_caches(told, host if len(managers) + len(answers.failures) > 1 else "")
    answers.warn()
    return answers.exit_code


def _show(arguments: argparse.Namespace) -> int:
    answers = sites.caches(arguments, arguments.id)
    answers.warn()
    found = [
        {"manager": answer.manager, **cache} for answer in answers.sites for cache in answer.result["caches"]
    ]
    digests = {cache["digest"] for cache in found}
    if not digests:
        raise RequestError([f"{arguments.id}: no such cache"], "vclust cache list shows those there are")
    if len(digests) > 1:
        begin = ", ".join(sorted(digest[:16] for digest in digests))
        raise RequestError([f"{arguments.id}: more than one cache begins so: {begin}"])
    if arguments.json:
        print(json.dumps(found[0], indent=2))
    else:
        from vclust_py.cli.tables import show_cache

        show_cache(found[0])
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    name, variables = playbooks.request(arguments)
    outcome = playbooks.create(name, variables, arguments, last="cache")
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments)
    result = outcome.results["vclust_cache"]
    told = {"cache": result["cache"], "verdicts": result["verdicts"]}
    if arguments.json:
        print(json.dumps(told, indent=2))
    else:
        from vclust_py.cli.tables import show_verdicts

        show_verdicts(told)
    return 0


def _history(arguments: argparse.Namespace) -> int:
    from vclust_py.cache import learn, outline, plot, traces

    answers = sites.caches(arguments, history=True)
    answers.warn()
    several = len(answers.sites) + len(answers.failures) > 1
    if several and arguments.plot is not None:
        sites_there = ", ".join(answer.site for answer in answers.sites)
        raise RequestError([f"--plot: {sites_there}: each has a history of its own"])
    if arguments.json:
        histories = {answer.site: answer.result["history"] for answer in answers.sites}
        print(json.dumps(histories if several else answers.sites[0].result["history"]))
    for answer in answers.sites:
        told = answer.result
        history = traces.of(told["history"])
        tree = learn.cluster(history.table)
        chosen = [cache["holds"] for cache in told["caches"] if cache["chosen"]]
        marked = outline.marked(tree, history, chosen)
        if arguments.plot is not None:
            plot.dendrogram(tree, history, marked, arguments.plot)
        if not arguments.json:
            from vclust_py.cli.tables import say, show_history

            if several:
                say(f"{answer.site}:")
            show_history(outline.lines(tree, history, marked), len(history))
    return answers.exit_code


def _rebuild(arguments: argparse.Namespace) -> int:
    outcome = playbooks.run(
        "rebuild_caches.yml",
        {},
        arguments,
        phases=("rebuild",),
        follow=Follow(_rebuild_progress()),
        check=arguments.check,
    )
    done = {
        host: {name: results["vclust_rebuild"][name] for name in _REBUILT}
        for host, results in sorted(outcome.hosts.items())
        if "vclust_rebuild" in results
    }
    if outcome.exit_code == 130:
        messages.error("interrupted; what was built stays")
    if arguments.json:
        if outcome.exit_code:
            return playbooks.failed(outcome, arguments, rebuilt=done)
        print(json.dumps(done, indent=2))
    else:
        from vclust_py.cli.tables import show_rebuilt

        for host, result in done.items():
            show_rebuilt(result, host if len(outcome.hosts) > 1 else "", check=arguments.check)
    return outcome.exit_code


def _rebuild_progress() -> Callable[["Session"], Rows]:
    """Reads the progress of a recomputation where it has changed."""
    last: dict[str, Any] = {}

    def read(session: "Session") -> Rows:
        from vclust_py.cache import status as recomputation

        nonlocal last
        status = recomputation.status(session)
        row = {"phase": "rebuild", "node": ""} | {
            key: status.get(key) for key in ("message", "done", "total")
        }
        if status["state"] != "running" or not row["message"] or row == last:
            return []
        last = row
        return [row]

    return read


def _rank(arguments: argparse.Namespace) -> int:
    from vclust_py.cache import policies, traces

    policy = policies.policy(arguments.policy)
    history = traces.read(arguments.packages, arguments.requests)
    ranked = policies.rank(policy, history)
    rows = [
        {
            "rank": number,
            "packages": sorted(package.partition("=")[0] for package in one.packages),
            "frequency": one.frequency,
            "size": one.size,
            "score": one.score,
        }
        for number, one in enumerate(ranked, 1)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=1))
    else:
        from vclust_py.cli.tables import show_rank

        show_rank(rows)
    if arguments.plot is not None:
        from vclust_py.cache import learn, outline, plot

        kept = [cache.packages for cache in policy.choose(history, arguments.budget, {})]
        tree = learn.cluster(history.table)
        plot.dendrogram(tree, history, outline.marked(tree, history, kept), arguments.plot)
    return 0


def _simulate(arguments: argparse.Namespace) -> int:
    from vclust_py.cache import policies, traces
    from vclust_py.cache.simulate import simulate

    policy = policies.policy(arguments.policy)
    trace = traces.read(arguments.packages, arguments.requests, order=arguments.order)
    result = simulate(trace, policy, arguments.budget, every=arguments.every, warmup=arguments.warmup)
    if arguments.json:
        print(json.dumps(asdict(result), indent=1))
    else:
        from vclust_py.cli.tables import show_simulation

        show_simulation(asdict(result))
    return 0


def _value(parse: Callable[[str], int]) -> Callable[[str], int]:
    """A parser of values as argparse takes it."""

    def convert(text: str) -> int:
        try:
            return parse(text)
        except values.Wrong as wrong:
            raise argparse.ArgumentTypeError(f"got {values.shown(text)}, expected {wrong.expected}") from None

    return convert


def _picture(text: str) -> Path:
    """A file name that says what kind of picture it is; told before anything is computed."""
    if not text.endswith((".svg", ".png")):
        raise argparse.ArgumentTypeError(
            f"got {values.shown(text)}, expected a file that ends in .svg or .png"
        )
    return Path(text)


_size = _value(values.size(1, 10**15, "5GB"))
_count = _value(values.whole(1, 10**9))
_number = _value(values.whole(0, 10**9))
