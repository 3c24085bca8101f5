"""The commands for homes that a site keeps: list and remove."""

import argparse
import json
from typing import Any

from vclust_py.arguments import typed
from vclust_py.cli import playbooks, sites
from vclust_py.cli.progress import Follow
from vclust_py.text import MESSAGE, plain


def add_parser(commands: Any) -> None:
    """Add `home` with its own commands to the parser of all."""
    home = commands.add_parser(
        "home",
        help="list homes that outlive clusters, or remove an owner's",
        description="Homes that sites keep for clusters (Home: site in a request).",
    )
    inner = home.add_subparsers(metavar="COMMAND", required=True)
    listing = inner.add_parser(
        "list", help="list homes by their owners", description="List homes by their owners."
    )
    removing = inner.add_parser(
        "remove",
        help="remove all homes of an owner, with all that is in them",
        description="Remove all homes of an owner, with all that is in them.",
    )
    listing.set_defaults(command=_list)
    removing.set_defaults(command=_remove)
    removing.add_argument(
        "owner", type=typed("person"), metavar="OWNER", help="whose they are: who has asked for the clusters"
    )
    removing.add_argument(
        "--site",
        type=typed("site"),
        metavar="SITE",
        help="where they are (default: the only site that has some)",
    )
    removing.add_argument("--check", action="store_true", help="only say whether it can be done")
    for one in (listing, removing):
        one.add_argument("--json", action="store_true", help="print JSON, of an error too")


def _list(arguments: argparse.Namespace) -> int:
    answers = sites.homes(arguments)
    found = answers.rows("homes")
    answers.warn()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        from vclust_py.cli.tables import show_homes

        show_homes(found, several=len(answers.sites) > 1)
    return answers.exit_code


def _remove(arguments: argparse.Namespace) -> int:
    owner = arguments.owner
    outcome = playbooks.run(
        "remove_homes.yml",
        {"owner": owner, "site": _site(arguments)},
        arguments,
        phases=("home",),
        follow=Follow(lambda _: []),
        check=arguments.check,
    )
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, owner=owner)
    result = outcome.results["vclust_home"]
    playbooks.warn(result)
    if arguments.json:
        print(json.dumps({"exit_code": 0, "owner": owner, "changed": result["changed"]}, indent=2))
    else:
        would = "would be removed" if arguments.check else "are removed"
        print(plain(f"homes of {owner} {would if result['changed'] else 'were not there'}", MESSAGE))
    return 0


def _site(arguments: argparse.Namespace) -> str:
    """The site that was named, or the only one that has such homes."""
    if arguments.site:
        return str(arguments.site)
    answers = sites.homes(arguments)
    having = [one["site"] for one in answers.rows("homes") if one["owner"] == arguments.owner]
    return sites.only_site(answers, having, f"{arguments.owner}: has homes in")
