"""Histories out of short words: each letter of a request is a package."""

from collections.abc import Iterable, Mapping

from vclust_py.cache.history import History
from vclust_py.cache.traces import TracePackage


def history(
    requests: Iterable[Iterable[str]], sizes: Mapping[str, int], costs: Mapping[str, int] | None = None
) -> History:
    return History(
        ([TracePackage(name, "1", sizes[name]) for name in request] for request in requests),
        stored=None if costs is None else lambda package: costs[package.name],
    )


def named(packages: Iterable[str]) -> frozenset[str]:
    """Names of `name=version`."""
    return frozenset(package.partition("=")[0] for package in packages)
