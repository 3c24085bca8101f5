"""The recomputation in the background, and its priority."""

import dataclasses
import errno
import os
import time

import pytest
from cache.cachesite import a_lock, age, remember, start_if_due, status
from pastruns import add, node_facts

from vclust_py.cache import priority
from vclust_py.estimate import read_models
from vclust_py.image.base import BaseImages
from vclust_py.site import Site
from vclust_py.site.store import Store


def test_a_start_that_fails_costs_nobody_a_cluster(
    site: Site, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(site, *[a_lock(site, "full")] * 5)

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert not start_if_due(site)


def test_heavy_work_yields_and_the_rest_does_not() -> None:
    before = os.sched_getscheduler(0)
    with priority.lowest():
        assert os.sched_getscheduler(0) == os.SCHED_IDLE
    assert os.sched_getscheduler(0) == before == os.SCHED_OTHER


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


def test_time_models_are_fitted_in_the_background(site: Site) -> None:
    quiet = dataclasses.replace(site, cache_every=0)
    store = Store(quiet)
    for number in range(12):
        assert number > 4 or not start_if_due(quiet)
        add(store, "ready", 5 + number % 3, node_facts(number % 3 + 1))
    assert start_if_due(quiet)
    deadline = time.monotonic() + 60
    while "ready tcg" not in read_models(store) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert read_models(store)["ready tcg"].seconds({"base": 1, "nodes": 2}) == pytest.approx(6)
    store.close()


def test_base_images_are_looked_after_in_the_background(site: Site, base: BaseImages) -> None:
    remember(site, a_lock(site, "full"))
    assert not start_if_due(site)
    age(site, base.base, 86400 + 60)
    assert start_if_due(site)
    deadline = time.monotonic() + 60
    while not (site.root / "renewed").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not start_if_due(site)  # it lacks nothing, and is looked after tomorrow
