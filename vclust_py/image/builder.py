"""What a request adds to the base image: a layer (strategy `once`) or a bundle of packages (strategy `each`).

The layer is made on the site manager without a virtual machine: a qcow2 over the base, exported through FUSE,
loop-mounted, and installed into with dpkg, all in namespaces of its own (`build-layer`).  It is not
compressed: that took as long as unpacking and saves nothing where the file is used in place.
"""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image, Report, file_digest
from vclust_py.image.space import free_bytes, mount_point, naming_full_disk
from vclust_py.image.store import fast_copy, fetch
from vclust_py.resolve import Lock
from vclust_py.run import DYING_WITH_PARENT, CommandError, run
from vclust_py.site import Site

if TYPE_CHECKING:
    from vclust_py.metapackages import MetaPackage

_SCRIPT = Path(__file__).resolve().parent / "build-layer"
RECIPE = f"1 {file_digest(_SCRIPT)}"
"""Part of every key here; raise the number when what this file makes from the same lock changes."""

_GIB = 1 << 30
_SECTORS = 1 << 20
# File systems and dpkg's database take more than the sum of Installed-Size.
_SLACK = 1.2
_SPARE = 128 << 20
_PROGRESS = "vclust: progress "


def ensure_layer(
    site: Site, lock: Lock, base: Image, meta_packages: "Sequence[MetaPackage]", report: Report
) -> Image:
    """The layer over `base` in which the lock's packages are installed and configured; built where missing.

    Needs root.  The key covers all that goes in, so equal requests share a layer.  A layer whose packages do
    not fit in the base's virtual size gets a larger one.
    """
    catalogue = Catalogue(site)
    answers = _answers(meta_packages)
    key = layer_key(lock, base, meta_packages)
    if image := catalogue.find("layer", key):
        return image
    with catalogue.building("layer", key) as work:
        if image := catalogue.find("layer", key):
            return image
        fetch(site, lock, report)
        started = time.monotonic()
        with naming_full_disk(site.images):
            _need(work, int(_installed(lock) * _SLACK) + _SPARE)
            _lay_out(site, lock, answers, work / "packages")
            size = _virtual_size(lock, base)
            _create(work, base, size)
            _install(work, report)
            return catalogue.add(
                work / "layer.qcow2",
                kind="layer",
                key=key,
                backing=base,
                packages=tuple(f"{package.name}={package.version}" for package in lock.packages),
                virtual_size=size,
                build_seconds=time.monotonic() - started,
                tools=(_version("qemu-img"),),
            )


def ensure_bundle(site: Site, lock: Lock, meta_packages: "Sequence[MetaPackage]", report: Report) -> Image:
    """The read-only disk with the lock's packages for the installer in each node; made where missing.

    An ext4 file system labelled `vclust-bundle`: the .debs (fast copies), `debconf` and `lock`.
    """
    catalogue = Catalogue(site)
    answers = _answers(meta_packages)
    key = _key(lock, answers, "bundle")
    if image := catalogue.find("bundle", key):
        return image
    with catalogue.building("bundle", key) as work:
        if image := catalogue.find("bundle", key):
            return image
        copies = fetch(site, lock, report)
        started = time.monotonic()
        # ext4 without journal: tables and a rounded-up last block for each file.
        size = int(sum(path.stat().st_size for path in copies) * 1.02) + 4096 * len(copies) + (8 << 20)
        size = -(-size // _SECTORS) * _SECTORS
        with naming_full_disk(site.images):
            _need(work, size)
            folder = work / "packages"
            _lay_out(site, lock, answers, folder)
            (folder / "lock").write_text(lock.to_json(), encoding="utf-8")
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
                packages=tuple(f"{package.name}={package.version}" for package in lock.packages),
                state="packed",
                virtual_size=size,
                build_seconds=time.monotonic() - started,
            )


def layer_key(lock: Lock, base: Image, meta_packages: "Sequence[MetaPackage]" = ()) -> str:
    """The key of the layer `ensure_layer` gives, there or not."""
    return _key(lock, _answers(meta_packages), base.manifest.digest)


def _key(lock: Lock, answers: str, onto: str) -> str:
    packages = [[package.identity, package.sha256] for package in lock.packages]
    data = json.dumps([RECIPE, onto, lock.suite, lock.architecture, packages, answers])
    return hashlib.sha256(data.encode()).hexdigest()


def _answers(meta_packages: "Sequence[MetaPackage]") -> str:
    return "".join(f"{line}\n" for meta in meta_packages for line in meta.debconf)


def _installed(lock: Lock) -> int:
    return sum(package.installed_size for package in lock.packages)


def _virtual_size(lock: Lock, base: Image) -> int:
    taken = sum(package.installed_size for package in (*lock.base, *lock.packages))
    needed = int(taken * _SLACK) + (_GIB >> 1)
    return max(base.manifest.virtual_size, -(-needed // _GIB) * _GIB)


def _need(work: Path, needed: int) -> None:
    free = free_bytes(work)
    if free < needed:
        raise VclustError(
            f"{work.parent}: the file system {mount_point(work)} has {free >> 20} MB free,"
            f" this image needs {needed >> 20} MB",
            "free some space there, or give the site another root",
        )


def _lay_out(site: Site, lock: Lock, answers: str, folder: Path) -> None:
    """Fill `folder` as `guest/install-packages` wants it."""
    folder.mkdir()
    for package in lock.packages:
        copy, target = fast_copy(site, package), folder / f"{package.name}_{package.architecture}.deb"
        try:
            os.link(copy, target)
        except OSError:  # the store is on another file system
            shutil.copyfile(copy, target)
    (folder / "debconf").write_text(answers, encoding="utf-8")


def _create(work: Path, base: Image, size: int) -> None:
    # The backing file is named without its folder: layers and bases lie side by side, on every host.
    (work / base.path.name).symlink_to(base.path)
    options = ["-q", "-f", "qcow2", "-b", base.path.name, "-F", "qcow2"]
    run(["qemu-img", "create", *options, work / "layer.qcow2", str(size)], cwd=work)


def _install(work: Path, report: Report) -> None:
    argv = [
        *DYING_WITH_PARENT,
        *("unshare", "--mount", "--pid", "--fork", "--kill-child", "--net", "--ipc", "--uts"),
        *("sh", _SCRIPT, work),
    ]
    said: deque[str] = deque(maxlen=40)
    with subprocess.Popen(
        [str(word) for word in argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                if line.startswith(_PROGRESS):
                    word, _, count = line.removeprefix(_PROGRESS).partition(" ")
                    done, _, total = count.partition("/")
                    report(f"{word} packages", int(done), int(total))
                else:
                    said.append(line)
        finally:
            if process.poll() is None:
                process.kill()
    if process.returncode:
        output = "".join(said)
        if os.strerror(errno.ENOSPC) in output and free_bytes(work) > _SPARE:
            # Not the site's disk: the one the nodes see.
            raise VclustError(f"the packages do not fit in the layer\n{output}")
        raise CommandError(["build-layer"], "cannot install the packages", output)


def _version(tool: str) -> str:
    first = run([tool, "--version"]).splitlines()[0]
    return f"{tool} {first.split()[2]}"
