"""Recomputing the caches of a toy site: what is chosen and built.  Caches are small files, built without disks."""

import os

import pytest
from cache.cachesite import (
    a_lock,
    caches,
    contents,
    due,
    everything_old,
    make_cache,
    quiet,
    recompute,
    remember,
    shrunk,
    status,
    trim,
)
from repository import Repository

from vclust_py.apt import AptRoot
from vclust_py.cache import rebuild as rebuild_module
from vclust_py.cache.matching import closure
from vclust_py.errors import VclustError
from vclust_py.image import Image
from vclust_py.image.base import BaseImages
from vclust_py.lock import Lock
from vclust_py.site import Site


def test_nothing_is_learnt_from_nothing(site: Site, base: BaseImages) -> None:
    result = recompute(site, quiet)
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
    result = recompute(site, quiet)
    assert (result.requests, result.chosen, result.failed) == (len(past), 0, {})
    assert caches(site) == []


def test_what_is_asked_for_again_becomes_layers(site: Site, base: BaseImages) -> None:
    both, one = a_lock(site, "hello", "full"), a_lock(site, "hello")
    remember(site, *[both] * 5, *[one] * 5)
    result = recompute(site, quiet)
    assert contents(site) == {closure(one), closure(both)}
    assert len(result.built) == result.chosen == 2
    depths = {cache.packages: cache.depth for cache in caches(site)}
    assert depths == {closure(one): 1, closure(both): 2}
    assert result.change.before == {"caches": []}
    assert len(result.change.after["caches"]) == 2


def test_a_second_run_changes_nothing(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    recompute(site, quiet)
    result = recompute(site, quiet)
    assert (result.chosen, result.built, result.removed) == (1, (), ())
    assert not result.change.changed


def test_check_mode_says_what_would_be_done_and_does_nothing(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    result = recompute(site, quiet, check=True)
    assert result.change.changed
    assert len(result.built) == 1
    assert caches(site) == []
    assert status(site)["state"] == "never"


def test_security_updates_make_new_caches(site: Site, toy: Repository, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    recompute(site, quiet)
    (before,) = contents(site)
    toy.add("libgreet", "1.6")
    toy.publish()
    AptRoot(site, "toy", "amd64").expire()
    result = recompute(site, quiet)
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
    recompute(site, quiet)
    assert contents(site) == {closure(a_lock(site, "hello"))}


def test_without_a_base_image_nothing_is_built(site: Site) -> None:
    lock = Lock("toy", "amd64", "linux-image-cloud-amd64", (), a_lock(site, "hello").packages, ())
    remember(site, *[lock] * 5)
    said = []
    result = recompute(site, lambda message, done, total: said.append(message))
    assert (result.requests, result.chosen) == (0, 0)
    assert "toy for amd64: no base image, 5 requests left out" in said


def test_a_space_too_small_for_any_cache(site: Site, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    result = recompute(shrunk(site, cache_space=10), quiet)
    assert (result.chosen, result.failed) == (0, {})
    assert caches(site) == []


def test_a_cache_larger_than_estimated_has_no_place(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)
    monkeypatch.setattr("vclust_py.cache.past._GROWTH", 0.01)
    result = recompute(shrunk(site, cache_space=100), quiet)
    assert result.chosen == 0
    assert [why for why in result.failed.values() if "more than is left of the space" in why]


def test_one_that_cannot_be_built_does_not_stop_the_others(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = a_lock(site, "hello"), a_lock(site, "hello", "full")
    remember(site, *[small] * 5, *[large] * 5)

    def build(site: Site, lock: Lock, parent: Image, state: str, report: object) -> Image:
        if lock.packages == small.packages:
            raise VclustError("the archive does not answer")
        return make_cache(site, lock, parent, state)

    monkeypatch.setattr("vclust_py.cache.rebuild.ensure_cache", build)
    result = recompute(site, quiet)
    assert list(result.failed.values()) == ["the archive does not answer"]
    assert contents(site) == {closure(large)}
    assert [cache.depth for cache in caches(site)] == [1]


def test_two_recomputations_at_once(site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vclust_py.cache.rebuild._TIMEOUT", 0.1)
    with site.file_lock("caches"), pytest.raises(VclustError, match="another vclust process is at work"):
        recompute(site, quiet)


def test_one_that_was_killed_is_done_again(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5, *[a_lock(site, "full")] * 5)
    if (child := os.fork()) == 0:

        def build(*arguments: object) -> Image:
            make_cache(*arguments)  # type: ignore[arg-type]
            os._exit(9)

        rebuild_module.ensure_cache = build  # type: ignore[assignment]
        recompute(site, quiet)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert status(site)["state"] == "killed"
    assert due(site)
    result = recompute(site, quiet)
    assert result.chosen == 2
    assert len(result.built) == 1  # the other one was whole
    assert not due(site)


def test_what_could_not_be_built_is_tried_again(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "hello")] * 5)

    def fail(*arguments: object) -> Image:
        raise VclustError("the mirror is down")

    with monkeypatch.context() as once:
        once.setattr("vclust_py.cache.rebuild.ensure_cache", fail)
        assert recompute(site, quiet).failed
    result = recompute(site, quiet)
    assert (len(result.built), result.failed) == (1, {})
