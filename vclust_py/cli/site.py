"""`vclust site`: the machines of the sites: rolling them out, how they are, their keys, their state in a file."""

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any

from vclust_py.arguments import typed
from vclust_py.cli import backup, messages, playbooks, sites
from vclust_py.cli.progress import Follow, Rows
from vclust_py.errors import RequestError, VclustError
from vclust_py.text import DETAIL, MESSAGE, plain

PHASES = ("site_manager", "vm_host")
"""The roles of a roll-out, in their order."""


def add_parser(commands: "argparse._SubParsersAction[Any]") -> None:
    """`vclust site` with its own commands."""
    text = "the machines of the sites: roll-out, state, keys, backup"
    site = commands.add_parser("site", help=text, description=text[0].upper() + text[1:] + ".")
    inner = site.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added: argparse.ArgumentParser = inner.add_parser(
            name, help=text, description=text[0].upper() + text[1:] + "."
        )
        added.set_defaults(command=command)
        return added

    rollout = add("rollout", _rollout, "make site managers and hosts as the inventory wants them")
    keys = add("rotate-keys", _rotate_keys, "replace all keys of the sites, their authorities' among them")
    for one in (rollout, keys):
        one.add_argument("--check", action="store_true", help="only say what would be changed")
        one.add_argument("--diff", action="store_true", help="show changes of files and certificates")
    rollout.add_argument(
        "--limit",
        type=typed("machines"),
        metavar="HOST",
        help="only this host, or the hosts of this group; no other is touched",
    )
    rollout.add_argument(
        "--reboot", action="store_true", help="restart hosts that must be to run their hypervisor"
    )
    status = add("status", _status, "show each host: what it has, runs, and what is wrong with it")
    status.add_argument("--json", action="store_true", help="print JSON")
    backup.add_commands(add)


class _Hosts(Follow):
    """What each machine is at."""

    def __init__(self) -> None:
        super().__init__(lambda session: [])
        self._tasks: dict[str, str] = {}

    def started(self, host: str, task: str) -> None:
        self._tasks[host] = task

    def rows(self) -> Rows:
        """What is new since the last call."""
        begun, self._tasks = self._tasks, {}
        return [
            {"phase": "rollout", "node": host, "message": task, "done": 0, "total": 0}
            for host, task in begun.items()
        ]


def _rollout(arguments: argparse.Namespace) -> int:
    variables = {"vclust_reboot": True} if arguments.reboot else {}
    return _play(arguments, variables, limit=arguments.limit or "")


def _rotate_keys(arguments: argparse.Namespace) -> int:
    return _play(arguments, {"vclust_rotate_keys": True})


def _play(arguments: argparse.Namespace, variables: Mapping[str, Any], *, limit: str = "") -> int:
    """Run the roll-out, and say of each machine what became of it; 4 too when replacing keys waits for a host."""
    outcome = playbooks.run(
        "site.yml",
        variables,
        arguments,
        phases=PHASES,
        follow=_Hosts(),
        check=arguments.check,
        diff=arguments.diff,
        limit=limit,
    )
    if outcome.exit_code == 130:
        return 130
    for change in outcome.changes if arguments.diff else ():
        _show_difference(change)
    counts: dict[str, int] = {}
    for change in outcome.changes:
        counts[change["host"]] = counts.get(change["host"], 0) + 1
    would = "would be " if arguments.check else ""
    for host in sorted(outcome.hosts.keys() | outcome.failures.keys()):
        if host in outcome.failures:
            text = f"failed: {outcome.failures[host].splitlines()[0]}"
        elif count := counts.get(host, 0):
            text = f"{count} {'thing' if count == 1 else 'things'} {would}changed"
        else:
            text = "as it should be"
        print(plain(f"{host}: {text}", MESSAGE))
    for text in outcome.messages:
        print(plain(text, MESSAGE, lines=True))
    told = [found.get("vclust_pki", {}) for found in outcome.hosts.values()]
    if outcome.exit_code and any(one.get("rotation") for one in told):
        messages.error(
            "keys are being replaced, and the old ones serve as well until all hosts have followed:"
            " run the roll-out again"
        )
    waits = any(one.get("waiting") for one in told) and not arguments.check
    return outcome.exit_code or (4 if waits else 0)


def _show_difference(change: Mapping[str, Any]) -> None:
    import difflib

    print(plain(f"{change['host']}: {change['task']}", MESSAGE))
    found = change["diff"] if isinstance(change["diff"], list) else [change["diff"]]
    for one in found:
        if "prepared" in one:
            lines = str(one["prepared"]).splitlines()
        else:
            before, after = (_lines(one.get(side, "")) for side in ("before", "after"))
            header = str(one.get("before_header") or "")
            lines = list(difflib.unified_diff(before, after, header, header, lineterm="", n=1))
        for line in lines:
            print(plain(f"    {line}", DETAIL))


def _lines(side: Any) -> list[str]:
    """One side of a difference: text, or a mapping of what was found to what it is."""
    if isinstance(side, Mapping):
        return [f"{name}: {value}" for name, value in side.items()]
    return str(side or "").splitlines()


def _status(arguments: argparse.Namespace) -> int:
    from vclust_py.cli.runner import play

    outcome = play("site_status.yml", {}, inventory=sites.inventory(arguments), verbosity=arguments.verbose)
    if outcome.exit_code == 130:
        raise KeyboardInterrupt
    found = [
        {
            "manager": manager,
            "site": told["site_manager"]["site"],
            **{key: told[key] for key in ("hosts", "leftovers", "authority")},
        }
        for manager, results in sorted(outcome.hosts.items())
        if (told := results.get("vclust_hosts"))
    ]
    if not found:
        if outcome.exit_code:
            failures = [f"{manager}: {failure}" for manager, failure in outcome.failures.items()]
            error = VclustError("\n".join(failures) or outcome.error)
            error.exit_code = outcome.exit_code
            raise error
        path = arguments.inventory or "inventories/local"
        raise RequestError([f"{path}: no site, expected a group site_<name> with a host of site_managers"])
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        from vclust_py.cli.tables import show_hosts

        for number, one in enumerate(found):
            show_hosts(one, title=len(found) + len(outcome.failures) > 1, first=number == 0)
    for manager, failure in outcome.failures.items():
        messages.error(f"{manager}: {failure}")
    if outcome.exit_code:
        return outcome.exit_code
    return 4 if any(host["problems"] for one in found for host in one["hosts"]) else 0
