#!/usr/bin/env python3
"""How well policies choose caches, how long that takes, and what else was tried.

    .venv/bin/python tests/benchmarks/cache.py table --packages FILE --paper FILE --real FILE
    .venv/bin/python tests/benchmarks/cache.py scale --packages FILE --real FILE [--sizes N…]
    .venv/bin/python tests/benchmarks/cache.py tried --packages FILE --real FILE

table  all policies on the paper's workload and on real requests, by date and in file order, for three spaces
scale  seconds and memory of one choice for growing histories: real requests, and more made by mixing them
tried  ideas that did not make it into a policy, beside those that did
One process at a time, so that all see the same machine.  Output is Markdown, as in docs/caches.md.
"""

import argparse
import gzip
import json
import os
import platform
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from vclust_py.cache import Cache, choose, grow, lookup, policies, traces
from vclust_py.cache import learn as learn_
from vclust_py.cache.choose import Sets
from vclust_py.cache.history import History, Table, unpack
from vclust_py.cache.policies import Policy, Stored
from vclust_py.cache.simulate import Result, simulate
from vclust_py.cache.traces import TracePackage

BUDGETS = (1, 5, 20)
SHUFFLES = 10
SIZES = (500, 1000, 2000, 5000, 10000, 20000)
POLICIES = ("none", "common", "lru", "landlord", "paper", "greedy", "nested", "oracle")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    for name, command in (("table", table), ("scale", scale), ("tried", tried), ("learn", learn)):
        one = commands.add_parser(name)
        one.set_defaults(command=command)
        one.add_argument("--packages", type=Path, required=True)
        one.add_argument("--real", type=Path, required=True)
        if name == "table":
            one.add_argument("--paper", type=Path, required=True)
        if name == "scale":
            one.add_argument("--sizes", type=int, nargs="+", default=SIZES)
        if name == "learn":
            one.add_argument("policy")
            one.add_argument("size", type=int)
    arguments = parser.parse_args()
    arguments.command(arguments)


def machine() -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    load = os.getloadavg()[0]
    print(
        f"{os.cpu_count()} CPUs ({platform.machine()}), {memory:.0f} GB, Python {platform.python_version()}, "
        f"load {load:.1f} at the start, {time.strftime('%Y-%m-%d')}\n",
        flush=True,
    )


def row(*cells: object) -> None:
    print(f"| {' | '.join(str(cell) for cell in cells)} |", flush=True)


def shuffled(history: History, seed: int) -> History:
    order = random.Random(seed).sample(range(len(history)), len(history))  # noqa: S311 - no secret
    by_name = dict(zip(history.packages, history.weights.tolist(), strict=True))
    packages = {name: TracePackage(*name.split("=", 1), by_name[name]) for name in history.packages}
    sets = [history.sets[history.sequence[number]] for number in order]
    return History([packages[name] for name in sorted(names)] for names in sets)


def added(results: Sequence[Result]) -> dict[str, float]:
    """Shares in percent and seconds a replay, over several replays."""
    requested = sum(one.bytes_requested for one in results)
    return {
        "hits": 100 * sum(one.hits for one in results) / sum(one.requests for one in results),
        "saved": 100 * sum(one.bytes_saved for one in results) / requested,
        "stored": max(one.stored_bytes_max for one in results) / 1e9,
        "seconds": sum(one.seconds for one in results) / len(results),
    }


def table(arguments: argparse.Namespace) -> None:
    machine()
    paper = traces.read(arguments.packages, arguments.paper)
    workloads = {
        "paper": [paper],
        f"paper, shuffled ({SHUFFLES} times)": [shuffled(paper, seed) for seed in range(SHUFFLES)],
        "real by date": [traces.read(arguments.packages, arguments.real, order="date")],
        "real in file order": [traces.read(arguments.packages, arguments.real)],
    }
    row("workload", "policy", *(f"{budget} GB: saved %, hits %, s" for budget in BUDGETS))
    row(*("---" for _ in range(2 + len(BUDGETS))))
    for workload, histories in workloads.items():
        for name in POLICIES:
            cells = []
            for budget in BUDGETS:
                results = [simulate(history, policies.policy(name), budget * 10**9) for history in histories]
                found = added(results)
                cells.append(f"{found['saved']:.1f}, {found['hits']:.1f}, {found['seconds']:.1f}")
            row(workload, f"`{name}`", *cells)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
        yield from map(json.loads, file)


def mixed(packages: Path, requests: Path, size: int) -> History:
    """As many distinct requests: the real ones in their order, then mixtures of two.

    A mixture is each name that either asked for with a chance of one half, and what those depend on: the first
    choice of each clause unless one of its choices is there already, as the real ones were made.
    """
    known = {line["id"]: line for line in rows(packages)}
    things = {
        number: TracePackage(line["name"], line["version"], line["installed_size"])
        for number, line in known.items()
    }
    ids = {line["name"]: number for number, line in known.items()}
    real = list(rows(requests))
    asked = [[ids[name] for name in line["requested"] if name in ids] for line in real]
    distinct = dict.fromkeys(tuple(line["closure"]) for line in real)
    chance = random.Random(20)  # noqa: S311 - no secret
    while len(distinct) < size:
        names = [name for one in chance.sample(asked, 2) for name in one if chance.random() < 0.5]
        held = set(names)
        left = names[::-1]
        while left:
            for clause in known[left.pop()]["depends"]:
                choices = clause if isinstance(clause, list) else [clause]
                if choices and held.isdisjoint(choices):
                    held.add(choices[0])
                    left.append(choices[0])
        if held:
            distinct.setdefault(tuple(sorted(held)))
    return History([things[number] for number in one] for one in list(distinct)[:size])


def learn(arguments: argparse.Namespace) -> None:
    """One choice in a process of its own, for its memory."""
    history = mixed(arguments.packages, arguments.real, arguments.size)
    started = time.monotonic()
    caches = policies.policy(arguments.policy).choose(history, 5 * 10**9, {})
    seconds = time.monotonic() - started
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "memory": memory, "caches": len(caches)}))


def scale(arguments: argparse.Namespace) -> None:
    machine()
    row("distinct requests", "`paper`: s, GB", "`greedy`: s, GB", "`nested`: s, GB")
    row("---", "---", "---", "---")
    for size in arguments.sizes:
        cells = []
        for name in ("paper", "greedy", "nested"):
            files = ["--packages", arguments.packages, "--real", arguments.real]
            argv = [sys.executable, __file__, "learn", *files, name, str(size)]
            found = json.loads(subprocess.run(argv, capture_output=True, check=True).stdout)
            cells.append(f"{found['seconds']:.1f}, {found['memory'] / 1e9:.2f}")
        row(size, *cells)


def nested(
    *,
    offer: Callable[[History], Sets] = lambda history: grow.chains(history.table, policies.DOUBT),
    limit: int | None = policies.LIMIT,
    depth: int | None = policies.DEPTH,
    doubt: int = policies.DOUBT,
    window: int | None = None,
) -> Policy:
    """`nested`, done otherwise."""

    def chosen(history: History, budget: int, stored: Stored) -> tuple[Cache, ...]:
        past = history if window is None else history.part(max(len(history) - window, 0), len(history))
        offered = offer(past)
        taken = choose.nested(past.table, offered, budget, limit=limit, depth=depth, doubt=doubt)
        return policies.caches(past, offered, taken, nested=True)

    return Policy("nested, changed", "", chosen)


def clusters(history: History) -> Sets:
    return choose.sets(history.table, learn_.cluster(history.table).bits)


def seconds_of(package: str, size: int) -> float:
    """To unpack, configure and compress: fitted by eye to the 81 packages of 298 MB that took 10 s in all."""
    return 0.08 + 13e-9 * size


def in_seconds(history: History) -> Sets:
    """The chains, each worth the seconds it saves, in microseconds."""
    offered = grow.chains(history.table, policies.DOUBT)
    pairs = zip(history.packages, history.weights.tolist(), strict=True)
    worth = np.array([1e6 * seconds_of(package, size) for package, size in pairs]).astype(np.int64)
    rows = unpack(offered.bits, len(history.table.weights))
    return replace(
        offered, worth=np.array([worth[history.columns(row)].sum() for row in rows], dtype=np.int64)
    )


def in_bytes_and_seconds(trace: History, policy: Policy, every: int) -> str:
    """Shares saved, in percent, replayed with 5 GB."""
    weights = dict(zip(trace.packages, trace.weights.tolist(), strict=True))
    used: tuple[Cache, ...] = ()
    saved, asked = np.zeros(2), np.zeros(2)

    def cost(packages: Set[str]) -> Any:
        sizes = [weights[package] for package in packages]
        return np.array([sum(sizes), sum(seconds_of("", size) for size in sizes)])

    for number, request in enumerate(trace.sequence.tolist()):
        if number >= 50:
            asked += cost(trace.sets[request])
            if (cache := lookup.find(trace.sets[request], used)) is not None:
                saved += cost(cache.packages)
        if (number + 1) % every == 0:
            used = policy.choose(trace.part(0, number + 1), 5 * 10**9, {})
    return ", ".join(f"{share:.1f}" for share in 100 * saved / asked)


def tried(arguments: argparse.Namespace) -> None:
    machine()
    dated = traces.read(arguments.packages, arguments.real, order="date")
    real = traces.read(arguments.packages, arguments.real)
    first = real.part(0, 1000)
    row("`nested`, 5 GB, changed in", "by date: bytes %, seconds %", "first 1,000 in file order, every 100")
    row("---", "---", "---")
    for text, policy, slower in (
        ("nothing", nested(), 1.0),
        ("candidates: clusters instead of growth chains", nested(offer=clusters), 1.0),
        ("no doubt about sets that few asked for", nested(doubt=0), 1.0),
        ("twice the doubt", nested(doubt=4), 1.0),
        ("half as many caches (32)", nested(limit=32), 1.0),
        ("twice as many caches (128)", nested(limit=128), 1.0),
        ("any number of caches, any depth", nested(limit=None, depth=None), 1.0),
        ("depth 4", nested(depth=4), 1.0),
        ("depth 16", nested(depth=16), 1.0),
        ("only the last 300 requests", nested(window=300), 1.0),
        ("chosen five times as often", nested(), 0.2),
        ("chosen four times as seldom", nested(), 4.0),
        ("objective: seconds", nested(offer=in_seconds), 1.0),
    ):
        row(
            text,
            in_bytes_and_seconds(dated, policy, int(50 * slower)),
            in_bytes_and_seconds(first, policy, int(100 * slower)),
        )
    print()
    yardstick(real)


def yardstick(real: History) -> None:
    """The greedy choices beside the best there are, of the same candidates, on parts of the history."""
    chance = random.Random(7)  # noqa: S311 - no secret
    row("caches", "requests", "space", "greedy, % saved", "best found, %", "bound, %")
    row(*("---" for _ in range(6)))
    for nested_, size, part in ((False, 100, 0.1), (False, 100, 0.3), (True, 12, 0.1), (True, 12, 0.3)):
        shares = []
        for _ in range(4):
            start = chance.randrange(len(real) - size)
            history = real.part(start, start + size)
            table, offered = history.table, grow.chains(history.table)
            budget = int(part * table.weights.sum())
            fill = choose.nested if nested_ else choose.greedily
            held = np.zeros(len(table.counts), dtype=np.int64)
            for one in fill(table, offered, budget):
                held[offered.members[one]] = np.maximum(held[offered.members[one]], offered.sizes[one])
            asked = int((table.counts * table.sizes).sum())
            greedy = int((table.counts * held).sum())
            shares.append([100 * found / asked for found in (greedy, *best(table, offered, budget, nested_))])
        means = (f"{share:.1f}" for share in np.mean(shares, axis=0))
        row("nested" if nested_ else "flat", size, f"{100 * part:.0f}% of their packages", *means)


def best(table: Table, offered: Sets, budget: int, nested_: bool) -> tuple[float, float]:
    """Bytes saved by the best choice, and a bound, by an integer programme; half a minute at most.

    Variables: a set is stored over the base or over another one (or not at all); a request starts from a set.
    """
    over: list[tuple[int, int]] = []
    for one in range(len(offered)):
        over.append((one, -1))
        if nested_:
            below = choose.subsets(offered.bits, offered.bits[one])
            over += [(one, int(other)) for other in np.flatnonzero(below) if other != one]
    starts = [(one, int(member)) for one, members in enumerate(offered.members) for member in members]
    sizes = np.append(offered.sizes, 0).astype(float)
    unit = 1e6
    cost = np.array([sizes[one] - sizes[other] for one, other in over]) / unit
    gain = np.array([table.counts[member] * sizes[one] for one, member in starts]) / unit
    count, pairs = len(over), len(over) + len(starts)
    entries: list[tuple[int, int, float]] = []
    rows_ = 0

    def at_most(terms: Iterable[tuple[int, float]]) -> None:
        nonlocal rows_
        entries.extend((rows_, column, value) for column, value in terms)
        rows_ += 1

    stored = {
        one: [place for place, (upper, _) in enumerate(over) if upper == one] for one in range(len(offered))
    }
    limits = []
    for places in stored.values():
        at_most((place, 1.0) for place in places)
        limits.append(1.0)
    for place, (_, other) in enumerate(over):
        if other >= 0:
            at_most([(place, 1.0), *((below, -1.0) for below in stored[other])])
            limits.append(0.0)
    for number, (one, _) in enumerate(starts):
        at_most([(count + number, 1.0), *((place, -1.0) for place in stored[one])])
        limits.append(0.0)
    for member in range(len(table.counts)):
        at_most((count + number, 1.0) for number, (_, other) in enumerate(starts) if other == member)
        limits.append(1.0)
    at_most(enumerate(cost.tolist()))
    limits.append(budget / unit)
    lines, columns, values = zip(*entries, strict=True)
    matrix = csr_array((values, (lines, columns)), shape=(rows_, pairs))
    result = milp(
        -np.concatenate([np.zeros(count), gain]),
        integrality=np.concatenate([np.ones(count), np.zeros(len(starts))]),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(matrix, ub=np.array(limits)),
        options={"time_limit": 30},
    )
    found = 0.0 if result.x is None else -result.fun
    bound = found if result.mip_dual_bound is None else -result.mip_dual_bound
    return found * unit, bound * unit


if __name__ == "__main__":
    main()
