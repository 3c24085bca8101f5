"""`vclust cache`: what the command line asks of the caches.  It needs no site and no root to replay a trace."""

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from vclust_py import request_values as values

# NumPy and what computes are imported where they are used: `vclust --help` must not wait for them.


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`vclust cache` with its own commands."""
    text = "what to keep pre-installed: caches learnt from past requests"
    caches = commands.add_parser("cache", help=text, description=text[0].upper() + text[1:] + ".")
    inner = caches.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = inner.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(command=command, root=False)
        added.add_argument(
            "--packages", type=Path, required=True, metavar="FILE", help="packages of the trace"
        )
        added.add_argument(
            "--requests", type=Path, required=True, metavar="FILE", help="requests of the trace"
        )
        return added

    rank = add("rank", _rank, "rank the sets of packages that a trace's requests have in common")
    rank.add_argument("--policy", default="paper", metavar="P", help="default: paper")
    rank.add_argument(
        "--plot",
        type=Path,
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
        one.add_argument(
            "--budget",
            type=_size,
            default="5GB",
            metavar="SIZE",
            help=f"space for caches{use} (default: 5GB)",
        )
        one.add_argument("--json", action="store_true", help="print JSON")


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
        from vclust_py.display import show_rank

        show_rank(rows)
    if arguments.plot is not None:
        from vclust_py.cache import learn, plot

        kept = {cache.packages for cache in policy.choose(history, arguments.budget, {})}
        tree = learn.cluster(history.table)
        # Of clusters with the same packages the topmost, which comes last.
        ids = {learn.members(row, history): id_ for id_, row in enumerate(tree.bits)}
        plot.dendrogram(tree, [id_ for packages, id_ in ids.items() if packages in kept], arguments.plot)
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
        from vclust_py.display import show_simulation

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


_size = _value(values.size(1, 10**15, "5GB"))
_count = _value(values.whole(1, 10**9))
_number = _value(values.whole(0, 10**9))
