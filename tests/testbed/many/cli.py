"""Many hosts, as the command line has them."""

import argparse
from pathlib import Path

from shared.command import Command, count, say
from shared.features import ROOT, Feature

from many import bed, image
from many.bed import Bed, Shape
from many.fabric import FEATURES
from many.host import Host

_OVERLAY = Feature(
    "overlayfs",
    "mkdir lower upper work root && mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work probe root",
)


class Many(Command):
    most = bed.MOST
    features = (ROOT, _OVERLAY, *FEATURES)

    def __init__(self) -> None:
        super().__init__("many", "many hosts as namespaces: own root, libvirt and sshd, emulated nodes")
        self._bed = Bed()

    def build(self) -> str:
        return str(image.ensure(bed.used, say))

    def options(self, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--racks",
            type=count(bed.MOST),
            default=Shape.racks,
            metavar="R",
            help="how many (default %(default)s)",
        )
        parser.add_argument(
            "--rate",
            default=Shape.rate,
            help="of a rack's uplink, as tc writes it, or none (default %(default)s)",
        )

    def up(self, arguments: argparse.Namespace) -> Path:
        shape = Shape(arguments.racks, arguments.rate)
        self._bed.up(arguments.number, shape, arguments.site_root, say)
        return self._bed.inventory

    def down(self) -> None:
        self._bed.down()

    def hosts(self) -> list[Host]:
        return self._bed.hosts()

    def status(self) -> list[str]:
        lines = super().status()
        if lines:
            rates = self._bed.fabric.uplinks()
            lines += [f"uplink of rack {rack}: {rate}" for rack, rate in rates.items()]
        return lines
