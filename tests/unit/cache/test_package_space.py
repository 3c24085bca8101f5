"""What goes of packages and package indices: what no cluster needs, least recently used first."""

import os
import time
from pathlib import Path

import pytest
from cache.cachesite import a_lock, a_request, accept, forget, quiet, remember, shrunk, with_session
from repository import Repository

from vclust_py.apt import AptRoot
from vclust_py.cache import package_space
from vclust_py.image.store import fetch, files_of
from vclust_py.lock import Lock
from vclust_py.site import Site, clusters, snapshots
from vclust_py.site.session import Session

trim = with_session(package_space.trim)
OLD = 7200.0


@pytest.fixture
def lock(site: Site) -> Lock:
    """Of packages that are in the store."""
    found = a_lock(site, "hello", "full")
    fetch(site, found, quiet)
    remember(site, found)
    return found


def names(site: Site, lock: Lock) -> set[str]:
    """Those in the store, of the lock's."""
    stored = files_of(site)
    return {package.name for package in lock.packages if package.sha256 in stored}


def aged(site: Site, lock: Lock, *packages: str) -> None:
    """As if these had been used last two hours ago, the first one first."""
    stored = files_of(site)
    digests = {package.name: package.sha256 for package in lock.packages}
    for number, name in enumerate(packages):
        moment = time.time() - OLD + number
        for path in stored[digests[name]]:
            os.utime(path, (moment, moment))


def taken(site: Site, lock: Lock, name: str) -> int:
    (digest,) = (package.sha256 for package in lock.packages if package.name == name)
    return sum(path.stat().st_size for path in files_of(site)[digest])


def placed(site: Site, lock: Lock) -> clusters.Cluster:
    """A live cluster with the lock."""
    lock.save(site)
    cluster = accept(site, a_request("one", "hello"))
    with Session(site) as session:
        clusters.update(session.store, cluster, lock=lock.digest)
    return cluster


def test_the_least_recently_used_packages_go(site: Site, lock: Lock) -> None:
    everything = {"full", "hello", "libgreet"}
    aged(site, lock, "libgreet", "full", "hello")
    assert trim(site) == []
    room = taken(site, lock, "full") + taken(site, lock, "hello")
    assert trim(shrunk(site, package_space=room)) == [
        "1 packages, 0 MB: least recently used beyond package_space"
    ]
    assert names(site, lock) == everything - {"libgreet"}
    # Both copies, and the sum.
    assert len(list(site.packages.glob("*/*"))) == 2 * 3
    # Who fetches it uses it: the order is another one now.
    fetch(site, lock, quiet)
    assert names(site, lock) == everything
    aged(site, lock, "hello", "libgreet", "full")
    fetch(site, a_lock(site, "hello"), quiet)
    assert trim(shrunk(site, package_space=0)) == [
        "1 packages, 0 MB: least recently used beyond package_space"
    ]
    assert names(site, lock) == {"hello", "libgreet"}  # used within the last hour


def test_what_a_live_lock_needs_stays(site: Site, lock: Lock) -> None:
    cluster = placed(site, a_lock(site, "hello"))
    aged(site, lock, "hello", "libgreet", "full")
    none = shrunk(site, package_space=0)
    assert len(trim(none)) == 1
    assert names(site, lock) == {"hello", "libgreet"}
    forget(site, cluster)
    assert len(trim(none)) == 1
    assert names(site, lock) == set()
    assert trim(none) == []


def test_what_a_snapshot_goes_back_to_stays(site: Site, lock: Lock) -> None:
    before = placed(site, a_lock(site, "hello"))
    with Session(site) as session:
        snapshots.begin(session.store, clusters.get(session.store, "one"), "before")
        clusters.update(session.store, before, lock=a_lock(site, "full").save(site).stem)
    aged(site, lock, "hello", "libgreet", "full")
    assert trim(shrunk(site, package_space=0)) == []
    with Session(site) as session:
        session.store.execute("DELETE FROM snapshots")
    trim(shrunk(site, package_space=0))
    assert names(site, lock) == {"full"}


def test_while_somebody_fetches_nothing_goes(site: Site, lock: Lock, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(site, lock, "hello", "libgreet", "full")
    monkeypatch.setattr(package_space, "_TIMEOUT", 0.0)
    with site.file_lock("packages"):
        assert trim(shrunk(site, package_space=0)) == []
    assert len(names(site, lock)) == 3


@pytest.fixture
def indices(site: Site, toy: Repository) -> tuple[AptRoot, AptRoot]:
    """Those of two suites, used two hours ago, the second one later."""
    toy.publish("other")
    text = toy.sources.read_text()
    toy.sources.write_text(f"{text}\n{text.replace('Suites: toy', 'Suites: other')}")
    roots = AptRoot(site, "toy", "amd64"), AptRoot(site, "other", "amd64")
    site.make_directories()
    remember(site, a_lock(site))
    for number, root in enumerate(roots):
        with root.file_lock():
            root.ensure_index(quiet)
        for path in (root.path, *root.path.rglob("*")):
            moment = time.time() - OLD + number
            os.utime(path, (moment, moment))
    return roots


def bytes_of(root: AptRoot) -> int:
    return sum(path.lstat().st_size for path in root.path.rglob("*"))


def test_the_least_recently_used_index_goes(site: Site, indices: tuple[AptRoot, AptRoot]) -> None:
    toy, other = indices
    pin = toy.path / "preferences.d/mine"
    pin.write_text("Package: *\nPin: release *\nPin-Priority: 500\n")
    os.utime(pin, (1, 1))
    os.utime(pin.parent, (1, 1))
    assert trim(site) == []
    (line,) = trim(shrunk(site, index_space=bytes_of(other)))
    assert line.startswith("the package index toy-amd64, ")
    assert (toy.names.exists(), other.names.exists(), pin.exists()) == (False, True, True)
    # It comes back when somebody needs it, and is the one used last.
    assert [package.name for package in a_lock(site, "full").packages] == ["full"]
    (line,) = trim(shrunk(site, index_space=0))
    assert line.startswith("the package index other-amd64, ")
    assert (toy.names.exists(), other.names.exists()) == (True, False)


def test_the_index_of_a_live_clusters_suite_stays(site: Site, indices: tuple[AptRoot, AptRoot]) -> None:
    toy, other = indices
    placed(site, Lock("toy", "amd64", "kernel", (), (), ()))
    assert len(trim(shrunk(site, index_space=0))) == 1
    assert (toy.names.exists(), other.names.exists()) == (True, False)


def test_an_index_in_use_stays(
    site: Site, indices: tuple[AptRoot, AptRoot], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package_space, "_TIMEOUT", 0.0)
    with indices[0].file_lock():
        assert len(trim(shrunk(site, index_space=0))) == 1
    assert indices[0].names.exists()


def test_a_resolution_that_is_known_is_a_use(site: Site, indices: tuple[AptRoot, AptRoot]) -> None:
    before = (indices[0].path / "used").stat().st_mtime
    indices[0].note_use()
    assert (indices[0].path / "used").stat().st_mtime > before
    AptRoot(site, "none", "amd64").note_use()
    assert not Path(site.apt / "none-amd64").exists()
