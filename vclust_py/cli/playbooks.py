"""How a command runs one of the project's playbooks that change something: its progress, its failure."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclust_py.arguments import locked
from vclust_py.cli import messages
from vclust_py.cli.progress import Display, Follow, Rows, as_row, cluster_progress, display
from vclust_py.cli.sites import inventory, known_sites
from vclust_py.phases import ORDER
from vclust_py.site.users import reading_as_caller
from vclust_py.text import DETAIL, plain

if TYPE_CHECKING:
    from vclust_py.cli.runner import Outcome

STANDARD_INPUT = Path("-")
"""In the place of a request file."""


def request(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The cluster's name and the playbook's variables; a mistaken request is refused here."""
    from vclust_py import request

    # Once, and as the one who typed its name: root may read more, and an error quotes what it finds.
    with reading_as_caller():
        if arguments.request == STANDARD_INPUT:
            asked = request.read_stream(sys.stdin.buffer, str(STANDARD_INPUT))
        else:
            asked = request.read(arguments.request)
    variables: dict[str, Any] = {"vclust_request": request.to_mapping(asked)}
    if arguments.locked:
        from vclust_py.lock import Lock

        Lock.from_json(locked(arguments.locked), str(arguments.locked))
        variables["locked"] = str(arguments.locked.resolve())
    return asked.name, variables


def create(
    name: str, variables: Mapping[str, Any], arguments: argparse.Namespace, *, last: str | None = None
) -> "Outcome":
    """Run `create_vcluster.yml`; in check mode and no further than the phase `last`, if that is given."""
    phases = ORDER if last is None else ORDER[: ORDER.index(last) + 1]
    tags = () if last is None else ("choose", *phases)
    if len(known_sites(arguments)) > 1:
        phases = ("choose", *phases)
    follow = Follow(cluster_progress(name))
    outcome = run(
        "create_vcluster.yml",
        variables,
        arguments,
        phases=phases,
        follow=follow,
        check=last is not None,
        tags=tags,
    )
    for module in ("vclust_choose", "vclust_resolve", "vclust_distribute"):
        warn(outcome.results.get(module, {}))
    return outcome


def run(
    playbook: str,
    variables: Mapping[str, Any],
    arguments: argparse.Namespace,
    *,
    phases: Sequence[str],
    follow: Follow,
    check: bool = False,
    diff: bool = False,
    limit: str = "",
    tags: Sequence[str] = (),
) -> "Outcome":
    """Run a playbook, show its progress and tell a failure; an interruption is for the caller to tell."""
    from vclust_py.cli.runner import play

    def on_result(module: str, result: Mapping[str, Any]) -> None:
        follow.found(module, result)
        if module == "vclust_place" and "plan" in result:
            shown.expect(_seconds(result["plan"]["estimate"], phases))

    live = sys.stderr.isatty() and not arguments.verbose
    with display(phases, live=live) as shown, follow:
        told = _InOrder(shown, follow, phases)
        outcome = play(
            playbook,
            variables,
            inventory=inventory(arguments),
            check=check,
            diff=diff,
            limit=limit,
            tags=tags,
            verbosity=arguments.verbose,
            # Ansible announces the phases after the last one, too: it checks the arguments of every role.
            on_phase=lambda phase: told.begin(phase) if phase in phases else None,
            on_result=on_result,
            on_tick=told.look,
            on_start=follow.started,
            on_step=lambda phase, message: told.look([as_row(phase, message)]),
        )
    if outcome.error and outcome.exit_code != 130:
        where = f"{outcome.phase}: " if outcome.phase else ""
        messages.error(f"{where}{outcome.failure}")
    return outcome


class _InOrder:
    """Shows what phases say under their own heading: Ansible announces them late, their words are there at once."""

    def __init__(self, shown: Display, follow: Follow, phases: Sequence[str]) -> None:
        self._shown, self._follow, self._to_come = shown, follow, set(phases)
        self._waiting: Rows = []

    def begin(self, phase: str) -> None:
        self.look()
        self._shown.phase(phase)
        self._to_come.discard(phase)
        self.look()

    def look(self, others: Sequence[dict[str, Any]] = ()) -> None:
        """Show what is new, and what came by another way."""
        rows = [*self._waiting, *others, *self._follow.rows()]
        self._waiting = [row for row in rows if row["phase"] in self._to_come]
        self._shown.progress([row for row in rows if row["phase"] not in self._to_come])


def _seconds(estimate: Mapping[str, Any], phases: Sequence[str]) -> dict[str, float]:
    """What each phase is expected to take; nothing where that is not known, none to speak of where it keeps books."""
    unknown = set(estimate["unknown"])
    return {phase: estimate["seconds"].get(phase, 0.0) for phase in phases if phase not in unknown}


def warn(result: Mapping[str, Any]) -> None:
    """What a module wants to be known though it did not fail."""
    for warning in result.get("warnings", ()):
        messages.warning(plain(warning, DETAIL))


def failed(outcome: "Outcome", arguments: argparse.Namespace, **known: Any) -> int:
    """The exit code of a run whose failure was told; with `--json` an object of it too, with what else is `known`."""
    if arguments.json:
        error = "interrupted" if outcome.exit_code == 130 else outcome.failure
        told = {"exit_code": outcome.exit_code, "error": error, "phase": outcome.phase}
        print(json.dumps({**told, **known}, indent=2))
    return outcome.exit_code
