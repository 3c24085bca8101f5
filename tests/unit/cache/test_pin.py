"""What a cluster stands on is pinned; caches are small files here."""

from pathlib import Path

import pytest
from cache.cachesite import a_lock, a_request, accept, caches, found, make_base, make_cache, pinned
from repository import Repository

from vclust_py.image import Catalogue
from vclust_py.image.base import BaseImages
from vclust_py.site import Site


@pytest.fixture
def site(toy: Repository, tmp_path: Path) -> Site:
    return toy.site(tmp_path / "site")


@pytest.fixture
def base(site: Site) -> BaseImages:
    return make_base(site)


def test_images_are_pinned_all_or_none(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    cluster = accept(site, a_request("one", "hello"))
    images = {"base": base.base.manifest.digest, "root": small.manifest.digest}
    Catalogue(site).remove(small)
    assert not pinned(site, cluster, images)
    assert found(site, "one").images == {}
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    assert pinned(site, cluster, images)
    assert found(site, "one").images == images
    assert [(cache.clusters, cache.uses) for cache in caches(site)] == [(("one",), 1)]
