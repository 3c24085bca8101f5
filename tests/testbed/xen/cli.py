"""The command line of the testbed."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from vclust_py.errors import VclustError
from xen import bed, image, inventory


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupted)
    try:
        match arguments.verb:
            case "build":
                images = image.ensure(_say)
                print(
                    f"{images.folder} ({len(images.packages)} packages, made in {images.build_seconds:g} s)"
                )
            case "up":
                bed.up(arguments.number, arguments.site_root, _say, plain=arguments.plain)
                print(inventory.folder(arguments.plain))
            case "down":
                bed.down(arguments.host, _say)
            case "status":
                _status()
            case "ssh":
                command = bed.by_name(arguments.host).ssh_command(*arguments.command)
                os.execvp(command[0], command)  # noqa: S606 - this process becomes ssh
    except VclustError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tests/testbed/xen", description="Real Xen hosts under emulation.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", help="make the hosts' image, unless it is there")
    up = verbs.add_parser("up", help="start hosts, write their inventory and print its folder")
    up.add_argument("-n", "--number", type=_count, default=1, metavar="N", help="how many (default 1)")
    up.add_argument(
        "--plain", action="store_true", help="hosts without Xen, named plain1 …, in an inventory of their own"
    )
    up.add_argument(
        "--site-root",
        type=Path,
        default=Path("/var/lib/vclust-test"),
        help="the site manager's folder (default %(default)s)",
    )
    down = verbs.add_parser("down", help="switch one host off, or remove all hosts and their network")
    down.add_argument("host", nargs="?")
    verbs.add_parser("status", help="the hosts there are")
    ssh = verbs.add_parser("ssh", help="log in to a host, or run a command there")
    ssh.add_argument("host")
    ssh.add_argument("command", nargs=argparse.REMAINDER)
    return parser


def _count(text: str) -> int:
    number = int(text)
    if not 1 <= number <= 19:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 to 19")
    return number


def _status() -> None:
    for host in bed.hosts():
        pid = host.pid()
        state = f"pid {pid}, {host.cpu_seconds():.0f} CPU-s, {host.resident()} MiB" if pid else "off"
        print(f"{host.name:8} {host.address:12} {state}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupted(_number: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
