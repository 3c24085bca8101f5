"""VD caches, and what a request adds to one: a layer (strategy `once`) or a bundle of packages (strategy `each`).

Caches and layers are made on the site manager without a virtual machine: a qcow2 over what it stands on, exported
through FUSE, loop-mounted, and installed into with dpkg, all in namespaces of its own (`build-layer`).  A layer is not
compressed: that took as long as unpacking and saves nothing where the file is used in place.  A cache is: no one waits
for it, and the space holds two to three times as many.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING

from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image, Report, sandbox
from vclust_py.image.base import VIRTUAL_SIZE
from vclust_py.image.manifest import records
from vclust_py.image.recipe import RECIPES
from vclust_py.image.space import free_bytes, naming_full_disk, require_space
from vclust_py.image.store import fast_copy, fetch
from vclust_py.lock import Lock, Package
from vclust_py.run import DYING_WITH_PARENT, CommandError, run
from vclust_py.site import Site

if TYPE_CHECKING:
    from vclust_py.metapackages import MetaPackage

_SCRIPT = Path(__file__).resolve().parent / "build-layer"

COMPRESSED = ("-c", "-o", "compression_type=zlib")
"""How `qemu-img convert` packs a cache.  Not with zstd: the QEMU that serves disks on Debian's Xen (7.2, package
qemu-system-xen) is built without it, and a guest waits in vain for a disk that stands on such a file."""

_GIB = 1 << 30
_SECTORS = 1 << 20
# File systems and dpkg's database take more than the sum of Installed-Size.
_SLACK = 1.2
_SPARE = 128 << 20
_LONGEST = 3600.0
"""Seconds a build may take; 10 GB of packages take some ten minutes."""
_LINE = 8192
"""Bytes of a line that are looked at, of what packages may say."""
_KEPT_LINES = 420
"""Last lines of a build that failed: the log of the installation (`build-layer`)."""
_PROGRESS = re.compile(r"vclust: progress ([a-z]{1,20}) ([0-9]{1,7})/([0-9]{1,7})\n")
_TOOK = re.compile(r"vclust: took ([a-z]{1,20}) ([0-9]{1,7}\.[0-9]{2})\n")


@dataclass
class Took:
    """Where the time of a build went: seconds and bytes (as installed); all 0 when nothing was built."""

    unpack: float = 0.0
    unpack_bytes: int = 0
    configure: float = 0.0
    configure_bytes: int = 0


def ensure_cache(site: Site, lock: Lock, parent: Image, state: str, report: Report) -> Image:
    """The VD cache of the lock's packages, `unpacked` or `configured`, over the base or another cache.

    Needs root.  `lock.packages` is all that is in it; what `parent` holds already is not unpacked again.  `lock.base`
    is that of the base image.
    """
    catalogue = Catalogue(site)
    key = cache_key(lock, parent, state)
    if image := catalogue.find("cache", key):
        return image
    with catalogue.building("cache", key) as work:
        if image := catalogue.find("cache", key):
            return image
        own = missing_from(lock, catalogue, parent)
        started = time.monotonic()
        size = _build_layer(site, catalogue, lock, own, parent, "", state, work, report)
        with naming_full_disk(site.images):
            report("compressing", 0, 0)
            packed = work / "packed.qcow2"
            options = [*COMPRESSED, "-B", parent.path.name, "-F", "qcow2"]
            run(["qemu-img", "convert", "-O", "qcow2", *options, "layer.qcow2", packed.name], cwd=work)
        return catalogue.add(
            packed,
            kind="cache",
            key=key,
            suite=lock.suite,
            architecture=lock.architecture,
            backing=parent,
            packages=records(own),
            installed_size=installed_size(own),
            state=state,
            virtual_size=size,
            build_seconds=time.monotonic() - started,
            tools=(_version("qemu-img"),),
        )


def cache_key(lock: Lock, parent: Image, state: str) -> str:
    """The key of the cache `ensure_cache` gives, there or not."""
    return _key("cache", lock, lock.packages, state, parent.manifest.digest)


def missing_from(lock: Lock, catalogue: Catalogue, parent: Image) -> tuple[Package, ...]:
    """The lock's packages that are not in the layers of `parent`: a cache, another lock's layer or the base."""
    held = {
        name
        for image in catalogue.chain(parent)
        if image.manifest.kind != "base"
        for name in image.manifest.pinned
    }
    return tuple(package for package in lock.packages if package.pinned not in held)


def is_packed_with_zstd(path: Path) -> bool:
    """Whether the qcow2 file is one that Xen's QEMU cannot read (COMPRESSED), as caches of earlier versions are.

    QEMU's docs/interop/qcow2.txt: bit 3 of the incompatible features says that byte 104 holds the kind of compression.
    """
    try:
        with open(path, "rb") as file:
            header = file.read(105)
    except OSError:
        return False
    return header[:4] == b"QFI\xfb" and len(header) == 105 and bool(header[79] & 8) and header[104] == 1


def ensure_layer(
    site: Site,
    lock: Lock,
    base: Image,
    meta_packages: "Sequence[MetaPackage]",
    report: Report,
    *,
    cache: Image | None = None,
    took: Took | None = None,
) -> Image:
    """The layer over `cache` (default: the base) in which the lock's packages are installed and configured.

    In place of a cache it may stand on the layer of another lock whose packages are all of this one's.

    Built where missing; needs root.  The key covers all that is in it, whatever cache it stands on, so equal requests
    share a layer.  A layer whose packages do not fit in the base's virtual size gets a larger one.
    """
    catalogue = Catalogue(site)
    answers = _answers(meta_packages)
    key = layer_key(lock, base, meta_packages)
    if image := catalogue.find("layer", key):
        return image
    with catalogue.building("layer", key) as work:
        if image := catalogue.find("layer", key):
            return image
        parent = cache or base
        own = missing_from(lock, catalogue, parent)
        started = time.monotonic()
        size = _build_layer(site, catalogue, lock, own, parent, answers, "configured", work, report, took)
        return catalogue.add(
            work / "layer.qcow2",
            kind="layer",
            key=key,
            suite=lock.suite,
            architecture=lock.architecture,
            backing=parent,
            packages=records(own),
            installed_size=installed_size(own),
            virtual_size=size,
            build_seconds=time.monotonic() - started,
            tools=(_version("qemu-img"),),
        )


def ensure_bundle(
    site: Site,
    lock: Lock,
    meta_packages: "Sequence[MetaPackage]",
    report: Report,
    *,
    cache: Image | None = None,
) -> Image:
    """The read-only disk with those packages of the lock that `cache` lacks, for the installer in each node.

    Made where missing.  An ext4 file system labelled `vclust-bundle`: the .debs (fast copies) and `debconf`.
    """
    catalogue = Catalogue(site)
    answers = _answers(meta_packages)
    own = lock.packages if cache is None else missing_from(lock, catalogue, cache)
    key = _key("bundle", lock, own, answers, "bundle")
    if image := catalogue.find("bundle", key):
        return image
    with catalogue.building("bundle", key) as work:
        if image := catalogue.find("bundle", key):
            return image
        copies = fetch(site, replace(lock, packages=own), report)
        started = time.monotonic()
        # ext4 without journal: tables and a rounded-up last block for each file.
        size = int(sum(path.stat().st_size for path in copies) * 1.02) + 4096 * len(copies) + (8 << 20)
        size = -(-size // _SECTORS) * _SECTORS
        with naming_full_disk(site.images):
            require_space(site.images, size)
            folder = work / "packages"
            _lay_out(site, own, answers, folder)
            report("making the package bundle", 0, 0)
            disk = work / "bundle"
            with open(disk, "wb") as file:
                file.truncate(size)
            features = ["-t", "ext4", "-O", "^has_journal,^resize_inode", "-m", "0", "-L", "vclust-bundle"]
            run(["mke2fs", "-q", "-F", *features, "-N", str(len(copies) + 64), "-d", folder, disk])
            return catalogue.add(
                disk,
                kind="bundle",
                key=key,
                suite=lock.suite,
                architecture=lock.architecture,
                packages=records(own),
                installed_size=installed_size(own),
                state="packed",
                virtual_size=size,
                build_seconds=time.monotonic() - started,
            )


def layer_key(lock: Lock, base: Image, meta_packages: "Sequence[MetaPackage]" = ()) -> str:
    """The key of the layer `ensure_layer` gives, there or not."""
    return _key("layer", lock, lock.packages, _answers(meta_packages), base.manifest.digest)


def _build_layer(
    site: Site,
    catalogue: Catalogue,
    lock: Lock,
    own: tuple[Package, ...],
    parent: Image,
    answers: str,
    state: str,
    work: Path,
    report: Report,
    took: Took | None = None,
) -> int:
    """Make `layer.qcow2` in `work`: `own` unpacked over `parent`, and all configured where `state` says so.

    Returns its virtual size in bytes.
    """
    fetch(site, replace(lock, packages=own), report)
    with naming_full_disk(site.images):
        require_space(site.images, int(installed_size(own) * _SLACK) + _SPARE)
        _lay_out(site, own, answers, work / "packages")
        size = disk_size(lock, parent)
        create_over(catalogue, work, parent, size)
        seconds = _install(work, state, report)
    if took is not None:
        took.unpack, took.configure = seconds.get("unpack", 0.0), seconds.get("configure", 0.0)
        took.unpack_bytes, took.configure_bytes = installed_size(own), installed_size(lock.packages)
    return size


def _key(kind: str, lock: Lock, held: Sequence[Package], answers: str, parent: str) -> str:
    packages = [[package.identity, package.sha256] for package in held]
    data = json.dumps([RECIPES[kind], parent, lock.suite, lock.architecture, packages, answers])
    return hashlib.sha256(data.encode()).hexdigest()


def _answers(meta_packages: "Sequence[MetaPackage]") -> str:
    return "".join(f"{line}\n" for meta in meta_packages for line in meta.debconf)


def installed_size(packages: Sequence[Package]) -> int:
    """Bytes of the packages as installed."""
    return sum(package.installed_size for package in packages)


def disk_size(lock: Lock, parent: Image | None = None) -> int:
    """Bytes of the disk that base and packages of the lock need, over `parent` (a cache; default: the base)."""
    taken = sum(package.installed_size for package in (*lock.base, *lock.packages))
    needed = int(taken * _SLACK) + (_GIB >> 1)
    return max(parent.manifest.virtual_size if parent else VIRTUAL_SIZE, -(-needed // _GIB) * _GIB)


def _lay_out(site: Site, packages: Sequence[Package], answers: str, folder: Path) -> None:
    """Fill `folder` as `guest/install-packages` wants it."""
    folder.mkdir()
    for package in packages:
        copy, target = fast_copy(site, package), folder / f"{package.name}_{package.architecture}.deb"
        try:
            os.link(copy, target)
        except OSError as error:
            # The store is on another file system, or the file has all the links it may have.
            if error.errno not in (errno.EXDEV, errno.EMLINK):
                raise
            with open(copy, "rb") as source, open(target, "xb") as file:
                shutil.copyfileobj(source, file)
    (folder / "debconf").write_text(answers, encoding="utf-8")


def create_over(catalogue: Catalogue, work: Path, parent: Image, size: int) -> Path:
    """A new `layer.qcow2` in the folder `work` over the image `parent`, of `size` bytes."""
    # The backing file is named without its folder: images lie side by side, on every host.
    for image in catalogue.chain(parent):
        (work / image.path.name).symlink_to(image.path)
    options = ["-q", "-f", "qcow2", "-b", parent.path.name, "-F", "qcow2"]
    layer = work / "layer.qcow2"
    run(["qemu-img", "create", *options, layer, str(size)], cwd=work)
    return layer


def _install(work: Path, state: str, report: Report) -> dict[str, float]:
    """Run `build-layer`; the seconds of its steps, `unpack` and `configure`."""
    seconds = {}
    sandbox.write_filter(work / "seccomp")
    output: deque[str] = deque(maxlen=_KEPT_LINES)
    with contextlib.ExitStack() as stack:
        groups = stack.enter_context(sandbox.control_groups())
        (work / "groups").write_text("".join(f"{group}\n" for group in groups), encoding="utf-8")
        (work / "network").write_text(
            "" if sandbox.is_without_network() else "--unshare-net", encoding="ascii"
        )
        process = stack.enter_context(
            subprocess.Popen(
                _command(work, state),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        )
        deadline = threading.Timer(_LONGEST, process.kill)
        deadline.start()
        try:
            for line in _lines(process.stdout):
                if found := _PROGRESS.fullmatch(line):
                    report(f"{found[1]} packages", int(found[2]), int(found[3]))
                elif found := _TOOK.fullmatch(line):
                    seconds[found[1]] = float(found[2])
                else:
                    output.append(line)
        finally:
            late = deadline.finished.is_set()
            deadline.cancel()
            if process.poll() is None:
                process.kill()
                # Its child dies a moment later, and until then writes in the folder that the caller takes away.
                for _ in _lines(process.stdout):
                    pass
    if late:
        raise VclustError(
            f"build-layer: not done after {_LONGEST:.0f} s: a package does not end its installation"
        )
    if process.returncode:
        text = "".join(output)
        if os.strerror(errno.ENOSPC) in text and free_bytes(work) > _SPARE:
            # Not the site's disk: the one the nodes see.
            raise VclustError(f"the packages do not fit in the layer\n{text}")
        raise CommandError(["build-layer"], "cannot install the packages", text)
    return seconds


def _command(work: Path, state: str) -> list[str]:
    return [
        *DYING_WITH_PARENT,
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--ipc", "--uts"),
        *([] if sandbox.is_without_network() else ["--net"]),
        "--mount-proc",  # bwrap looks its child up in /proc
        *("sh", str(_SCRIPT), str(work), state),
    ]


def _lines(stream: IO[bytes] | None) -> Iterator[str]:
    """Lines that a build prints; a long one in pieces."""
    while stream is not None and (line := stream.readline(_LINE)):
        yield line.decode(errors="replace")


def _version(tool: str) -> str:
    first = run([tool, "--version"]).splitlines()[0]
    return f"{tool} {first.split()[2]}"
