"""`vclust report` and `vclust metrics`: what clusters and sites did, as a page to look at and as figures to collect."""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vclust_py.arguments import file, typed
from vclust_py.cli import sites
from vclust_py.errors import RequestError, VclustError


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """`vclust report` and `vclust metrics`."""

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = commands.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        added.set_defaults(command=command)
        return added

    report = add("report", _report, "write a page (HTML) of what a cluster or a site did")
    report.add_argument(
        "cluster",
        nargs="?",
        type=typed("reference"),
        metavar="NAME",
        help="name of the cluster; default: the site, or each of the sites",
    )
    report.add_argument(
        "--output",
        type=file,
        default=Path("."),
        metavar="FILE|DIR",
        help="the page's file, or the folder for it (default: this one)",
    )
    metrics = add("metrics", _metrics, "print figures of the sites for Prometheus")
    metrics.add_argument(
        "--format",
        choices=("openmetrics", "prometheus"),
        default="openmetrics",
        help="OpenMetrics, or the older text form that node_exporter's textfile collector reads",
    )
    metrics.add_argument(
        "--output",
        type=file,
        metavar="FILE",
        help="write them to this file, at one go",
    )


def _report(arguments: argparse.Namespace) -> int:
    from vclust_py.report import page

    if arguments.cluster is not None:
        site, cluster = sites.cluster(arguments)
        _tell(_write(_file(arguments.output, cluster["name"]), page.cluster(cluster, site)))
        return 0
    answers = sites.overview(arguments)
    if len(answers.sites) > 1 and not arguments.output.is_dir():
        names = ", ".join(answer.site for answer in answers.sites)
        raise RequestError([f"--output: {arguments.output}: got a file, expected a folder for {names}"])
    for answer in answers.sites:
        told = answer.result["overview"]
        _tell(_write(_file(arguments.output, f"site-{answer.site}"), page.site(told, answer.site)))
    answers.warn()
    return answers.exit_code


def _metrics(arguments: argparse.Namespace) -> int:
    from vclust_py.report import metrics

    answers = sites.overview(arguments, metrics=True)
    text = metrics.text({answer.site: answer.result["figures"] for answer in answers.sites}, arguments.format)
    if arguments.output is not None:
        _write(arguments.output, text)
    else:
        sys.stdout.write(text)
    answers.warn()
    return answers.exit_code


def _file(output: Path, name: str) -> Path:
    return output / f"vclust-{name}.html" if output.is_dir() else output


def _tell(path: Path) -> None:
    from vclust_py.cli.tables import say

    say(str(path))


def _write(path: Path, text: str) -> Path:
    """Put the file there whole, in the place of one that is there."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(draft, "x", encoding="utf-8") as new:
            new.write(text)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise VclustError(f"{path}: {error.strerror or error}", "name another place with --output") from error
    return path
