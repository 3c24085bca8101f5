"""What a host boots: Debian with what the roll-out asks for, made by mmdebstrap and kept by content.

It is the machine a user would bring, packages installed and nothing of vclust configured: what the roll-out is for is
left to it.  `_trim` takes away what a host under emulation would only spend time on; `_let_libvirt_know_the_cpu` is
the one thing that no real host needs.
"""

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from emulated import initramfs
from emulated.kinds import Image
from emulated.places import HOSTS, IMAGES
from vclust_py.apt import sources
from vclust_py.image import installer
from vclust_py.run import run
from vclust_py.site import Site

SUITE = "bookworm"

DISK = 20 << 30
"""Bytes of a host's disk, sparse."""

_MODULES = re.compile(
    r"""kernel/(
        arch | crypto | lib | mm | net/(802|bridge|core|ipv4|ipv6|llc|netfilter|packet|sched) |
        fs/(autofs|binfmt_misc|configfs|ext4|fuse|isofs|jbd2|nls|overlayfs|squashfs) |
        drivers/(block/(loop|virtio_blk|xen-blkback/.*) | char/(hw_random|virtio_console)) |
        drivers/net/(tap|tun|veth|virtio_net|vxlan/.*|xen-netback/.*|dummy) | drivers/(vhost|virtio|xen)
    )(/.*)?(\.ko)?$""",
    re.VERBOSE,
)

_UNITS = "etc/systemd/system"

_DISABLED = (
    # Nobody is there long enough to need them, each of them costs seconds of an emulated processor.
    f"{_UNITS}/timers.target.wants/*",
    f"{_UNITS}/getty.target.wants/*",
    f"{_UNITS}/multi-user.target.wants/e2scrub_reap.service",
    f"{_UNITS}/sysinit.target.wants/systemd-pstore.service",
    # Identity: every host brings its own.
    "etc/ssh/ssh_host_*",
    "etc/hostname",
    "etc/machine-id",
    "etc/resolv.conf",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
    # What only the build needed.
    "etc/apt/apt.conf.d/99mmdebstrap",
    "var/cache/apt/archives/*.deb",
    "var/cache/apt/*.bin",
    "var/lib/apt/lists/*_*",
    "var/log/*.log",
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
    IMAGES.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _held():
        for folder in IMAGES.glob(".build-*"):  # of a build that was killed
            shutil.rmtree(folder)
        target = IMAGES / f"{wanted.name}-{_key(wanted)}"
        if not target.exists():
            folder = Path(tempfile.mkdtemp(prefix=".build-", dir=IMAGES))
            try:
                _build(wanted, folder, report)
                os.replace(folder / "result", target)
            finally:
                shutil.rmtree(folder)
            _forget_all_but(target, wanted)
        return load(target)


def load(folder: Path) -> Images:
    made = json.loads((folder / "made.json").read_text(encoding="utf-8"))
    return Images(folder, made["build_seconds"], tuple(made["packages"]))


def _key(wanted: Image) -> str:
    """Digest of the recipe, the apt sources, and the candidate versions of its packages in this machine's index.

    On a machine of another suite these are that suite's versions; they change when it has updates, which serves.
    """
    here = Path(__file__).parent
    digest = hashlib.sha256()
    for name in ("image.py", "initramfs.py", "kinds.py"):
        digest.update((here / name).read_bytes())
    digest.update(sources(Site(), SUITE).encode())
    policy = run(["apt-cache", "policy", *wanted.packages])
    digest.update("".join(re.findall(r"^\S.*\n|^  Candidate: .*\n", policy, re.MULTILINE)).encode())
    return digest.hexdigest()[:16]


def _forget_all_but(target: Path, wanted: Image) -> None:
    """Older builds go unless a host's disk stands on them."""
    used = {path.read_text(encoding="utf-8") for path in HOSTS.glob("*/image")}
    for folder in IMAGES.glob(f"{wanted.name}-*"):
        if folder != target and folder.name not in used:
            shutil.rmtree(folder)


def _build(wanted: Image, folder: Path, report: Callable[[str], None]) -> None:
    started = time.monotonic()
    root, result = folder / "root", folder / "result"
    folder.chmod(0o755)
    result.mkdir()
    report(f"building the image '{wanted.name}': {len(wanted.packages)} packages and what they need")
    _install(wanted, folder, root)
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
    os.sync()


def _install(wanted: Image, folder: Path, root: Path) -> None:
    """mmdebstrap in namespaces of its own: killed, it leaves neither processes nor mounts behind."""
    listed = folder / "testbed.sources"
    listed.write_text(sources(Site(), SUITE), encoding="utf-8")
    apt = (
        *('APT::Install-Recommends "false"', 'APT::Sandbox::User "root"'),
        *('Acquire::Languages "none"', 'Acquire::Retries "2"'),
    )
    left_out = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
    run(
        [
            *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"),
            *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory"),
            *("--architectures=amd64", f"--include={','.join(wanted.packages)}", "--dpkgopt=force-unsafe-io"),
            *(f"--aptopt={option}" for option in apt),
            *(f"--dpkgopt=path-exclude={pattern}" for pattern in left_out),
            *(SUITE, root, listed),
        ],
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "INITRD": "No",
            "TMPDIR": str(folder),
            "HOME": "/root",
        },
    )


def _keep_modules(root: Path, version: str) -> None:
    """Of 400 MB of drivers, those a host of the testbed has a use for."""
    folder = root / "usr/lib/modules" / version
    known = installer.module_dependencies((folder / "modules.dep").read_text(encoding="ascii"))
    wanted = [path for path in known if _MODULES.match(path)]
    kept = set(wanted).union(*(known[path] for path in wanted))
    for path in known:
        if path not in kept:
            (folder / path).unlink()
    run(["depmod", "-b", root, version])


def _trim(root: Path) -> None:
    for pattern in _DISABLED:
        for path in root.glob(pattern):
            path.unlink()
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


@contextlib.contextmanager
def _held() -> Iterator[None]:
    with open(IMAGES / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
