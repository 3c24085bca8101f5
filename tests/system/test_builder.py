"""The builder for real: loop devices, FUSE exports, dpkg.  Needs root, and apt sources that answer."""

import contextlib
import dataclasses
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image, base_key, file_digest
from vclust_py.image.base import RECIPE
from vclust_py.image.builder import ensure_bundle, ensure_layer
from vclust_py.image.installer import GUEST
from vclust_py.image.store import fetch
from vclust_py.resolve import Lock, closure
from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

KERNEL = "linux-image-cloud-amd64"
FORK = multiprocessing.get_context("fork")


def quiet(message: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="session")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small base disk and its dpkg status, made without `image.base`: these tests are about what goes over it."""
    folder = tmp_path_factory.mktemp("minimal")
    root = folder / "root"
    suite = Site().default_suite
    subprocess.run(["mmdebstrap", "--quiet", "--variant=minbase", suite, root], check=True, timeout=600)
    programs = root / "usr/libexec/vclust"
    programs.mkdir(parents=True)
    shutil.copy(GUEST / "install-packages", programs)
    disk = folder / "disk"
    with open(disk, "wb") as file:
        file.truncate(3 << 30)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, disk], check=True)
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", disk, folder / "base.qcow2"], check=True)
    (folder / "status").write_bytes((root / "var/lib/dpkg/status").read_bytes())
    disk.unlink()
    return folder


def make_site(root: Path, minimal: Path) -> tuple[Site, Image]:
    site = Site(root=root)
    site.make_directories()
    catalogue = Catalogue(site)
    key = base_key(site.default_suite, "amd64", KERNEL, RECIPE)
    with catalogue.building("base", key) as work:
        (work / "base").write_bytes((minimal / "base.qcow2").read_bytes())
        base = catalogue.add(work / "base", kind="base", key=key, virtual_size=3 << 30)
    catalogue.status(base).write_bytes((minimal / "status").read_bytes())
    return site, base


@pytest.fixture
def made(tmp_path: Path, minimal: Path) -> tuple[Site, Image]:
    return make_site(tmp_path / "site", minimal)


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert leftovers(tmp_path) == []


def leftovers(folder: Path) -> list[str]:
    """Loop devices, mounts and processes that have to do with `folder`."""
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


def test_a_layer_holds_what_the_lock_says(made: tuple[Site, Image], tmp_path: Path) -> None:
    site, base = made
    lock = lock_of(site, "python3-minimal", "hello")
    seen: list[str] = []
    layer = ensure_layer(site, lock, base, (), lambda message, done, total: seen.append(message))
    assert "unpack packages" in seen
    assert ensure_layer(site, lock, base, (), quiet) == layer
    text = in_layer(layer, tmp_path, "dpkg-query", "-W", "-f", "${Package}=${Version} ${db:Status-Abbrev}\n")
    states = dict(line.split(" ", 1) for line in text.splitlines())
    assert set(states.values()) == {"ii "}
    wanted = {f"{package.name}={package.version}" for package in (*lock.base, *lock.packages)}
    assert set(states) == wanted
    assert in_layer(layer, tmp_path, "python3", "-c", "print('works')") == "works\n"
    assert "policy-rc.d" not in in_layer(layer, tmp_path, "ls", "/usr/sbin")
    info = subprocess.run(["qemu-img", "info", layer.path], capture_output=True, text=True, check=True).stdout
    assert f"backing file: {base.path.name}" in info


def test_a_large_set_gets_a_larger_disk(made: tuple[Site, Image], tmp_path: Path) -> None:
    site, base = made
    lock = lock_of(site, "hello")
    heavy = dataclasses.replace(lock.base[0], installed_size=3 << 30)
    layer = ensure_layer(site, dataclasses.replace(lock, base=(*lock.base, heavy)), base, (), quiet)
    assert layer.manifest.virtual_size > 3 << 30
    blocks = in_layer(layer, tmp_path, "stat", "-f", "-c", "%b %S", "/").split()
    assert int(blocks[0]) * int(blocks[1]) > 3 << 30


def test_a_bundle_holds_the_packages(made: tuple[Site, Image], tmp_path: Path) -> None:
    site, _ = made
    lock = lock_of(site, "hello")
    bundle = ensure_bundle(site, lock, (), quiet)
    listing = subprocess.run(
        ["debugfs", "-R", "ls -p /", bundle.path], capture_output=True, text=True, check=True
    )
    for name in ("hello_amd64.deb", "debconf"):
        assert f"/{name}/" in listing.stdout
    label = subprocess.run(["e2label", bundle.path], capture_output=True, text=True, check=True).stdout
    assert label.strip() == "vclust-bundle"
    assert bundle.manifest.bytes % 512 == 0


@pytest.mark.parametrize("moment", ["unpack packages", "configure packages", "downloading packages"])
def test_kill_9_leaves_nothing_and_the_next_build_works(
    made: tuple[Site, Image], tmp_path: Path, moment: str
) -> None:
    site, base = made
    lock = lock_of(site, "python3-minimal", "hello")
    if moment != "downloading packages":
        fetch(site, lock, quiet)
    reached = FORK.Event()

    def build() -> None:
        ensure_layer(site, lock, base, (), lambda message, *_: reached.set() if message == moment else None)

    process = FORK.Process(target=build)
    process.start()
    assert reached.wait(120)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    deadline = time.monotonic() + 5
    while leftovers(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert leftovers(tmp_path) == []
    assert Catalogue(site).find("layer", "") is None
    assert [image for image in Catalogue(site).images() if image.manifest.kind == "layer"] == []
    layer = ensure_layer(site, lock, base, (), quiet)
    assert in_layer(layer, tmp_path, "hello").startswith("Hello")
    assert not list(site.images.glob("*.tmp"))


def test_two_processes_build_a_layer_once(made: tuple[Site, Image]) -> None:
    site, base = made
    lock = lock_of(site, "hello")
    builds = FORK.Value("i", 0)

    def build() -> None:
        def report(message: str, done: int, total: int) -> None:
            if message == "unpack packages" and done == total:
                with builds.get_lock():
                    builds.value += 1

        ensure_layer(site, lock, base, (), report)

    processes = [FORK.Process(target=build) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert builds.value == 1
    assert len([image for image in Catalogue(site).images() if image.manifest.kind == "layer"]) == 1


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    disk, place = folder / "small", folder / "place"
    with open(disk, "wb") as file:
        file.truncate(megabytes << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", disk], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", disk, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("late", [False, True], ids=["seen before", "on the way"])
def test_a_full_disk_is_one_clear_error(tmp_path: Path, minimal: Path, late: bool) -> None:
    with small_disk(tmp_path, 700) as place:
        site, base = make_site(place / "site", minimal)
        lock = lock_of(site, "python3", "hello")
        fetch(site, lock, quiet)
        fill = place / "fill"

        def fill_up(message: str = "", done: int = 0, total: int = 0) -> None:
            if not fill.exists() and (not late or message == "unpack packages"):
                free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
                with open(fill, "wb") as file:
                    os.posix_fallocate(file.fileno(), 0, free - (1 << 18))

        if not late:
            fill_up()
        with pytest.raises(VclustError) as caught:
            ensure_layer(site, lock, base, (), fill_up)
        assert f"file system {place}" in str(caught.value)
        assert not list(site.images.glob("*.tmp"))
        assert not list(site.images.glob("layer-*"))
        assert leftovers(site.images) == []
        fill.unlink()
        assert ensure_layer(site, lock, base, (), quiet).path.exists()


def put_back(folder: Path, copy: Path) -> None:
    """Make an unpacked package the fast copy again, as if it had come so from the archive."""
    (folder / "DEBIAN/postinst").chmod(0o755)
    subprocess.run(["dpkg-deb", "-b", folder, copy], check=True, capture_output=True)
    copy.with_suffix(".sum").write_text(file_digest(copy))


def test_a_package_that_fails_is_told_with_what_it_said(made: tuple[Site, Image], tmp_path: Path) -> None:
    site, base = made
    lock = lock_of(site, "hello")
    (copy,) = fetch(site, lock, quiet)
    folder = tmp_path / "bad"
    subprocess.run(["dpkg-deb", "-R", copy, folder], check=True)
    (folder / "DEBIAN/postinst").write_text("#!/bin/sh\necho cannot do this >&2\nexit 3\n")
    put_back(folder, copy)
    with pytest.raises(VclustError, match="cannot do this"):
        ensure_layer(site, lock, base, (), quiet)
    assert not list(site.images.glob("layer-*"))


def test_what_runs_in_a_layer_cannot_leave_it(made: tuple[Site, Image], tmp_path: Path) -> None:
    site, base = made
    lock = lock_of(site, "hello")
    (copy,) = fetch(site, lock, quiet)
    folder = tmp_path / "bad"
    subprocess.run(["dpkg-deb", "-R", copy, folder], check=True)
    (folder / "DEBIAN/postinst").write_text(
        "#!/bin/sh\n"
        "! mount -t tmpfs x /mnt && ! mknod /root/disk b 8 0 && ! umount /proc || exit 3\n"
        "[ $(ls /proc/sys/net/ipv4/conf | grep -c eth) = 0 ] || exit 4\n"
        "service ssh start || :\n"
        # The classic way out of a chroot: a second one, with the working directory left above it.
        "mkdir /root/second && perl -e '"
        'chroot "/root/second" or exit 5; chdir ".." for 1..64; chroot "."; '
        f'open my $file, ">", "{tmp_path}/escaped"\' || exit 5\n'
        # A session that began outside has the number 0 here, and may have a terminal.
        "read -r _ _ _ _ _ session _ < /proc/self/stat; [ $session != 0 ] || exit 6\n"
        "sleep 1000 & \n"
        "readlink /proc/self/ns/pid > /root/namespace\n"
    )
    put_back(folder, copy)
    layer = ensure_layer(site, lock, base, (), quiet)
    assert not (tmp_path / "escaped").exists()
    assert in_layer(layer, tmp_path, "cat", "/root/namespace").strip() != os.readlink("/proc/self/ns/pid")
