"""The command as a user types it, and what these tests could leave on a machine, seen with the system's tools.

The machine is in use: others make clusters beside the tests, with roots of their own.  Only what is the tests' own
counts: what is named after their folders or segments, and what their processes have started.
"""

import contextlib
import glob
import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vclust_py.site import PROJECT

BIN = Path(sys.executable).parent
JOURNAL = "until ls /run/log/journal/*/system.journal; do sleep 1; done >/dev/null 2>&1"
"""In a node, before it is read: that of a clone starts some seconds after the rest."""

OURS = (
    "qemu-system",
    "qemu-storage-daemon",
    "ansible-playbook",
    "dpkg",
    "mmdebstrap",
    "unshare",
    "AnsiballZ",
    "egress_relay",
    "apt-cacher-ng",
)

MARK = "VCLUST_TEST_RUN"
"""Environment variable that tells this run's processes from all others'; what they start inherits it."""
os.environ[MARK] = str(os.getpid())

ROOTS: set[Path] = set()
"""Folders of this run, below which all it makes lies."""


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def _below_roots(text: str) -> bool:
    # Not another folder whose name only begins alike.
    return any(re.search(rf"{re.escape(str(root))}(?![\w-])", text) for root in ROOTS)


def _is_own(process: Path, line: str) -> bool:
    """By its environment, else (libvirt and sandboxes give another one) by what it was told or works on."""
    with contextlib.suppress(OSError):
        if f"{MARK}={os.environ[MARK]}".encode() in (process / "environ").read_bytes().split(b"\0"):
            return True
        return _below_roots(f"{line} {os.readlink(process / 'cwd')} {os.readlink(process / 'root')}")
    return _below_roots(line)


def _processes() -> set[str]:
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if any(word in line for word in OURS) and "pytest" not in line and _is_own(path.parent, line):
            found.add(f"{path.parent.name} {line[:120]}")
    return found


def segments() -> set[str]:
    """Names of the segments (bridge, namespace) of all clusters that the sites below ROOTS have ever had."""
    found = set()
    for root in ROOTS:
        for depth in range(4):  # a test's folder, a disk mounted in it, a site on that
            for database in glob.glob(f"{root}/{'*/' * depth}state.db"):
                with contextlib.suppress(sqlite3.Error):  # a test's damaged one
                    found |= segments_of(Path(database))
    return found


def segments_of(database: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=10)) as connection:
        rows = connection.execute("SELECT id, name, created FROM clusters").fetchall()
    return {
        "vc" + hashlib.sha256(f"{id} {name} {created!r}".encode()).hexdigest()[:10]
        for id, name, created in rows
    }


def _interfaces(own: set[str]) -> set[str]:
    """Those of own segments: bridges, ports of routers, VXLAN devices, and the nodes' taps."""
    links = json.loads(output("ip", "-json", "link"))
    return {
        link["ifname"]
        for link in links
        if any(
            name.startswith(segment) for segment in own for name in (link["ifname"], link.get("master", ""))
        )
    }


def snapshot() -> dict[str, set[str]]:
    """This run's processes, interfaces, network namespaces, loop devices and mounts (FUSE exports are both)."""
    own = segments()
    loops = json.loads(output("losetup", "--json", "--list", "--output", "NAME,BACK-FILE") or "{}")
    return {
        "processes": _processes(),
        "interfaces": _interfaces(own),
        "namespaces": own & {space["name"] for space in json.loads(output("ip", "-json", "netns") or "[]")},
        "loop devices": {
            loop["name"] for loop in loops.get("loopdevices", ()) if _below_roots(loop["back-file"] or "")
        },
        "mounts": {
            line.split()[1]
            for line in Path("/proc/mounts").read_text().splitlines()
            if _below_roots(line) or line.split()[1].removeprefix("/run/netns/") in own
        },
    }


def left_since(before: dict[str, set[str]], patience: float = 60) -> dict[str, set[str]]:
    """What is there now and was not at `before`; the kernel may take a moment to end what was killed."""
    deadline = time.monotonic() + patience
    while True:
        now = snapshot()
        left = {kind: found - before[kind] for kind, found in now.items() if found - before[kind]}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)


def local_inventory(inventory: Path, **settings: object) -> None:
    """A folder with the project's own inventory, whose site, this machine, has these settings, `root` among them."""
    shutil.copytree(PROJECT / "inventories/local", inventory)
    with open(inventory / "vclust.yml", "a") as plugin:
        plugin.write(f"site: {{root: {settings['root']}}}\n")
    set_site(inventory, **settings)


def set_site(inventory: Path, **settings: object) -> None:
    """Other settings of the site; nothing is learnt or renewed by itself unless they say so."""
    variables = inventory / "group_vars/site_local.yml"
    # JSON is YAML too.
    text = json.dumps({"cache_every": 0, "base_renewal": 0, **settings}, default=str)
    lines = [line for line in variables.read_text().splitlines() if not line.startswith("vclust_site:")]
    variables.write_text("\n".join([*lines, f"vclust_site: {text}", ""]))


def local(folder: Path, **settings: object) -> "Vclust":
    """The command with `local_inventory`; clusters of a test run that was killed are gone."""
    local_inventory(folder / "inventory", **settings)
    command = Vclust(folder / "inventory", folder)
    command.clear()
    return command


class Vclust:
    """The command, as a user types it, with a site of the tests' own."""

    def __init__(self, inventory: Path, folder: Path, patience: float = 900) -> None:
        self.inventory, self.folder, self.patience = inventory, folder, patience

    def __call__(self, *words: str | Path, code: int = 0, **environment: str | Path) -> str:
        done = subprocess.run(
            [BIN / "vclust", "-i", self.inventory, *words],
            capture_output=True,
            text=True,
            timeout=self.patience,
            env={**os.environ, **environment},
        )
        assert done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def json(self, *words: str) -> Any:
        done = subprocess.run(
            [BIN / "vclust", "-i", self.inventory, *words, "--json"], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{words}: {done.stdout}\n{done.stderr}"
        return json.loads(done.stdout)

    def request(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.ini"
        path.write_text(text)
        return path

    def clear(self) -> None:
        """Destroy all clusters of the site."""
        for cluster in self.json("list"):
            self("destroy", cluster["name"])
