"""Sites for tests of the builder: a small base image, packages that tests change, what a layer holds and leaves."""

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from vclust_py.image import Catalogue, Image, base_key, file_digest
from vclust_py.image.builder import COMPRESSED
from vclust_py.image.installer import GUEST
from vclust_py.resolve import Lock, closure
from vclust_py.site import Site

KERNEL = "linux-image-cloud-amd64"


def quiet(message: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="session")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base disk and its dpkg status, made without `image.base`: these tests are about what goes over it."""
    folder = tmp_path_factory.mktemp("minimal")
    root = folder / "root"
    suite = Site().default_suite
    # In a mount namespace of its own, which takes its mounts along.
    make = ["unshare", "--mount", "mmdebstrap", "--quiet", "--variant=minbase", suite, root]
    subprocess.run(make, check=True, timeout=1200)
    programs = root / "usr/libexec/vclust"
    programs.mkdir(parents=True)
    shutil.copy(GUEST / "install-packages", programs)
    disk = folder / "disk"
    with open(disk, "wb") as file:
        file.truncate(3 << 30)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, disk], check=True)
    (folder / "status").write_bytes((root / "var/lib/dpkg/status").read_bytes())
    shutil.rmtree(root)
    subprocess.run(
        ["qemu-img", "convert", *COMPRESSED, "-O", "qcow2", disk, folder / "base.qcow2"], check=True
    )
    disk.unlink()
    return folder


def make_site(root: Path, minimal: Path, **settings: object) -> tuple[Site, Image]:
    site = Site.from_mapping({"root": str(root), **settings})
    site.make_directories()
    catalogue = Catalogue(site)
    key = base_key(site.default_suite, "amd64", KERNEL)
    with catalogue.building("base", key) as work:
        try:
            os.link(minimal / "base.qcow2", work / "base")
        except OSError:  # another file system
            shutil.copyfile(minimal / "base.qcow2", work / "base")
        base = catalogue.add(work / "base", kind="base", key=key, virtual_size=3 << 30)
    catalogue.status(base).write_bytes((minimal / "status").read_bytes())
    return site, base


@pytest.fixture
def made(tmp_path: Path, minimal: Path) -> tuple[Site, Image]:
    return make_site(tmp_path / "site", minimal)


def leftovers(folder: Path, patience: float = 60) -> list[str]:
    """Loop devices, mounts and processes that have to do with `folder`, once they have had time to go.

    A mount lives on in mount namespaces that others have made meanwhile, and with it its loop device.
    """
    deadline = time.monotonic() + patience
    while (found := _leftovers(folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return found


def _leftovers(folder: Path) -> list[str]:
    found = subprocess.run(["losetup", "-a"], capture_output=True, text=True, check=True).stdout.splitlines()
    found += Path("/proc/self/mounts").read_text().splitlines()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if int(path.parent.name) != os.getpid():
                found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in found if str(folder) in line]


def lock_of(site: Site, *names: str) -> Lock:
    return closure(
        names, suite=site.default_suite, architecture="amd64", kernel=KERNEL, site=site, report=quiet
    )


def in_layer(image: Image, folder: Path, *argv: str) -> str:
    """Run a command in the root that a node would see, by another way than the builder's: a raw copy."""
    raw, root = folder / "raw", folder / "seen"
    root.mkdir()
    subprocess.run(["qemu-img", "convert", "-O", "raw", image.path, raw], check=True)
    subprocess.run(["e2fsck", "-f", "-n", raw], check=True, capture_output=True)
    script = 'mount -o loop,ro,noload "$0" "$1"; root=$1; shift; chroot "$root" "$@"'
    try:
        return subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script, raw, root, *argv],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    finally:
        raw.unlink()
        root.rmdir()


def put_back(folder: Path, copy: Path) -> None:
    """Make an unpacked package the fast copy again, as if it had come so from the archive."""
    (folder / "DEBIAN/postinst").chmod(0o755)
    subprocess.run(["dpkg-deb", "-b", folder, copy], check=True, capture_output=True)
    copy.with_suffix(".sum").write_text(file_digest(copy))
