"""`vclust site`: commands for a site as a whole."""

import argparse
from typing import Any

from vclust_py.cli import backup


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """`vclust site` with its own commands."""
    text = "look after a site as a whole"
    site = commands.add_parser("site", help=text, description=text[0].upper() + text[1:] + ".")
    backup.add_commands(site.add_subparsers(metavar="COMMAND", required=True))
