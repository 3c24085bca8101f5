"""Names, numbers and places of the testbed; every one of them has its home here."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("VCLUST_TESTBED_ROOT", "/var/lib/vclust-testbed"))
"""Everything the testbed keeps: images, the hosts' disks, keys, inventories."""

IMAGES = ROOT / "images"
HOSTS = ROOT / "hosts"
KEY = ROOT / "key"
KNOWN_HOSTS = ROOT / "known_hosts"

BRIDGE = "vxb0"
"""The underlay.  Taps are named after it and the host."""

MARK = "vclust-testbed"
"""Alias of bridge and taps: only what carries it is ever taken away."""

PREFIX = 24
SELF = "10.77.0.1"
"""This machine's address on the underlay."""

MEMORY = 2048
"""MiB of a host, dom0 included."""

DOM0_MEMORY = 384
"""MiB of dom0; 170 of them are available while two guests run."""


def address(number: int, plain: bool) -> str:
    """Hosts with Xen begin at .11, those without at .31."""
    return f"10.77.0.{(30 if plain else 10) + number}"
