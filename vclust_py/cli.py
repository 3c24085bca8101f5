"""The `vclust` command.  It drives the playbooks and shows what they do; the work is theirs."""

import argparse
import io
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vclust_py import drive
from vclust_py.arguments import checked, file, typed
from vclust_py.cache import cli as cache_cli
from vclust_py.errors import RequestError, VclustError
from vclust_py.run import keep_interruptions
from vclust_py.text import DETAIL, MESSAGE, plain

# Everything else is imported where it is used: `vclust --help` must not wait for it.


def main(argv: Sequence[str] | None = None) -> NoReturn:
    arguments = parse(sys.argv[1:] if argv is None else argv)
    keep_interruptions()
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe whose encoding lacks a character gets it escaped, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
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


class _Parser(argparse.ArgumentParser):
    """Its errors quote what was typed, or what a pattern of the shell has found."""

    def error(self, message: str) -> NoReturn:
        super().error(plain(message, 1000))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vclust",
        description="Virtual clusters on the fly.",
        epilog="Exit status: 0 done, 2 bad usage or request, 3 not enough capacity, 4 failed, 130 Ctrl-C.",
    )
    parser.add_argument(
        "-i", "--inventory", type=file, metavar="INVENTORY", help="default: inventories/local"
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
        one.add_argument("request", type=file, metavar="REQUEST", help="request file, INI or YAML")
        one.add_argument("--locked", type=file, metavar="FILE", help="use the package versions of this lock")
    listing = add("list", _list, "list the clusters")
    show = add("show", _show, "show a cluster: nodes, phases with seconds and bytes, the slowest node")
    for one in (plan, listing, show):
        one.add_argument("--json", action="store_true", help="print JSON")
    ssh = add("ssh", _ssh, "log in to a node as the first user of the request")
    destroy = add("destroy", _destroy, "remove a cluster, whatever state it is in")
    for one in (show, ssh, destroy):
        one.add_argument("name", type=typed("cluster"), metavar="NAME", help="name of the cluster")
    ssh.usage = "vclust ssh NAME [NODE] [-- CMD...]"
    ssh.add_argument(
        "node",
        nargs="?",
        type=typed("node"),
        metavar="NODE",
        help="default: the first node that has not failed",
    )
    send = add("send", _send, "bring files of the site manager to hosts, to the folder of their images")
    send.add_argument("files", nargs="+", type=file, metavar="FILE", help="on the site manager")
    send.add_argument(
        "--to",
        type=typed("machines"),
        default="vm_hosts",
        metavar="GROUP",
        help="group or host of the inventory (default: vm_hosts)",
    )
    send.add_argument("--check", action="store_true", help="only say which hosts lack what")
    send.add_argument("--json", action="store_true", help="print JSON")
    cache_cli.add_parser(commands)
    return parser


def _send(arguments: argparse.Namespace) -> int:
    from vclust_py.chain import push

    files = checked("FILE", "files", [{"path": str(path.absolute())} for path in arguments.files])
    variables = {"files": files, "to": arguments.to}
    outcome = drive.run(
        "send_files.yml",
        variables,
        arguments,
        phases=("send",),
        follow=drive.Follow(push.progress),
        check=arguments.check,
    )
    if outcome.exit_code == 0:
        told = [results["vclust_chain"] for results in outcome.hosts.values() if "vclust_chain" in results]
        if not told:
            raise RequestError(
                [f"{arguments.to}: none of these hosts is another machine than its site manager"]
            )
        rows = {
            host: {"files": names, **one["sent"].get(host, {})}
            for one in told
            for host, names in one["lacks"].items()
        }
        for one in told:
            _warn(one)
        if arguments.json:
            print(json.dumps(rows, indent=2))
        else:
            from vclust_py.display import say

            for host, row in sorted(rows.items()):
                say(f"{host}: {_sent(row, arguments.check)}")
    return outcome.exit_code


def _warn(result: Mapping[str, Any]) -> None:
    """What a module wants to be known though it did not fail."""
    for warning in result.get("warnings", ()):
        print(plain(f"vclust: warning: {warning}", DETAIL), file=sys.stderr)


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


def _create(arguments: argparse.Namespace) -> int:
    name, variables = drive.request(arguments)
    outcome = drive.create(name, variables, arguments)
    _warn(outcome.results.get("vclust_distribute", {}))
    if outcome.exit_code == 0:
        lost = outcome.results["vclust_ready"]["lost"]
        without = f" without {', '.join(lost)}, which failed" if lost else ""
        print(f"{name} is ready{without}: vclust ssh {name}")
        return 0
    if outcome.exit_code == 130:
        print(f"vclust: interrupted in phase {outcome.phase or 'request'}", file=sys.stderr)
    if outcome.exit_code not in (2, 3) and "vclust_request" in outcome.results:
        again = f"vclust create {shlex.quote(str(arguments.request))}"
        unfinished = f"{name} is left unfinished: `{again}` takes it up, `vclust destroy {name}` clears it"
        print(plain(unfinished, MESSAGE), file=sys.stderr)
    return outcome.exit_code


def _plan(arguments: argparse.Namespace) -> int:
    name, variables = drive.request(arguments)
    outcome = drive.create(name, variables, arguments, last="place")
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
    follow = drive.Follow(drive.cluster_progress(arguments.name))
    variables = {"name": arguments.name}
    outcome = drive.run("destroy_vcluster.yml", variables, arguments, phases=("destroy",), follow=follow)
    if outcome.exit_code:
        return outcome.exit_code
    if not outcome.results.get("vclust_cluster", {}).get("changed"):
        raise RequestError([f"{arguments.name}: no such cluster"], "vclust list shows those there are")
    print(f"{arguments.name} is destroyed")
    return 0


def _read(arguments: argparse.Namespace, name: str | None = None) -> list[dict[str, Any]]:
    """What the site says of its clusters, or of one."""
    outcome = drive.status(arguments, {} if name is None else {"name": name}, "clusters")
    clusters: list[dict[str, Any]] = outcome.results["vclust_info"]["clusters"]
    return clusters
