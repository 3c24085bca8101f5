"""Hosts for tests of the control plane: all that a site manager says to its hosts, and no machines behind it.

hosts       real libvirtds on loopback, one a host, that serve libvirt's test driver over TLS
chaos       two controllers at random on such hosts
stand_in    what leads the product's programs there, for PYTHONPATH and PATH; `environment` has both
"""

import os
from collections.abc import Mapping
from pathlib import Path

_STAND_IN = Path(__file__).with_name("stand_in")


def environment(start_seconds: float = 0.0) -> Mapping[str, str]:
    """In which `vclust` and `ansible-playbook` take such hosts for machines on which nodes come up; a domain takes
    `start_seconds` to start.
    """
    return {
        **os.environ,
        "PYTHONPATH": str(_STAND_IN),
        "PATH": f"{_STAND_IN}:{os.environ['PATH']}",
        "VCLUST_TEST_START": str(start_seconds),
    }
