"""What this machine's kernel and programs can do, found out by trying in namespaces that are thrown away."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

from vclust_py.errors import VclustError


@dataclass(frozen=True)
class Feature:
    name: str

    probe: str
    """Shell commands that succeed where it is there; run with network and mounts of their own, a tmpfs at /tmp."""

    without: str = ""
    """What is left out without it; empty where hosts cannot be without it."""


def missing(features: Iterable[Feature]) -> list[str]:
    """A line for each that is not there, with what is left out.

    Raises VclustError, naming them, when there are some that hosts cannot be without.
    """
    lacking = [feature for feature in features if not _works(feature)]
    needed = [feature.name for feature in lacking if not feature.without]
    if needed:
        raise VclustError(f"this machine lacks {', '.join(needed)}: hosts of this kind cannot run here")
    return [f"this machine lacks {feature.name}: {feature.without}" for feature in lacking]


def _works(feature: Feature) -> bool:
    script = f"mount -t tmpfs tmpfs /tmp && cd /tmp && {feature.probe}"
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-e", "-c", script], check=False, capture_output=True
    )
    return done.returncode == 0


ROOT = Feature("root's rights", "true")
BRIDGE = Feature("bridges", "ip link add probe type bridge")
