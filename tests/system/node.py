"""One node by bare QEMU, without libvirt: what base image and installer do is seen apart from everything else."""

import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from vclust_py.image import installer
from vclust_py.run import DYING_WITH_PARENT

TICKS = os.sysconf("SC_CLK_TCK")
_ESCAPE = re.compile("\x1b(\\[[!?0-9;]*[A-Za-z]|\\][^\x07\x1b]*(\x07|\x1b\\\\))")
"""ECMA-48: a control sequence, or a command for the terminal with its end."""


class Node:
    """A machine over `base`, reachable through a forwarded port.  Use it as a context manager: it ends at the end.

    QEMU's user network stands for the cluster's: the seed gives the node `address` in `network`, with `router`.
    """

    def __init__(
        self,
        folder: Path,
        base: Path,
        kernel: Path,
        initramfs: Path,
        seed: Path,
        cluster: Path,
        *,
        mac: str,
        address: str,
        network: str,
        router: str,
        bundle: Path | None = None,
        disk: str = "4G",
        memory: str = "488M",
        kvm: bool = False,
        machine: str = installer.MACHINE,
        append: str = "",
        qemu: Sequence[str] = (),
    ) -> None:
        self.console, self.monitor = folder / "console", folder / "monitor"
        overlay = folder / "overlay.qcow2"
        if not overlay.exists():
            create = [
                "qemu-img",
                "create",
                "-q",
                "-f",
                "qcow2",
                "-b",
                base.resolve(),
                "-F",
                "qcow2",
                overlay,
                disk,
            ]
            subprocess.run(create, check=True)
        self.console.touch()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        disks = [f"file={overlay},format=qcow2,cache=unsafe"]
        disks += [f"file={path},format=raw,readonly=on" for path in (bundle, cluster, seed) if path]
        accelerator = "kvm" if kvm else f"tcg,tb-size={installer.TB_CACHE}"
        processor = ",".join(["max", *(f"-{name}" for name in installer.EMULATED_CPU_WITHOUT if not kvm)])
        dns = router.rpartition(".")[0] + ".253"
        self.argv = [
            *("qemu-system-x86_64", "-accel", accelerator, "-machine", machine, "-cpu", processor),
            *("-m", memory, "-nodefaults", "-display", "none", "-serial", f"file:{self.console}"),
            *("-monitor", f"unix:{self.monitor},server,nowait"),
            *("-kernel", str(kernel), "-initrd", str(initramfs)),
            *("-append", f"{installer.command_line(accelerator='kvm' if kvm else 'tcg')} {append}".strip()),
            *(
                "-netdev",
                f"user,id=n,net={network},host={router},dns={dns}"
                f",hostfwd=tcp:127.0.0.1:{self.port}-{address}:22",
            ),
            *("-device", f"virtio-net-pci,netdev=n,mac={mac},romfile="),
            *(word for drive in disks for word in ("-drive", f"{drive},if=virtio")),
            *qemu,
        ]

    def __enter__(self) -> "Node":
        self.started = time.monotonic()
        self.process = subprocess.Popen([*DYING_WITH_PARENT, *self.argv])
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def cpu_seconds(self) -> float:
        """Of the QEMU process: the whole machine, the host's side of it included."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_bytes(self) -> int:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return sum(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS"))

    def said(self) -> list[str]:
        """The lines for vclust on the console; on a busy machine one may stand behind the login prompt.

        Debian 13's systemd resets the terminal, by sequences that do not end the line.
        """
        lines = _ESCAPE.sub("", self.console.read_text(errors="replace")).splitlines()
        found = (re.search(r"(?:^|login: )(vclust: .*)", line) for line in lines)
        return [match[1].strip() for match in found if match]

    def report(self) -> str:
        """The node's last word, its ready or failed line, or nothing yet."""
        last = [line for line in self.said() if line.startswith(("vclust: ready", "vclust: failed"))]
        return last[0] if last else ""

    def wait_for_report(self, timeout: float = 600) -> str:
        while not self.report() and self.running and time.monotonic() - self.started < timeout:
            time.sleep(0.1)
        return self.report()

    def banner(self) -> bool:
        """Does sshd answer?  Each time costs the node a process."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.settimeout(30)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def ssh(self, key: Path, user: str, command: str) -> subprocess.CompletedProcess[str]:
        options = ["BatchMode=yes", "ConnectTimeout=300", "StrictHostKeyChecking=no", "LogLevel=ERROR"]
        options += ["UserKnownHostsFile=/dev/null", "IdentitiesOnly=yes"]
        argv = [
            "ssh",
            "-F",
            "none",
            "-i",
            str(key),
            "-p",
            str(self.port),
            *(f"-o{option}" for option in options),
        ]
        argv += [f"{user}@127.0.0.1", command]
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)

    def tell_qemu(self, command: str) -> None:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(str(self.monitor))
            monitor.settimeout(120)
            for line in ("", f"{command}\n"):
                monitor.sendall(line.encode())
                answer = b""
                while not answer.endswith(b"(qemu) "):
                    answer += monitor.recv(4096)

    def wait_for_end(self, timeout: float = 600) -> bool:
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        return True
