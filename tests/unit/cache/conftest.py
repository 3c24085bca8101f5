"""The site that these tests share; its caches are small files, built without disks."""

from pathlib import Path

import pytest
from cache.cachesite import make_base, make_cache
from repository import Repository

from vclust_py.image.base import BaseImages
from vclust_py.site import Site


@pytest.fixture
def site(toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr("vclust_py.cache.rebuild.ensure_cache", make_cache)
    return toy.site(tmp_path / "site", cache_every=5)


@pytest.fixture
def base(site: Site) -> BaseImages:
    return make_base(site)
