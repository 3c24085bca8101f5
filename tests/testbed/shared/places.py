"""Where testbeds keep what they keep, and how it is known to be theirs."""

import os
from pathlib import Path

ROOT = Path(os.environ.get("VCLUST_TESTBED_ROOT", "/var/lib/vclust-testbed"))
"""Everything the testbeds keep: images, the hosts' disks, keys, inventories."""

IMAGES = ROOT / "images"
KEY = ROOT / "key"
"""root's, for all hosts."""

MARK = "vclust-testbed"
"""Alias of interfaces, and a word in the command line of hosts: only what carries it is ever taken away."""
