"""What a site has cached, and which cache a cluster claims; caches are small files here."""

import dataclasses
import json
from pathlib import Path

import pytest
from cache.cachesite import a_lock, a_request, accept, make_base, make_cache
from repository import Repository

from vclust_py import state
from vclust_py.cache import catalogue
from vclust_py.cache.catalogue import caches, claim, closure, hold, offered, to_dict
from vclust_py.image import Catalogue
from vclust_py.image.base import BaseImages
from vclust_py.site import Site


@pytest.fixture
def site(toy: Repository, tmp_path: Path) -> Site:
    return toy.site(tmp_path / "site")


@pytest.fixture
def base(site: Site) -> BaseImages:
    return make_base(site)


def test_a_site_without_caches(site: Site, base: BaseImages) -> None:
    assert caches(site) == []
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    assert offered(site, lock, request) == []
    accept(site, request)
    claimed = claim(site, request, lock, "")
    assert (claimed.cache, claimed.verdicts, claimed.change.changed) == ({}, [], False)


def test_a_cache_holds_what_it_stands_on_as_well(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello", "full"), small, "unpacked")
    found = {cache.digest: cache for cache in caches(site)}
    assert found[large.manifest.digest].packages == closure(a_lock(site, "hello", "full"))
    assert large.manifest.packages == ("full=1.0", "hello=2:1.5-1")
    assert found[large.manifest.digest].size == 3 * 7 * 1024
    one = found[large.manifest.digest]
    assert (one.parent, one.base, one.depth) == (small.manifest.digest, base.base.manifest.digest, 2)
    assert (one.suite, one.architecture, one.state, one.chosen) == ("toy", "amd64", "unpacked", False)


def test_a_cache_without_what_it_stands_on_is_none(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    make_cache(site, a_lock(site, "hello"), small, "unpacked")
    Catalogue(site).remove(small)
    assert caches(site) == []


def test_caches_survive_ansible(site: Site, base: BaseImages) -> None:
    make_cache(site, a_lock(site, "hello"), base.base, "unpacked")
    (one,) = caches(site)
    told = json.loads(json.dumps(to_dict(one)))
    assert told.keys() == vars(one).keys()
    assert (frozenset(told.pop("packages")), tuple(told.pop("clusters"))) == (one.packages, one.clusters)
    assert told.items() <= vars(one).items()


def test_the_largest_that_fits_is_claimed_and_written_down(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello"), small, "unpacked")
    make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    accept(site, request)
    assert claim(site, request, lock, "", check=True).cache["digest"] == large.manifest.digest
    assert state.get(site, "one").cache == {}
    claimed = claim(site, request, lock, "")
    size = lock.installed_bytes
    assert claimed.cache == {
        "digest": large.manifest.digest, "packages": 2, "bytes": size, "of": size, "seconds": None
    }  # fmt: skip
    assert claimed.change.changed
    assert state.get(site, "one").cache == claimed.cache
    assert not claim(site, request, lock, large.manifest.digest).change.changed
    refused = [verdict["reason"] for verdict in claimed.verdicts if not verdict["chosen"]]
    assert refused == ["fits, but a larger one does too", "holds full, which the request does not ask for"]
    assert {cache.uses for cache in caches(site)} == {0}  # it has not started from it yet


def test_a_pick_that_went_away_is_replaced(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello"), base.base, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    accept(site, request)
    Catalogue(site).remove(large)
    assert claim(site, request, lock, large.manifest.digest).cache["digest"] == small.manifest.digest


def test_a_pick_that_does_not_fit_is_not_taken(site: Site, base: BaseImages) -> None:
    other = make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    accept(site, request)
    assert claim(site, request, lock, other.manifest.digest).cache == {}


def test_other_packages_of_the_same_version_are_not_offered(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello"), small, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    assert {cache.digest for cache in offered(site, lock, request)} == {
        small.manifest.digest, large.manifest.digest
    }  # fmt: skip
    for name, left in (("hello", {small.manifest.digest}), ("libgreet", set())):
        packages = tuple(
            dataclasses.replace(package, sha256="0" * 64) if package.name == name else package
            for package in lock.packages
        )
        other = dataclasses.replace(lock, packages=packages)
        assert {cache.digest for cache in offered(site, other, request)} == left


def test_caches_of_another_base_are_not_offered(site: Site, base: BaseImages) -> None:
    make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    Catalogue(site).remove(base.kernel)  # without it there is no base for this lock
    assert offered(site, a_lock(site, "hello"), a_request("one", "hello")) == []


def test_a_configured_cache_cannot_take_answers(
    site: Site, base: BaseImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cache(site, a_lock(site, "libgreet"), base.base, "configured")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    assert len(offered(site, lock, request)) == 1

    class Meta:
        debconf = ("libgreet libgreet/x string y",)

    monkeypatch.setattr(catalogue.metapackages, "expand", lambda request, site: [Meta()])
    assert offered(site, lock, request) == []


def test_images_are_held_all_or_none(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    cluster = accept(site, a_request("one", "hello"))
    images = {"base": base.base.manifest.digest, "root": small.manifest.digest}
    Catalogue(site).remove(small)
    assert not hold(site, cluster, images)
    assert state.get(site, "one").images == {}
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    assert hold(site, cluster, images)
    assert state.get(site, "one").images == images
    assert [(cache.clusters, cache.uses) for cache in caches(site)] == [(("one",), 1)]
