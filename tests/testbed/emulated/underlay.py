"""The hosts' network on this machine: a bridge and a tap for each host."""

import contextlib
import json
from pathlib import Path

from shared.places import MARK

from emulated.places import BRIDGE, PREFIX, SELF
from vclust_py.errors import VclustError
from vclust_py.run import run


def tap(name: str) -> str:
    return f"{BRIDGE}-{name}"


def ensure_bridge() -> None:
    """Raises VclustError when an interface of that name is somebody else's."""
    if _ours(BRIDGE):
        return
    run(["ip", "link", "add", BRIDGE, "type", "bridge"])
    run(["ip", "link", "set", BRIDGE, "alias", MARK, "up"])
    run(["ip", "addr", "add", f"{SELF}/{PREFIX}", "brd", "+", "dev", BRIDGE])


def ensure_tap(name: str) -> None:
    device = tap(name)
    if not _ours(device):
        run(["ip", "tuntap", "add", "dev", device, "mode", "tap"])
        run(["ip", "link", "set", device, "alias", MARK])
    run(["ip", "link", "set", device, "master", BRIDGE, "up"])


def remove_tap(name: str) -> None:
    _remove(tap(name))


def remove_bridge() -> None:
    """With whatever taps are left of hosts whose folder somebody has removed; not while another testbed's hosts run."""
    ports = [link for link in json.loads(run(["ip", "-json", "link"])) if link.get("master") == BRIDGE]
    if not any("LOWER_UP" in link["flags"] for link in ports):
        for link in ports:
            _remove(link["ifname"])
        _remove(BRIDGE)


def _remove(device: str) -> None:
    """Another's interface of that name stays."""
    with contextlib.suppress(VclustError):
        if _ours(device):
            run(["ip", "link", "delete", device])


def _ours(device: str) -> bool:
    path = Path("/sys/class/net", device)
    if not path.exists():
        return False
    if (path / "ifalias").read_text(encoding="utf-8").strip() != MARK:
        raise VclustError(f"{device}: an interface of that name is there already, and not the testbed's")
    return True
