"""`vclust site backup`, `restore` and `repair`: a site's state in a file, and a site manager that takes it up again."""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vclust_py.arguments import file, typed
from vclust_py.cli import playbooks
from vclust_py.cli.progress import Follow

if TYPE_CHECKING:
    from vclust_py.cli.runner import Outcome


def add_commands(
    add: Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser],
) -> None:
    """Add them with `add`, which takes a name, the command and a text for people."""
    writing = add(
        "backup", _backup, "write the state of a site to a file, which holds keys and password hashes"
    )
    reading = add("restore", _restore, "make the state in a backup that of a new site manager")
    for one in (writing, reading):
        one.add_argument("file", type=file, metavar="FILE", help="on this machine")
        one.add_argument(
            "--site", type=typed("site"), metavar="SITE", help="which, where the inventory has several"
        )
    reading.add_argument(
        "--replace", action="store_true", help="in the place of a state that is there, after a backup of that"
    )
    reading.add_argument("--check", action="store_true", help="only check the backup")
    repairing = add(
        "repair", _repair, "bring back the way to running nodes, after a restart of the site manager"
    )
    repairing.add_argument("--check", action="store_true", help="only say what is not there")


def _backup(arguments: argparse.Namespace) -> int:
    outcome = _run("backup.yml", arguments, _variables(arguments), ("backup",))
    if outcome.exit_code == 0:
        result = outcome.results["vclust_backup"]
        print(f"{arguments.file}: {result['bytes'] / 1e6:.1f} MB, {_count(result['clusters'])}")
    return outcome.exit_code


def _restore(arguments: argparse.Namespace) -> int:
    variables = _variables(arguments) | ({"replace": True} if arguments.replace else {})
    outcome = _run("restore.yml", arguments, variables, ("restore", "repair"), check=arguments.check)
    if (result := outcome.results.get("vclust_restore")) is not None:
        playbooks.warn(result)
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(result["created"]))
        print(
            f"{'would restore' if arguments.check else 'restored'} the state of {day}: {_count(result['clusters'])}"
        )
        if result["earlier"]:
            print(f"what was there before is in {result['earlier']} on the site manager")
    playbooks.warn(outcome.results.get("vclust_repair", {}))
    return outcome.exit_code


def _repair(arguments: argparse.Namespace) -> int:
    outcome = _run("repair.yml", arguments, {}, ("repair",), check=arguments.check)
    for manager, results in sorted(outcome.hosts.items()):
        result = results.get("vclust_repair", {"repaired": [], "removed": []})
        playbooks.warn(result)
        done = ("to repair", "to be removed") if arguments.check else ("repaired", "removed")
        print(f"{manager}: {', '.join(result['repaired']) or 'nothing'} {done[0]}")
        if left := result["removed"]:
            print(f"{manager}: {', '.join(left)} {done[1]}: networks of no cluster")
    return outcome.exit_code


def _variables(arguments: argparse.Namespace) -> dict[str, Any]:
    site = {} if arguments.site is None else {"site": arguments.site}
    return {"file": str(arguments.file.absolute()), **site}


def _run(
    playbook: str,
    arguments: argparse.Namespace,
    variables: dict[str, Any],
    phases: tuple[str, ...],
    *,
    check: bool = False,
) -> "Outcome":
    return playbooks.run(
        playbook, variables, arguments, phases=phases, follow=Follow(lambda session: []), check=check
    )


def _count(clusters: list[str]) -> str:
    return f"{len(clusters)} cluster{'' if len(clusters) == 1 else 's'}"
