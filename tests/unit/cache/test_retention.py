"""Which images stay on a toy site, and which go.  Caches are small files, built without disks."""

import errno
import functools
import json
import os
from pathlib import Path

import pytest
from cache.cachesite import (
    a_lock,
    a_request,
    accept,
    age,
    an_image,
    caches,
    contents,
    describe,
    everything_old,
    forget,
    found,
    make_cache,
    mark_used,
    pinned,
    quiet,
    recompute,
    remember,
    reserved,
    shrunk,
    trim,
    uses,
)

from vclust_py.cache.matching import closure
from vclust_py.image import Catalogue, PackageRecord
from vclust_py.image.base import BaseImages
from vclust_py.image.manifest import SCHEMA
from vclust_py.run import run
from vclust_py.site import Site


def test_caches_are_left_alone_while_some_are_built(site: Site, base: BaseImages) -> None:
    make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    layer = an_image(site, "layer", "k", "layer", backing=base.base)
    everything_old(site)
    none = shrunk(site, cache_space=0, layer_space=0)
    with site.file_lock("caches"):
        assert [line.partition(":")[0] for line in trim(none)] == [layer.path.name]
    assert len(trim(none)) == 1


def test_the_least_recently_used_go_first(site: Site, base: BaseImages) -> None:
    images = [
        make_cache(site, a_lock(site, name), base.base, "unpacked") for name in ("full", "exim", "fight-b")
    ]
    everything_old(site)
    cluster = accept(site, a_request("one", "full"))
    pinned(site, cluster, {"root": images[0].manifest.digest})
    forget(site, cluster)
    age(site, images[2], 1800)
    room = 2 * images[0].manifest.bytes + 100
    assert len(trim(shrunk(site, layer_space=room))) == 1
    assert contents(site, chosen=False) == {closure(a_lock(site, name)) for name in ("full", "fight-b")}
    assert len(trim(shrunk(site, layer_space=room // 2))) == 1
    assert contents(site, chosen=False) == {closure(a_lock(site, "full"))}


def test_what_a_cluster_stands_on_stays(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vclust_py.cache.retention._GRACE", -1.0)
    remember(site, *[a_lock(site, "libgreet")] * 5, *[a_lock(site, "hello")] * 5)
    recompute(site, quiet)
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    cluster = accept(site, request)
    digest = reserved(site, request, lock, "").facts["cache"]["digest"]
    none = shrunk(site, cache_space=0, layer_space=0)
    assert trim(none) == []
    layer = an_image(
        site, "layer", "k", "layer", backing=Catalogue(site).get(digest), packages=[PackageRecord("x", "1")]
    )
    pinned(site, cluster, {"root": layer.manifest.digest})
    assert trim(none) == []
    forget(site, cluster)
    assert len(trim(none)) == 3
    assert {image.manifest.kind for image in Catalogue(site).images()} == {"base", "kernel", "installer"}


def test_what_was_just_made_waits_for_its_cluster(site: Site, base: BaseImages) -> None:
    make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    assert trim(shrunk(site, layer_space=0)) == []


def test_chosen_caches_have_a_space_of_their_own(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "full")] * 5, *[a_lock(site, "exim")] * 5)
    recompute(site, quiet)
    everything_old(site)
    assert trim(shrunk(site, layer_space=0)) == []
    size = caches(site)[0].bytes
    assert len(trim(shrunk(site, cache_space=size, layer_space=0))) == 1
    assert len(caches(site)) == 1


def test_a_damaged_cache_is_built_anew(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    recompute(site, quiet)
    path = next(site.images.glob("cache-*.qcow2"))
    moment = path.stat().st_mtime_ns
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    os.utime(path, ns=(moment, moment))  # as a disk does that loses a bit
    result = recompute(site, quiet)
    assert len(result.built) == 1
    assert "its content is not what its manifest says" in result.removed[0]
    assert path.read_bytes() == content


def test_a_damaged_cache_that_a_cluster_stands_on_stays_for_it_alone(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    remember(site, *[lock] * 5)
    recompute(site, quiet)
    cluster = accept(site, request)
    (before,) = caches(site)
    layer = an_image(site, "layer", "k", "layer", backing=Catalogue(site).get(before.digest))
    pinned(site, cluster, {"root": layer.manifest.digest})
    path = Catalogue(site).get(before.digest).path
    moment = path.stat().st_mtime_ns
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(moment, moment))
    # Disks are never made twice alike.
    monkeypatch.setattr("vclust_py.cache.rebuild.ensure_cache", functools.partial(make_cache, note="again, "))
    result = recompute(site, quiet)
    assert "create these clusters again: one" in result.removed[0]
    assert len(result.built) == 1
    (after,) = caches(site)
    assert after.packages == before.packages
    assert path.exists()
    assert Catalogue(site).chain(layer)[1].path == path
    assert Catalogue(site).find("layer", "k") is None  # nobody else starts from it
    assert recompute(site, quiet).built == ()
    forget(site, found(site, "one"))
    recompute(site, quiet)
    assert not path.exists()


def test_a_cache_that_cannot_be_read_is_damaged(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    recompute(site, quiet)

    def bad_sector(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr("vclust_py.cache.retention.file_digest", bad_sector)
    result = recompute(site, quiet)
    assert "cannot be read: Input/output error" in result.removed[0]
    assert len(result.built) == 1


def test_a_cache_packed_with_zstd_serves_nobody_and_is_built_again(site: Site, base: BaseImages) -> None:
    """As versions before this one made them: nodes on Xen hosts waited in vain for such a disk."""
    remember(site, *[a_lock(site, "hello")] * 5)
    recompute(site, quiet)
    (before,) = caches(site)
    catalogue = Catalogue(site)
    manifest = catalogue.get(before.digest).manifest
    catalogue.remove(catalogue.get(before.digest))
    with catalogue.building("cache", manifest.key) as folder:
        (folder / "raw").write_bytes(b"x" * (1 << 16))
        run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd",
             folder / "raw", folder / "new"])  # fmt: skip
        catalogue.add(
            folder / "new",
            kind="cache",
            key=manifest.key,
            suite="toy",
            architecture="amd64",
            backing=base.base,
            packages=manifest.packages,
            installed_size=manifest.installed_size,
            state=manifest.state,
        )
    assert caches(site) == []
    result = recompute(site, quiet)
    assert ["zstd" in line for line in result.removed] == [True]
    assert [cache.packages for cache in caches(site)] == [before.packages]


def test_what_a_newer_version_stands_on_stays_and_what_is_known_of_it(site: Site, base: BaseImages) -> None:
    below = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    above = make_cache(site, a_lock(site, "hello"), below, "unpacked")
    make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    mark_used(site, [above.manifest.digest])
    everything_old(site)
    manifest = above.path.with_suffix(".json")
    newer = {"schema": SCHEMA + 1, "backing": below.manifest.digest}
    manifest.write_text(json.dumps(newer))
    assert describe(site)["status"]["newer"] == [manifest.stem]
    assert len(trim(shrunk(site, layer_space=0))) == 1
    assert contents(site, chosen=False) == {closure(a_lock(site, "libgreet"))}
    assert above.path.exists()
    assert uses(site).keys() == {above.manifest.digest}
