"""A site with a base image and VD caches that are small files: what needs no root."""

import dataclasses
import os
import time
from pathlib import Path

from repository import KERNEL

from vclust_py import request as requests
from vclust_py import state
from vclust_py.cache.stored import caches
from vclust_py.image import Catalogue, Image, base_key
from vclust_py.image.base import BaseImages
from vclust_py.image.builder import cache_key, installed_size, missing_from
from vclust_py.image.manifest import records
from vclust_py.image.recipe import installer_key, kernel_key
from vclust_py.request import Request
from vclust_py.resolve import Lock, closure
from vclust_py.site import Site
from vclust_py.state import Cluster


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


def accept(site: Site, request: Request) -> Cluster:
    state.register(site, request)
    return state.get(site, request.name)


def remember(site: Site, *past: Lock) -> None:
    """Write requests into the history, as `place` does, of clusters that are destroyed."""
    for lock in past:
        with state.connect(site) as connection:
            count = connection.execute("SELECT count(*) FROM clusters").fetchone()[0]
            row = connection.execute(
                "INSERT INTO clusters (name, request, digest, state, created, destroyed)"
                " VALUES (?, '', '', 'ready', 0, 1)",
                (f"past{count}",),
            ).lastrowid
            assert row is not None
            state.remember(connection, row, lock)


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
