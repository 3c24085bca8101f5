"""The lookup plugin that chooses a VD cache, as Ansible loads it."""

from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display

from vclust_py.cache import Cache
from vclust_py.cache.lookup import candidates
from vclust_py.site import PROJECT

SETS = {
    "aa": Cache(frozenset({"gcc=12"}), 10, 1),
    "bb": Cache(frozenset({"gcc=12", "make=4"}), 30, 1),
    "cc": Cache(frozenset({"gcc=12", "r=4"}), 90, 1),
    "dd": Cache(frozenset({"gcc=11"}), 80, 1),
}


def caches(closure: list[str]) -> list[dict[str, Any]]:
    """As the module vclust_resolve returns them."""
    return [one.to_dict() for one in candidates(closure, SETS)]


@pytest.fixture
def lookup() -> Any:
    lookup_loader.add_directory(str(PROJECT / "plugins" / "lookup"))
    return lookup_loader.get("vclust_cache")


def test_the_largest_that_fits_for_each_closure(lookup: Any) -> None:
    closures = [["gcc=12", "make=4", "perl=5"], ["gcc=12"], ["perl=5"], []]
    chosen = [lookup.run([closure], caches=caches(closure)) for closure in closures]
    assert chosen == [["bb"], ["aa"], [""], [""]]
    assert lookup.run(closures[:1], caches=[]) == [""]


def test_refusals_are_explained(lookup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    closure = ["gcc=12", "make=4"]
    monkeypatch.setattr(Display, "v", lambda self, text: said.append(text))
    lookup.run([closure], caches=caches(closure))
    assert said == []
    monkeypatch.setattr(Display(), "verbosity", 1)
    lookup.run([closure], caches=caches(closure))
    assert said == [
        "cache bb chosen: the largest that fits: 2 of 2 packages",
        "cache aa refused: fits, but a larger one does too",
        "cache cc refused: holds r, which the request does not ask for",
        "cache dd refused: holds gcc 11, the request gets gcc 12",
    ]


def test_what_is_no_cache_or_no_closure(lookup: Any) -> None:
    with pytest.raises(AnsibleLookupError, match="expected caches as vclust_resolve returns them"):
        lookup.run([["gcc=12"]], caches=[{"digest": "aa"}])
    with pytest.raises(AnsibleLookupError, match="got 'gcc=12', expected a list of packages"):
        lookup.run(["gcc=12"], caches=caches(["gcc=12"]))
    with pytest.raises(AnsibleLookupError, match="with these packages"):
        lookup.run([["gcc=12"]], caches=caches(["gcc=12", "make=4"]))
