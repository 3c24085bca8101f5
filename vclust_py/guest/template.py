"""The two small disks of a template: a node without users, keys or secrets, and the agent that waits in it.

A template boots from them as any node does from its own.  The agent (`image/guest/fork-agent`) comes with the seed,
into /run: neither base image nor layers know of templates.
"""

import hashlib
import uuid
from collections.abc import Mapping
from ipaddress import IPv4Interface

from vclust_py import seed
from vclust_py.addresses import mac_of
from vclust_py.guest import agent, cluster_disk, fat
from vclust_py.guest.tar import File, packed, text
from vclust_py.image.installer import GUEST

ROOM = {"seed": 1 << 20, "cluster": 32 << 20}
"""Bytes of the two disks: a clone's own stand in their places, and the frozen kernel knows how large they may be."""

_ADDRESS = IPv4Interface("192.0.2.1/24")
"""Of TEST-NET-1 (RFC 5737): its network card is connected to nothing."""
_NAME = "template"

_LOGGED = 10
"""Seconds after which a clone's journal starts: until then its sockets keep what they are told."""
_UNIT = "vclust-fork.service"
_UNITS = "run/systemd/system"


def _programs() -> list[File]:
    fork_agent, identity, unit = ((GUEST / name).read_bytes() for name in ("fork-agent", "identity", _UNIT))
    return [
        File("run/vclust/fork-agent", fork_agent, 0o700),
        File("run/vclust/identity", identity, 0o600),
        File(f"{_UNITS}/{_UNIT}", unit),
        text(f"{_UNITS}/basic.target.d/vclust-fork.conf", f"[Unit]\nWants={_UNIT}\n"),
        text(f"{_UNITS}/timer.d/vclust-fork.conf", f"[Unit]\nAfter={_UNIT}\n"),
        text(f"{_UNITS}/systemd-journald.service.d/vclust-fork.conf", f"[Service]\nRestartSec={_LOGGED}\n"),
        # As in any node; in a template udev has read its rules before there is an identity.
        *agent.files(),
    ]


def version() -> str:
    """Digest of what waits in a template: one with another agent is another template."""
    return hashlib.sha256(packed(_programs())).hexdigest()


def disks() -> Mapping[str, bytes]:
    """The images of the two disks, `seed` and `cluster`, without the zeros up to ROOM."""
    values = {
        "instance": _NAME,
        "name": _NAME,
        "mac": mac_of(_ADDRESS.ip),
        "address": str(_ADDRESS),
        "router": str(_ADDRESS.network.broadcast_address - 1),
        "mtu": "1500",
    }
    node = "".join(f"{name}='{value}'\n" for name, value in values.items())
    # No two templates have the same disk: images are known by what is in them.
    own = [text("etc/hostname", f"{_NAME}\n"), text("etc/machine-id", f"{uuid.uuid4().hex}\n", 0o444)]
    nothing = dict.fromkeys(("passwd", "shadow", "group", "groups", "environment"), b"")
    return {
        "seed": fat.image(seed.LABEL, {"node": node.encode(), "files.tar.gz": packed([*own, *_programs()])}),
        "cluster": fat.image(cluster_disk.LABEL, nothing | {"files.tar.gz": packed([])}),
    }


def mac() -> str:
    return mac_of(_ADDRESS.ip)
