"""How far off the time estimates of a site's past runs were: each run estimated from those before it.

    sudo .venv/bin/python tests/benchmarks/estimates.py [DATABASE] [--json]

DATABASE is a site's state.db, which is copied and not changed; the default is that of the test suite.
"""

import argparse
import json
import sqlite3
import statistics
import tempfile
from pathlib import Path
from typing import Any

from vclust_py import fitting
from vclust_py.site import Site
from vclust_py.site.store import Store


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("database", type=Path, nargs="?", default="/var/lib/vclust-test/state.db")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(root=Path(folder))
        with (
            sqlite3.connect(f"file:{arguments.database}?mode=ro", uri=True) as source,
            sqlite3.connect(site.database) as copy,
        ):
            source.backup(copy)
        source.close()
        copy.close()
        store = Store(site)
        rows = table(store)
        store.close()
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print(f"{'runs of':14} {'runs':>5} {'estimated':>9} {'median s':>9} {'model':>12} {'median of like':>15}")
    for row in rows:
        model, median = (
            "-" if row[name] is None else f"{row[name]['half']:.0%} / {row[name]['nine_tenths']:.0%}"
            for name in ("model", "median")
        )
        print(
            f"{row['kind']:14} {row['runs']:5} {row['estimated']:9} {row['seconds']:9.2f} {model:>12} {median:>15}"
        )


def table(store: Store) -> list[dict[str, Any]]:
    """By kind of run, relative errors of the model and of the median of like runs, where both could tell."""
    rows = []
    kinds, _ = fitting.by_kind(store)
    for kind, (phase, runs) in sorted(kinds.items()):
        both = [
            one for one in fitting.forecasts(phase, runs) if one.model is not None and one.median is not None
        ]
        rows.append(
            {
                "kind": kind,
                "runs": len(runs),
                "estimated": len(both),
                "seconds": statistics.median(run.seconds for run in runs),
                "model": spread([fitting.relative_error(one.model or 0, one.run.seconds) for one in both]),
                "median": spread([fitting.relative_error(one.median or 0, one.run.seconds) for one in both]),
            }
        )
    return rows


def spread(errors: list[float]) -> dict[str, float] | None:
    """Half of the estimates, and nine tenths of them, were off by no more."""
    if not errors:
        return None
    ordered = sorted(errors)
    return {
        "half": statistics.median(ordered),
        "nine_tenths": ordered[min(int(0.9 * len(ordered)), len(ordered) - 1)],
    }


if __name__ == "__main__":
    main()
