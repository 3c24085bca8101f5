"""Caches of a site as the command's tests need them: in place of the files that read it (`test_cli.py` above).

Environment variables: VCLUST_STUB_REBUILD names a class of vclust_py.errors that a recomputation fails with; with
VCLUST_STUB_BUILD it cannot build one cache.
"""

import os
import time
from dataclasses import dataclass, field
from typing import Any

from vclust_py import errors
from vclust_py.cache.history import History
from vclust_py.change import Change
from vclust_py.site.session import Session


@dataclass(frozen=True, eq=False)
class Stored:
    digest: str
    packages: frozenset[str]
    size: int
    bytes: int
    parent: str = ""
    base: str = "b" * 64
    suite: str = "toy"
    architecture: str = "amd64"
    state: str = "unpacked"
    depth: int = 1
    used: float = 0.0
    uses: int = 0
    chosen: bool = True
    clusters: tuple[str, ...] = ()


KNOWN = [
    Stored("ab" * 32, frozenset({"gcc=12", "make=4"}), 30_000_000, 9_000_000, used=1.6e9, uses=3),
    Stored("ac" * 32, frozenset({"gcc=12", "make=4", "r=4"}), 70_000_000, 12_000_000, "ab" * 32, depth=2),
    Stored("cd" * 32, frozenset({"perl=5"}), 50_000_000, 20_000_000, clusters=("demo",), chosen=False),
]
CLOSURE = frozenset({"gcc=12", "make=4", "mpich=4"})


def caches(session: Session) -> list[Stored]:
    return KNOWN


def to_dict(cache: Stored) -> dict[str, Any]:
    return vars(cache) | {"packages": sorted(cache.packages)}


@dataclass(frozen=True)
class Rebuilt:
    change: Change
    policy: str = "nested"
    requests: int = 7
    chosen: int = 3
    built: tuple[str, ...] = ("ab" * 32,)
    removed: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    stored_bytes: int = 41_000_000
    space: int = 5 * 10**9
    seconds: float = 1.5


def rebuild(session: Session, report: Any, *, check: bool = False) -> Rebuilt:
    if problem := os.environ.get("VCLUST_STUB_REBUILD"):
        raise getattr(errors, problem)("another one is at work")
    failed = {"ef" * 32: "no space"} if os.environ.get("VCLUST_STUB_BUILD") else {}
    return Rebuilt(Change({"caches": []}, {"caches": ["ab"]}), failed=failed)


def status(session: Session) -> dict[str, Any]:
    return {
        "state": "done",
        "started": time.time(),
        "ended": time.time(),
        "seen": 7,
        "recorded": 9,
        "space": 5 * 10**9,
        "detail": "",
        "message": "",
        "done": 0,
        "total": 0,
    }


@dataclass(frozen=True)
class Package:
    name: str
    version: str
    installed_size: int


def history(session: Session) -> History:
    gcc, make, r = (
        Package("0/gcc", "12", 25_000_000),
        Package("0/make", "4", 5_000_000),
        Package("0/r", "4", 1),
    )
    return History([[gcc, make], [gcc, make, r], [gcc, make]])


def due(session: Session) -> bool:
    return False


def usage(session: Session) -> list[dict[str, Any]]:
    return [
        {"time": 1.6e9 + number, "name": f"c{number}", "cache": "ab" * 32 if number % 3 else "", "of": 10**8}
        | {"bytes": 6 * 10**7 if number % 3 else 0}
        for number in range(100)
    ]
