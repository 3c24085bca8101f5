"""Emulated hosts, as the command line has them."""

import argparse
from pathlib import Path

from shared import inventory
from shared.command import Command, say
from shared.features import BRIDGE, ROOT, Feature

from emulated import bed, image, kinds
from emulated.host import Host
from emulated.kinds import Kind


class Emulated(Command):
    most = kinds.MOST
    features = (
        ROOT,
        BRIDGE,
        Feature("taps", "ip tuntap add dev probe mode tap"),
        Feature("qemu-system-x86_64", "qemu-system-x86_64 --version"),
    )

    def __init__(self, kind: Kind) -> None:
        super().__init__(kind.name, kind.about)
        self._kind = kind

    def build(self) -> str:
        images = image.ensure(self._kind.image, say)
        return f"{images.folder} ({len(images.packages)} packages, made in {images.build_seconds:g} s)"

    def up(self, arguments: argparse.Namespace) -> Path:
        bed.up(self._kind, arguments.number, arguments.site_root, say)
        return inventory.folder(self._kind.name)

    def down(self) -> None:
        bed.down(self._kind, say)

    def hosts(self) -> list[Host]:
        return bed.hosts(self._kind)
