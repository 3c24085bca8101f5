"""The builder for real: loop devices, FUSE exports, dpkg.  Needs root, and apt sources that answer."""

import contextlib
import dataclasses
import multiprocessing
import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from layers import in_layer, leftovers, lock_of, made, make_site, minimal, put_back, quiet

from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image
from vclust_py.image.builder import ensure_bundle, ensure_layer
from vclust_py.image.store import fetch
from vclust_py.site import Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

FORK = multiprocessing.get_context("fork")
__all__ = ["made", "minimal"]  # fixtures


@pytest.fixture(autouse=True)
def _nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    assert leftovers(tmp_path) == []


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
    assert leftovers(tmp_path) == []
    assert Catalogue(site).find("layer", "") is None
    assert [image for image in Catalogue(site).images() if image.manifest.kind == "layer"] == []
    layer = ensure_layer(site, lock, base, (), quiet)
    assert in_layer(layer, tmp_path, "hello").startswith("Hello")
    assert not list(site.images.glob("*.tmp"))


def test_a_limit_of_core_dumps_that_cannot_be_raised(made: tuple[Site, Image]) -> None:
    """As sudo sets it, in a container without the capability to raise it."""
    site, base = made
    lock = lock_of(site, "hello")

    def build() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ensure_layer(site, lock, base, (), quiet)

    process = FORK.Process(target=build)
    process.start()
    process.join()
    assert process.exitcode == 0


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
