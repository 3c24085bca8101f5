"""The commands that tell what was with a cluster: events, logs, console."""

import argparse
import json
from collections.abc import Callable

from vclust_py.arguments import typed
from vclust_py.cli import sites
from vclust_py.cli.login import node_of
from vclust_py.errors import VclustError


def add_commands(
    add: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
) -> None:
    """Add them with `add`, which takes a name, the command and a text for people."""
    events = add("events", _events, "show what has happened to a cluster since it was made")
    logs = add("logs", _logs, "show what each phase and node has said, and how failed nodes ended")
    console = add("console", _console, "show what the console of a node says")
    for one in (events, logs, console):
        one.add_argument(
            "cluster",
            type=typed("reference"),
            metavar="NAME",
            help="name of the cluster; SITE/NAME where two sites have one",
        )
    for one in (events, logs):
        one.add_argument("--json", action="store_true", help="print JSON")
    console.add_argument("node", type=typed("node"), metavar="NODE", help="its name, or its number from 1 on")
    console.add_argument("-f", "--follow", action="store_true", help="go on with what it says, until Ctrl-C")


def _events(arguments: argparse.Namespace) -> int:
    _, cluster = sites.cluster(arguments)
    if arguments.json:
        print(json.dumps(cluster["events"], indent=2))
    else:
        from vclust_py.cli.tables import show_events

        show_events(cluster)
    return 0


def _logs(arguments: argparse.Namespace) -> int:
    _, cluster = sites.cluster(arguments)
    if arguments.json:
        print(json.dumps({key: cluster[key] for key in ("phases", "node_phases", "consoles")}, indent=2))
    else:
        from vclust_py.cli.tables import show_logs

        show_logs(cluster)
    return 0


def _console(arguments: argparse.Namespace) -> int:
    site, cluster = sites.cluster(arguments)
    node = node_of(cluster, arguments.node)
    place = next((one for one in sites.places_here(arguments) if one.site == site), None)
    if place is None:
        raise VclustError(
            f"{cluster['name']}: its consoles are read on the site manager of {site}", "say it there, as root"
        )

    from vclust_py.life.terminal import lines
    from vclust_py.site import Site
    from vclust_py.site.session import Session

    with Session(Site.from_mapping(place.where["settings"])) as session:
        for line in lines(session, cluster["name"], node["name"], follow=arguments.follow):
            print(line, flush=arguments.follow)
    return 0
