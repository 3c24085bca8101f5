"""One host: a process tree in namespaces of its own, with a root of its own over the shared one.

It outlives the command that started it.  Its disk is what it wrote (`upper`), which stays when the plug is pulled.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from shared import ssh
from shared.places import MARK

from many.fabric import Fabric
from vclust_py.errors import VclustError
from vclust_py.run import run

# The host is nobody's child, so that nobody need wait for it.
_ALONE = 'log=$1; shift; "$@" </dev/null >>"$log" 2>&1 & echo $!'

_GONE = 20  # seconds a killed host may take to end
_NAMESPACES = ("--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child")


@dataclass(frozen=True)
class Host:
    number: int
    """From 1."""
    rack: int
    home: Path
    """The folder of the bed."""
    fabric: Fabric

    @property
    def name(self) -> str:
        return f"h{self.number}"

    @property
    def address(self) -> str:
        return self.fabric.address(self.number)

    @property
    def folder(self) -> Path:
        return self.home / "hosts" / str(self.number)

    @property
    def upper(self) -> Path:
        """Files of its root that are its own."""
        return self.folder / "upper"

    @property
    def known_hosts(self) -> Path:
        return self.home / "known_hosts"

    def public_key(self) -> str:
        return ssh.host_key(self.folder / "host-key")

    def variables(self) -> dict[str, str]:
        """Of the inventory."""
        return {
            "vclust_libvirt_uri": f"qemu+tls://{self.address}/system",
            "vclust_rack": f"r{self.rack}",
        }

    # -- the machine

    def make(self) -> None:
        """Its folder and identity, unless they are there; `host-key`, moved there last, says that they are."""
        if (self.folder / "host-key").exists():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        for name in ("upper/root/.ssh", "upper/etc/ssh", "work", "root"):
            (self.folder / name).mkdir(parents=True)
        for name in ("upper/root", "upper/root/.ssh"):
            (self.folder / name).chmod(0o700)
        draft = self.folder / "new-key"
        ssh.make_host_key(draft, self.name)
        public = draft.with_suffix(".pub")
        files = {
            "etc/hostname": (0o644, f"{self.name}\n"),
            "etc/hosts": (0o644, f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.name}\n"),
            "etc/machine-id": (0o444, f"{uuid.uuid4().hex}\n"),
            "etc/ssh/ssh_host_ed25519_key": (0o600, draft.read_text(encoding="ascii")),
            "etc/ssh/ssh_host_ed25519_key.pub": (0o644, public.read_text(encoding="ascii")),
            "root/.ssh/authorized_keys": (0o600, ssh.public_key()),
        }
        for name, (mode, text) in files.items():
            (self.upper / name).write_text(text, encoding="utf-8")
            (self.upper / name).chmod(mode)
        public.rename(self.folder / "host-key.pub")
        draft.rename(self.folder / "host-key")

    def start(self, root: Path) -> None:
        """Switch it on, over the shared `root`, with its cable in; `wait` says when it is up."""
        self._log.write_bytes(b"")
        init = Path(__file__).with_name("init")
        address = f"{self.address}/{self.fabric.prefix}"
        words: list[str | Path] = [
            *(
                "nsenter",
                f"--net=/run/netns/{self.fabric.space(self.number)}",
                "--",
                "unshare",
                *_NAMESPACES,
                "--",
            ),
            *("sh", init, self._title, self.name, address, root, self.folder),
        ]
        done = subprocess.run(
            ["sh", "-c", _ALONE, "sh", self._log, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            start_new_session=True,
        )
        (self.folder / "pid").write_text(done.stdout, encoding="ascii")

    def wait(self, deadline: float) -> None:
        """Until its services have been started; `deadline` is of time.monotonic().  Raises VclustError, with what it
        said, when they are not.
        """
        while not self.is_up():
            if self.pid() is None or time.monotonic() > deadline:
                said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
                raise VclustError(f"{self.name}: did not come up\n" + "\n".join(said))
            time.sleep(0.05)

    def is_up(self) -> bool:
        first = self._first()
        return first is not None and Path(f"/proc/{first}/root/run/testbed-up").exists()

    def pid(self) -> int | None:
        """The process that all of the host dies with, None when it is off."""
        try:
            pid = int((self.folder / "pid").read_text(encoding="ascii"))
            words = Path(f"/proc/{pid}/cmdline").read_bytes()
            if not words:  # for a moment, while it becomes another program; for good when it has ended
                stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
                return None if stat.rpartition(")")[2].split()[0] in "ZX" else pid
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        return pid if self._title.encode() in words.split(b"\0") else None

    def stop(self) -> None:
        """Pull the plug: its processes, interfaces and cable are gone, its disk stays."""
        self.wait_for_end(self.kill())
        self.fabric.unplug([self.number])

    def kill(self) -> int | None:
        """Have its processes end, and say which of them will be the last."""
        last, pid = self._first(), self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return last

    def wait_for_end(self, last: int | None) -> None:
        """Of what `kill` has killed.  Raises VclustError when it does not end."""
        deadline = time.monotonic() + _GONE
        while self.pid() is not None or (last is not None and Path(f"/proc/{last}").exists()):
            if time.monotonic() > deadline:
                raise VclustError(f"{self.name}: process {last} does not end")
            time.sleep(0.02)

    def pause(self) -> None:
        """As a host that hangs: it keeps its address and answers nothing that a process would have to."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def pull_cable(self) -> None:
        self.fabric.link(self.number, False)

    def put_cable_back(self) -> None:
        self.fabric.link(self.number, True)

    def processes(self) -> list[int]:
        """All of the host, as this machine numbers them."""
        first = self._first()
        if first is None:
            return []
        mine = os.readlink(f"/proc/{first}/ns/pid")
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.readlink(path / "ns/pid") == mine:
                    found.append(int(path.name))
        return found

    def state(self) -> str:
        if self.pid() is None:
            return f"rack {self.rack}, off"
        every = self.processes()
        memory = 0
        for pid in every:
            with contextlib.suppress(OSError, IndexError):
                rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
                memory += int(rollup.partition("\nPss:")[2].split()[0])
        return f"rack {self.rack}, {len(every)} processes, {memory >> 10} MiB"

    # -- the way in

    def ssh_command(self, *words: str) -> list[str]:
        return ssh.command(self.address, self.known_hosts, {"ConnectTimeout": "60"}, *words)

    def ssh(self, command: str, *, stdin: str | None = None, timeout: float = 120) -> str:
        """What `command` (for the host's shell) prints.  Raises CommandError when it fails."""
        return run(self.ssh_command("--", command), stdin=stdin, timeout=timeout)

    # -- its parts

    @property
    def _title(self) -> str:
        """Tells our process from one that has its number later."""
        return f"{MARK}:{self.folder}"

    @property
    def _log(self) -> Path:
        """What its start said."""
        return self.folder / "log"

    def _first(self) -> int | None:
        """The host's process 1, as this machine numbers it, which ends after all others."""
        pid = self.pid()
        if pid is None:
            return None
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
        except OSError:
            return None
        return int(children[0]) if children else None
