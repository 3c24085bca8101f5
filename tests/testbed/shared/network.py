"""Network namespaces, and iproute2 for many things at once."""

from collections.abc import Iterable
from pathlib import Path

from vclust_py.run import run

QUEUE = ("burst", "256kb", "limit", "2mb")
"""Of every shaped link: a link that was idle may send its burst at once."""

_NEIGHBOURS = Path("/proc/sys/net/ipv4/neigh/default/gc_thresh3")
"""How many neighbours the kernel remembers, of all namespaces together."""


def namespaces() -> set[str]:
    return {line.split()[0] for line in run(["ip", "netns", "list"]).splitlines() if line.strip()}


def ip(lines: Iterable[str], namespace: str = "") -> None:
    """Commands of ip(8) in one process, in that namespace (none: this process's own)."""
    where = ["-n", namespace] if namespace else []
    run(["ip", *where, "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))


def let_hosts_be_many(count: int) -> None:
    """Make the kernel's table of neighbours large enough; it stays so until the machine restarts."""
    if int(_NEIGHBOURS.read_text()) < count * 16:
        _NEIGHBOURS.write_text(f"{count * 16}\n")
