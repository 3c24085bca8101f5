"""Bridges, ports and namespaces on this machine that look like a cluster's network, and belong to no cluster.

They are left where a site's state was lost while clusters ran.  Several sites may be on one machine, so a name alone
says nothing: each bridge has an alias (ip-link(8)) that says which site has made it, and when.
"""

import contextlib
import os
import re
import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from vclust_py import network_hook
from vclust_py.site import clusters
from vclust_py.site.settings import Site
from vclust_py.site.store import Store
from vclust_py.text import plain, when

_DEVICES, _NAMESPACES = Path("/sys/class/net"), Path("/run/netns")
_NAME = re.compile(r"(vc[0-9a-f]{10})([rx]?)")
_MARK = re.compile(r"vclust ([0-9]+:[0-9]+) ([0-9]{1,8}) ([0-9]{1,12}) (/.*)")
_LONGEST_MARK = 255
"""Bytes (IFALIASZ)."""


@dataclass(frozen=True)
class Leftover:
    """What is there of one network."""

    segment: str
    parts: tuple[str, ...]
    """`bridge NAME` and the like."""
    nodes: tuple[str, ...]
    """Other ports of the bridge: of nodes, which may run."""
    root: str
    """Of the site that has made it; empty: not known."""
    number: int
    """Its VXLAN network number; 0: not known."""
    since: float | None
    """Unix time; None: not known."""
    ours: bool
    """Surely this site's, and nobody's any more."""

    @property
    def told(self) -> str:
        """In a sentence, with what to do."""
        since = f" since {when(self.since)}" if self.since else ""
        start = (
            f"this machine: {', '.join(self.parts)}: of no cluster,{since or ' since when is not known'}; "
        )
        if self.nodes:
            return (
                f"{start}in use: {', '.join(self.nodes)} are ports of it; virsh domiflist shows a domain's\n"
                "  hint: end what runs there first; then this says more"
            )
        if self.ours:
            return f"{start}made by this site\n  hint: vclust site repair removes it"
        by_hand = "\n  hint: if nobody else needs it, as root: " + "; ".join(_commands(self.parts))
        if self.root:
            return f"{start}made by the site that is, or was, in {plain(self.root, 200)}{by_hand}"
        return f"{start}nothing says by which site it was made{by_hand}"


def mark(store: Store) -> None:
    """Say on the bridge of each of the site's clusters whose it is; one that says so is left as it is."""
    identity = _identity(store.site)
    for segment, number in clusters.segments(store).items():
        path = _DEVICES / segment / "ifalias"
        # A bridge may go meanwhile; a root with a very long name stays unsaid.
        with contextlib.suppress(OSError):
            there = _MARK.fullmatch(path.read_text(encoding="utf-8").strip())
            if there is None or (there[1], int(there[2])) != (identity, number):
                text = f"vclust {identity} {number} {time.time():.0f} {store.site.root}"
                if len(text.encode()) <= _LONGEST_MARK:
                    path.write_text(text, encoding="utf-8")


def found(store: Store) -> list[Leftover]:
    """All on this machine, by name; what another site's clusters have is none."""
    # In this order: a cluster is in the store before its network is made, and until after that is taken away.
    there = _present()
    own = clusters.segments(store).keys()
    told = [_described(store.site, segment, parts) for segment, parts in there.items() if segment not in own]
    return [one for one in told if one is not None]


def _present() -> dict[str, dict[str, str]]:
    """By segment what there is of it: device or namespace, and what kind that is."""
    there: dict[str, dict[str, str]] = {}
    for folder, kinds in (
        (_DEVICES, {"": "bridge", "r": "port", "x": "tunnel"}),
        (_NAMESPACES, {"": "namespace"}),
    ):
        with contextlib.suppress(FileNotFoundError):
            for name in sorted(os.listdir(folder)):
                if (match := _NAME.fullmatch(name)) and match[2] in kinds:
                    there.setdefault(match[1], {})[f"{kinds[match[2]]} {name}"] = name
    return dict(sorted(there.items()))


def _described(site: Site, segment: str, parts: Mapping[str, str]) -> Leftover | None:
    """None where it is gone, or a cluster's of another site."""
    bridge, namespace = _DEVICES / segment, _NAMESPACES / segment
    nodes: tuple[str, ...] = ()
    identity, number, since, root = "", 0, None, ""
    with contextlib.suppress(OSError):
        since = namespace.stat().st_mtime
    with contextlib.suppress(OSError):
        own = (f"{segment}r", network_hook.device(segment))
        nodes = tuple(sorted(set(os.listdir(bridge / "brif")) - set(own)))
    with contextlib.suppress(OSError):
        if said := _MARK.fullmatch((bridge / "ifalias").read_text(encoding="utf-8").strip()):
            identity, number, since, root = said[1], int(said[2]), float(said[3]), said[4]
    if not (
        bridge.exists() or namespace.exists() or any((_DEVICES / name).exists() for name in parts.values())
    ):
        return None
    if root and segment in clusters.segments_in(Path(root, site.database.name)):
        return None
    ours = identity == _identity(site) and not nodes
    return Leftover(segment, tuple(parts), nodes, root, number, since, ours)


def _commands(parts: tuple[str, ...]) -> list[str]:
    """What takes them away by hand: the namespace takes its port with it."""
    found = []
    for kind, name in (part.split(" ", 1) for part in parts):
        if kind == "namespace":
            found.append(f"ip netns delete {shlex.quote(name)}")
        elif kind in ("bridge", "tunnel") or f"namespace {name[:-1]}" not in parts:
            found.append(f"ip link delete {shlex.quote(name)}")
    return found


def _identity(site: Site) -> str:
    """Of the site's root, among all on this machine while it runs; its name may be another's in a container."""
    try:
        there = site.root.stat()
    except OSError:
        return ""
    return f"{there.st_dev}:{there.st_ino}"
