"""`vclust send`: files to hosts."""

import argparse
import json
from typing import Any

from vclust_py.arguments import checked
from vclust_py.cli import playbooks
from vclust_py.cli.progress import Follow
from vclust_py.errors import RequestError


def send(arguments: argparse.Namespace) -> int:
    from vclust_py.chain import push

    files = checked("FILE", "files", [{"path": str(path.absolute())} for path in arguments.files])
    variables = {"files": files, "to": arguments.to}
    outcome = playbooks.run(
        "send_files.yml",
        variables,
        arguments,
        phases=("send",),
        follow=Follow(lambda session: push.progress(session.site)),
        check=arguments.check,
    )
    if outcome.exit_code:
        return playbooks.failed(outcome, arguments)
    told = [results["vclust_chain"] for results in outcome.hosts.values() if "vclust_chain" in results]
    if not told:
        raise RequestError([f"{arguments.to}: none of these hosts is another machine than its site manager"])
    rows = {
        host: {"files": names, **one["sent"].get(host, {})}
        for one in told
        for host, names in one["lacks"].items()
    }
    for one in told:
        playbooks.warn(one)
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        from vclust_py.cli.tables import say

        for host, row in sorted(rows.items()):
            say(f"{host}: {_sent(row, arguments.check)}")
    return 0


def _sent(row: dict[str, Any], check: bool) -> str:
    """What a host lacks or got; MB and MB/s as users count, of the files."""
    if not row["files"]:
        return "has them all"
    names = ", ".join(row["files"])
    if check:
        return f"lacks {names}"
    size, came, seconds = row["bytes"], row["received"], row["seconds"]
    less = f", {came / 1e6:.1f} MB over the network" if came < size else ""
    return f"got {names}: {size / 1e6:.1f} MB in {seconds:.1f} s, {size / 1e6 / max(seconds, 1e-3):.0f} MB/s{less}"
