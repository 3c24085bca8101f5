"""What a site has cached; caches are small files here."""

import json

from cache.cachesite import a_lock, caches, make_cache

from vclust_py.cache.matching import closure
from vclust_py.cache.stored import to_dict
from vclust_py.image import Catalogue
from vclust_py.image.base import BaseImages
from vclust_py.site import Site


def test_a_cache_holds_what_it_stands_on_as_well(site: Site, base: BaseImages) -> None:
    small = make_cache(site, a_lock(site, "libgreet"), base.base, "unpacked")
    large = make_cache(site, a_lock(site, "hello", "full"), small, "unpacked")
    found = {cache.digest: cache for cache in caches(site)}
    assert found[large.manifest.digest].packages == closure(a_lock(site, "hello", "full"))
    assert large.manifest.pinned == ("full=1.0", "hello=2:1.5-1")
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
