"""One host: a QEMU process with a disk of its own, and the way in by ssh.

A host outlives the command that started it once `keep` was called on what `start` returned; until then it ends with
its starter, however that ends.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from shared import ssh
from shared.places import IMAGES, MARK

from emulated import image, initramfs, kinds, places, underlay
from emulated.image import Images
from emulated.kinds import Kind
from vclust_py.errors import VclustError
from vclust_py.run import run

# Reads a word from its starter; when the starter has died instead, the machine dies too.
_GUARD = """
exec 3<&0; log=$1; shift
"$@" </dev/null >>"$log" 2>&1 3<&- &
machine=$!; echo $machine; exec >/dev/null
read -r word <&3 || kill -KILL $machine
"""

_GONE = 20  # seconds a killed machine may take to end


class Starting:
    """A machine that ends with this process, or at the end of the `with` block, unless it is kept."""

    def __init__(self, guard: "subprocess.Popen[str]", host: "Host") -> None:
        self._guard, self._host = guard, host

    def keep(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write("keep\n")
        self._guard.stdin.close()
        self._guard.wait()

    def __enter__(self) -> "Starting":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._guard.returncode is None:
            self._host.stop()
            self._guard.kill()
            self._guard.wait()


@dataclass(frozen=True)
class Host:
    kind: Kind
    number: int
    """From 1, in its kind."""

    @property
    def name(self) -> str:
        return f"{self.kind.name}{self.number}"

    @property
    def address(self) -> str:
        return f"{places.NETWORK}.{self.kind.first + self.number}"

    @property
    def known_hosts(self) -> Path:
        return places.KNOWN_HOSTS

    def variables(self) -> dict[str, str]:
        """Of the inventory."""
        every = {"vclust_libvirt_uri": self.kind.uri.format(host=self.address)}
        if self.kind.image.xen:
            every["vm_host_dom0_memory"] = f"{kinds.DOM0_MEMORY}M"  # what it is started with
        return every

    @property
    def folder(self) -> Path:
        return places.HOSTS / self.name

    @property
    def console(self) -> Path:
        """What hypervisor and kernel say on the serial line."""
        return self.folder / "console.log"

    def public_key(self) -> str:
        """The host's ssh key, as in known_hosts."""
        return ssh.host_key(self.folder / "host-key")

    # -- the machine

    def pid(self) -> int | None:
        """The QEMU process, None when the host is off."""
        try:
            pid = int((self.folder / "pid").read_text(encoding="ascii"))
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return None
        # A zombie has no words.
        return pid if self._title.encode() in words else None

    def images(self) -> Images | None:
        """What its disk stands on; None when it has no disk yet."""
        mark = self.folder / "image"
        return image.load(IMAGES / mark.read_text(encoding="utf-8")) if mark.exists() else None

    def start(self, emulator: Sequence[str], newest: Images | None) -> Starting:
        """Switch it on, by a QEMU of these words; a host without a disk gets one that stands on `newest`."""
        images = self.images() or newest
        assert images is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / "image").exists():
            self._make_disk(images)
        underlay.ensure_tap(self.name)
        self.console.write_bytes(b"")
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", self.folder / "qemu.log", *emulator, *self._command(images)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert guard.stdout is not None
        (self.folder / "pid").write_text(guard.stdout.readline(), encoding="ascii")
        return Starting(guard, self)

    def stop(self) -> None:
        """Pull the plug; the disk is as the host had written it."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            deadline = time.monotonic() + _GONE
            while self.pid() is not None:
                if time.monotonic() > deadline:
                    raise VclustError(f"{self.name}: process {pid} does not end")
                time.sleep(0.05)
        self._close_ssh()

    def remove(self) -> None:
        self.stop()
        underlay.remove_tap(self.name)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pause(self) -> None:
        """As a host that hangs: it keeps its address and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.pid()
        if pid is None:
            raise VclustError(f"{self.name}: is not running")
        os.kill(pid, number)

    def cpu_seconds(self) -> float:
        """Processor time of the whole host since it was switched on, guests included; 0 when it is off."""
        pid = self.pid()
        if pid is None:
            return 0.0
        # proc(5): utime and stime, counted from behind the name, which may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """MiB this machine spends on the host."""
        pid = self.pid()
        if pid is None:
            return 0
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") >> 20

    def state(self) -> str:
        pid = self.pid()
        return f"pid {pid}, {self.cpu_seconds():.0f} CPU-s, {self.resident()} MiB" if pid else "off"

    # -- the way in

    def ssh_command(self, *words: str, timeout: int = 60) -> list[str]:
        """ssh(1) to root; logins cost seconds when emulated, so that one connection serves for many."""
        options = {
            "ConnectTimeout": str(timeout),
            "ControlMaster": "auto",
            "ControlPath": str(self._socket),
            "ControlPersist": "120",
        }
        return ssh.command(self.address, self.known_hosts, options, *words)

    def ssh(self, command: str, *, stdin: str | None = None, timeout: float = 120) -> str:
        """What `command` (for the host's shell) prints.  Raises CommandError when it fails."""
        return run(self.ssh_command("--", command), stdin=stdin, timeout=timeout)

    def _close_ssh(self) -> None:
        if self._socket.exists():
            with contextlib.suppress(VclustError):
                run(self.ssh_command("-O", "exit"), timeout=5)
            self._socket.unlink(missing_ok=True)

    # -- its parts

    @property
    def _socket(self) -> Path:
        return self.folder / "ssh"

    @property
    def _title(self) -> str:
        """Tells our process from one that has its number later."""
        return f"{MARK}:{self.folder}"

    def _make_disk(self, images: Images) -> None:
        """Its disk and its identity; the file `image`, written last, says that they are there."""
        key = self.folder / "host-key"
        ssh.make_host_key(key, self.name)
        files = {
            "etc/hostname": (0o644, f"{self.name}\n"),
            "etc/hosts": (0o644, f"127.0.0.1 localhost\n::1 localhost\n{self.address} {self.name}\n"),
            "etc/machine-id": (0o444, f"{uuid.uuid4().hex}\n"),
            "etc/ssh/ssh_host_ed25519_key": (0o600, key.read_text(encoding="ascii")),
            "etc/ssh/ssh_host_ed25519_key.pub": (0o644, f"{self.public_key()}\n"),
            "root/.ssh/authorized_keys": (0o600, ssh.public_key()),
        }
        target = self.folder / "initramfs"
        initramfs.with_identity(images.initramfs, files, self.folder, target)
        target.chmod(0o600)
        disk = self.folder / "disk.qcow2"
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", images.disk, disk])
        (self.folder / "image").write_text(images.folder.name, encoding="utf-8")

    def _command(self, images: Images) -> list[str]:
        kernel_line = (
            f"quiet loglevel=4 mitigations=off net.ifnames=0 underlay={self.address}/{places.PREFIX}"
        )
        own = self.folder / "initramfs"
        if not self.kind.boots_xen:
            kernel_line = f"console=ttyS0 {kernel_line}"
            boots = ["-kernel", images.kernel, "-append", kernel_line, "-initrd", own]
        else:
            memory = f"dom0_mem={kinds.DOM0_MEMORY}M,max:{kinds.DOM0_MEMORY}M"
            # Scrubbing would touch all memory; the last three guard against what only real processors do.
            xen_line = (
                f"console=com1 com1=115200 noreboot bootscrub=0 {memory} spec-ctrl=no xpti=no pv-l1tf=no"
            )
            modules = f"{images.kernel} console=hvc0 {kernel_line},{own}"
            boots = ["-kernel", images.xen, "-append", xen_line, "-initrd", modules]
        number = f"{self.kind.first + self.number:02x}"
        network = f"tap,id=n0,ifname={underlay.tap(self.name)},script=no,downscript=no"
        disk = f"file={self.folder / 'disk.qcow2'},if=none,id=d0,format=qcow2,cache=unsafe,discard=unmap"
        words = [
            *("-name", self._title, "-nodefaults", "-no-user-config"),
            *("-display", "none", "-accel", "tcg,thread=multi,tb-size=512", "-machine", "q35"),
            *("-cpu", self.kind.processor, "-smp", str(self.kind.processors), "-m", str(kinds.MEMORY)),
            *boots,
            *("-drive", disk, "-device", "virtio-blk-pci,drive=d0"),
            *(
                "-netdev",
                network,
                "-device",
                f"virtio-net-pci,netdev=n0,mac=52:54:00:77:00:{number},romfile=",
            ),
            *("-device", "virtio-rng-pci", "-serial", f"file:{self.console}"),
        ]
        return [str(word) for word in words]
