"""What waits in a node for its host: an agent on a virtio port, and how it is spoken to.

A login costs an emulated node 0.9 CPU seconds before anything is done; by this way in a whole change takes 0.3.  The
agent (`image/guest/agent`) comes with the cluster's disk: base image and layers know nothing of it.  A node that has no
such port, or was made by an earlier version, is told by a login.
"""

from vclust_py.guest.tar import File, text
from vclust_py.image.installer import GUEST

PORT = "vclust"
"""Name of the virtio port; the agent of a template listens there as well (`vclust_py.guest.template`)."""
GREETING = b"vclust: agent\n"
"""What the agent says when it waits for a script, and again when it has heard an empty line."""

_UNIT = "vclust-agent.service"
# As Debian has it for QEMU's own agent.
_RULE = (
    f'SUBSYSTEM=="virtio-ports", ATTR{{name}}=="{PORT}", TAG+="systemd", ENV{{SYSTEMD_WANTS}}+="{_UNIT}"\n'
)


def files() -> list[File]:
    """What makes it start where the port is, in a node that boots."""
    return [
        File("usr/libexec/vclust/agent", (GUEST / "agent").read_bytes(), 0o755),
        File(f"etc/systemd/system/{_UNIT}", (GUEST / _UNIT).read_bytes()),
        text("etc/udev/rules.d/60-vclust.rules", _RULE),
    ]


def message(script: str, word: str) -> bytes:
    """What it is told to run `script`, after which it says `done(word)`."""
    # A shell's variable has no line ends at its end.
    data = script.rstrip("\n").encode()
    return b"run %d %s\n%s" % (len(data), word.encode(), data)


def done(word: str) -> bytes:
    """What it says when a script has ended."""
    return b"vclust: done %s\n" % word.encode()
