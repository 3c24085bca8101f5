"""The verbs that every kind of host has: build, up, down, ssh, status."""

import argparse
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from shared.features import Feature, missing
from vclust_py.errors import VclustError


class Host(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def address(self) -> str: ...

    def stop(self) -> None:
        """Pull the plug."""

    def state(self) -> str:
        """For `status`, in a few words."""

    def ssh_command(self, *words: str) -> list[str]: ...


class Command(ABC):
    """One kind of host, as the command line has it."""

    most: int
    """Hosts of the kind."""

    features: Sequence[Feature]
    """What hosts of the kind ask of this machine."""

    def __init__(self, name: str, about: str) -> None:
        self.name, self.about = name, about

    @abstractmethod
    def build(self) -> str:
        """Make what hosts boot, unless it is there; what there is to say of it."""

    @abstractmethod
    def up(self, arguments: argparse.Namespace) -> Path:
        """Have hosts run; the inventory's folder."""

    @abstractmethod
    def down(self) -> None:
        """Remove all hosts of the kind."""

    @abstractmethod
    def hosts(self) -> Sequence[Host]:
        """Those that there are, running or not."""

    def options(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027 - most have none
        """More options of `up`."""

    def status(self) -> list[str]:
        return [f"{host.name:8} {host.address:13} {host.state()}" for host in self.hosts()]

    def add(self, kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
        parser = kinds.add_parser(self.name, help=self.about, description=self.about)
        verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
        verbs.add_parser("build", help="make what hosts boot, unless it is there")
        up = verbs.add_parser("up", help="start hosts, write their inventory and print its folder")
        up.add_argument(
            "-n", "--number", type=count(self.most), default=1, metavar="N", help="how many (default 1)"
        )
        up.add_argument(
            "--site-root",
            type=Path,
            default=Path("/var/lib/vclust-test"),
            metavar="DIR",
            help="the site manager's folder (default %(default)s)",
        )
        self.options(up)
        down = verbs.add_parser("down", help="switch one host off, or remove all hosts of the kind")
        down.add_argument("host", nargs="?")
        ssh = verbs.add_parser("ssh", help="log in to a host, or run a command there")
        ssh.add_argument("host")
        ssh.add_argument("command", nargs=argparse.REMAINDER)
        verbs.add_parser("status", help="the hosts there are, and what this machine cannot do")
        parser.set_defaults(act=self._act)

    def _act(self, arguments: argparse.Namespace) -> int:
        match arguments.verb:
            case "build":
                print(self.build())
            case "up":
                for line in missing(self.features):
                    say(line)
                print(self.up(arguments))
            case "down" if arguments.host is None:
                self.down()
            case "down":
                self._host(arguments.host).stop()
            case "status":
                print("\n".join([*(self.status() or ["no hosts"]), *missing(self.features)]))
            case "ssh":
                command = self._host(arguments.host).ssh_command(*arguments.command)
                os.execvp(command[0], command)  # noqa: S606 - this process becomes ssh
        return 0

    def _host(self, name: str) -> Host:
        """Raises VclustError when there is no such host."""
        every = {host.name: host for host in self.hosts()}
        if name not in every:
            there = ", ".join(every) or "none"
            raise VclustError(f"{name}: no such host of kind {self.name}, there are: {there}")
        return every[name]


def count(most: int) -> Callable[[str], int]:
    """For argparse: a whole number from 1 to `most`."""

    def parse(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"got {text}, expected 1 to {most}")
        return int(text)

    return parse


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
