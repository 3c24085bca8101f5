"""A copy of the project whose phases do nothing, so that what is around them can be tested quickly.

Written into the copy's `vclust_py` by `conftest.py`; environment variables say how the phase `image` behaves:
VCLUST_STUB_ERROR (a class of vclust_py.errors) and VCLUST_STUB_SECONDS (of sleep, between files
`begun` and `cleaned` in the site's root).
"""

import os
import time
from pathlib import Path
from typing import Any

from vclust_py import errors, state, timing
from vclust_py.site import Site
from vclust_py.state import Change


def phase(site: Site, name: str, word: str) -> Change:
    with timing.phase(site, state.get(site, name), word) as record:
        record.report("half", 1, 2)
        record.report("all", 2, 2)
    return Change({"phase": ""}, {"phase": word})


def prepare_images(site: Site, name: str, *, check: bool = False) -> Change:
    if problem := os.environ.get("VCLUST_STUB_ERROR"):
        raise getattr(errors, problem)("no such luck")
    Path(site.root, "begun").touch()
    try:
        time.sleep(float(os.environ.get("VCLUST_STUB_SECONDS", "0")))
    finally:
        Path(site.root, "cleaned").touch()
    return phase(site, name, "image")


def distribute(site: Site, name: str, *, racks: dict[str, str], check: bool = False) -> Change:
    return phase(site, name, "distribute")


def create(site: Site, name: str, *, check: bool = False) -> Change:
    return phase(site, name, "create")


def wait_installed(site: Site, name: str, *, check: bool = False) -> Change:
    return phase(site, name, "install")


def prove(site: Site, name: str, *, check: bool = False) -> Change:
    return phase(site, name, "ready")


def destroy(site: Site, name: str, *, check: bool = False) -> Change:
    cluster = state.find(site, name)
    if cluster is None:
        return Change({}, {})
    state.forget(site, cluster)
    return Change({"name": name}, {})


class Lock:
    digest = "0" * 64
    packages: tuple[Any, ...] = ()

    def save(self, site: Site) -> None:
        pass

    @classmethod
    def load(cls, site: Site, digest: str) -> "Lock":
        assert digest == cls.digest
        return cls()

    @classmethod
    def from_json(cls, text: str, source: str) -> "Lock":
        return cls()


def settle(request: Any, meta_packages: Any, site: Site, report: Any, *, cluster: Any, given: Any) -> Lock:
    return Lock()


class Host:
    @classmethod
    def from_mapping(cls, mapping: dict[str, str]) -> str:
        return mapping["name"]


class Plan:
    changed = True

    def __init__(self, placement: dict[str, str], cache: str) -> None:
        self.placement = placement
        self.cache = {"digest": cache, "packages": 2, "bytes": 3 * 10**7, "of": 4 * 10**7, "seconds": 2.4}

    def to_dict(self) -> dict[str, Any]:
        return {
            "placement": self.placement,
            "addresses": {},
            "accelerators": {"localhost": "emulation"},
            "unreachable": {},
            "disk": 4_294_967_296,
            "disk_asked": 4_000_000_000,
            "packages": 3,
            "download": 1500,
            "build": 2_000_000,
            "send": 0,
            "base_there": False,
            "cache": self.cache,
            "estimate": {"seconds": {"image": 4.0}, "unknown": ["ready"]},
        }


def place(site: Site, request: Any, lock: Lock, hosts: list[str], *, cache: str, check: bool = False) -> Plan:
    return Plan(dict.fromkeys(request.hostnames, hosts[0]), cache)
