"""The cache manager on a toy site: what it chooses, keeps and lets go.  Caches are small files, built without disks."""

import dataclasses
import errno
import functools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache.cachesite import (
    a_lock,
    a_request,
    accept,
    age,
    an_image,
    make_base,
    make_cache,
    quiet,
    remember,
    shrunk,
)
from repository import Repository

from vclust_py import state
from vclust_py.apt import AptRoot
from vclust_py.cache import manager
from vclust_py.cache.catalogue import caches, claim, closure, hold
from vclust_py.cache.manager import due, rebuild, start_if_due, status, trim, usage
from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image
from vclust_py.image.base import BaseImages
from vclust_py.resolve import Lock
from vclust_py.run import run
from vclust_py.site import Site


@pytest.fixture
def site(toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(manager, "ensure_cache", make_cache)
    return toy.site(tmp_path / "site", cache_every=5)


@pytest.fixture
def base(site: Site) -> BaseImages:
    return make_base(site)


def contents(site: Site, *, chosen: bool = True) -> set[frozenset[str]]:
    return {cache.packages for cache in caches(site) if cache.chosen or not chosen}


def everything_old(site: Site) -> None:
    for image in Catalogue(site).images():
        age(site, image, 3600)


def test_nothing_is_learnt_from_nothing(site: Site, base: BaseImages) -> None:
    result = rebuild(site, quiet)
    assert (result.requests, result.chosen, result.built, result.failed) == (0, 0, (), {})
    assert not result.change.changed
    assert status(site)["state"] == "done"


@pytest.mark.parametrize(
    "past",
    [[["hello"]], [[]] * 9, [["hello"], ["full"], ["exim"], ["fight-b"]]],
    ids=["one", "base", "disjoint"],
)
def test_what_was_asked_for_once_is_no_cache(site: Site, base: BaseImages, past: list[list[str]]) -> None:
    remember(site, *(a_lock(site, *names) for names in past))
    result = rebuild(site, quiet)
    assert (result.requests, result.chosen, result.failed) == (len(past), 0, {})
    assert caches(site) == []


def test_what_is_asked_for_again_becomes_layers(site: Site, base: BaseImages) -> None:
    both, one = a_lock(site, "hello", "full"), a_lock(site, "hello")
    remember(site, *[both] * 5, *[one] * 5)
    result = rebuild(site, quiet)
    assert contents(site) == {closure(one), closure(both)}
    assert len(result.built) == result.chosen == 2
    depths = {cache.packages: cache.depth for cache in caches(site)}
    assert depths == {closure(one): 1, closure(both): 2}
    assert result.change.before == {"caches": []}
    assert len(result.change.after["caches"]) == 2


def test_a_second_run_changes_nothing(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    rebuild(site, quiet)
    result = rebuild(site, quiet)
    assert (result.chosen, result.built, result.removed) == (1, (), ())
    assert not result.change.changed


def test_check_mode_says_what_would_be_done_and_does_nothing(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    result = rebuild(site, quiet, check=True)
    assert result.change.changed
    assert len(result.built) == 1
    assert caches(site) == []
    assert status(site)["state"] == "never"


def test_security_updates_make_new_caches(site: Site, toy: Repository, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    rebuild(site, quiet)
    (before,) = contents(site)
    toy.add("libgreet", "1.6")
    toy.publish()
    AptRoot(site, "toy", "amd64").expire()
    result = rebuild(site, quiet)
    assert len(result.built) == 1
    (after,) = contents(site)
    assert after - before == {"libgreet=1.6"}
    everything_old(site)
    assert trim(shrunk(site, layer_space=0))
    assert contents(site, chosen=False) == {after}


def test_a_package_that_vanished_is_learnt_without(site: Site, toy: Repository, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello", "full")] * 5)
    next(toy.pool.glob("full_*")).unlink()
    toy.publish()
    AptRoot(site, "toy", "amd64").expire()
    rebuild(site, quiet)
    assert contents(site) == {closure(a_lock(site, "hello"))}


def test_without_a_base_image_nothing_is_built(site: Site) -> None:
    lock = Lock("toy", "amd64", "linux-image-cloud-amd64", (), a_lock(site, "hello").packages, ())
    remember(site, *[lock] * 5)
    said = []
    result = rebuild(site, lambda message, done, total: said.append(message))
    assert (result.requests, result.chosen) == (0, 0)
    assert "toy for amd64: no base image, 5 requests left out" in said


def test_a_space_too_small_for_any_cache(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    result = rebuild(shrunk(site, cache_space=10), quiet)
    assert (result.chosen, result.failed) == (0, {})
    assert caches(site) == []


def test_a_cache_larger_than_foretold_has_no_place(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    monkeypatch.setattr(manager, "_GROWTH", 0.01)
    result = rebuild(shrunk(site, cache_space=100), quiet)
    assert result.chosen == 0
    assert [why for why in result.failed.values() if "more than is left of the space" in why]


def test_one_that_cannot_be_built_does_not_stop_the_others(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = a_lock(site, "hello"), a_lock(site, "hello", "full")
    remember(site, *[small] * 5, *[large] * 5)

    def build(site: Site, lock: Lock, onto: Image, state: str, report: object) -> Image:
        if lock.packages == small.packages:
            raise VclustError("the archive does not answer")
        return make_cache(site, lock, onto, state)

    monkeypatch.setattr(manager, "ensure_cache", build)
    result = rebuild(site, quiet)
    assert list(result.failed.values()) == ["the archive does not answer"]
    assert contents(site) == {closure(large)}
    assert [cache.depth for cache in caches(site)] == [1]


def test_two_recomputations_at_once(site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "_PATIENCE", 0.1)
    with site.hold("caches"), pytest.raises(VclustError, match="another vclust process is at work"):
        rebuild(site, quiet)


def test_one_that_was_killed_is_done_again(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5, *[a_lock(site, "full")] * 5)
    if (child := os.fork()) == 0:

        def build(*arguments: object) -> Image:
            make_cache(*arguments)  # type: ignore[arg-type]
            os._exit(9)

        manager.ensure_cache = build  # type: ignore[assignment]
        rebuild(site, quiet)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert status(site)["state"] == "killed"
    assert due(site)
    result = rebuild(site, quiet)
    assert result.chosen == 2
    assert len(result.built) == 1  # the other one was whole
    assert not due(site)


def test_a_damaged_cache_is_built_anew(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    rebuild(site, quiet)
    path = next(site.images.glob("cache-*.qcow2"))
    moment = path.stat().st_mtime_ns
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"!")
    os.utime(path, ns=(moment, moment))  # as a disk does that loses a bit
    result = rebuild(site, quiet)
    assert len(result.built) == 1
    assert "its content is not what its manifest says" in result.removed[0]
    assert path.read_bytes() == content


def test_a_cache_packed_with_zstd_serves_nobody_and_is_built_again(site: Site, base: BaseImages) -> None:
    """As versions before this one made them: nodes on Xen hosts waited in vain for such a disk."""
    remember(site, *[a_lock(site, "hello")] * 5)
    rebuild(site, quiet)
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
            label="toy-amd64",
            backing=base.base,
            packages=manifest.packages,
            installed_size=manifest.installed_size,
            contents=manifest.contents,
            state=manifest.state,
        )
    assert caches(site) == []
    result = rebuild(site, quiet)
    assert ["zstd" in line for line in result.removed] == [True]
    assert [cache.packages for cache in caches(site)] == [before.packages]


def test_a_damaged_cache_that_a_cluster_stands_on_stays_for_it_alone(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    remember(site, *[lock] * 5)
    rebuild(site, quiet)
    cluster = accept(site, request)
    (before,) = caches(site)
    layer = an_image(site, "layer", "k", "layer", backing=Catalogue(site).get(before.digest))
    hold(site, cluster, {"root": layer.manifest.digest})
    path = Catalogue(site).get(before.digest).path
    moment = path.stat().st_mtime_ns
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    os.utime(path, ns=(moment, moment))
    # Disks are never made twice alike.
    monkeypatch.setattr(manager, "ensure_cache", functools.partial(make_cache, note="again, "))
    result = rebuild(site, quiet)
    assert "create these clusters anew: one" in result.removed[0]
    assert len(result.built) == 1
    (after,) = caches(site)
    assert after.packages == before.packages
    assert path.exists()
    assert Catalogue(site).chain(layer)[1].path == path
    assert Catalogue(site).find("layer", "k") is None  # nobody else starts from it
    assert rebuild(site, quiet).built == ()
    state.forget(site, state.get(site, "one"))
    rebuild(site, quiet)
    assert not path.exists()


def test_a_cache_that_cannot_be_read_is_damaged(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    rebuild(site, quiet)

    def bad_sector(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(manager, "file_digest", bad_sector)
    result = rebuild(site, quiet)
    assert "cannot be read: Input/output error" in result.removed[0]
    assert len(result.built) == 1


def test_what_could_not_be_built_is_tried_again(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)

    def fail(*arguments: object) -> Image:
        raise VclustError("the mirror is down")

    with monkeypatch.context() as once:
        once.setattr(manager, "ensure_cache", fail)
        assert rebuild(site, quiet).failed
    result = rebuild(site, quiet)
    assert (len(result.built), result.failed) == (1, {})


def test_caches_are_left_alone_while_some_are_built(site: Site, base: BaseImages) -> None:
    make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    layer = an_image(site, "layer", "k", "layer", backing=base.base)
    everything_old(site)
    none = shrunk(site, cache_space=0, layer_space=0)
    with site.hold("caches"):
        assert [line.partition(":")[0] for line in trim(none)] == [layer.path.name]
    assert len(trim(none)) == 1


def test_a_start_that_fails_costs_nobody_a_cluster(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "full")] * 5)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(manager.tempfile, "TemporaryFile", full)
    assert not start_if_due(site)


def test_heavy_work_yields_and_the_rest_does_not() -> None:
    before = os.sched_getscheduler(0)
    with manager._yielding():
        assert os.sched_getscheduler(0) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == before == os.SCHED_OTHER


def test_the_least_recently_used_go_first(site: Site, base: BaseImages) -> None:
    images = [
        make_cache(site, a_lock(site, name), base.base, "unpacked") for name in ("full", "exim", "fight-b")
    ]
    everything_old(site)
    cluster = accept(site, a_request("one", "full"))
    hold(site, cluster, {"root": images[0].manifest.digest})
    state.forget(site, cluster)
    age(site, images[2], 1800)
    room = 2 * images[0].manifest.bytes + 100
    assert len(trim(shrunk(site, layer_space=room))) == 1
    assert contents(site, chosen=False) == {closure(a_lock(site, name)) for name in ("full", "fight-b")}
    assert len(trim(shrunk(site, layer_space=room // 2))) == 1
    assert contents(site, chosen=False) == {closure(a_lock(site, "full"))}


def test_what_a_cluster_stands_on_stays(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "_GRACE", -1.0)
    remember(site, *[a_lock(site, "libgreet")] * 5, *[a_lock(site, "hello")] * 5)
    rebuild(site, quiet)
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    cluster = accept(site, request)
    claimed = claim(site, request, lock, "").cache["digest"]
    none = shrunk(site, cache_space=0, layer_space=0)
    assert trim(none) == []
    layer = an_image(site, "layer", "k", "layer", backing=Catalogue(site).get(claimed), packages=("x=1",))
    hold(site, cluster, {"root": layer.manifest.digest})
    assert trim(none) == []
    state.forget(site, cluster)
    assert len(trim(none)) == 3
    assert {image.manifest.kind for image in Catalogue(site).images()} == {"base", "kernel", "installer"}


def test_what_was_just_made_waits_for_its_cluster(site: Site, base: BaseImages) -> None:
    make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    assert trim(shrunk(site, layer_space=0)) == []


def test_chosen_caches_have_a_space_of_their_own(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "full")] * 5, *[a_lock(site, "exim")] * 5)
    rebuild(site, quiet)
    everything_old(site)
    assert trim(shrunk(site, layer_space=0)) == []
    size = caches(site)[0].bytes
    assert len(trim(shrunk(site, cache_space=size, layer_space=0))) == 1
    assert len(caches(site)) == 1


def test_a_recomputation_is_due_every_so_many_requests(site: Site, base: BaseImages) -> None:
    assert not due(site)
    remember(site, *[a_lock(site, "full")] * 4)
    assert not due(site)
    remember(site, a_lock(site, "full"))
    assert due(site)
    assert not due(shrunk(site, cache_every=0))
    assert not due(shrunk(site, cache_policy="none"))
    rebuild(site, quiet)
    assert not due(site)
    remember(site, *[a_lock(site, "full")] * 5)
    assert due(site)


def test_the_background_has_the_sites_settings(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "full")] * 4)
    assert not start_if_due(site)
    remember(site, a_lock(site, "full"))
    quick = dataclasses.replace(site, cache_space=12)  # no cache fits: building one needs root
    assert start_if_due(quick)
    deadline = time.monotonic() + 60
    while status(site)["state"] in ("never", "running") and time.monotonic() < deadline:
        time.sleep(0.1)
    found = status(site)
    assert (found["state"], found["result"]["space"], found["result"]["requests"]) == ("done", 12, 5)


def test_use_over_time(site: Site, base: BaseImages) -> None:
    assert usage(Site(root=site.root / "nowhere")) == []
    lock = a_lock(site, "hello")
    remember(site, lock)
    (found,) = usage(site)
    assert (found["name"], found["cache"], found["bytes"], found["of"]) == (
        "past0",
        "",
        0,
        lock.installed_bytes,
    )


def test_a_request_is_remembered_once(site: Site, base: BaseImages) -> None:
    cluster, lock = accept(site, a_request("one", "hello")), a_lock(site, "hello")
    for _ in range(2):
        with state.connect(site) as connection:
            state.remember(connection, cluster.id, lock)
    assert status(site)["recorded"] == 1
