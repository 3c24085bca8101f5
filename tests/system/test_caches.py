"""VD caches for real: a site that has learnt from past requests, and a cluster over two nested caches.

What a node or a layer holds is read from its disk and compared with a layer made without any cache.  Needs root.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cache.cachesite import accept, caches, due, found, live, ran, recompute, remember_as, reserved, status
from machine import Vclust, left_since, local, output, snapshot

from vclust_py import request as requests
from vclust_py.cache.matching import closure
from vclust_py.cache.stored import Stored
from vclust_py.hypervisor import Host
from vclust_py.image import Catalogue, Image
from vclust_py.image.base import ensure_base, find_base
from vclust_py.image.builder import ensure_cache, ensure_layer
from vclust_py.lock import Lock
from vclust_py.resolve import closure as resolved
from vclust_py.site import PROJECT, Site

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root"),
]

LESS, MORE = "libmpich12", "mpich"
"""What past requests asked for: the packages of the second hold those of the first."""

REQUEST = """\
[Hardware]
NumberOfNodes: 1
RAM: 512MB
[Software]
Hostname: t-cached%02d
Network: 192.168.79.0/24
Packages: mpich
Install: each
"""


def quiet(message: str, done: int, total: int) -> None:
    pass


def lock_of(site: Site, *names: str) -> Lock:
    return resolved(
        names,
        suite=site.default_suite,
        architecture="amd64",
        kernel="linux-image-cloud-amd64",
        site=site,
        report=quiet,
    )


@pytest.fixture(scope="module")
def learnt(site: Site) -> Iterator[Site]:
    """A site of its own with the others' base image, that has chosen and built caches after ten requests."""
    own = Site(root=site.root / "learnt", cache_every=0, base_renewal=0)

    def clear() -> None:
        for cluster in live(own):
            ran(own, "destroy", cluster.name)
        shutil.rmtree(own.root, ignore_errors=True)

    clear()
    ensure_base(site, lock_of(site), quiet)
    own.make_directories()
    for path in site.images.iterdir():
        if path.name.startswith(("base-", "kernel-", "installer-")) or path.suffix == ".status":
            os.link(path, own.images / path.name)
    shutil.copytree(site.apt, own.apt, symlinks=True, dirs_exist_ok=True)
    for name in (LESS, MORE):
        lock = lock_of(own, name)
        for number in range(5):
            remember(own, f"{name}{number}", lock)
    recompute(own, quiet)
    yield own
    clear()


def remember(site: Site, name: str, lock: Lock) -> None:
    """A past request, as phase `place` writes it down, of a cluster that is gone."""
    mapping = {"hardware": {"number_of_nodes": 1, "ram": "1GB"}, "software": {"name": name}}
    remember_as(site, accept(site, requests.from_mapping(mapping, name)), lock)


def stored(site: Site) -> list[Stored]:
    """The caches, those nearest to the base first."""
    return sorted(caches(site), key=lambda cache: cache.depth)


CHANGES = (
    "lost+found",
    "dev",
    "run",
    "tmp",
    "var/log",
    "var/cache/ldconfig/aux-cache",  # inode numbers and times
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/triggers/Lock",
)
"""What differs from one installation of the same packages to the next."""

LIST = """\
mount -o loop,ro,noload "$1" "$2"
cd "$2"
find . -xdev -not -type f -printf '%y %m %U:%G %P -> %l\\n'
find . -xdev -type f -printf '%y %m %U:%G %P %s\\n'
find . -xdev -type f -print0 | xargs -0 sha256sum
"""


def content(disk: Path, folder: Path) -> set[str]:
    """Every file of a disk with its mode, owner and digest, by another way than the builder's: a raw copy."""
    raw, root = folder / "raw", folder / "seen"
    root.mkdir()
    try:
        subprocess.run(["qemu-img", "convert", "-O", "raw", disk, raw], check=True)
        subprocess.run(["e2fsck", "-f", "-y", raw], check=False, capture_output=True)
        listing = output("unshare", "--mount", "sh", "-euc", LIST, "sh", str(raw), str(root))
    finally:
        raw.unlink()
        root.rmdir()
    changing = re.compile(rf"(?:^\S+ \S+ \S+ | \./)(?:{'|'.join(map(re.escape, CHANGES))})(?:[/ ]|$)")
    return {line for line in listing.splitlines() if not changing.search(line)}


@pytest.fixture(scope="module")
def without(learnt: Site) -> set[str]:
    """The request's layer, made over the base image."""
    lock = lock_of(learnt, MORE)
    base = find_base(learnt, lock)
    assert base is not None
    layer = ensure_layer(learnt, lock, base.base, (), quiet)
    found = content(layer.path, learnt.root)
    Catalogue(learnt).remove(layer)
    assert any(line.endswith("./usr/bin/mpiexec.hydra") for line in found)
    return found


def test_a_site_keeps_what_was_asked_for_as_nested_layers(learnt: Site) -> None:
    less, more = stored(learnt)
    assert (less.packages, more.packages) == tuple(closure(lock_of(learnt, name)) for name in (LESS, MORE))
    assert (more.parent, more.depth, less.depth) == (less.digest, 2, 1)
    image = Catalogue(learnt).get(more.digest)
    chain = json.loads(output("qemu-img", "info", "--backing-chain", "--output=json", str(image.path)))
    assert len(chain) == 3
    # What every QEMU can read, Xen's too.
    assert {one["format-specific"]["data"]["compression-type"] for one in chain[:2]} == {"zlib"}


@pytest.mark.parametrize("kept", ["unpacked", "configured"])
def test_a_layer_over_caches_is_the_layer_without(
    learnt: Site, without: set[str], disk_path: Path, kept: str
) -> None:
    catalogue, lock = Catalogue(learnt), lock_of(learnt, "mpich")
    base = find_base(learnt, lock)
    assert base is not None
    less = ensure_cache(learnt, lock_of(learnt, LESS), base.base, kept, quiet)
    more = ensure_cache(learnt, lock, less, kept, quiet)
    layer = ensure_layer(learnt, lock, base.base, (), quiet, cache=more)
    try:
        assert layer.manifest.backing == more.manifest.digest
        assert content(layer.path, disk_path) ^ without == set()
    finally:
        for image in (layer, more, less):
            if image.manifest.digest not in {cache.digest for cache in caches(learnt) if cache.chosen}:
                catalogue.remove(image)


@pytest.fixture(scope="module")
def vclust(learnt: Site, tmp_path_factory: pytest.TempPathFactory) -> Vclust:
    folder = tmp_path_factory.mktemp("caches")
    return local(folder, root=learnt.root)


def test_a_cluster_over_nested_caches(
    learnt: Site, vclust: Vclust, without: set[str], disk_path: Path
) -> None:
    """Each node installs by itself: from the cache on it is as one without, and its cache stays while it is there."""
    less, more = stored(learnt)
    vclust("create", vclust.request("cached", REQUEST))
    shown = vclust.json("show", "cached")
    assert shown["cache"]["digest"] == more.digest
    assert shown["cache"]["bytes"] == shown["cache"]["of"] == more.size
    listed = vclust(
        "ssh", "cached", "--", "dpkg-query -W -f '${Package}=${Version} ${db:Status-Status}\\n'; sync"
    )
    states = dict(line.split() for line in listed.splitlines() if "=" in line)
    lock = lock_of(learnt, MORE)
    assert set(states.values()) == {"installed"}
    assert set(states) == {f"{name}={version}" for name, version in lock.installed().items()}

    # No space at all from now on: what the running node reads stays.
    nothing = replace(learnt, cache_space=0, layer_space=0)
    long_ago(learnt)
    recompute(nothing, quiet)
    assert {cache.digest for cache in caches(learnt)} == {less.digest, more.digest}
    assert all(cache.clusters == ("cached",) for cache in caches(learnt))
    assert "mpiexec" in vclust("ssh", "cached", "--", "cat /usr/bin/* > /dev/null; ls /usr/bin")
    # Files of packages, not the node's own: those of the layer made without caches are all there, the same.
    output("virsh", "-c", "qemu:///system", "destroy", "t-cached01.cached")
    (disk,) = learnt.clusters.glob("cached.*/t-cached01.qcow2")
    copy = disk_path / "copy.qcow2"
    shutil.copy(disk, copy)
    root = Catalogue(learnt).get(shown["images"]["root"]).path
    subprocess.run(["qemu-img", "rebase", "-u", "-b", root, "-F", "qcow2", copy], check=True)
    missing = without - content(copy, disk_path)
    programs = {line for line in missing if re.search(r" (\./)?(usr|opt|var/lib/dpkg/info)/", line)}
    assert programs == set()

    long_ago(learnt)
    ran(nothing, "destroy", "cached")
    assert caches(learnt) == []
    assert not list(learnt.images.glob("cache-*"))
    recompute(learnt, quiet)
    assert [cache.packages for cache in stored(learnt)] == [less.packages, more.packages]


def long_ago(site: Site) -> None:
    """As if no image had been made or used within the last hour."""
    moment = time.time() - 3600
    with sqlite3.connect(site.database) as connection:
        connection.execute("UPDATE uses SET used = ?", (moment,))
    connection.close()
    for image in Catalogue(site).images():
        for path in (image.path, image.path.with_suffix(".json")):
            os.utime(path, (moment, moment))


def truncate(image: Image) -> None:
    with open(image.path, "r+b") as file:
        file.truncate(image.manifest.bytes // 2)


def rot(image: Image) -> None:
    """Other bytes in the middle; size and time as before."""
    times = image.path.stat()
    with open(image.path, "r+b") as file:
        file.seek(image.manifest.bytes // 2)
        file.write(b"\0rotten\0" * 512)
    os.utime(image.path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("damage", [truncate, rot])
def test_a_damaged_cache_is_made_anew(learnt: Site, damage: Callable[[Image], None]) -> None:
    less, more = stored(learnt)
    damage(Catalogue(learnt).get(less.digest))
    if damage is truncate:
        assert caches(learnt) == [], "what stands on it cannot be used either"
    result = recompute(learnt, quiet)
    assert result.failed == {}
    assert any(less.digest[:24] in line for line in result.removed)
    again = stored(learnt)
    assert [cache.packages for cache in again] == [less.packages, more.packages]
    for cache in again:
        path = str(Catalogue(learnt).get(cache.digest).path)
        assert output("sha256sum", path).split()[0] == cache.digest
        output("qemu-img", "check", "-q", path)


def test_a_create_does_without_a_cache_that_is_damaged_meanwhile(learnt: Site) -> None:
    less, more = stored(learnt)
    software = {"name": "t-damaged", "packages": [MORE], "install": "once"}
    asked = requests.from_mapping(
        {"hardware": {"number_of_nodes": 1, "ram": "512MB"}, "software": software}, "t-damaged"
    )
    accept(learnt, asked)
    lock = Lock.load(learnt, ran(learnt, "resolve", "t-damaged", request=asked).facts["lock"])
    assert reserved(learnt, asked, lock, "").facts["cache"]["digest"] == more.digest
    ran(learnt, "place", "t-damaged", request=asked, lock=lock.digest, hosts=(Host("localhost"),))
    truncate(Catalogue(learnt).get(less.digest))
    ran(learnt, "image", "t-damaged")
    cluster, base = found(learnt, "t-damaged"), find_base(learnt, lock)
    assert base is not None
    assert cluster.cache == {}
    assert Catalogue(learnt).get(cluster.images["root"]).manifest.backing == base.base.manifest.digest
    ran(learnt, "destroy", "t-damaged")
    recompute(learnt, quiet)
    assert [cache.packages for cache in stored(learnt)] == [less.packages, more.packages]


@pytest.fixture
def emptied(learnt: Site) -> Site:
    """Its caches are gone, so that a recomputation has work to do."""
    for cache in reversed(stored(learnt)):
        Catalogue(learnt).remove(Catalogue(learnt).get(cache.digest))
    return learnt


def in_background(site: Site) -> subprocess.Popen[str]:
    """A recomputation as it is started at the end of a create, when it is due: as if there had been none."""
    with contextlib.closing(sqlite3.connect(site.database)) as connection, connection:
        connection.execute("DELETE FROM rebuilds")
    process = subprocess.Popen(
        [sys.executable, "-m", "vclust_py.cache.background"],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    json.dump(replace(site, cache_every=1).to_mapping(), process.stdin)
    process.stdin.close()
    return process


def wait_for(site: Site, message: str) -> None:
    deadline = time.monotonic() + 120
    while (found := status(site))["state"] != "running" or message not in found["message"]:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def test_a_killed_recomputation_is_taken_up(emptied: Site) -> None:
    before = snapshot()
    process = in_background(emptied)
    wait_for(emptied, "cache 2 of 2: unpack")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert left_since(before) == {}
    assert status(emptied)["state"] == "killed"
    assert due(replace(emptied, cache_every=50))
    assert [cache.depth for cache in caches(emptied)] == [1]
    result = recompute(emptied, quiet)
    assert (len(result.built), result.chosen, result.failed) == (1, 2, {})
    assert status(emptied)["state"] == "done"
    assert not list(emptied.images.glob("*.tmp"))


def test_two_recomputations_do_not_meet(emptied: Site, vclust: Vclust) -> None:
    process = in_background(emptied)
    wait_for(emptied, "cache 1 of 2")
    os.kill(process.pid, signal.SIGSTOP)  # so that it is there as long as the second one needs
    try:
        assert "caches: another vclust process is at work on it" in vclust("cache", "rebuild", code=4)
    finally:
        os.kill(process.pid, signal.SIGCONT)
    assert process.wait(120) == 0
    assert status(emptied)["state"] == "done"
    assert [cache.depth for cache in stored(emptied)] == [1, 2]
