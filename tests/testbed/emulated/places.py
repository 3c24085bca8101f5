"""Names, numbers and places of the emulated hosts; every one of them has its home here."""

from shared.places import ROOT

HOSTS = ROOT / "hosts"
KNOWN_HOSTS = ROOT / "known_hosts"

BRIDGE = "vxb0"
"""The underlay.  Taps are named after it and the host."""

NETWORK = "10.77.0"
PREFIX = 24
SELF = f"{NETWORK}.1"
"""This machine's address on the underlay."""
