"""Which cache a request starts from: the largest whose packages it asks for, all at the same versions."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Cached(Protocol):
    @property
    def packages(self) -> frozenset[str]: ...
    @property
    def size(self) -> int: ...


C = TypeVar("C", bound=Cached)


def find(closure: Set[str], caches: Iterable[C]) -> C | None:
    """The largest cache (installed bytes; ties: the first) that is a subset of `closure`, None if there is none.

    Packages are `name=version`.  Cost: under 1 µs for most caches, as the first package too many ends it.
    """
    best = None
    for cache in caches:
        if (best is None or cache.size > best.size) and cache.packages <= closure:
            best = cache
    return best


@dataclass(frozen=True)
class Verdict:
    """What a request thinks of one cache."""

    cache: Cached
    chosen: bool
    foreign: tuple[str, ...]
    """Names of packages the request does not ask for."""
    other_version: tuple[str, ...]
    """`name=version` of packages that the request asks for in another version."""
    saves: int
    """Installed bytes the request need not install when it starts from this cache; 0 when it cannot."""
    reason: str


def explain(closure: Set[str], caches: Iterable[Cached]) -> list[Verdict]:
    """Every cache, the chosen one first, then those that would do, then those with fewest packages too many."""
    known = list(caches)
    chosen = find(closure, known)
    versions = dict(_split(package) for package in closure)
    verdicts = [_verdict(versions, cache, chosen) for cache in known if cache.packages]
    return sorted(
        verdicts,
        key=lambda one: (not one.chosen, len(one.foreign) + len(one.other_version), -one.cache.size),
    )


def _verdict(versions: Mapping[str, str], cache: Cached, chosen: Cached | None) -> Verdict:
    held = sorted(_split(package) for package in cache.packages)
    foreign = tuple(name for name, _ in held if name not in versions)
    other = tuple(
        f"{name}={version}" for name, version in held if name in versions and versions[name] != version
    )
    if cache is chosen:
        reason = f"the largest that fits: {len(held)} of {len(versions)} packages"
    elif foreign:
        reason = f"holds {_few(foreign)}, which the request does not ask for"
    elif other:
        asked = _few([f"{name.partition('=')[0]} {versions[name.partition('=')[0]]}" for name in other])
        reason = f"holds {_few([name.replace('=', ' ') for name in other])}, the request gets {asked}"
    else:
        reason = "fits, but a larger one does too"
    fits = not foreign and not other
    return Verdict(cache, cache is chosen, foreign, other, cache.size if fits else 0, reason)


def _split(package: str) -> tuple[str, str]:
    name, _, version = package.partition("=")
    return name, version


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 3} more" if len(shown) > 4 else ""
    return ", ".join(shown[:3] if more else shown) + more
