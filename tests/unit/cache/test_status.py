"""When caches are chosen again, and what past requests started from."""

from cache.cachesite import (
    a_lock,
    a_request,
    accept,
    due,
    quiet,
    recompute,
    remember,
    shrunk,
    status,
    usage,
)

from vclust_py.image.base import BaseImages
from vclust_py.site import Site, learning
from vclust_py.site.session import Session


def test_a_recomputation_is_due_every_so_many_requests(site: Site, base: BaseImages) -> None:
    assert not due(site)
    remember(site, *[a_lock(site, "full")] * 4)
    assert not due(site)
    remember(site, a_lock(site, "full"))
    assert due(site)
    assert not due(shrunk(site, cache_every=0))
    assert not due(shrunk(site, cache_policy="none"))
    recompute(site, quiet)
    assert not due(site)
    remember(site, *[a_lock(site, "full")] * 5)
    assert due(site)


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
        with Session(site) as session:
            learning.remember(session.store, cluster.id, lock)
    assert status(site)["recorded"] == 1
