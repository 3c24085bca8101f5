"""The `vclust` command.  It drives the playbooks and shows what they do; the work is theirs."""

import argparse
import atexit
import io
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from vclust_py.arguments import file, typed
from vclust_py.cli import (
    audit,
    caches,
    clusters,
    completion,
    files,
    history,
    homes,
    init,
    life,
    login,
    messages,
    report,
    site,
    volumes,
)
from vclust_py.errors import VclustError
from vclust_py.run import keep_interruptions
from vclust_py.text import plain

# Everything else is imported where it is used: `vclust --help` must not wait for it.


def main(argv: Sequence[str] | None = None) -> NoReturn:
    if "_ARGCOMPLETE" in os.environ:
        completion.answer(make_parser())
    arguments = parse(sys.argv[1:] if argv is None else argv)
    messages.call(arguments.inventory)
    keep_interruptions()
    # At its end Python no longer takes Ctrl-C, which would kill it then: the exit code says what was done.
    atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
    for stream in (sys.stdout, sys.stderr):
        # A terminal or pipe whose encoding lacks a character gets it escaped, not a traceback.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    problem = ""
    try:
        if arguments.root and arguments.inventory is None and os.geteuid() != 0:
            _as_root(sys.argv)
        code = arguments.command(arguments)
    except VclustError as error:
        problem, code = str(error), error.exit_code
        messages.error(problem)
    except KeyboardInterrupt:
        problem, code = "interrupted", 130
    except BrokenPipeError:
        # The reader has seen enough (`vclust list | head`); nothing more may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    if problem and getattr(arguments, "json", False):
        print(json.dumps({"exit_code": code, "error": problem}, indent=2))
    sys.exit(code)


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """What was asked for; ends the process, as argparse does, when that is not clear."""
    words = list(argv)
    remote: list[str] = []
    end = words.index("--") if "--" in words else 0
    if next((word for word in words[:end] if word in ("ssh", "scp")), "") == "ssh":
        # argparse would drop these dashes, and with them the difference between a node and a command.
        words, remote = words[:end], words[end + 1 :]
    arguments = make_parser().parse_args(words)
    arguments.remote = remote
    return arguments


def _as_root(argv: Sequence[str]) -> NoReturn:
    """Start again by sudo: the embedded site's state, disks and networks are root's.

    Who is asked for a password, or will be refused, reads why first: after that it is sudo that speaks.
    """
    why = f"this machine's site is root's: got user {_user()}, expected root"
    who = (
        "an administrator can allow you these commands: docs/operations.md, Without root on the site manager"
    )
    if shutil.which("sudo") is None:
        raise VclustError(f"{why} or sudo, which is not installed", f"{who}; another site: -i INVENTORY")
    command = [str(Path(argv[0]).resolve()), *argv[1:]]
    asked = subprocess.run(
        ["sudo", "-n", "-l", "--", *command], stdin=subprocess.DEVNULL, capture_output=True
    )
    if asked.returncode:
        messages.note(f"vclust: {why}; asking sudo.  If it refuses: {who}")
        sys.stderr.flush()
    os.execvp("sudo", ["sudo", "--", *command])  # noqa: S606 - a list, no shell


def _user() -> str:
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


class _Parser(argparse.ArgumentParser):
    """Its errors quote what was typed, or what a pattern of the shell has found."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        messages.error(plain(message, 1000), source=f"{self.prog}: error:")
        self.exit(2)


class _Version(argparse.Action):
    """Prints the version that the installed project has (pyproject.toml)."""

    def __init__(self, option_strings: Sequence[str], dest: str) -> None:
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, help="print the version")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"vclust {version('vclust')}")
        parser.exit()


def make_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="vclust",
        description="Virtual clusters on the fly.",
        epilog="In a checkout `./vclust test` runs the tests."
        "  Exit status: 0 done, 2 bad usage or request, 3 not enough capacity, 4 failed, 130 Ctrl-C.",
    )
    parser.add_argument(
        "-i", "--inventory", type=file, metavar="INVENTORY", help="the sites (default: inventories/local)"
    )
    parser.add_argument(
        "-v", "--verbose", action="count", default=0, help="show what Ansible prints; -vvv for more"
    )
    parser.add_argument("--version", action=_Version)
    parser.set_defaults(root=True)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        added.set_defaults(command=command)
        return added

    init.add_options(
        add("init", init.init, "write a request with a comment on every key, by a few questions")
    )
    create = add("create", clusters.create, "create a cluster, or take up an interrupted creation")
    plan = add(
        "plan", clusters.plan, "show where the nodes would run, and the bytes and seconds it would take"
    )
    for one in (create, plan):
        one.add_argument(
            "request", type=file, metavar="REQUEST", help="request, INI or YAML; - for standard input"
        )
        one.add_argument("--locked", type=file, metavar="FILE", help="use the package versions of this lock")
    listing = add("list", clusters.list_all, "list the clusters")
    show = add(
        "show", clusters.show, "show a cluster: nodes, phases with seconds and bytes, the slowest node"
    )
    ssh = add("ssh", login.ssh, "log in to a node as the first user of the request, or another")
    scp = add("scp", login.scp, "copy files to or from a node, as a user of the request")
    for one in (ssh, scp):
        account = one.add_mutually_exclusive_group()
        account.add_argument(
            "--user",
            type=typed("login"),
            metavar="USER",
            help="as this user of the request, not the first one",
        )
        account.add_argument("--root", action="store_true", dest="as_root", help="as root")
    config = add(
        "ssh-config",
        login.ssh_config,
        "print an OpenSSH configuration for a cluster's nodes that needs no root",
    )
    config.add_argument(
        "--user", type=typed("login"), metavar="USER", help="log in as this user, not the request's first one"
    )
    config.add_argument(
        "--remote",
        action="store_true",
        dest="elsewhere",
        help="for other machines, by the site's gateway, not for this one",
    )
    config.add_argument(
        "--key",
        type=typed("key_file"),
        metavar="FILE",
        help="the user's private key, where ssh does not find it",
    )
    life.add_commands(add)
    history.add_commands(add)
    destroy = add("destroy", clusters.destroy, "remove a cluster, whatever state it is in")
    for one in (create, plan, listing, show, destroy):
        one.add_argument("--json", action="store_true", help="print JSON, of an error too")
    ssh.add_argument(
        "cluster",
        type=typed("node_reference"),
        metavar="NAME",
        help="name of the cluster, or NODE.NAME; with SITE/ before it where two sites have one",
    )
    for one in (show, config, destroy):
        one.add_argument(
            "cluster",
            type=typed("reference"),
            metavar="NAME",
            help="name of the cluster; SITE/NAME where two sites have one",
        )
    destroy.add_argument(
        "--forget-host",
        action="append",
        default=[],
        type=typed("machines"),
        metavar="HOST",
        help="do without this host, which does not answer and never will; may be repeated",
    )
    ssh.usage = "vclust ssh [--user USER | --root] [-L PORT:HOST:HOSTPORT] NAME [NODE] [-- CMD...]"
    ssh.add_argument(
        "-L",
        action="append",
        default=[],
        type=typed("forward"),
        dest="forwards",
        metavar="PORT:HOST:HOSTPORT",
        help="lead this port of the local machine to a port in the cluster; may be repeated",
    )
    ssh.add_argument(
        "node",
        nargs="?",
        type=typed("node"),
        metavar="NODE",
        help="its name, or its number from 1 on (default: the first node that has not failed)",
    )
    scp.usage = "vclust scp [-r] [-p] [--user USER | --root] SOURCE... TARGET"
    scp.add_argument(
        "paths",
        nargs="+",
        type=typed("path"),
        metavar="PATH",
        help="sources, then the target; those of a node as [SITE/][NODE.]NAME:PATH, NODE as with ssh",
    )
    scp.add_argument("-r", "--recursive", action="store_true", help="folders with all that is in them")
    scp.add_argument("-p", "--preserve", action="store_true", help="keep times and modes")
    send = add("send", files.send, "bring files of the site manager to hosts, to the folder of their images")
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
    shell = add("completion", completion.completion, "print what a shell evaluates to complete this command")
    shell.set_defaults(root=False)
    shell.add_argument("shell", choices=completion.SHELLS, help="as in: source <(vclust completion bash)")
    caches.add_parser(commands)
    volumes.add_parser(commands)
    homes.add_parser(commands)
    site.add_parser(commands)
    audit.add_parser(commands)
    report.add_parser(commands)
    return parser
