"""Phase `resolve`: which lock a cluster gets, against a toy repository."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from repository import KERNEL, Repository, lock_of, quiet

from vclust_py import request as requests
from vclust_py.errors import RequestError, VclustError
from vclust_py.image import store
from vclust_py.lock import Lock
from vclust_py.metapackages import MetaPackage
from vclust_py.phases import Inputs, Result
from vclust_py.phases import resolve as phase
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session


def find(
    request: requests.Request,
    bundles: Sequence[MetaPackage],
    site: Site,
    report: object,
    *,
    cluster: Cluster | None,
    given: Lock | None,
) -> Lock:
    with Session(site) as session:
        return phase.find_lock(session, request, bundles, quiet, cluster=cluster, given=given)


def update(site: Site, **values: object) -> None:
    with Session(site) as session:
        clusters.update(session.store, clusters.get(session.store, "test"), **values)  # type: ignore[arg-type]


def a_request(*packages: str, **values: str) -> requests.Request:
    software = {"name": "test", "packages": list(packages), **values}
    return requests.from_mapping({"hardware": {"number_of_nodes": 1}, "software": software}, "test")


def resolved(site: Site, *packages: str, **values: str) -> Result:
    values = {"suite": "toy", "kernel": KERNEL} | values
    with Session(site) as session:
        return phase.run(session, Inputs("test", check=True, request=a_request(*packages, **values)))


def test_mistakes_in_packages_and_meta_packages_are_told_together(toy: Repository, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        resolved(toy.site(tmp_path / "site"), "helli", "hello", meta_packages="slorm")
    assert caught.value.problems == [
        "MetaPackages: got 'slorm', which this site does not know, expected slurm (the nearest known one)",
        "package 'helli': not in toy for amd64; did you mean hello?",
    ]


def test_a_package_that_may_be_taken_for_a_meta_package(toy: Repository, tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    for name in ("hello", "mine"):
        (tmp_path / f"meta/{name}.yml").write_text("{description: x, packages: [libgreet]}")
    site = toy.site(tmp_path / "site", metapackages=[str(tmp_path / "meta")])
    (warning,) = resolved(site, "hello", "libgreet").warnings
    assert warning.endswith("the meta package is asked for by MetaPackages: hello")
    assert resolved(site, "hello", meta_packages="hello").warnings == ()
    assert resolved(site, "libgreet", meta_packages="mine").warnings == ()


def test_a_lock_serves_only_a_request_for_the_same(toy: Repository, tmp_path: Path) -> None:
    site = toy.site(tmp_path / "site")
    meta = MetaPackage("greeter", "", ("libgreet",))
    lock = lock_of(site, "hello", "libgreet")
    asked = a_request("hello")
    assert find(asked, [meta], site, quiet, cluster=None, given=lock) == lock
    assert Lock.load(site, lock.digest) == lock
    with pytest.raises(RequestError, match="made with, and the request is without, libgreet"):
        find(asked, [], site, quiet, cluster=None, given=lock)
    other = a_request("hello", "either", suite="trixie", kernel="linux-image-amd64")
    with pytest.raises(RequestError) as caught:
        find(other, [meta], site, quiet, cluster=None, given=lock)
    assert [problem for problem in caught.value.problems if "either" not in problem] == [
        "lock: suite: got 'toy', the request asks for 'trixie'",
        f"lock: kernel: got '{KERNEL}', the request asks for 'linux-image-amd64'",
    ]
    assert "made without either" in str(caught.value)


def test_a_cluster_with_images_keeps_its_lock(toy: Repository, tmp_path: Path) -> None:
    site = toy.site(tmp_path / "site")
    asked = a_request("libgreet")
    first = find(asked, [], site, quiet, cluster=None, given=None)
    clusters.register(Session(site).store, asked)
    update(site, lock=first.digest, images={"base": "0" * 64})
    cluster = clusters.get(Session(site).store, "test")
    toy.add("libgreet", "1.6")
    toy.publish()
    today = toy.site(tmp_path / "site", index_max_age=0)
    assert find(asked, [], today, quiet, cluster=cluster, given=None) == first
    assert find(asked, [], today, quiet, cluster=cluster, given=first) == first
    newer = find(asked, [], today, quiet, cluster=None, given=None)
    with pytest.raises(RequestError, match="destroy it first"):
        find(asked, [], today, quiet, cluster=cluster, given=newer)


def test_a_cluster_whose_base_cannot_be_made_is_resolved_anew(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = toy.site(tmp_path / "site")
    asked = a_request("libgreet")
    first = find(asked, [], site, quiet, cluster=None, given=None)
    clusters.register(Session(site).store, asked)
    update(site, lock=first.digest)
    cluster = clusters.get(Session(site).store, "test")
    toy.add("libgreet", "1.6")
    toy.publish()
    (toy.pool / "libgreet_1.5+dfsg~1_all.deb").unlink()
    # The index says nothing of it yet, the download does; after that the index is fetched again.
    assert find(asked, [], site, quiet, cluster=cluster, given=None) == first
    with pytest.raises(VclustError, match="cannot download packages"):
        store.fetch(site, first, quiet)
    # With its base there, but its packages neither here nor there, the lock is of no use either.
    monkeypatch.setattr(phase, "find_base", lambda site, lock: True)
    assert find(asked, [], site, quiet, cluster=cluster, given=None).packages[0].version == "1.6"


def test_an_interrupted_creation_goes_on_with_its_lock(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = toy.site(tmp_path / "site")
    asked = a_request("libgreet")
    first = find(asked, [], site, quiet, cluster=None, given=None)
    store.fetch(site, first, quiet)
    clusters.register(Session(site).store, asked)
    update(site, lock=first.digest)
    cluster = clusters.get(Session(site).store, "test")
    toy.add("libgreet", "1.6")
    toy.publish()
    today = toy.site(tmp_path / "site", index_max_age=0)
    monkeypatch.setattr(phase, "find_base", lambda site, lock: True)
    assert find(asked, [], today, quiet, cluster=cluster, given=None) == first
    monkeypatch.undo()
    assert find(asked, [], today, quiet, cluster=cluster, given=None) != first


def test_the_same_request_is_looked_up_until_something_changes(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site, asked, calls = toy.site(tmp_path / "site"), a_request("hello", "libgreet"), list[object]()
    real = phase.closure

    def closure(*args: object, **kwargs: object) -> Lock:
        calls.append(kwargs)
        return real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(phase, "closure", closure)

    def run() -> str:
        with Session(site) as session:
            result = phase.run(session, Inputs("test", check=True, request=asked))
        return str(result.facts["lock"])

    first = run()
    assert not site.database.exists(), "looking at a plan makes no store"
    with Session(site) as session:
        session.store.execute("SELECT 1")
    assert run() == first
    calls.clear()
    calls.append("looked up from here on")
    assert (run(), len(calls)) == (first, 1)
    # The order in which packages are named is the same request; another package is not.
    asked = a_request("libgreet", "hello")
    assert (run(), len(calls)) == (first, 1)
    asked = a_request("hello")
    assert run() != first
    asked = a_request("hello", "libgreet")
    assert (run(), len(calls)) == (first, 2)
    # A lock that is gone is found again; an index that is fetched again asks apt.
    (site.locks / f"{first}.json").unlink()
    assert (run(), len(calls)) == (first, 3)
    toy.add("libgreet", "1.6")
    toy.publish()
    assert (run(), len(calls)) == (first, 3)
    site = replace(site, index_max_age=0)
    assert run() != first
    assert len(calls) == 4
