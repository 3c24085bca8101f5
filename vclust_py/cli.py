"""The `vclust` command.  It drives the playbooks and shows what they do; the work is theirs."""

import argparse
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vclust_py.cache import cli as cache_cli
from vclust_py.errors import RequestError, VclustError
from vclust_py.run import keep_interruptions
from vclust_py.site import Site

if TYPE_CHECKING:
    from vclust_py.play import Outcome

# Everything else is imported where it is used: `vclust --help` must not wait for it.

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def main(argv: Sequence[str] | None = None) -> NoReturn:
    arguments = parse(sys.argv[1:] if argv is None else argv)
    keep_interruptions()
    try:
        if arguments.root and arguments.inventory is None and os.geteuid() != 0:
            _as_root(sys.argv)
        code = arguments.command(arguments)
    except VclustError as error:
        print(f"vclust: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader has seen enough (`vclust list | head`); nothing more may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What was asked for; ends the process, as argparse does, when that is not clear."""
    words = list(argv)
    remote: list[str] = []
    if "--" in words and "ssh" in words[: words.index("--")]:
        # argparse would drop these dashes, and with them the difference between a node and a command.
        end = words.index("--")
        words, remote = words[:end], words[end + 1 :]
    arguments = _parser().parse_args(words)
    arguments.remote = remote
    return arguments


def _as_root(argv: Sequence[str]) -> NoReturn:
    """Start again by sudo: the embedded site's state, disks and networks are root's."""
    if shutil.which("sudo") is None:
        raise VclustError("this needs root, and there is no sudo", "run it as root, or name a site with -i")
    os.execvp("sudo", ["sudo", "--", str(Path(argv[0]).resolve()), *argv[1:]])  # noqa: S606 - a list, no shell


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vclust",
        description="Virtual clusters on the fly.",
        epilog="Exit status: 0 done, 2 bad usage or request, 3 not enough capacity, 4 failed, 130 Ctrl-C.",
    )
    parser.add_argument(
        "-i", "--inventory", type=Path, metavar="INVENTORY", help="default: inventories/local"
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="show what Ansible prints; -vvv for more"
    )
    parser.set_defaults(root=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(command=command)
        return added

    create = add("create", _create, "create a cluster, or take up an interrupted creation")
    plan = add("plan", _plan, "show where the nodes would run, and the bytes and seconds it would take")
    for one in (create, plan):
        one.add_argument("request", type=Path, metavar="REQUEST", help="request file, INI or YAML")
        one.add_argument("--locked", type=Path, metavar="FILE", help="use the package versions of this lock")
    listing = add("list", _list, "list the clusters")
    show = add("show", _show, "show a cluster: nodes, phases with seconds and bytes, the slowest node")
    for one in (plan, listing, show):
        one.add_argument("--json", action="store_true", help="print JSON")
    ssh = add("ssh", _ssh, "log in to a node as the first user of the request")
    destroy = add("destroy", _destroy, "remove a cluster, whatever state it is in")
    for one in (show, ssh, destroy):
        one.add_argument("name", metavar="NAME", help="name of the cluster")
    ssh.usage = "vclust ssh NAME [NODE] [-- CMD...]"
    ssh.add_argument("node", nargs="?", metavar="NODE", help="default: the first node that has not failed")
    cache_cli.add_parser(commands)
    return parser


def _create(arguments: argparse.Namespace) -> int:
    name, variables = _request(arguments)
    outcome = _play("create_vcluster.yml", variables, arguments, name=name)
    if outcome.exit_code == 0:
        lost = outcome.results["vclust_ready"]["lost"]
        without = f" without {', '.join(lost)}, which failed" if lost else ""
        print(f"{name} is ready{without}: vclust ssh {name}")
        return 0
    if outcome.exit_code == 130:
        print(f"vclust: interrupted in phase {outcome.phase or 'request'}", file=sys.stderr)
    if outcome.exit_code not in (2, 3) and "vclust_request" in outcome.results:
        again = f"vclust create {shlex.quote(str(arguments.request))}"
        print(
            f"{name} is left unfinished: `{again}` takes it up, `vclust destroy {name}` clears it",
            file=sys.stderr,
        )
    return outcome.exit_code


def _plan(arguments: argparse.Namespace) -> int:
    name, variables = _request(arguments)
    outcome = _play("create_vcluster.yml", variables, arguments, name=name, check=True)
    if outcome.exit_code == 0:
        from vclust_py.display import show_plan

        plan = outcome.results["vclust_place"]["plan"]
        if arguments.json:
            print(json.dumps(plan, indent=2))
        else:
            show_plan(plan)
    return outcome.exit_code


def _list(arguments: argparse.Namespace) -> int:
    clusters = _read(arguments)
    if arguments.json:
        print(json.dumps(clusters, indent=2))
    else:
        from vclust_py.display import show_list

        show_list(clusters)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    cluster = _read(arguments, arguments.name)[0]
    if arguments.json:
        print(json.dumps(cluster, indent=2))
    else:
        from vclust_py.display import show_cluster

        show_cluster(cluster)
    return 0


def _ssh(arguments: argparse.Namespace) -> int:
    cluster = _read(arguments, arguments.name)[0]
    if not cluster["nodes"]:
        raise VclustError(f"{arguments.name}: no nodes yet, its state is {cluster['state']}")
    nodes = {node["name"]: node for node in cluster["nodes"]}
    working = [node for node in cluster["nodes"] if node["state"] != "failed"] or cluster["nodes"]
    node = nodes.get(arguments.node) if arguments.node else working[0]
    if node is None:
        raise RequestError(
            [f"{arguments.node}: no such node of {arguments.name}; there are: {', '.join(nodes)}"]
        )

    from vclust_py.access import ssh_options

    if not Path("/run/netns", cluster["ssh"]["netns"]).exists():
        raise VclustError(
            f"{arguments.name}: its network is not there; was this machine restarted?",
            "`vclust create` with its request starts its nodes again",
        )
    access = cluster["ssh"]
    key = access["admin_key" if access["user"] == "root" else "key"]
    argv = ["ssh", "-F", "/dev/null", *ssh_options(cluster, node), "-i", key, "-l", access["user"]]
    argv += [f"{node['name']}.{cluster['name']}", *arguments.remote]
    sys.stdout.flush()
    os.execvp(argv[0], argv)  # noqa: S606 - an argument list, no shell


def _destroy(arguments: argparse.Namespace) -> int:
    outcome = _play("destroy_vcluster.yml", {"name": arguments.name}, arguments, name=arguments.name)
    if outcome.exit_code:
        return outcome.exit_code
    if not outcome.results.get("vclust_cluster", {}).get("changed"):
        raise RequestError([f"{arguments.name}: no such cluster"], "vclust list shows those there are")
    print(f"{arguments.name} is destroyed")
    return 0


def _request(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The cluster's name and the playbook's variables; a mistaken request is refused here."""
    from vclust_py import request

    asked = request.read(arguments.request)
    variables = {"request": str(arguments.request.resolve())}
    if arguments.locked:
        from vclust_py.resolve import Lock

        try:
            Lock.from_json(arguments.locked.read_text(encoding="utf-8"), str(arguments.locked))
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError([f"{arguments.locked}: got {error}, expected a lock (JSON)"]) from error
        variables["locked"] = str(arguments.locked.resolve())
    return asked.name, variables


def _read(arguments: argparse.Namespace, name: str | None = None) -> list[dict[str, Any]]:
    """What the site says of its clusters, or of one."""
    from vclust_py.play import play

    variables = {} if name is None else {"name": name}
    outcome = play("status.yml", variables, inventory=_inventory(arguments), verbosity=arguments.verbose)
    if outcome.exit_code == 130:
        raise KeyboardInterrupt
    if outcome.exit_code:
        error = VclustError(outcome.error)
        error.exit_code = outcome.exit_code
        raise error
    if "vclust_info" not in outcome.results:
        path = arguments.inventory or "inventories/local"
        raise RequestError([f"{path}: no site, expected a group site_<name> with a host of site_managers"])
    clusters: list[dict[str, Any]] = outcome.results["vclust_info"]["clusters"]
    return clusters


def _inventory(arguments: argparse.Namespace) -> Path | None:
    path: Path | None = arguments.inventory
    if path is not None and not path.exists():
        raise RequestError([f"{path}: got no such file or folder, expected an inventory"])
    return path


def _play(
    playbook: str,
    variables: Mapping[str, Any],
    arguments: argparse.Namespace,
    *,
    name: str,
    check: bool = False,
) -> "Outcome":
    """Run a playbook, show its progress and tell a failure; an interruption is for the caller to tell."""
    from vclust_py.display import PHASES, display
    from vclust_py.play import play

    follow = _Follow(name)
    phases = ("destroy",) if playbook == "destroy_vcluster.yml" else PHASES[:3] if check else PHASES
    with display(phases, live=sys.stderr.isatty() and not arguments.verbose) as shown:
        outcome = play(
            playbook,
            variables,
            inventory=_inventory(arguments),
            check=check,
            verbosity=arguments.verbose,
            # Check mode skips the phases after its last, but Ansible still announces them.
            on_phase=lambda phase: shown.phase(phase) if phase in phases else None,
            on_result=follow.found,
            on_tick=lambda: shown.progress(follow.rows()),
        )
    if outcome.error and outcome.exit_code != 130:
        where = f"{outcome.phase}: " if outcome.phase else ""
        print(f"vclust: {where}{outcome.error}", file=sys.stderr)
    return outcome


class _Follow:
    """Reads the progress of one cluster from the site's state, if that is on this machine."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._site: Site | None = None
        self._last = 0

    def found(self, module: str, result: Mapping[str, Any]) -> None:
        """The first module says where it ran and where the state is."""
        place = result.get("site_manager") or {}
        if place.get("boot_id") == _BOOT_ID.read_text().strip() and os.geteuid() == 0:
            self._site = Site(root=Path(place["root"]))
            # A cluster that is taken up has rows of its earlier runs.
            self.rows()

    def rows(self) -> list[dict[str, Any]]:
        if self._site is None:
            return []
        from vclust_py import state

        try:
            rows = state.progress(self._site, self._name, self._last)
        except VclustError:
            # Only the display is the poorer for it: the modules will say what is wrong with the state.
            return []
        if rows:
            self._last = rows[-1]["id"]
        return rows
