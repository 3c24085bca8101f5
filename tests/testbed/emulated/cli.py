"""The command's part for emulated hosts."""

import argparse
import os
import sys
from pathlib import Path

from emulated import bed, image, inventory, kinds
from emulated.host import Host
from emulated.kinds import Kind
from vclust_py.errors import VclustError

_HELP = {
    "kvm": "Debian with systemd and real KVM, on an emulated processor",
    "xen": "Debian with real Xen, on an emulated processor",
    "plain": "the same without Xen started: the machine of which a roll-out asks for a restart",
}


def add(kinds_: "argparse._SubParsersAction[argparse.ArgumentParser]", kind: Kind) -> None:
    parser = kinds_.add_parser(kind.name, help=_HELP[kind.name])
    parser.set_defaults(hosts=kind)
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    build = verbs.add_parser("build", help="make the hosts' image, unless it is there")
    build.set_defaults(act=_build)

    up = verbs.add_parser("up", help="start hosts, write their inventory and print its folder")
    up.add_argument("-n", "--number", type=_count, default=1, metavar="N", help="how many (default 1)")
    up.add_argument(
        "--site-root",
        type=Path,
        default=Path("/var/lib/vclust-test"),
        help="the site manager's folder (default %(default)s)",
    )
    up.set_defaults(act=_up)

    down = verbs.add_parser("down", help="switch one host off, or remove all hosts of the kind")
    down.add_argument("host", nargs="?")
    down.set_defaults(act=_down)

    status = verbs.add_parser("status", help="the hosts there are")
    status.set_defaults(act=_status)

    ssh = verbs.add_parser("ssh", help="log in to a host, or run a command there")
    ssh.add_argument("host")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    ssh.set_defaults(act=_ssh)


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= kinds.MOST:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 to {kinds.MOST}")
    return number


def _build(arguments: argparse.Namespace) -> None:
    images = image.ensure(arguments.hosts.image, _say)
    print(f"{images.folder} ({len(images.packages)} packages, made in {images.build_seconds:g} s)")


def _up(arguments: argparse.Namespace) -> None:
    bed.up(arguments.hosts, arguments.number, arguments.site_root, _say)
    print(inventory.folder(arguments.hosts))


def _down(arguments: argparse.Namespace) -> None:
    if arguments.host is None:
        bed.down(arguments.hosts, _say)
    else:
        _host(arguments).stop()


def _status(arguments: argparse.Namespace) -> None:
    for host in bed.hosts(arguments.hosts):
        pid = host.pid()
        state = f"pid {pid}, {host.cpu_seconds():.0f} CPU-s, {host.resident()} MiB" if pid else "off"
        print(f"{host.name:8} {host.address:12} {state}")


def _ssh(arguments: argparse.Namespace) -> None:
    command = _host(arguments).ssh_command(*arguments.command)
    os.execvp(command[0], command)  # noqa: S606 - this process becomes ssh


def _host(arguments: argparse.Namespace) -> Host:
    every = {host.name: host for host in bed.hosts(arguments.hosts)}
    if arguments.host not in every:
        there = ", ".join(every) or "none"
        raise VclustError(
            f"{arguments.host}: no such host of kind {arguments.hosts.name}, there are: {there}"
        )
    return every[arguments.host]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
