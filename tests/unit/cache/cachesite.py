"""A site with a base image and VD caches that are small files: what needs no root."""

import dataclasses
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from repository import KERNEL

from vclust_py import phases
from vclust_py import request as requests
from vclust_py.cache import background, matching, past, pin, rebuild, retention, stored
from vclust_py.cache import describe as describing
from vclust_py.cache import status as status_
from vclust_py.image import Catalogue, Image, base_key
from vclust_py.image.base import BaseImages
from vclust_py.image.builder import cache_key, installed_size, missing_from
from vclust_py.image.manifest import records
from vclust_py.image.recipe import installer_key, kernel_key
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, Result
from vclust_py.phases import cache as phase
from vclust_py.request import Request
from vclust_py.resolve import closure
from vclust_py.site import Site, clusters, learning
from vclust_py.site.clusters import Cluster
from vclust_py.site.session import Session

R = TypeVar("R")


def quiet(message: str, done: int, total: int) -> None:
    pass


def an_image(site: Site, kind: str, key: str, content: str, **values: object) -> Image:
    catalogue = Catalogue(site)
    with catalogue.building(kind, key) as folder:
        (folder / "new").write_text(content)
        return catalogue.add(folder / "new", kind=kind, key=key, **values)  # type: ignore[arg-type]


def make_base(site: Site) -> BaseImages:
    """The base image of the toy suite; what apt knows of it is what the repository would give."""
    lock = closure([], suite="toy", architecture="amd64", kernel=KERNEL, site=site, report=quiet)
    packages = tuple(f"{package.name}={package.version}" for package in lock.base)
    key = base_key("toy", "amd64", KERNEL)
    kernel = an_image(site, "kernel", kernel_key(packages), "kernel")
    installer = an_image(site, "installer", installer_key(packages), "installer")
    base = an_image(site, "base", key, "base", suite="toy", architecture="amd64", packages=records(lock.base))
    status = "".join(
        f"Package: {package.name}\nStatus: install ok installed\nVersion: {package.version}\n"
        f"Architecture: {package.architecture}\nInstalled-Size: 7\n\n"
        for package in lock.base
    )
    Catalogue(site).status(base).write_text(status)
    return BaseImages(base, kernel, installer)


def make_cache(
    site: Site, lock: Lock, parent: Image, state: str, report: object = None, note: str = ""
) -> Image:
    """What `ensure_cache` leaves in the catalogue, without a disk inside."""
    catalogue = Catalogue(site)
    own = missing_from(lock, catalogue, parent)
    names = tuple(f"{package.name}={package.version}" for package in own)
    return an_image(
        site,
        "cache",
        cache_key(lock, parent, state),
        note + "cache of " + " ".join(names).ljust(1000),
        suite="toy",
        architecture="amd64",
        backing=parent,
        packages=records(own),
        installed_size=installed_size(own),
        state=state,
    )


def a_lock(site: Site, *names: str) -> Lock:
    return closure(names, suite="toy", architecture="amd64", kernel=KERNEL, site=site, report=quiet)


def a_request(name: str = "one", *packages: str) -> Request:
    software = {"name": name, "packages": list(packages), "suite": "toy"}
    hardware = {"number_of_nodes": 1, "ram": "1GB", "disk": "4GB"}
    return requests.from_mapping({"hardware": hardware, "software": software}, name)


def with_session(function: Callable[..., R]) -> Callable[..., R]:
    """The function with a site in the place of its session, which is opened and closed around the call."""

    @functools.wraps(function)
    def call(site: Site, *arguments: object, **options: object) -> R:
        with Session(site) as session:
            return function(session, *arguments, **options)

    return call


def with_store(function: Callable[..., R]) -> Callable[..., R]:
    return with_session(lambda session, *arguments: function(session.store, *arguments))


caches = with_session(stored.caches)
due, status, usage = (with_session(one) for one in (status_.due, status_.status, status_.usage))
drop_damaged, trim = with_session(retention.drop_damaged), with_session(retention.trim)
history = with_session(past.history)
describe = with_session(describing.describe)
mark_used, uses = with_store(learning.note_use), with_store(learning.uses)
matching_caches = with_session(matching.matching)
pinned = with_session(pin.pin)
recompute = with_session(rebuild.rebuild)
start_if_due = with_session(background.start_if_due)


@with_session
def accept(session: Session, request: Request) -> Cluster:
    clusters.register(session.store, request)
    return clusters.get(session.store, request.name)


@with_session
def found(session: Session, name: str) -> Cluster:
    return clusters.get(session.store, name)


@with_session
def live(session: Session) -> list[Cluster]:
    return clusters.live(session.store)


@with_session
def ran(session: Session, word: str, name: str, **inputs: object) -> Result:
    return phases.phase(word)(session, Inputs(name, **inputs))  # type: ignore[arg-type]


@with_session
def remember_as(session: Session, cluster: Cluster, lock: Lock) -> None:
    """Write the lock into the history as this cluster's, which is forgotten."""
    learning.remember(session.store, cluster.id, lock)
    clusters.forget(session.store, cluster)


@with_session
def forget(session: Session, cluster: Cluster) -> None:
    clusters.forget(session.store, cluster)


@with_session
def reserved(session: Session, request: Request, lock: Lock, digest: str, *, check: bool = False) -> Result:
    lock.save(session.site)
    return phase.run(
        session, Inputs(request.name, check=check, request=request, lock=lock.digest, cache=digest)
    )


@with_session
def remember(session: Session, *locks: Lock) -> None:
    """Write requests into the history, as `place` does, of clusters that are destroyed."""
    store = session.store
    for lock in locks:
        ((count,),) = store.rows("SELECT count(*) FROM clusters")
        row = store.insert(
            "INSERT INTO clusters (name, spec, digest, state, created, destroyed)"
            " VALUES (?, '', '', 'destroyed', 0, 1)",
            (f"past{count}",),
        )
        learning.remember(store, row, lock)


def shrunk(site: Site, **settings: object) -> Site:
    return dataclasses.replace(site, **settings)  # type: ignore[arg-type]


def age(site: Site, image: Image, seconds: float) -> None:
    """As if the image had been made that long ago."""
    moment = time.time() - seconds
    for path in (image.path, Path(image.path.with_suffix(".json"))):
        os.utime(path, (moment, moment))


def contents(site: Site, *, chosen: bool = True) -> set[frozenset[str]]:
    return {cache.packages for cache in caches(site) if cache.chosen or not chosen}


def everything_old(site: Site) -> None:
    for image in Catalogue(site).images():
        age(site, image, 3600)
