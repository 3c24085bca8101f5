"""How the `vclust` command runs a playbook: its variables, its progress, its failure."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vclust_py.arguments import locked
from vclust_py.errors import RequestError, VclustError
from vclust_py.site import Site
from vclust_py.text import MESSAGE, plain

if TYPE_CHECKING:
    from vclust_py.play import Outcome

# Everything else is imported where it is used: `vclust --help` must not wait for it.

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Rows = list[dict[str, Any]]
"""Progress: phase, node, message, done, total."""


def request(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The cluster's name and the playbook's variables; a mistaken request is refused here."""
    from vclust_py import request

    asked = request.read(arguments.request)
    variables = {"request": str(arguments.request.resolve())}
    if arguments.locked:
        from vclust_py.lock import Lock

        Lock.from_json(locked(arguments.locked), str(arguments.locked))
        variables["locked"] = str(arguments.locked.resolve())
    return asked.name, variables


def create(
    name: str, variables: Mapping[str, Any], arguments: argparse.Namespace, *, last: str | None = None
) -> "Outcome":
    """Run `create_vcluster.yml`; in check mode and no further than the phase `last`, if that is given."""
    from vclust_py.display import PHASES

    phases = PHASES if last is None else PHASES[: PHASES.index(last) + 1]
    follow = Follow(cluster_progress(name))
    tags = () if last is None else phases
    return run(
        "create_vcluster.yml",
        variables,
        arguments,
        phases=phases,
        follow=follow,
        check=last is not None,
        tags=tags,
    )


def status(arguments: argparse.Namespace, variables: Mapping[str, Any], tag: str) -> "Outcome":
    """What `status.yml` reads under that tag.  Raises VclustError with the exit code of what failed."""
    from vclust_py.play import play

    outcome = play(
        "status.yml",
        variables,
        inventory=inventory(arguments),
        tags=(tag,),
        verbosity=arguments.verbose,
    )
    if outcome.exit_code == 130:
        raise KeyboardInterrupt
    if outcome.exit_code:
        error = VclustError(outcome.failure)
        error.exit_code = outcome.exit_code
        raise error
    if not outcome.results:
        path = arguments.inventory or "inventories/local"
        raise RequestError([f"{path}: no site, expected a group site_<name> with a host of site_managers"])
    return outcome


def inventory(arguments: argparse.Namespace) -> Path | None:
    path: Path | None = arguments.inventory
    if path is None:
        return None
    if os.path.expandvars(whole := str(path.resolve())) != whole:
        # Ansible takes it for a variable of the environment.
        raise RequestError([f"{path}: got a name with a $, expected one without"])
    try:
        if path.exists():
            return path
        why = "no such file or folder"
    except OSError as error:
        why = error.strerror or str(error)
    raise RequestError([f"{path}: got {why}, expected an inventory"])


def run(
    playbook: str,
    variables: Mapping[str, Any],
    arguments: argparse.Namespace,
    *,
    phases: Sequence[str],
    follow: "Follow",
    check: bool = False,
    tags: Sequence[str] = (),
) -> "Outcome":
    """Run a playbook, show its progress and tell a failure; an interruption is for the caller to tell."""
    from vclust_py.display import display
    from vclust_py.play import play

    with display(phases, live=sys.stderr.isatty() and not arguments.verbose) as shown:
        outcome = play(
            playbook,
            variables,
            inventory=inventory(arguments),
            check=check,
            tags=tags,
            verbosity=arguments.verbose,
            # Ansible announces the phases after the last one, too: it checks the arguments of every role.
            on_phase=lambda phase: shown.phase(phase) if phase in phases else None,
            on_result=follow.found,
            on_tick=lambda: shown.progress(follow.rows()),
        )
    if outcome.error and outcome.exit_code != 130:
        where = f"{outcome.phase}: " if outcome.phase else ""
        print(plain(f"vclust: {where}{outcome.failure}", MESSAGE, lines=True), file=sys.stderr)
    return outcome


class Follow:
    """Reads progress from the site's state, if that is on this machine."""

    def __init__(self, read: Callable[[Site], Rows]) -> None:
        self._read = read
        self._site: Site | None = None

    def found(self, module: str, result: Mapping[str, Any]) -> None:
        """The first module says where it ran and where the state is."""
        place = result.get("site_manager") or {}
        if place.get("boot_id") == _BOOT_ID.read_text().strip() and os.geteuid() == 0:
            self._site = Site(root=Path(place["root"]))
            # A cluster that is taken up has rows of its earlier runs.
            self.rows()

    def rows(self) -> Rows:
        if self._site is None:
            return []
        try:
            return self._read(self._site)
        except VclustError:
            # Only the display is the poorer for it: the modules will say what is wrong with the state.
            return []


def cluster_progress(name: str) -> Callable[[Site], Rows]:
    """Reads what is new of one cluster."""
    last = 0

    def read(site: Site) -> Rows:
        from vclust_py.site import records
        from vclust_py.site.store import Store

        nonlocal last
        store = Store(site)
        try:
            rows = records.progress(store, name, last)
        finally:
            store.close()
        if rows:
            last = rows[-1]["id"]
        return rows

    return read
