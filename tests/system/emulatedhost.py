"""What tests on the testbed's emulated hosts share."""

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from checker import Machine, check, read
from emulated import bed
from emulated.host import Host
from emulated.kinds import DEBIAN_13, KVM, XEN
from machine import BIN, Vclust

from vclust_py.site import PROJECT

PATIENCE = 1500
"""Seconds a command may take: on a busy machine, several times what it takes on a quiet one."""


class Meter:
    """The CPU time of a host's QEMU process, written down all the while; a context manager."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __enter__(self) -> "Meter":
        self.start = time.time()
        self._samples: list[tuple[float, float]] = [(self.start, self._host.cpu_seconds())]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()
        return self

    def _work(self) -> None:
        while not self._stop.wait(0.5):
            self._samples.append((time.time(), self._host.cpu_seconds()))

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.end = time.time()
        self._samples.append((self.end, self._host.cpu_seconds()))

    def between(self, start: float, end: float) -> float:
        return self._at(end) - self._at(start)

    def _at(self, moment: float) -> float:
        closest = min(self._samples, key=lambda sample: abs(sample[0] - moment))
        return closest[1]

    def line(self, what: str) -> str:
        return f"{what} {self.end - self.start:.1f}/{self.between(self.start, self.end):.1f}"


@dataclass(frozen=True)
class RollOut:
    """A site that the roll-out has made ready; tasks that changed something, each with its machine."""

    inventory: Path
    checked: set[tuple[str, str]]
    """Those that a check beforehand said would."""
    changed: set[tuple[str, str]]


def roll_out(site: Path, *words: str) -> set[tuple[str, str]]:
    """`playbooks/site.yml`, with `words` for ansible-playbook: tasks that changed something, with their machines."""
    done = subprocess.run(
        [BIN / "ansible-playbook", "-i", site, *words, PROJECT / "playbooks/site.yml"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    task, found = "", set()
    for line in done.stdout.splitlines():
        if heading := re.match(r"TASK \[(?:\w+ : )?(.*)\] \*", line):
            task = heading[1]
        elif machine := re.match(r"changed: \[([^] ]+)", line):
            found.add((task, machine[1]))
    return found


_HELD = {
    "pools": "virsh pool-list --all --name | grep -E 'vclust-t-'",
    "networks": "virsh net-list --all --name",
    "interfaces": "ls /sys/class/net",
    "clusters": "ls /var/lib/vclust/clusters",
    "rules": "nft list ruleset | grep -oE '\\bvc[0-9a-f]{10}\\b'",
    "domains": "virsh list --all --name",
}
HELD = {
    XEN: {
        **_HELD,
        "guests": "xl list | awk 'NR > 1 {print $1}'",
        "store": "xenstore-list /local/domain",
        "loop devices": "losetup --all --noheadings --output NAME",
        "consoles": "ls /var/log/xen/console | grep ^guest-t-",
        "device models": "pgrep -f [x]en-domid",
    },
    KVM: {
        **_HELD,
        "emulators": "pgrep qemu-system",
        "profiles": "aa-status | grep -E '^ *libvirt-[0-9a-f]'",
        "state": "ls /etc/libvirt/qemu /run/libvirt/qemu | grep -E '[.]xml'",
    },
}
HELD[DEBIAN_13] = HELD[KVM]
"""By kind of host: commands that list what vclust could leave behind, but for pools of the site's own."""


def held(host: Host) -> dict[str, set[str]]:
    commands = HELD[host.kind]
    said = host.ssh(
        f"export LIBVIRT_DEFAULT_URI={host.kind.local_uri}\n"
        + "".join(f"echo '== {kind}'; {command}\n" for kind, command in commands.items())
        + "true"
    )
    found: dict[str, set[str]] = {}
    for line in said.splitlines():
        if line.startswith("== "):
            lines = found.setdefault(line[3:], set())
        elif line:
            lines.add(line)
    assert found.keys() == commands.keys()
    return found


def left_on(host: Host, before: dict[str, set[str]], patience: float = 30) -> dict[str, set[str]]:
    """What the host holds now and did not at `before`; it may take a moment to tidy up."""
    deadline = time.monotonic() + patience
    while True:
        now = held(host)
        left = {kind: now[kind] - before[kind] for kind in now if now[kind] - before[kind]}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(2)


REQUEST = """\
[Hardware]
NumberOfNodes: 1
RAM: 256MB

[Software]
Name: {name}
Hostname: {name}%02d
Network: 192.168.79.0/24
Packages: hello
"""

STATES = ("placed", "started", "installer", "installed")
"""Of a node that is on its way, in their order."""


class Unhappy(Vclust):
    """The command, where something is wrong with the site's only host; its clusters are called u-…, of one node."""

    def __init__(self, inventory: Path, folder: Path, host: Host) -> None:
        super().__init__(inventory, folder, PATIENCE)
        self.host = host
        settings = (inventory / "group_vars/site_testbed.yml").read_text()
        found = re.search(r'root: "?([^"\s]+)', settings)
        assert found is not None
        self.root = Path(found[1])
        """The site's."""

    def asks(self, name: str) -> Path:
        return self.request(name, REQUEST.format(name=name))

    def begins(self, request: Path) -> "subprocess.Popen[str]":
        """`create`, while the test goes on."""
        words = [BIN / "vclust", "-i", self.inventory, "create", request]
        return subprocess.Popen(words, stderr=subprocess.PIPE, text=True)

    def reaches(self, name: str, state: str, creating: "subprocess.Popen[str]") -> bool:
        """Whether its node comes to be in this state, or a later one on the way to `ready`, before `create` ends.

        Asked of the store: a node on KVM is past a state before `vclust list` has said so.
        """
        wanted = STATES[STATES.index(state) :]
        deadline = time.monotonic() + PATIENCE
        while True:
            found = [
                node for cluster in read(self.root).live if cluster.name == name for node in cluster.nodes
            ]
            if any(node.state in wanted for node in found):
                return True
            if creating.poll() is not None:
                return False
            assert time.monotonic() < deadline, found
            time.sleep(0.2)

    def fails(self, *words: str | Path, code: int) -> str:
        """What it says on standard error, without progress; in bounded time."""
        done = subprocess.run(
            [BIN / "vclust", "-i", self.inventory, *words],
            capture_output=True,
            text=True,
            timeout=self.patience,
        )
        assert done.returncode == code, f"{words}: {done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        return "\n".join(line for line in done.stderr.splitlines() if not line.startswith("["))

    def host_variable(self, name: str, value: str) -> None:
        folder = self.inventory / "host_vars"
        folder.mkdir(exist_ok=True)
        (folder / f"{self.host.name}.yml").write_text(f"---\n{name}: {json.dumps(value)}\n")

    def power_on(self) -> None:
        bed.up(self.host.kind, 1, self.root, print)

    def differences(self) -> list[str]:
        return check(self.root, [Machine(self.host.name, self.host.ssh, self.host.kind.local_uri)])

    def clear(self) -> None:
        for cluster in self.json("list"):
            if cluster["name"].startswith("u-"):
                self("destroy", cluster["name"])


@contextlib.contextmanager
def unhappy(host: Host, rolled_out: Path, folder: Path) -> Iterator[Unhappy]:
    """The command, with an inventory of its own in `folder`; afterwards the host runs and has no clusters."""
    shutil.copytree(rolled_out, folder / "inventory")
    if host.kind is XEN:
        # Which an emulated processor bears more easily than pvh.
        (folder / "inventory/group_vars/vm_hosts.yml").write_text("---\nvclust_xen_guest: pv\n")
    command = Unhappy(folder / "inventory", folder, host)
    command.clear()
    yield command
    if host.pid() is None:
        command.power_on()
    shutil.rmtree(command.inventory / "host_vars", ignore_errors=True)
    command.clear()


@contextlib.contextmanager
def xen_guests(rolled_out: Path, guest: str, folder: Path, names: str) -> Iterator[Vclust]:
    """vclust whose Xen hosts have guests of that kind; clusters whose names match go before, and at the end."""
    shutil.copytree(rolled_out, folder / "inventory")
    (folder / "inventory/group_vars/vm_hosts.yml").write_text(f"---\nvclust_xen_guest: {guest}\n")
    command = Vclust(folder / "inventory", folder, PATIENCE)

    def clear() -> None:
        for cluster in command.json("list"):
            if re.fullmatch(names, cluster["name"]):
                command("destroy", cluster["name"])

    clear()  # of a test run that was killed
    yield command
    clear()
