"""The network: a namespace for each host, veth into a bridge in a namespace of its own, links shaped by tc tbf.

Nothing of it is seen by this machine's own network.  A bed's name is the beginning of its namespaces' names, so that
several may be there at once; its files are on a tmpfs, so that a disk's speed does not measure.
"""

import ipaddress
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from shared import places
from shared.network import QUEUE, ip, let_hosts_be_many, namespaces

from vclust_py.errors import VclustError
from vclust_py.run import CommandError, run

ROOT = places.ROOT / "chain"
NAME = "vcc"
"""Of the bed that the command makes."""

MOST = 1000
"""Hosts of a bed: a Linux bridge takes 1,023 ports."""

MTU = 1500

_NETWORKS = {4: ipaddress.ip_network("10.88.0.0/16"), 6: ipaddress.ip_network("fd00:88::/64")}
_IDLE = 20_000
"""Bytes in half a second, on all links together, that are none of a transfer's."""


@dataclass(frozen=True)
class Bed:
    """Host 0 is the head, 1 to `count` receive."""

    count: int
    name: str = NAME
    family: int = 4
    """IP version; the other one has no addresses."""

    @property
    def folder(self) -> Path:
        return ROOT / self.name

    @property
    def switch(self) -> str:
        """The namespace with the bridge; host N is at its port `vN`."""
        return f"{self.name}-switch"

    def namespace(self, number: int) -> str:
        return f"{self.name}-{number}"

    def address(self, number: int) -> str:
        return str(_NETWORKS[self.family][number + 1])

    def up(self, memory: str = "75%") -> None:
        """Raises VclustError when there is a bed of that name already; `memory` bounds all its files."""
        if not 1 <= self.count <= MOST:
            raise VclustError(f"hosts: got {self.count}, expected 1 to {MOST}")
        if self.switch in namespaces():
            raise VclustError(f"{self.name}: is up already", "take it down first")
        self.folder.mkdir(parents=True, exist_ok=True)
        options = f"size={memory},mode=0755,nr_inodes=0"
        run(["mount", "-t", "tmpfs", "-o", options, "vclust-testbed", self.folder])
        every = range(self.count + 1)
        for number in every:
            (self.folder / str(number) / "store").mkdir(parents=True)
        (self.folder / "bed.json").write_text(json.dumps({"count": self.count, "family": self.family}))
        let_hosts_be_many(self.count)
        names = [self.switch, *map(self.namespace, every)]
        ip([f"netns add {name}" for name in names])
        bridge = ["link add bridge type bridge mcast_snooping 0", "link set bridge up"]
        ip(["link set lo up", *bridge], self.switch)
        ip(
            f"link add eth0 mtu {MTU} netns {self.namespace(number)}"
            f" type veth peer name v{number} mtu {MTU} netns {self.switch}"
            for number in every
        )
        ip((f"link set v{number} master bridge up" for number in every), self.switch)
        length = _NETWORKS[self.family].prefixlen
        more = "broadcast +" if self.family == 4 else "nodad"
        for number in every:
            name = self.namespace(number)
            if self.family == 4:
                # No address of IPv6 at all, link-local ones included.
                _sysctl(name, "net/ipv6/conf/default/disable_ipv6", 1)
            address = f"address add {self.address(number)}/{length} {more} dev eth0"
            # udpcast asks for a route to its multicast groups.
            ip(["link set lo up", address, "link set eth0 up", "route add default dev eth0"], name)

    def shape(self, rate: str) -> None:
        """All links, both ways: a rate as tc writes it, or `none`."""
        for number in range(self.count + 1):
            self.shape_one(number, rate)

    def shape_one(self, number: int, rate: str) -> None:
        for namespace, device in ((self.namespace(number), "eth0"), (self.switch, f"v{number}")):
            tc = ["tc", "-n", namespace, "qdisc"]
            if rate == "none":
                run(["sh", "-c", f"{' '.join(tc)} del dev {device} root 2>/dev/null || true"])
            else:
                run([*tc, "replace", "dev", device, "root", "tbf", "rate", rate, *QUEUE])

    def link(self, number: int, up: bool) -> None:
        """Pull the host's cable out of the switch, or put it back."""
        run(["ip", "-n", self.switch, "link", "set", f"v{number}", "up" if up else "down"])

    def calm(self, patience: float = 60.0) -> None:
        """Wait until the links are idle, as what ended processes had queued still travels, for seconds on slow links;
        then let hosts forget how bad the ways to each other were.
        """
        deadline = time.monotonic() + patience
        before, now = -1, self._carried()
        while now - before > _IDLE and time.monotonic() < deadline:
            time.sleep(0.5)
            before, now = now, self._carried()
        for number in range(self.count + 1):
            run(["ip", "-n", self.namespace(number), "tcp_metrics", "flush"])

    def _carried(self) -> int:
        """Bytes that have gone from the switch to hosts."""
        links = json.loads(run(["ip", "-n", self.switch, "-json", "-stats", "link", "show"]))
        return sum(link["stats64"]["tx"]["bytes"] for link in links if link["ifname"].startswith("v"))

    def down(self) -> None:
        """Take away whatever is left of it: processes in its namespaces, namespaces, files."""
        mine = [name for name in namespaces() if name.startswith(f"{self.name}-")]
        for name in mine:
            for pid in run(["ip", "netns", "pids", name]).split():
                subprocess.run(["kill", "-KILL", pid], check=False, capture_output=True)
        ip(f"netns delete {name}" for name in mine)
        if self.folder.is_dir():
            # Some hosts have a small file system of their own on it.
            while self.folder.is_mount():
                try:
                    run(["umount", "--recursive", self.folder])
                except CommandError:
                    run(["umount", "--recursive", "--lazy", self.folder])
            self.folder.rmdir()


def load(name: str = NAME) -> Bed:
    """The bed that is up under that name.  Raises VclustError when there is none."""
    try:
        told = json.loads((ROOT / name / "bed.json").read_text())
    except FileNotFoundError:
        raise VclustError(f"{name}: no such testbed is up") from None
    return Bed(told["count"], name, told["family"])


def _sysctl(namespace: str, name: str, value: int) -> None:
    run(["ip", "netns", "exec", namespace, "sh", "-c", f"echo {value} > /proc/sys/{name}"])
