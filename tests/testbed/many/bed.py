"""All hosts: up, down, which there are."""

import contextlib
import fcntl
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from shared import inventory, network, ssh
from shared.places import IMAGES, ROOT

from many import image
from many.fabric import Fabric
from many.host import Host
from vclust_py.errors import VclustError

MOST = 250
"""Hosts of a bed."""

PATIENCE = 300
"""Seconds all hosts may take to start, on a machine that has other work too."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Shape:
    """What holds for all hosts of a bed as long as it is up."""

    racks: int = 2
    rate: str = "1gbit"
    """Of each rack's uplink, both ways, as tc writes it; `none`: as fast as this machine."""


@dataclass(frozen=True)
class Bed:
    name: str = "vcm"
    """Begins the names of its namespaces and of its interface on this machine: at most nine letters."""
    addresses: IPv4Network = field(default_factory=lambda: IPv4Network("10.80.0.0/16"))
    """This machine has the first, host N the tenth and N more."""

    @property
    def folder(self) -> Path:
        return ROOT / "many" / self.name

    @property
    def fabric(self) -> Fabric:
        return Fabric(self.name, self.addresses)

    def shape(self) -> Shape | None:
        """None when it is not up."""
        try:
            return Shape(**json.loads(self._note.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def hosts(self) -> list[Host]:
        """Those that have a folder, running or not."""
        shape = self.shape()
        if shape is None:
            return []
        numbers = (int(path.name) for path in self.folder.glob("hosts/*"))
        return [self._host(number, shape) for number in sorted(numbers)]

    def up(self, count: int, shape: Shape, site_root: Path, report: Report) -> list[Host]:
        """Have hosts 1 to `count` run, and the inventory of all that run written.  Those that run are left as they are,
        those that are off start from what they have written.

        Raises VclustError when the bed is up with another shape, or a host does not start; what this call has started
        is off again then, and a bed that was not there is not.
        """
        wanted = [self._host(number, shape) for number in range(1, count + 1)]
        starting: list[Host] = []
        with self._only_one():
            there = self.shape()
            if there not in (None, shape):
                raise VclustError(f"{self.name}: is up with {there}, got {shape}", "take it down first")
            try:
                root = self._root() or image.ensure(used, report)
                ssh.ensure_key()
                network.let_hosts_be_many(count)
                if there is None:
                    self.fabric.remove()  # of one whose folder somebody has removed
                    self.fabric.make(shape.racks, shape.rate)
                    self._image.write_text(root.parent.name, encoding="utf-8")
                    self._note.write_text(json.dumps(asdict(shape)), encoding="utf-8")
                began = time.monotonic()
                starting = [host for host in wanted if host.pid() is None]
                self.fabric.plug({host.number: host.rack for host in starting})
                for host in starting:
                    host.make()
                    host.start(root)
                for host in starting:
                    host.wait(began + PATIENCE)
            except BaseException:
                for host in starting:
                    host.stop()
                if there is None:
                    self._remove()
                raise
            if starting:
                report(f"{len(starting)} hosts started in {time.monotonic() - began:.1f} s")
            inventory.write_known_hosts(self.hosts(), self.folder / "known_hosts")
            inventory.write((host for host in self.hosts() if host.pid()), site_root, self.inventory)
        return wanted

    @property
    def inventory(self) -> Path:
        return inventory.folder("many") if self == Bed() else self.folder / "inventory"

    def down(self) -> None:
        """Remove all there is of it."""
        with self._only_one():
            ending = [(host, host.kill()) for host in self.hosts()]
            for host, last in ending:
                host.wait_for_end(last)
            self._remove()

    def _remove(self) -> None:
        self.fabric.remove()
        shutil.rmtree(self.inventory, ignore_errors=True)
        shutil.rmtree(self.folder)

    def _host(self, number: int, shape: Shape) -> Host:
        return Host(number, 1 + (number - 1) % shape.racks, self.folder, self.fabric)

    def _root(self) -> Path | None:
        """What the hosts of a bed that is up stand on: later ones too, whatever is newer."""
        return IMAGES / self._image.read_text(encoding="utf-8") / "root" if self._image.exists() else None

    @property
    def _image(self) -> Path:
        return self.folder / "image"

    @property
    def _note(self) -> Path:
        return self.folder / "bed.json"

    @contextlib.contextmanager
    def _only_one(self) -> Iterator[None]:
        """One command at a time changes the bed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder.parent / ".lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def used() -> set[str]:
    """Roots that a bed's hosts stand on."""
    return {path.read_text(encoding="utf-8") for path in ROOT.glob("many/*/image")}
