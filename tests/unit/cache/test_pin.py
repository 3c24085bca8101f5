"""What a cluster stands on is pinned; caches are small files here."""

from cache.cachesite import a_lock, a_request, accept, caches, found, make_cache, pinned

from vclust_py.image import Catalogue
from vclust_py.image.base import BaseImages
from vclust_py.site import Site


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
