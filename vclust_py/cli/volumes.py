"""The commands for volumes: list and remove."""

import argparse
import json
from typing import Any

from vclust_py.arguments import typed
from vclust_py.cli import playbooks, sites
from vclust_py.cli.progress import Follow
from vclust_py.text import MESSAGE, plain


def add_parser(commands: Any) -> None:
    """Add `volume` with its own commands to the parser of all."""
    volume = commands.add_parser(
        "volume",
        help="list data disks that outlive clusters, or remove one",
        description="Data disks of clusters (Volume in a request).",
    )
    inner = volume.add_subparsers(metavar="COMMAND", required=True)
    listing = inner.add_parser("list", help="list the volumes", description="List the volumes.")
    removing = inner.add_parser(
        "remove",
        help="remove a volume with all that is on it",
        description="Remove a volume with all that is on it.",
    )
    listing.set_defaults(command=_list)
    removing.set_defaults(command=_remove)
    removing.add_argument("volume", type=typed("volume"), metavar="VOLUME", help="its name")
    removing.add_argument(
        "--owner",
        type=typed("person"),
        metavar="USER",
        help="whose it is (default: one's own, or the only one of that name)",
    )
    removing.add_argument(
        "--site", type=typed("site"), metavar="SITE", help="where it is (default: the only site that has one)"
    )
    removing.add_argument(
        "--forget", action="store_true", help="also where its host does not answer and never will"
    )
    removing.add_argument("--check", action="store_true", help="only say whether it can be done")
    for one in (listing, removing):
        one.add_argument("--json", action="store_true", help="print JSON, of an error too")


def _list(arguments: argparse.Namespace) -> int:
    answers = sites.volumes(arguments)
    found = answers.rows("volumes")
    answers.warn()
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        from vclust_py.cli.tables import show_volumes

        show_volumes(found, several=len(answers.sites) > 1)
    return answers.exit_code


def _remove(arguments: argparse.Namespace) -> int:
    name = arguments.volume
    variables = {"volume": name, "site": _site(arguments)}
    if arguments.owner:
        variables["owner"] = arguments.owner
    if arguments.forget:
        variables["vclust_forget"] = True
    outcome = playbooks.run(
        "remove_volume.yml",
        variables,
        arguments,
        phases=("volume",),
        follow=Follow(lambda _: []),
        check=arguments.check,
    )
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments, volume=name)
    result = outcome.results["vclust_volume"]
    playbooks.warn(result)
    if arguments.json:
        print(json.dumps({"exit_code": 0, "volume": name, "changed": result["changed"]}, indent=2))
    else:
        would = "would be removed" if arguments.check else "is removed"
        print(plain(f"{name} {would if result['changed'] else 'was not there'}", MESSAGE))
    return 0


def _site(arguments: argparse.Namespace) -> str:
    """The site that was named, or the only one that has such a volume."""
    if arguments.site:
        return str(arguments.site)
    answers = sites.volumes(arguments)
    having = [one["site"] for one in answers.rows("volumes") if one["name"] == arguments.volume]
    return sites.only_site(answers, having, f"{arguments.volume}: there is one in")
