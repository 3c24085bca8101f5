"""Does KVM really work here?  A /dev/kvm that is there proves nothing (nested, half-emulated, no permission)."""

import contextlib
import functools
import os
import pwd
import struct
import tempfile
import time
from pathlib import Path

from vclust_py.run import CommandError, run

_LOOPS = 10_000_000
_TIMEOUT = 5.0
_SURELY = 1.0  # seconds within which only real KVM comes to the end
_NO_LASTS = 3600.0
"""Seconds for which "it does not work" is remembered; "it works" holds until the machine restarts."""
_USER = "libvirt-qemu"
"""As which Debian's libvirt runs QEMU: whether root may open /dev/kvm tells nothing."""
_MEMORY = Path("/run/vclust")
_EXIT_PORT = 0x501
_EXIT_VALUE = 0x10


def _boot_sector() -> bytes:
    """A boot sector that counts down and then leaves QEMU through its debug-exit port."""
    code = (
        b"\x66\xb9" + struct.pack("<I", _LOOPS)  # mov ecx, LOOPS
        + b"\x66\x49\x75\xfc"  # l: dec ecx; jnz l
        + b"\xba" + struct.pack("<H", _EXIT_PORT)  # mov dx, port
        + b"\xb0" + bytes([_EXIT_VALUE]) + b"\xee"  # mov al, value; out dx, al
        + b"\xf4\xeb\xfd"  # hlt; jmp
    )  # fmt: skip
    return code.ljust(510, b"\0") + b"\x55\xaa"


@functools.cache
def works(emulator: str) -> bool:
    """Run a small real guest under KVM, as the user that libvirt's QEMU runs as.

    Real KVM needs some 50 ms.  One that takes long is compared with emulation: twice as slow as that it is of no use,
    and is not waited for.
    """
    if not Path("/dev/kvm").exists():
        return False
    remembered = _MEMORY / f"kvm-{Path(emulator).name}"
    with contextlib.suppress(OSError):
        verdict = remembered.read_text(encoding="ascii")
        # A machine under load may have been too slow once.
        if verdict == "yes" or time.time() - remembered.stat().st_mtime < _NO_LASTS:
            return verdict == "yes"
    result = _seconds(emulator, "kvm", _SURELY) is not None
    if not result:
        emulated = _seconds(emulator, "tcg", _TIMEOUT / 2)
        limit = _TIMEOUT if emulated is None else 2 * emulated
        result = limit > _SURELY and _seconds(emulator, "kvm", limit) is not None
    remembered.parent.mkdir(mode=0o755, exist_ok=True)
    remembered.write_text("yes" if result else "no", encoding="ascii")
    return result


def _seconds(emulator: str, accelerator: str, timeout: float) -> float | None:
    """How long the guest takes; None when it does not come to its end within `timeout` seconds."""
    argv = [emulator, "-accel", accelerator, "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none"]
    argv += ["-no-reboot", "-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=1"]
    with contextlib.suppress(KeyError):  # without libvirt it is root's QEMU that counts
        user = pwd.getpwnam(_USER)
        argv = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--", *argv]
    with tempfile.NamedTemporaryFile(prefix="vclust-kvm-") as disk:
        disk.write(_boot_sector())
        disk.flush()
        os.chmod(disk.name, 0o644)  # it is no secret
        argv += ["-drive", f"file={disk.name},format=raw,if=ide,readonly=off,snapshot=on"]
        start = time.monotonic()
        try:
            run(argv, timeout=timeout)
        except CommandError as error:
            if f"exit status {_EXIT_VALUE << 1 | 1}" in str(error):
                return time.monotonic() - start
    return None  # left without the debug-exit port: its status is never 0
