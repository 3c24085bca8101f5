"""The command as a user types it, and what a machine holds that it could leave behind, seen with the system's tools."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent

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


class Vclust:
    """The command, as a user types it, with a site of the tests' own."""

    def __init__(self, inventory: Path, folder: Path, patience: float = 900) -> None:
        self.inventory, self.folder, self.patience = inventory, folder, patience

    def __call__(self, *words: str | Path, code: int = 0) -> str:
        done = subprocess.run(
            [BIN / "vclust", "-i", self.inventory, *words],
            capture_output=True,
            text=True,
            timeout=self.patience,
        )
        assert done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *words: str) -> Any:
        done = subprocess.run(
            [BIN / "vclust", "-i", self.inventory, *words, "--json"], capture_output=True, check=True
        )
        return json.loads(done.stdout)

    def request(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.ini"
        path.write_text(text)
        return path
