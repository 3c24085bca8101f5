"""What recurs on a site manager: as a function, and as the process that systemd runs."""

import contextlib
import json
import re
import subprocess
import sys

import pytest
from cache.cachesite import (
    a_lock,
    caches,
    everything_old,
    make_cache,
    quiet,
    remember,
    shrunk,
    status,
    with_session,
)
from pastruns import add, node_facts
from repository import Repository

from vclust_py.cache import upkeep
from vclust_py.cache.status import REBUILD_LOCK
from vclust_py.image import Catalogue
from vclust_py.image.base import BaseImages
from vclust_py.site import PROJECT, Site
from vclust_py.site.store import Store

do = with_session(lambda session: upkeep.upkeep(session, quiet))
build = with_session(lambda session: upkeep.build(session, quiet))


def test_nothing_was_ever_asked_of_the_site(site: Site) -> None:
    assert do(site) == build(site) == []
    assert not site.database.exists()


def test_caches_are_built_without_network_of_what_was_fetched(
    site: Site, toy: Repository, base: BaseImages
) -> None:
    remember(site, *[a_lock(site, "full")] * 4)
    assert do(site) == build(site) == []
    assert status(site)["state"] == "never"
    remember(site, a_lock(site, "full"))
    with site.file_lock(REBUILD_LOCK):
        assert do(site) == build(site) == []  # somebody is at it
    assert do(site) == []
    assert status(site)["state"] == "never"
    toy.path.rename(toy.path.with_name("gone"))
    (line,) = build(site)
    assert line.startswith("built ")
    assert [cache.chosen for cache in caches(site)] == [True]
    toy.path.with_name("gone").rename(toy.path)
    assert do(site) == build(site) == []


def test_what_cannot_be_fetched_is_told(site: Site, toy: Repository, base: BaseImages) -> None:
    remember(site, *[a_lock(site, "full")] * 5)
    next(toy.pool.glob("full_*")).unlink()
    (fetching,) = do(site)
    (building,) = build(site)
    assert re.fullmatch(r"not fetched: 1 packages, .*: cannot download packages.*", fetching, re.DOTALL)
    assert building.partition("\n")[0] == fetching.replace("fetched", "built", 1).partition("\n")[0]


def test_images_without_a_place_go(site: Site, base: BaseImages) -> None:
    remember(site, a_lock(site, "full"))
    image = make_cache(site, a_lock(site, "full"), base.base, "unpacked")
    everything_old(site)
    assert do(site) == []
    (line,) = do(shrunk(site, layer_space=0))
    assert line == f"removed {image.path.name}: least recently used beyond layer_space, 0 MB"
    assert not image.path.exists()
    assert [one.manifest.kind for one in Catalogue(site).images()].count("base") == 1


def test_time_models_are_fitted_when_that_is_due(site: Site) -> None:
    with contextlib.closing(Store(site)) as store:
        for number in range(5):
            assert do(site) == []
            add(store, "ready", 5 + number, node_facts(number + 1))
    assert do(site) == ["fitted the time models"]
    assert do(site) == []


@pytest.mark.parametrize(
    ("settings", "code", "said"),
    [
        ({}, 0, ""),
        ({"rot": "/"}, 1, "vclust: vclust_site: rot: unknown setting"),
        (None, 1, "vclust: Expecting value"),
    ],
)
def test_as_systemd_runs_it(site: Site, base: BaseImages, settings: object, code: int, said: str) -> None:
    """The site's settings, as the inventory has them, on standard input; nothing of the caller's environment."""
    quick = {"root": str(site.root), "cache_space": "12B", "cache_every": 5}  # building a cache needs root
    remember(site, *[a_lock(site, "full")] * 5)
    for words in ([], ["renew"], ["fetch"], ["build"]):
        assert status(site)["state"] == "never"
        done = subprocess.run(
            [sys.executable, "-m", "vclust_py.cache.upkeep", *words],
            cwd="/",
            env={"PYTHONPATH": str(PROJECT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            input="" if settings is None else json.dumps(quick | dict(settings)),  # type: ignore[call-overload]
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr[: len(said)]) == (code, said)
    assert status(site)["state"] == ("never" if code else "done")
