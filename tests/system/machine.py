"""What a machine holds that vclust could leave behind, seen with the system's own tools."""

import json
import subprocess
import time
from pathlib import Path

OURS = (
    "qemu-system",
    "qemu-storage-daemon",
    "ansible-playbook",
    "dpkg",
    "mmdebstrap",
    "unshare",
    "AnsiballZ",
)


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _processes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(word in line for word in OURS) and "pytest" not in line:
            found.add(f"{path.parent.name} {line[:120]}")
    return found


def snapshot() -> dict[str, set[str]]:
    """Processes of ours, interfaces, network namespaces, loop devices and mounts (FUSE exports are both)."""
    return {
        "processes": _processes(),
        "interfaces": {link["ifname"] for link in json.loads(output("ip", "-json", "link"))},
        "namespaces": {space["name"] for space in json.loads(output("ip", "-json", "netns") or "[]")},
        "loop devices": set(output("losetup", "--all", "--noheadings", "--output", "NAME").split()),
        # nsfs: `ip netns` keeps its folder mounted once it was used.
        "mounts": {
            line.split()[1]
            for line in Path("/proc/mounts").read_text().splitlines()
            if line.split()[1] not in ("/run/netns", "/proc/sys/fs/binfmt_misc")
        },
    }


def left_since(before: dict[str, set[str]], patience: float = 20) -> dict[str, set[str]]:
    """What is there now and was not at `before`; the kernel may take a moment to end what was killed."""
    deadline = time.monotonic() + patience
    while True:
        left = {kind: found - before[kind] for kind, found in snapshot().items() if found - before[kind]}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)
