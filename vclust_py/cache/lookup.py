"""Which cache a request starts from: the largest whose packages it asks for, all at the same versions."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import asdict, dataclass
from typing import Any, Protocol, TypeVar


class Cached(Protocol):
    @property
    def packages(self) -> frozenset[str]: ...
    @property
    def size(self) -> int: ...


C = TypeVar("C", bound=Cached)

_FITS = "fits, but a larger one does too"


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
        reason = _chosen(len(held), len(versions))
    elif foreign:
        reason = f"holds {_few(foreign)}, which the request does not ask for"
    elif other:
        asked = _few([f"{name.partition('=')[0]} {versions[name.partition('=')[0]]}" for name in other])
        reason = f"holds {_few([name.replace('=', ' ') for name in other])}, the request gets {asked}"
    else:
        reason = _FITS
    fits = not foreign and not other
    return Verdict(cache, cache is chosen, foreign, other, cache.size if fits else 0, reason)


def _chosen(held: int, asked: int) -> str:
    return f"the largest that fits: {held} of {asked} packages"


def _split(package: str) -> tuple[str, str]:
    name, _, version = package.partition("=")
    return name, version


def _few(names: Iterable[str]) -> str:
    shown = list(names)
    more = f" and {len(shown) - 3} more" if len(shown) > 4 else ""
    return ", ".join(shown[:3] if more else shown) + more


# Where the caches' packages are not at hand --------------------------------------------------------------------------


@dataclass(frozen=True)
class Candidate:
    """A cache as one closure sees it: enough to choose it, without the names of all its packages."""

    digest: str
    size: int
    packages: int
    """How many it holds."""
    shared: int
    """Bit n: it holds the closure's n-th package, at the same version."""
    refusal: str
    """Why it cannot be used; says nothing where it fits."""

    @property
    def fits(self) -> bool:
        """Whether its packages are a subset of the closure."""
        return 0 < self.packages == self.shared.bit_count()

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the bits as a hexadecimal number."""
        return asdict(self) | {"shared": f"{self.shared:x}"}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], asked: int) -> "Candidate":
        """The reverse of `to_dict`, for a closure of `asked` packages.

        Raises ValueError, KeyError or TypeError for anything else.
        """
        shared = int(data["shared"], 16)
        if not 0 <= shared < 1 << asked:
            raise ValueError(f"shared: {data['shared']}")
        made = {**data, "size": int(data["size"]), "packages": int(data["packages"]), "shared": shared}
        return cls(**made)


def candidates(closure: Sequence[str], caches: Mapping[str, Cached]) -> list[Candidate]:
    """The caches, by digest, as the closure sees them; its packages, each `name=version`, in an order that counts."""
    positions = {package: number for number, package in enumerate(closure)}
    versions = dict(_split(package) for package in closure)
    found = []
    for digest, cache in caches.items():
        shared = sum(1 << positions[package] for package in cache.packages & positions.keys())
        fits = shared.bit_count() == len(cache.packages)
        refusal = "" if fits else _verdict(versions, cache, None).reason
        found.append(Candidate(digest, cache.size, len(cache.packages), shared, refusal))
    return found


def choose(known: Iterable[Candidate]) -> Candidate | None:
    """As `find`: the largest that fits, of several the first; None if there is none."""
    return max((one for one in known if one.fits), key=lambda one: one.size, default=None)


def reasons(known: Iterable[Candidate], chosen: Candidate | None, asked: int) -> list[tuple[Candidate, str]]:
    """Why each was chosen or refused, in the order of `explain`; `asked`: packages of the closure."""
    return [
        (one, _chosen(one.packages, asked) if one is chosen else one.refusal or _FITS)
        for one in sorted(
            (one for one in known if one.packages),
            key=lambda one: (one is not chosen, one.packages - one.shared.bit_count(), -one.size),
        )
    ]
