"""Names, numbers and places of the emulated hosts; every one of them has its home here."""

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

NETWORK = "10.77.0"
PREFIX = 24
SELF = f"{NETWORK}.1"
"""This machine's address on the underlay."""
