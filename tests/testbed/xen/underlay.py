"""The hosts' network on this machine: a bridge and a tap for each host."""

import json
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.run import run
from xen.places import BRIDGE, MARK, PREFIX, SELF


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


def remove() -> None:
    """Bridge and taps of the testbed, whatever is left of them."""
    for link in json.loads(run(["ip", "-json", "link"])):
        name = link["ifname"]
        if (name == BRIDGE or name.startswith(f"{BRIDGE}-")) and link.get("ifalias") == MARK:
            run(["ip", "link", "delete", name])


def _ours(device: str) -> bool:
    path = Path("/sys/class/net", device)
    if not path.exists():
        return False
    if (path / "ifalias").read_text(encoding="utf-8").strip() != MARK:
        raise VclustError(f"{device}: an interface of that name is there already, and not the testbed's")
    return True
