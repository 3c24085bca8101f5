"""The base image of a suite: Debian as mmdebstrap makes it, a kernel, ssh, and what `tuning` changes; made once.

Three images belong together: the root file system, the kernel, and the installer (`vclust_py.image.installer`) with
that kernel's modules.
"""

import contextlib
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vclust_py.apt import AptRoot, sources
from vclust_py.errors import VclustError
from vclust_py.image import (
    Catalogue,
    Image,
    PackageRecord,
    Report,
    base_key,
    file_digest,
    installer,
    sync,
    tuning,
    unsynced,
)
from vclust_py.image.files import open_folder
from vclust_py.image.recipe import installer_key, kernel_key
from vclust_py.image.space import naming_full_disk, require_space
from vclust_py.image.store import give_to_apt
from vclust_py.image.watching import watched
from vclust_py.run import DYING_WITH_PARENT, run
from vclust_py.site import Site
from vclust_py.text import plain

if TYPE_CHECKING:
    from vclust_py.lock import Lock

BASE_PACKAGES = (
    "acpid",
    "busybox-static",
    "ca-certificates",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "netbase",
    "openssh-server",
    "passwd",
    "procps",
    "sudo",
    "systemd-sysv",
    "udev",
)
"""What a base holds beyond mmdebstrap's variant minbase, the kernel, and what the site adds (`base_packages`)."""

VIRTUAL_SIZE = 3 << 30
"""Bytes of the base as a disk, the least a node can have: packages and their files need room to be unpacked."""

LABEL = "vclust-root"

_FILES = "files"
"""A link to where a base is put together, for other processes that wait for it: it may be in memory, by `_place`."""

# Installed in the root; guest/init goes to the initramfs.
_PROGRAMS = ("self-check", "install-packages")
_DATA = ("mpi-hello.c", "mpi-hello.py")
_UNIT = "vclust-report.service"


@dataclass(frozen=True)
class BaseImages:
    base: Image
    kernel: Image
    installer: Image


def ensure_base(site: Site, lock: "Lock", report: Report) -> BaseImages:
    """The images that hold `lock.base`, made now when they are not there.

    A base that is there but for its kernel or installer gets these alone: what stands on it stays valid.  Raises
    VclustError when the archive no longer has the versions the lock names.
    """
    images = find_base(site, lock)
    if images is not None:
        return images
    catalogue, key = Catalogue(site), _key(site, lock)
    with contextlib.ExitStack() as stack:
        stack.enter_context(naming_full_disk(site.images))
        # Another process may be making it, and takes as long.
        with _watched(report, lock, catalogue.folder("base", key)):
            folder = stack.enter_context(catalogue.building("base", key))
        images = find_base(site, lock)
        base = _held(catalogue, site, lock)
        if images is None and base is not None:
            images = _boot_again(catalogue, base, folder, report)
        elif images is None:
            images = _build(site, lock, key, folder, report)
    _check_versions(site, lock, images.base.manifest.pinned)
    return images


def _check_versions(site: Site, lock: "Lock", packages: Iterable[str]) -> None:
    held, wanted = set(packages), _wanted(lock)
    if held == wanted:
        return
    AptRoot(site, lock.suite, lock.architecture).expire()
    differences = sorted(wanted - held) or sorted(held - wanted)
    raise VclustError(
        f"base image of {lock.suite}: the archive has other versions than the lock: "
        + ", ".join(differences[:6])
        + (f" and {len(differences) - 6} more" if len(differences) > 6 else ""),
        "create again without the lock: packages are then resolved against the base image that is there",
    )


def _wanted(lock: "Lock") -> set[str]:
    return {package.pinned for package in lock.base}


def find_base(site: Site, lock: "Lock") -> BaseImages | None:
    """The images that hold `lock.base`, where they are there."""
    catalogue = Catalogue(site)
    base = _held(catalogue, site, lock)
    if base is None:
        return None
    kernel = catalogue.find("kernel", kernel_key(base.manifest.pinned))
    initramfs = catalogue.find("installer", installer_key(base.manifest.pinned))
    return BaseImages(base, kernel, initramfs) if kernel and initramfs else None


def _key(site: Site, lock: "Lock") -> str:
    return base_key(lock.suite, lock.architecture, lock.kernel, site.base_packages)


def _held(catalogue: Catalogue, site: Site, lock: "Lock") -> Image | None:
    """The base image that holds `lock.base`, with or without its kernel and installer."""
    key, wanted = _key(site, lock), _wanted(lock)
    for base in reversed(catalogue.images()):
        manifest = base.manifest
        same = (manifest.kind, manifest.key) == ("base", key) and set(manifest.pinned) == wanted
        if same and catalogue.status(base).exists():
            return base
    return None


def _build(site: Site, lock: "Lock", key: str, folder: Path, report: Report) -> BaseImages:
    # The folder of files, then the disk twice: better to say it now than after half a minute.
    size = max(3 * sum(package.installed_size for package in lock.base), 512 << 20)
    require_space(site.images, size)
    with _place(folder / "root", size) as place:
        return _build_in(place, site, lock, key, folder, report)


def _build_in(
    place: "_Place", site: Site, lock: "Lock", key: str, folder: Path, report: Report
) -> BaseImages:
    started = time.monotonic()
    catalogue, root, listed = Catalogue(site), place.root, sources(site, lock.suite)
    (folder / _FILES).symlink_to(root)
    with _watched(report, lock, folder):
        _install(site, lock, listed, place, folder)
    _copy_keys(listed, root)
    tuning.tune(root, listed)
    _add_programs(root)
    status = root / "var/lib/dpkg/status"
    packages = tuple(
        run(["dpkg-query", f"--admindir={status.parent}", "-W", "-f", "${Package}=${Version}\n"]).split()
    )
    if any((image.manifest.kind, image.manifest.key) == ("base", key) for image in catalogue.images()):
        # The first base of its key is kept whatever it holds: the next request is resolved against it.
        _check_versions(site, lock, packages)

    digests = {package.pinned: package.sha256 for package in lock.base}
    records = [PackageRecord.parse(name, digests.get(name, "")) for name in packages]
    report(f"base image of {lock.suite}: writing file system, kernel and installer", 1, 2)
    tools = _tools()
    with ThreadPoolExecutor(1) as pool:
        written = pool.submit(_write, root, folder)
        kernel, initramfs = _boot_images(
            catalogue, lock.suite, lock.architecture, records, tools, root, folder
        )
        image, digest = written.result()
        # The base comes last: whoever finds it finds the others.
        draft = folder / "status"
        shutil.copyfile(status, draft)
        sync(draft)
        os.replace(draft, site.images / f"{digest}.status")
        if not place.entering:  # twenty thousand files, while the image gets to the disk
            pool.submit(run, ["rm", "-rf", root])
        base = catalogue.add(
            image,
            digest=digest,
            kind="base",
            key=key,
            suite=lock.suite,
            architecture=lock.architecture,
            packages=records,
            virtual_size=VIRTUAL_SIZE,
            build_seconds=time.monotonic() - started,
            tools=tools,
        )
    report(f"base image of {lock.suite}: done", 2, 2)
    return BaseImages(base, kernel, initramfs)


def _write(root: Path, folder: Path) -> tuple[Path, str]:
    """The files below `root` as a disk image in `folder`, and its digest."""
    raw, image = folder / "base.raw", folder / "base.qcow2"
    with open(raw, "wb") as file:
        file.truncate(VIRTUAL_SIZE)
    # Blocks of 4 KiB: guest/init reckons with them.  Inode tables need no zeroing, the file is new.
    layout = ["-b", "4096", "-m", "1", "-L", LABEL, "-E", "lazy_itable_init=1"]
    run(["mke2fs", "-q", "-F", "-t", "ext4", *layout, "-d", root, raw])
    # Not compressed: QEMU would unpack the same clusters again and again, 1.5 s of CPU in each boot of each node.
    run(["qemu-img", "convert", "-O", "qcow2", raw, image])
    raw.unlink()
    return image, file_digest(image)


def _boot_images(
    catalogue: Catalogue,
    suite: str,
    architecture: str,
    packages: Sequence[PackageRecord],
    tools: tuple[str, ...],
    root: Path,
    folder: Path,
) -> tuple[Image, Image]:
    """Kernel and installer of the base whose files are below `root`, made where they are not there."""
    names = [package.pinned for package in packages]
    version = next((root / "usr/lib/modules").iterdir()).name
    kernel = catalogue.find("kernel", kernel_key(names))
    initramfs = catalogue.find("installer", installer_key(names))
    if kernel is None:
        kernel = catalogue.add(
            installer.raw_kernel(root / "boot" / f"vmlinuz-{version}", folder),
            kind="kernel",
            key=kernel_key(names),
            suite=suite,
            architecture=architecture,
            packages=[package for package in packages if package.name == f"linux-image-{version}"],
            tools=tools,
        )
    if initramfs is None:
        installer.build(root, folder / "installer")
        initramfs = catalogue.add(
            folder / "installer",
            kind="installer",
            key=installer_key(names),
            suite=suite,
            architecture=architecture,
            tools=tools,
        )
    return kernel, initramfs


def _boot_again(catalogue: Catalogue, base: Image, folder: Path, report: Report) -> BaseImages:
    """Kernel and installer by today's recipes for a base that is there."""
    manifest, root = base.manifest, folder / "root"
    report(f"base image of {manifest.suite}: kernel and installer", 0, 1)
    run(["qemu-img", "convert", "-O", "raw", base.path, folder / "base.raw"])
    for name in ("usr/bin", "usr/lib"):
        (root / name).mkdir(parents=True)
    # debugfs(8) reads a file system without mounting it; its requests take no paths with blanks, so these are short.
    for request in (
        "rdump /boot root",
        "rdump /usr/lib/modules root/usr/lib",
        "dump /usr/bin/busybox root/usr/bin/busybox",
    ):
        run(["debugfs", "-R", request, "base.raw"], cwd=folder)
    (folder / "base.raw").unlink()
    kernel, initramfs = _boot_images(
        catalogue, manifest.suite, manifest.architecture, manifest.packages, _tools(), root, folder
    )
    report(f"base image of {manifest.suite}: done", 1, 1)
    return BaseImages(base, kernel, initramfs)


class _Place(NamedTuple):
    """Where the files of a base are put together."""

    root: Path
    """As this process reaches it."""
    entering: tuple[str, ...] = ()
    """Begins a command that reaches it by its own path; empty: all do, as it is on the disk."""


@contextlib.contextmanager
def _place(path: Path, size: int) -> Iterator[_Place]:
    """A folder at `path`: in memory, where there is twice as much of it as the `size` bytes that it may take.

    dpkg replaces each file of the first packages once, and ext4 is slow to give out inodes that were just given back:
    on a disk that takes a third more time than all else.  The memory is of a mount namespace that ends with this
    process, so nothing is left of it.
    """
    if _available_memory() < 2 * size:
        yield _Place(path)
        return
    path.mkdir()
    real = path.resolve()  # an absolute link on the way would lead out of the namespace
    mount = ("mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", str(path))
    words = ("unshare", "--mount", "sh", "-c", '"$@" && echo && exec cat', "sh", *mount)
    with subprocess.Popen(
        [*DYING_WITH_PARENT, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as waiting:
        try:
            if waiting.stdout is None or not waiting.stdout.readline():
                _, said = waiting.communicate()
                raise VclustError(
                    f"{path}: no memory can be mounted: {plain(said.decode(errors='replace'), 300)}"
                )
            entering = ("nsenter", f"--mount=/proc/{waiting.pid}/ns/mnt", "--")
            yield _Place(Path(f"/proc/{waiting.pid}/root{real}"), entering)
        finally:
            waiting.kill()


def _available_memory() -> int:
    """Bytes that can be had without taking them from somebody (proc(5)); 0 where that is hidden, as from units."""
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except FileNotFoundError:
        return 0
    found = re.search(r"^MemAvailable:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _install(site: Site, lock: "Lock", listed: str, place: _Place, folder: Path) -> None:
    """mmdebstrap in namespaces of its own: killed, it leaves neither processes nor mounts behind."""
    root = place.root
    apt_sources, settings = folder / "vclust.sources", folder / "apt.conf"
    apt_sources.write_text(listed, encoding="utf-8")
    apt = AptRoot(site, lock.suite, lock.architecture)
    apt.make()
    _copy_index(apt, listed, root)
    archives = root / "var/cache/apt/archives"
    open_folder(archives)
    give_to_apt(site, lock.base, archives)
    # In a file: every user of the machine sees the words of a command.  The folder is closed to other users, apt's own
    # included.
    settings.write_text(
        'APT::Install-Recommends "false";\n'
        'APT::Sandbox::User "root";\n'
        'Acquire::Languages "none";\n'
        'Acquire::Retries "2";\n' + apt.transport(),
        encoding="utf-8",
    )
    run(
        [
            *place.entering,
            *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "--mount-proc"),
            *(sys.executable, "-I", unsynced.__file__),
            *("mmdebstrap", "--mode=root", "--variant=minbase", "--format=directory", "--skip=check/empty"),
            f"--architectures={lock.architecture}",
            f"--include={','.join([*BASE_PACKAGES, *site.base_packages, lock.kernel])}",
            f"--aptopt={settings}",
            # The whole folder goes when anything fails; nothing is worth waiting for the disk, or preparing for that.
            "--dpkgopt=force-unsafe-io",
            *(lock.suite, folder / "root", apt_sources),
        ],
        # For the kernel package: no initramfs of its own, ours is used.  Not the caller's language or temporary folder.
        env={
            "PATH": os.environ["PATH"],
            "LC_ALL": "C.UTF-8",
            "INITRD": "No",
            "TMPDIR": str(folder),
            "HOME": "/root",
        },
    )
    for path in archives.glob("*.deb"):  # it throws away only what it has fetched itself
        path.unlink()


def _copy_index(apt: AptRoot, listed: str, root: Path) -> None:
    """Give mmdebstrap the package index that is here: it fetches none where it finds all that a fetch leaves."""
    lists, caches = root / "var/lib/apt/lists", root / "var/cache/apt"
    open_folder(lists)
    open_folder(caches)
    with apt.file_lock():
        if not apt.is_fetched_from(listed):
            return
        for path in (apt.path / "lists").iterdir():
            if path.is_file() and path.name != "lock":
                shutil.copy2(path, lists / path.name)
    for folder in (lists / "partial", lists / "auxfiles"):
        open_folder(folder)
    for path in (lists / "lock", caches / "pkgcache.bin", caches / "srcpkgcache.bin"):
        path.touch()  # empty ones are made again


def _watched(report: Report, lock: "Lock", folder: Path) -> contextlib.AbstractContextManager[None]:
    look = functools.partial(_installed_so_far, folder / _FILES)
    return watched(report, "base image: packages", look, 2 * len(lock.base))


def _installed_so_far(root: Path) -> int:
    """Packages that mmdebstrap has downloaded or installed: it counts each twice, and says nothing itself."""
    folders = ((root / "var/cache/apt/archives", "*.deb"), (root / "var/lib/dpkg/info", "*.list"))
    downloaded, unpacked = (sum(1 for _ in folder.glob(pattern)) for folder, pattern in folders)
    # It throws downloads away at its end.
    return max(downloaded, unpacked) + unpacked


def _copy_keys(listed: str, root: Path) -> None:
    """Keys the sources name by file, unless a package has brought them: apt in the node looks there as well."""
    for line in re.findall(r"^Signed-By:[ \t]*(/.*)$", listed, re.MULTILINE):
        for name in line.replace(",", " ").split():
            target = root / name.lstrip("/")
            if not target.exists():
                open_folder(target.parent)
                shutil.copyfile(name, target)
                target.chmod(0o644)


def _add_programs(root: Path) -> None:
    programs = root / "usr/libexec/vclust"
    open_folder(programs)
    for names, mode in ((_PROGRAMS, 0o755), (_DATA, 0o644)):
        for name in names:
            shutil.copyfile(installer.GUEST / name, programs / name)
            (programs / name).chmod(mode)
    units = root / "etc/systemd/system"
    shutil.copyfile(installer.GUEST / _UNIT, units / _UNIT)
    (units / _UNIT).chmod(0o644)
    (units / "multi-user.target.wants" / _UNIT).symlink_to(f"../{_UNIT}")


def _tools() -> tuple[str, ...]:
    names = ("mmdebstrap", "e2fsprogs", "qemu-utils")
    text = run(["dpkg-query", "-W", "-f", "${Package} ${Version}\n", *names])
    return tuple(text.splitlines())
