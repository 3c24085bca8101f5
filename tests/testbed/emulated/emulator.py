"""The QEMU that runs a host: this machine's, or Debian 13's for several processors, where that is older than 8.1.

Linux changes its own code as it runs, with a breakpoint (`int3`) in its place for a moment.  With a thread for each
processor QEMU before 8.1 may keep what it has translated then (its commit deba78709ae8 mends it), so that hosts with
two processors hung or crashed in most of their starts.  Xen's hosts have one, and stay with this machine's: in
Debian 13's their PVH guests end at once.
"""

import re
from collections.abc import Callable
from pathlib import Path

from shared import debian

from vclust_py.run import run

_PROGRAM = "qemu-system-x86_64"
_OLDEST = (8, 1)


def command(processors: int, report: Callable[[str], None]) -> tuple[str, ...]:
    """The first words of its command line; Debian 13's is installed in a folder beside the images, if needed."""
    if processors == 1:
        return (_PROGRAM,)
    version = re.search(r"version (\d+)\.(\d+)", run([_PROGRAM, "--version"]))
    if version and (int(version[1]), int(version[2])) >= _OLDEST:
        return (_PROGRAM,)

    def build(work: Path, result: Path) -> None:
        report("installing Debian 13's QEMU")
        debian.install(debian.TRIXIE, packages, work, result / "root")

    packages = ("qemu-system-x86",)
    root = debian.kept("emulator", debian.TRIXIE, packages, [Path(__file__)], set, build) / "root"
    libraries = root / "usr/lib/x86_64-linux-gnu"
    return (
        *("env", f"QEMU_MODULE_DIR={libraries / 'qemu'}"),
        *(str(root / "usr/lib64/ld-linux-x86-64.so.2"), "--library-path", str(libraries)),
        str(root / "usr/bin" / _PROGRAM),
        *("-L", str(root / "usr/share/qemu"), "-L", str(root / "usr/share/seabios")),
    )
