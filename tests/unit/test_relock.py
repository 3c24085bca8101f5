"""The next lock of nodes that run: what is there keeps its version, what nothing asks for goes; and upgrades."""

import os
import time
from pathlib import Path

import pytest
from cache.cachesite import make_base
from repository import KERNEL, Repository, lock_of, quiet

from vclust_py.apt import AptRoot
from vclust_py.errors import RequestError, VclustError
from vclust_py.image.store import fetch
from vclust_py.lock import Lock
from vclust_py.relock import relock, upgraded
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


def published(toy: Repository, site: Site, *packages: tuple[str, str], **fields: str) -> None:
    """The archive has these, name and version, as well from now on."""
    for name, version in packages:
        toy.add(name, version, **fields)
    toy.publish()
    (site.apt / "toy-amd64/fetched").unlink()


def test_an_upgrade_brings_everything_but_the_kernel(toy: Repository, site: Site) -> None:
    present = lock_of(site, "hello")
    nothing = upgraded(present, site, quiet)
    assert (nothing.lock, nothing.lacking, nothing.kernel) == (present, {}, "")
    published(toy, site, ("core", "1.1"), ("libgreet", "1.6"), (KERNEL, "2.0"), ("full", "2.0"))
    found = upgraded(present, site, quiet)
    # `core` is in the base, which stays what it is; nobody has `full`.
    assert versions(found.lock) == {"core": "1.1", "hello": "2:1.5-1", "libgreet": "1.6"}
    assert (found.lock.base, found.lock.requested) == (present.base, present.requested)
    assert found.lock.installed()["core"] == "1.1"
    assert (found.kernel, found.lacking) == (f"{KERNEL}=2.0", {KERNEL: ("2.0", False)})
    core = next(one for one in found.lock.packages if one.name == "core")
    assert (len(core.sha256), core.installed_size) == (64, 7 * 1024)
    # Once more, and from there: the same.
    fetch(site, found.lock, quiet)
    assert upgraded(found.lock, site, quiet).lock == found.lock


def test_no_kernel_is_upgraded(toy: Repository, site: Site) -> None:
    """Not that of a version either, which the package named by the request depends on."""
    toy.add("linux-image-9-toy")
    toy.publish()
    AptRoot(site, "toy", "amd64").expire()
    present = lock_of(site, "linux-image-9-toy")
    published(toy, site, ("linux-image-9-toy", "2.0"))
    found = upgraded(present, site, quiet)
    assert (found.lock, found.kernel) == (present, "linux-image-9-toy=2.0")
    assert found.held == {KERNEL, "linux-image-9-toy"}


def test_an_upgrade_may_need_new_packages_and_removes_none(toy: Repository, site: Site) -> None:
    present = lock_of(site, "hello", "fight-b")
    toy.add("libgreet", "1.6", Depends="either")
    published(toy, site, ("fight-b", "2.0"), Depends="fight-a")
    found = upgraded(present, site, quiet)
    assert versions(found.lock) == {
        "either": "1.0",
        "fight-b": "1.0",
        "hello": "2:1.5-1",
        "libgreet": "1.6",
    }
    assert found.lacking == {"fight-b": ("2.0", False)}


def test_an_upgrade_looks_for_what_is_there_today(toy: Repository, site: Site) -> None:
    present = lock_of(site, "hello")
    stamp = site.apt / "toy-amd64/fetched"
    toy.add("libgreet", "1.6")
    toy.publish()
    assert upgraded(present, site, quiet).lock == present  # fetched a moment ago
    old = time.time() - 3600
    os.utime(stamp, (old, old))
    assert relock(present, ["hello", "full"], site, quiet).installed()["libgreet"] == "1.5+dfsg~1"
    assert versions(upgraded(present, site, quiet).lock)["libgreet"] == "1.6"


def test_an_upgrade_for_security_alone(toy: Repository, site: Site) -> None:
    present = lock_of(site, "hello")
    toy.add("core", "1.1")
    toy.publish()
    toy.secure(
        "libgreet", "1.6", Depends="either"
    )  # the sources are newer than the index, which is fetched again
    found = upgraded(present, site, quiet, security=True)
    assert versions(found.lock) == {"either": "1.0", "hello": "2:1.5-1", "libgreet": "1.6"}
    assert found.lacking == {"core": ("1.1", False)}
    assert upgraded(found.lock, site, quiet, security=True).lock == found.lock
    assert versions(upgraded(present, site, quiet).lock) == {**versions(found.lock), "core": "1.1"}
