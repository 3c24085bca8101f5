"""Base images renewed: when, which, and what becomes of the old ones; by real indices of a toy archive."""

import os
import time
from collections.abc import Callable

import pytest
from cache.cachesite import (
    a_lock,
    a_request,
    accept,
    age,
    an_image,
    caches,
    make_base,
    make_cache,
    mark_used,
    pinned,
    quiet,
    remember,
    shrunk,
    trim,
    with_session,
)
from repository import KERNEL, Repository

from vclust_py.apt import AptRoot
from vclust_py.cache import renewal, upkeep
from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image, Report, base_key
from vclust_py.image.base import BaseImages, find_base
from vclust_py.image.manifest import records
from vclust_py.image.recipe import installer_key, kernel_key
from vclust_py.image.store import stored
from vclust_py.lock import Lock
from vclust_py.site import Site, learning
from vclust_py.site.session import Session

DAY = 86400.0
is_due, left_behind = with_session(renewal.is_due), with_session(renewal.left_behind)
mark_chosen = with_session(lambda session, *digests: learning.mark_chosen(session.store, digests))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Lock]:
    """The locks of base images that were made, in the place of mmdebstrap, which needs root and minutes."""
    locks: list[Lock] = []

    def ensure_base(site: Site, lock: Lock, report: Report) -> BaseImages:
        locks.append(lock)
        return another_base(site, lock)

    monkeypatch.setattr(renewal, "ensure_base", ensure_base)
    return locks


def another_base(site: Site, lock: Lock) -> BaseImages:
    """Of these packages, with a kernel and an installer where they are not there."""
    names = [package.pinned for package in lock.base]
    catalogue = Catalogue(site)
    kernel = catalogue.find("kernel", kernel_key(names)) or an_image(
        site, "kernel", kernel_key(names), f"kernel of {names}"
    )
    installer = catalogue.find("installer", installer_key(names)) or an_image(
        site, "installer", installer_key(names), f"installer of {names}"
    )
    key = base_key("toy", "amd64", lock.kernel)
    base = an_image(
        site, "base", key, f"base of {names}", suite="toy", architecture="amd64", packages=records(lock.base)
    )
    status = "".join(
        f"Package: {package.name}\nStatus: install ok installed\nVersion: {package.version}\n"
        f"Architecture: {package.architecture}\n\n"
        for package in lock.base
    )
    catalogue.status(base).write_text(status)
    return BaseImages(base, kernel, installer)


@with_session
def renew(session: Session) -> list[str]:
    return renewal.renew(session, quiet)


@pytest.fixture
def base(site: Site) -> BaseImages:
    """Made a day ago; somebody has used the site."""
    images = make_base(site)
    age(site, images.base, DAY + 60)
    mark_used(site, [images.base.manifest.digest])
    return images


def test_when_it_is_due(site: Site) -> None:
    assert not is_due(site)  # nothing was ever asked of the site
    remember(site, a_lock(site))
    assert not is_due(site)
    image = make_base(site).base
    assert not is_due(site)
    age(site, image, DAY - 60)
    assert not is_due(site)
    age(site, image, DAY + 60)
    assert is_due(site)
    assert not is_due(shrunk(site, base_renewal=0))
    assert not is_due(shrunk(site, base_renewal=7 * 86400))
    # Of other settings, or used by nobody for long.
    assert not is_due(shrunk(site, base_packages=("full",)))
    age(site, image, 31 * DAY)
    assert not is_due(site)
    mark_used(site, [image.manifest.digest])
    assert is_due(site)


def test_only_what_lacks_security_updates_is_made_anew(
    site: Site, toy: Repository, base: BaseImages, made: list[Lock]
) -> None:
    toy.add("sudo", "1.1")
    toy.publish()
    AptRoot(site, "toy", "amd64").expire()
    assert (renew(site), made) == ([], [])
    assert not is_due(site)  # for a day
    stamp = site.root / "renewed"
    os.utime(stamp, (time.time() - DAY - 60,) * 2)
    assert is_due(site)
    toy.secure("core", "1.2")
    assert renew(site) == ["renewed the base image of toy for amd64, for core"]
    (lock,) = made
    held = {package.name: package.version for package in lock.base}
    assert (held["core"], held["sudo"], lock.kernel, lock.packages) == ("1.2", "1.1", KERNEL, ())
    assert not is_due(site)
    # The next request takes it, with nothing of the old one.
    asked = a_lock(site, "hello")
    assert {package.pinned for package in asked.base} == {package.pinned for package in lock.base}
    assert [package.name for package in asked.packages] == ["hello", "libgreet"]
    found = find_base(site, asked)
    assert found is not None
    assert found.base.manifest.digest != base.base.manifest.digest
    os.utime(stamp, (time.time() - DAY - 60,) * 2)
    age(site, found.base, DAY + 60)
    assert (renew(site), len(made)) == ([], 1)


def test_what_cannot_be_made_is_told_and_tried_again(
    site: Site, toy: Repository, base: BaseImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.secure("core", "1.2")

    def fail(*_: object) -> BaseImages:
        raise VclustError("no space")

    monkeypatch.setattr(renewal, "ensure_base", fail)
    assert renew(site) == ["not renewed: base image of toy for amd64: no space"]
    assert is_due(site)
    assert find_base(site, a_lock(site)) == base


def test_renewal_needs_no_network_once_packages_are_fetched(
    site: Site, toy: Repository, base: BaseImages, made: list[Lock]
) -> None:
    own = shrunk(site, cache_every=1)
    remember(own, *[a_lock(own, "full")] * 5)
    cache = make_cache(own, a_lock(own, "full"), base.base, "unpacked")
    mark_chosen(own, cache.manifest.digest)
    first, do, fetch = (
        with_session(lambda session, step=step: step(session, quiet))
        for step in (upkeep.upkeep, upkeep.renew, upkeep.fetch)
    )
    assert not left_behind(own)
    toy.secure("core", "1.2")
    new = next(toy.path.glob("**/core_1.2_*"))
    new.rename(toy.path / "away")
    (said,) = first(own)
    assert said.startswith("not fetched: base image of toy for amd64: ")
    (toy.path / "away").rename(new)
    assert first(own) == []
    toy.path.rename(toy.path.with_name("gone"))
    assert fetch(own) == []
    assert do(own) == ["renewed the base image of toy for amd64, for core"]
    assert [stored(own, package) for package in made[0].base] == [True] * len(made[0].base)
    (said,) = fetch(own)
    assert said.startswith("not fetched: ")
    toy.path.with_name("gone").rename(toy.path)
    assert fetch(own) == []
    assert left_behind(own)
    assert do(own) == []
    # No request starts from it any more.
    assert [one.chosen for one in caches(own)] == [True]
    mark_chosen(own)
    assert not left_behind(own)


# Old ones ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def newer(site: Site, toy: Repository, base: BaseImages) -> Callable[[float], BaseImages]:
    """Make a newer base image, so many seconds ago."""

    def make(seconds: float) -> BaseImages:
        toy.secure("core", "1.2")
        with Session(site) as session:
            lock, security = renewal.base_updates(
                dict(name.split("=") for name in base.base.manifest.pinned),
                suite="toy",
                architecture="amd64",
                kernel=KERNEL,
                site=session.site,
                report=quiet,
            )
        assert security == ["core"]
        images = another_base(site, lock)
        age(site, images.base, seconds)
        return images

    return make


def there(site: Site) -> set[str]:
    return {image.manifest.digest for image in Catalogue(site).images()}


def digests(*images: Image) -> set[str]:
    return {image.manifest.digest for image in images}


def unused(site: Site, *images: Image) -> None:
    """Nobody has used them for long."""
    with Session(site) as session:
        learning.forget_uses(session.store, [image.manifest.digest for image in images])
    for image in images:
        age(site, image, DAY)


def test_an_old_base_goes_with_what_is_over_it(
    site: Site, base: BaseImages, newer: Callable[[float], BaseImages]
) -> None:
    lock = a_lock(site, "full")
    cache = make_cache(site, lock, base.base, "unpacked")
    unused(site, base.base, cache)
    assert trim(site) == []  # it is the newest
    new = newer(7200)
    said = trim(site)
    assert said == [f"{one.path.name}: there is a newer base image" for one in (cache, base.base)]
    # Both have the same kernel.
    assert there(site) == digests(new.base, base.kernel, base.installer)
    assert not Catalogue(site).status(base.base).exists()
    assert trim(site) == []


def test_an_old_base_stays_for_clusters_and_for_requests_on_their_way(
    site: Site, base: BaseImages, newer: Callable[[float], BaseImages]
) -> None:
    lock = a_lock(site, "full")
    cache = make_cache(site, lock, base.base, "unpacked")
    other = make_cache(site, lock, base.base, "configured", note="another ")
    cluster = accept(site, a_request("one", "full"))
    assert pinned(site, cluster, {"root": cache.manifest.digest})
    new = newer(600)
    unused(site, base.base, cache, other)
    assert trim(site) == []  # the newer one is too new
    age(site, new.base, 7200)
    assert trim(site) == [f"{other.path.name}: there is a newer base image"]
    assert there(site) >= digests(base.base, cache, new.base)


def test_an_old_base_stays_for_a_cluster_whose_images_are_yet_to_be_made(
    site: Site, base: BaseImages, newer: Callable[[float], BaseImages]
) -> None:
    lock = a_lock(site, "full")
    lock.save(site)
    cluster = accept(site, a_request("one", "full"))
    with Session(site) as session:
        session.store.execute("UPDATE clusters SET lock = ? WHERE id = ?", (lock.digest, cluster.id))
    newer(7200)
    unused(site, base.base)
    assert trim(site) == []
    (site.locks / f"{lock.digest}.json").unlink()
    assert len(trim(site)) == 1


def test_kernels_that_no_base_has_any_more_go(site: Site, base: BaseImages) -> None:
    lock = a_lock(site)
    packages = tuple(package for package in lock.base if package.name != "busybox-static")
    new = another_base(site, Lock("toy", "amd64", KERNEL, packages, (), ()))
    age(site, new.base, 7200)
    unused(site, base.base)
    assert len(trim(site)) == 1
    assert there(site) == digests(new.base, new.kernel, new.installer)
