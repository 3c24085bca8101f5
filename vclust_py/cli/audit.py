"""`vclust audit`: who has done what at the sites, and when."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from vclust_py.arguments import typed
from vclust_py.cli import sites

if TYPE_CHECKING:
    from vclust_py.site.session import Session


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    text = "show who has created, destroyed and changed what"
    audit = commands.add_parser("audit", help=text, description=text[0].upper() + text[1:] + ".")
    audit.set_defaults(command=_audit)
    audit.add_argument("--user", type=typed("person"), metavar="USER", help="only what USER has done")
    audit.add_argument(
        "--since",
        type=typed("moment"),
        default=0.0,
        metavar="TIME",
        help="only from TIME on: so long ago, as 8h or 2d, or a date, as 2026-01-31 or 2026-01-31T12:00",
    )
    audit.add_argument("--json", action="store_true", help="print JSON")


def _audit(arguments: argparse.Namespace) -> int:
    def read(session: "Session") -> dict[str, Any]:
        from vclust_py.site.store import audited

        return {"audit": audited(session.store, arguments.user or "", arguments.since)}

    variables = {"since": f"{arguments.since:f}", **({"user": arguments.user} if arguments.user else {})}
    answers = sites.ask(arguments, "vclust_audit", "audit", variables, read)
    rows = answers.rows("audit")
    rows.sort(key=lambda row: row["time"])
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        from vclust_py.cli.tables import show_audit

        show_audit(rows, sites=len(answers.sites) + len(answers.failures) > 1)
    answers.warn()
    return answers.exit_code
