"""What a first create needs, begun before its phase."""

import errno
import io
import json
import os
import sys
from pathlib import Path
from typing import IO

import pytest
from cache.cachesite import make_base
from repository import Repository, lock_of

from vclust_py.errors import VclustError
from vclust_py.image import Report, ahead, store
from vclust_py.lock import Lock
from vclust_py.site import Site


@pytest.fixture
def site(toy: Repository, tmp_path: Path) -> Site:
    return toy.site(tmp_path / "site")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Modules that were started, with their words and the root of the site that they are told."""
    found: list[tuple[str, ...]] = []

    def start_module(module: str, *words: str, stdin: IO[str]) -> None:
        found.append((module, *words, json.load(stdin)["root"]))

    monkeypatch.setattr(ahead, "start_module", start_module)
    return found


def test_it_begins_where_there_is_no_base_image(site: Site, started: list[tuple[str, ...]]) -> None:
    lock = lock_of(site, "hello")
    ahead.begin(site, lock)
    assert started == [("vclust_py.image.ahead", lock.digest, str(site.root))]
    make_base(site)
    ahead.begin(site, lock_of(site, "hello"))
    assert len(started) == 1


def test_a_begin_that_fails_costs_nobody_a_cluster(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    ahead.begin(site, lock_of(site, "hello"))


def test_packages_come_also_where_the_base_image_does_not(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, asked = lock_of(site, "hello"), list[Lock]()
    lock.save(site)

    def ensure_base(site: Site, lock: Lock, report: Report) -> None:
        asked.append(lock)
        raise VclustError("mmdebstrap: exit status 1")

    monkeypatch.setattr(ahead, "ensure_base", ensure_base)
    monkeypatch.setattr(sys, "argv", ["ahead", lock.digest])
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(site.to_mapping())))
    ahead.main()
    assert [one.digest for one in asked] == [lock.digest]
    assert store.missing(site, lock.packages) == ()
