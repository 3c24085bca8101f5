"""Does KVM really work here?  A /dev/kvm that is there proves nothing (nested, half-emulated, no permission)."""

import contextlib
import functools
import struct
import tempfile
import time
from pathlib import Path

from vclust_py.run import CommandError, run

_LOOPS = 10_000_000
_DEADLINE = 5.0
_NO_LASTS = 3600.0
"""Seconds for which "it does not work" is remembered; "it works" holds until the machine restarts."""
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
    """Run a small real guest under KVM.  Real KVM needs some 50 ms; one slower than emulation is of no use."""
    if not Path("/dev/kvm").exists():
        return False
    remembered = Path("/run/vclust") / f"kvm-{emulator}"
    with contextlib.suppress(OSError):
        verdict = remembered.read_text(encoding="ascii")
        # A machine under load may have been too slow once.
        if verdict == "yes" or time.time() - remembered.stat().st_mtime < _NO_LASTS:
            return verdict == "yes"
    with tempfile.NamedTemporaryFile(prefix="vclust-kvm-") as disk:
        disk.write(_boot_sector())
        disk.flush()
        argv = [emulator, "-accel", "kvm", "-machine", "pc", "-m", "16", "-nodefaults", "-display", "none"]
        argv += ["-no-reboot", "-device", f"isa-debug-exit,iobase={_EXIT_PORT:#x},iosize=1"]
        argv += ["-drive", f"file={disk.name},format=raw,if=ide"]
        start = time.monotonic()
        try:
            run(argv, timeout=_DEADLINE)
            result = False  # left without the debug-exit port: its status is never 0
        except CommandError as error:
            result = (
                f"exit status {_EXIT_VALUE << 1 | 1}" in str(error) and time.monotonic() - start < _DEADLINE
            )
    remembered.parent.mkdir(mode=0o755, exist_ok=True)
    remembered.write_text("yes" if result else "no", encoding="ascii")
    return result
