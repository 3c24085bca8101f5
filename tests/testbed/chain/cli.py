"""The command line of the testbed: a bed that stays until `down`, with a hop service on each host."""

import argparse
import os
import signal
from pathlib import Path

from chain import bed, keys
from chain.bed import Bed
from chain.head import Head
from chain.hops import Hops
from chain.host import Host, peak_memory
from vclust_py.chain import File
from vclust_py.errors import VclustError


def _act(arguments: argparse.Namespace) -> int:
    match arguments.verb:
        case "up":
            _up(arguments.number, arguments.rate, arguments.family)
        case "down":
            Bed(bed.MOST).down()
        case "status":
            _status()
        case "shape":
            bed.load().shape(arguments.rate)
        case "fault":
            _fault(arguments.host, arguments.fault, arguments.value)
        case "send":
            return _send(arguments.file, arguments.encrypt)
        case "shell":
            found = _host(arguments.host)
            inside = ["ip", "netns", "exec", found.bed.namespace(found.number)]
            command = [*inside, *(arguments.command or [os.environ.get("SHELL", "/bin/sh")])]
            os.execvp("ip", command)  # noqa: S606 - this process becomes the command
    return 0


def add(kinds: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = kinds.add_parser("chain", help="network namespaces with hop services of the chain, nothing else")
    parser.set_defaults(act=_act)
    verbs = parser.add_subparsers(dest="verb", required=True)
    up = verbs.add_parser("up", help="make hosts n1 … nN and the head, with hop services that run")
    up.add_argument("-n", "--number", type=int, default=8, metavar="N", help="how many (default 8)")
    up.add_argument("--rate", default="none", help="of every link, as tc writes it, such as 200mbit")
    up.add_argument("--family", type=int, choices=(4, 6), default=4, help="IP version (default 4)")
    verbs.add_parser("down", help="take everything away")
    verbs.add_parser("status", help="what each host does and holds")
    shape = verbs.add_parser("shape", help="another rate for all links")
    shape.add_argument("rate")
    fault = verbs.add_parser("fault", help="let something go wrong with a host, or right again")
    fault.add_argument("host")
    fault.add_argument("fault", choices=_FAULTS)
    fault.add_argument(
        "value", nargs="?", default="", help="slow: a rate (none: as fast as ever); small-disk: bytes"
    )
    send = verbs.add_parser("send", help="send a file to all hosts")
    send.add_argument("file", type=Path)
    send.add_argument("--encrypt", action="store_true")
    shell = verbs.add_parser("shell", help="a command in a host's network (default: a shell)")
    shell.add_argument("host", help="head, n1, …")
    shell.add_argument("command", nargs=argparse.REMAINDER)


_FAULTS = (
    "kill",
    "start",
    "stop",
    "continue",
    "linkdown",
    "linkup",
    "slow",
    "small-disk",
    "whole-disk",
    "mtu",
)


def _up(number: int, rate: str, family: int) -> None:
    made = Bed(number, family=family)
    made.up()
    try:
        made.shape(rate)
        hosts = _hosts(made)
        keys.make(made.folder / "site", hosts)
        hops = Hops(hosts)
        for host in hosts:
            _note(host, hops)
    except BaseException:
        made.down()
        raise
    print(f"{number} hosts; their files are in {made.folder}/N/store")


def _hosts(made: Bed) -> list[Host]:
    return [Host(made, number) for number in range(1, made.count + 1)]


def _host(name: str) -> Host:
    made = bed.load()
    for host in (Host(made, 0), *_hosts(made)):
        if host.name == name:
            return host
    raise VclustError(f"{name}: no such host, expected head, or n1 to n{made.count}")


def _note(host: Host, hops: Hops) -> None:
    (host.folder / "pid").write_text(f"{hops.processes[host.number].pid}\n", encoding="ascii")


def _pid(host: Host) -> int:
    return int((host.folder / "pid").read_text(encoding="ascii"))


def _status() -> None:
    for host in _hosts(bed.load()):
        try:
            state = Path(f"/proc/{_pid(host)}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
        except OSError:
            state = "off"
        names = " ".join(sorted(path.name for path in host.store.iterdir()))
        memory = peak_memory(_pid(host)) >> 20
        print(
            f"{host.name:6} {host.address:14} {state:4} {memory:3} MiB {host.stored() >> 20:6} MiB stored: {names}"
        )


def _fault(name: str, kind: str, value: str) -> None:
    host = _host(name)
    match kind:
        case "kill":
            os.killpg(_pid(host), signal.SIGKILL)
        case "start":
            _note(host, Hops([host]))
        case "stop":
            os.killpg(_pid(host), signal.SIGSTOP)
        case "continue":
            os.killpg(_pid(host), signal.SIGCONT)
        case "linkdown":
            host.unplug()
        case "linkup":
            host.plug()
        case "slow":
            host.slow(value)
        case "small-disk":
            host.small_disk(int(value))
        case "whole-disk":
            host.whole_disk()
        case "mtu":
            host.lose_large_packets()


def _send(path: Path, encrypt: bool) -> int:
    made = bed.load()
    pki = made.folder / "site/pki"
    with Head(Host(made, 0), _hosts(made), [File(path.absolute())], pki, {"encrypt": encrypt}) as head:
        head.go()
        sent = head.wait(24 * 3600)
    for name, outcome in sent.outcomes.items():
        print(f"{name:6} {outcome['seconds']:8.2f} s  {outcome['failed'] or 'whole'}")
    print(sent.error or f"{sent.seconds:.2f} s in all")
    return 1 if sent.error or sent.failed() else 0
