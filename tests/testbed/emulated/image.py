"""What a host boots: Debian with what the roll-out asks for, made by mmdebstrap and kept by content.

It is the machine a user would bring, packages installed and nothing of vclust configured: what the roll-out is for is
left to it.  `_trim` takes away what a host under emulation would only spend time on; `_let_libvirt_know_the_cpu` is
the one thing that no real host needs.
"""

import gzip
import json
import os
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from shared import debian

from emulated import initramfs
from emulated.kinds import Image
from emulated.places import HOSTS
from vclust_py.image import installer
from vclust_py.run import run

DISK = 20 << 30
"""Bytes of a host's disk, sparse."""

_MODULES = re.compile(
    r"""kernel/(
        arch | crypto | lib | mm | net/(802|bridge|core|ipv4|ipv6|llc|netfilter|packet|sched) |
        fs/(autofs|binfmt_misc|configfs|ext4|fuse|isofs|jbd2|nls|overlayfs|squashfs) |
        drivers/(block/(loop|virtio_blk|xen-blkback/.*) | char/(hw_random|virtio_console)) |
        drivers/net/(tap|tun|veth|virtio_net|vxlan/.*|xen-netback/.*|dummy) | drivers/(vhost|virtio|xen)
    )(/.*)?(\.ko(\.xz)?)?$""",
    re.VERBOSE,
)

_UNITS = "etc/systemd/system"

_DISABLED = (
    # Nobody is there long enough to need them, each of them costs seconds of an emulated processor.
    f"{_UNITS}/timers.target.wants/*",
    f"{_UNITS}/getty.target.wants/*",
    f"{_UNITS}/multi-user.target.wants/e2scrub_reap.service",
    f"{_UNITS}/sysinit.target.wants/systemd-pstore.service",
    "var/lib/systemd/random-seed",
)

_MASKED = (
    "getty-static.service",
    "serial-getty@.service",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-binfmt.service",
    "systemd-journal-flush.service",
    # With it, each ssh login starts a session and a `systemd --user`: more than the login itself.
    "systemd-logind.service",
    "systemd-repart.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
)

_DROP_INS = {
    f"{_UNITS}/systemd-udev-trigger.service.d/testbed.conf": (
        "# Only what a host of the testbed has is announced once more at boot.\n"
        "[Service]\nExecStart=\n"
        "ExecStart=-udevadm trigger --action=add --subsystem-match=block --subsystem-match=net"
        " --subsystem-match=virtio\n"
    ),
    f"{_UNITS}/ssh.service.d/testbed.conf": "# Checked again when it starts.\n[Service]\nExecStartPre=\n",
}


@dataclass(frozen=True)
class Images:
    """The files of one build, all in `folder`."""

    folder: Path
    build_seconds: float
    packages: tuple[str, ...]

    @property
    def disk(self) -> Path:
        return self.folder / "disk.img"

    @property
    def xen(self) -> Path:
        """The hypervisor, where the image holds it."""
        return self.folder / "xen"

    @property
    def kernel(self) -> Path:
        """Raw ELF: Xen would take nine seconds to unpack Debian's."""
        return self.folder / "kernel"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"


def ensure(wanted: Image, report: Callable[[str], None]) -> Images:
    """The images of this recipe and the package versions this machine's apt now knows, built where they are missing."""
    here = Path(__file__).parent
    recipe = [here / name for name in ("image.py", "initramfs.py", "kinds.py")]

    def build(work: Path, result: Path) -> None:
        _build(wanted, work, result, report)

    return load(debian.kept(wanted.name, wanted.suite, wanted.packages, recipe, _used, build))


def _used() -> set[str]:
    """Images that a host's disk stands on."""
    return {path.read_text(encoding="utf-8") for path in HOSTS.glob("*/image")}


def load(folder: Path) -> Images:
    made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    return Images(folder, made["build_seconds"], tuple(made["packages"]))


def _build(wanted: Image, folder: Path, result: Path, report: Callable[[str], None]) -> None:
    started = time.monotonic()
    root = folder / "root"
    report(f"building the image '{wanted.name}': {len(wanted.packages)} packages and what they need")
    debian.install(wanted.suite, wanted.packages, folder, root)
    versions = run(
        ["dpkg-query", f"--admindir={root}/var/lib/dpkg", "-W", "-f", "${Package}=${Version}\n"]
    ).split()
    version = next((root / "usr/lib/modules").iterdir()).name
    _keep_modules(root, version)
    _trim(root)
    modules = "".join(f"{name}\n" for name in wanted.modules)
    (root / "etc/modules-load.d/testbed.conf").write_text(modules, encoding="ascii")

    report(f"building the image '{wanted.name}': file system, kernel")
    images = Images(result, 0, ())
    if wanted.xen:
        _let_libvirt_know_the_cpu(root)
        images.xen.write_bytes(gzip.decompress(next((root / "boot").glob("xen-*.gz")).read_bytes()))
    kernel = installer.raw_kernel(root / "boot" / f"vmlinuz-{version}", folder)
    # Symbols would be read from the disk into the hypervisor and thrown away.
    run(["strip", "--strip-all", "-o", images.kernel, kernel])
    initramfs.build(root, version, folder, images.initramfs)
    with open(images.disk, "wb") as file:
        file.truncate(DISK)
    run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=1", "-d", root, images.disk])
    made = asdict(Images(result, round(time.monotonic() - started, 1), tuple(versions)))
    del made["folder"]
    (result / "made.json").write_text(json.dumps(made, indent=1), encoding="utf-8")


def _keep_modules(root: Path, version: str) -> None:
    """Of 400 MB of drivers, those a host of the testbed has a use for, unpacked."""
    folder = root / "usr/lib/modules" / version
    known = installer.module_dependencies((folder / "modules.dep").read_text(encoding="ascii"))
    wanted = [path for path in known if _MODULES.match(path)]
    kept = set(wanted).union(*(known[path] for path in wanted))
    for path in known:
        if path not in kept:
            (folder / path).unlink()
    # Debian 13 has them packed.  The initramfs' insmod asks the kernel for them as they are, and an emulated
    # processor takes long to unpack them.
    if packed := list(folder.rglob("*.ko.xz")):
        run(["unxz", *packed])
    run(["depmod", "-b", root, version])


def _trim(root: Path) -> None:
    debian.remove(root, _DISABLED)
    for unit in _MASKED:
        (root / _UNITS / unit).symlink_to("/dev/null")
    for name, text in _DROP_INS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "etc/fstab").write_text("# The initramfs mounts the root.\n", encoding="ascii")
    # As new as /usr: users, files and the hardware database need not be gone through again.
    made = (root / "usr").stat().st_mtime_ns
    for name in ("etc/.updated", "var/.updated"):
        (root / name).touch()
        os.utime(root / name, ns=(made, made))


def _let_libvirt_know_the_cpu(root: Path) -> None:
    """A patch of libvirt's data, for the emulated processor's sake alone.

    libvirt's Xen driver does not start where it finds no CPU model that fits the host.  QEMU's emulated `qemu64`
    has no `vme`, which the larger models ask for, and Xen shows dom0 neither `sep` nor `svm` of it, which this,
    the smallest one, asks for.  Real processors fit the models as they are.
    """
    path = root / "usr/share/libvirt/cpu_map/x86_qemu64.xml"
    text = path.read_text(encoding="utf-8")
    text = re.sub(
        r" *<feature name='(sep|svm)'/>\n", "", text.replace("decode host='off'", "decode host='on'")
    )
    path.write_text(text, encoding="utf-8")
