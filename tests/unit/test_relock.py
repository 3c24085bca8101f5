"""Other packages for nodes that run: what is there keeps its version, what nothing asks for goes."""

from pathlib import Path

import pytest
from cache.cachesite import make_base
from repository import Repository, lock_of, quiet

from vclust_py.errors import RequestError, VclustError
from vclust_py.image.store import fetch
from vclust_py.lock import Lock
from vclust_py.relock import relock
from vclust_py.site import Site


def versions(lock: Lock) -> dict[str, str]:
    return {package.name: package.version for package in lock.packages}


@pytest.fixture
def site(toy: Repository, tmp_path: Path) -> Site:
    site = toy.site(tmp_path / "site")
    make_base(site)
    return site


def test_what_is_there_keeps_its_version(toy: Repository, site: Site) -> None:
    present = lock_of(site, "hello")
    fetch(site, present, quiet)
    toy.add("libgreet", "1.6")
    toy.add("hello", "2:1.6", Depends="libgreet (>= 1)")
    (toy.pool / "libgreet_1.5+dfsg~1_all.deb").unlink()  # the store has it
    toy.publish()
    (site.apt / "toy-amd64/fetched").unlink()
    lock = relock(present, ["hello", "either", "full"], site, quiet)
    assert versions(lock) == {"hello": "2:1.5-1", "libgreet": "1.5+dfsg~1", "either": "1.0", "full": "1.0"}
    assert lock.requested == ("either", "full", "hello")
    assert (lock.base, lock.kernel) == (present.base, present.kernel)
    full = next(one for one in lock.packages if one.name == "full")
    assert (len(full.sha256), full.installed_size) == (64, 7 * 1024)
    # A package that is there already: nothing is upgraded for the sake of its name.
    assert versions(relock(present, ["hello", "libgreet"], site, quiet)) == versions(present)


def test_what_a_new_package_needs_is_upgraded(toy: Repository, site: Site) -> None:
    present = lock_of(site, "hello")
    fetch(site, present, quiet)
    toy.add("libgreet", "1.6")
    toy.add("modern", Depends="libgreet (>= 1.6)")
    toy.publish()
    (site.apt / "toy-amd64/fetched").unlink()
    lock = relock(present, ["hello", "modern"], site, quiet)
    assert versions(lock) == {"hello": "2:1.5-1", "libgreet": "1.6", "modern": "1.0"}


def test_what_nothing_asks_for_goes(site: Site) -> None:
    present = lock_of(site, "hello", "either", "full")
    without = relock(present, ["either"], site, quiet)
    assert set(versions(without)) == {"either", "libgreet"}  # which `either` needs
    assert set(versions(relock(without, ["full"], site, quiet))) == {"full"}
    assert versions(relock(without, [], site, quiet)) == {}
    # There and back again: the same lock.
    assert relock(relock(present, ["hello", "full"], site, quiet), present.requested, site, quiet) == present
    # Asked for no more by name, and needed all the same.
    both = lock_of(site, "hello", "libgreet")
    assert versions(relock(both, ["hello"], site, quiet)) == versions(both)


def test_nothing_else_is_asked_for(site: Site) -> None:
    present = lock_of(site, "hello")
    assert relock(present, ["hello"], site, quiet) is present


def test_what_cannot_be(toy: Repository, site: Site) -> None:
    present = lock_of(site, "fight-b")
    with pytest.raises(RequestError, match="these packages cannot be installed together"):
        relock(present, ["fight-a", "fight-b"], site, quiet)
    with pytest.raises(RequestError, match="package 'hallo': not in toy for amd64; did you mean hello"):
        relock(present, ["fight-b", "hallo"], site, quiet)
    (toy.pool / "fight-b_1.0_all.deb").unlink()
    toy.publish()
    (site.apt / "toy-amd64/fetched").unlink()
    with pytest.raises(VclustError, match=r"fight-b=1\.0:all: neither the package index of toy nor"):
        relock(present, ["fight-b", "full"], site, quiet)
