"""Which cache a cluster starts from; caches are small files here."""

import dataclasses
from pathlib import Path

import pytest
from cache.cachesite import (
    a_lock,
    a_request,
    accept,
    caches,
    found,
    make_cache,
    matching_caches,
    reserved,
)

from vclust_py.image import Catalogue
from vclust_py.image.base import BaseImages
from vclust_py.site import Site


def test_a_site_without_caches(site: Site, base: BaseImages) -> None:
    assert caches(site) == []
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    assert matching_caches(site, lock, request) == []
    accept(site, request)
    made = reserved(site, request, lock, "")
    assert (made.facts["cache"], made.facts["verdicts"], made.change.changed) == ({}, [], False)


def test_the_largest_that_fits_is_reserved_and_written_down(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello"), small, "unpacked")
    make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    accept(site, request)
    assert reserved(site, request, lock, "", check=True).facts["cache"]["digest"] == large.manifest.digest
    assert found(site, "one").cache == {}
    made = reserved(site, request, lock, "")
    size = lock.installed_bytes
    assert made.facts["cache"] == {
        "digest": large.manifest.digest, "packages": 2, "bytes": size, "of": size, "seconds": None
    }  # fmt: skip
    assert made.change.changed
    assert found(site, "one").cache == made.facts["cache"]
    assert not reserved(site, request, lock, large.manifest.digest).change.changed
    refused = [verdict["reason"] for verdict in made.facts["verdicts"] if not verdict["chosen"]]
    assert refused == ["fits, but a larger one does too", "holds full, which the request does not ask for"]
    assert {cache.uses for cache in caches(site)} == {0}  # it has not started from it yet


def test_a_pick_that_went_away_is_replaced(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello"), base.base, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    accept(site, request)
    Catalogue(site).remove(large)
    assert (
        reserved(site, request, lock, large.manifest.digest).facts["cache"]["digest"] == small.manifest.digest
    )


def test_a_pick_that_does_not_fit_is_not_taken(site: Site, base: BaseImages) -> None:
    other = make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    accept(site, request)
    assert reserved(site, request, lock, other.manifest.digest).facts["cache"] == {}


def test_other_packages_of_the_same_version_are_not_matching(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello"), small, "unpacked")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    assert {cache.digest for cache in matching_caches(site, lock, request)} == {
        small.manifest.digest, large.manifest.digest
    }  # fmt: skip
    for name, left in (("hello", {small.manifest.digest}), ("libgreet", set())):
        packages = tuple(
            dataclasses.replace(package, sha256="0" * 64) if package.name == name else package
            for package in lock.packages
        )
        other = dataclasses.replace(lock, packages=packages)
        assert {cache.digest for cache in matching_caches(site, other, request)} == left


def test_caches_of_another_base_are_not_matching(site: Site, base: BaseImages) -> None:
    make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    Catalogue(site).remove(base.kernel)  # without it there is no base for this lock
    assert matching_caches(site, a_lock(site, "hello"), a_request("one", "hello")) == []


def test_a_configured_cache_cannot_take_answers(
    site: Site, base: BaseImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_cache(site, a_lock(site, "libgreet"), base.base, "configured")
    lock, request = a_lock(site, "hello"), a_request("one", "hello")
    assert len(matching_caches(site, lock, request)) == 1

    class Meta:
        debconf = ("libgreet libgreet/x string y",)

    monkeypatch.setattr("vclust_py.metapackages.expand", lambda request, site: [Meta()])
    assert matching_caches(site, lock, request) == []
