"""The lookup plugin that chooses a VD cache, as Ansible loads it."""

from typing import Any

import pytest
from ansible.errors import AnsibleLookupError
from ansible.plugins.loader import lookup_loader
from ansible.utils.display import Display

from vclust_py.cache.stored import Stored, to_dict
from vclust_py.site import PROJECT


def cache(digest: str, size: int, *packages: str) -> dict[str, Any]:
    return to_dict(
        Stored(
            digest=digest,
            packages=frozenset(packages),
            size=size,
            bytes=size // 3,
            parent="",
            base="b" * 64,
            contents="",
            suite="bookworm",
            architecture="amd64",
            state="unpacked",
            depth=1,
            used=0.0,
            uses=0,
            chosen=True,
            clusters=(),
        )
    )


CACHES = [
    cache("aa", 10, "gcc=12"),
    cache("bb", 30, "gcc=12", "make=4"),
    cache("cc", 90, "gcc=12", "r=4"),
    cache("dd", 80, "gcc=11"),
]


@pytest.fixture
def lookup() -> Any:
    lookup_loader.add_directory(str(PROJECT / "plugins" / "lookup"))
    return lookup_loader.get("vclust_cache")


def test_the_largest_that_fits_for_each_closure(lookup: Any) -> None:
    closures = [["gcc=12", "make=4", "perl=5"], ["gcc=12"], ["perl=5"], []]
    assert lookup.run(closures, caches=CACHES) == ["bb", "aa", "", ""]
    assert lookup.run(closures[:1], caches=[]) == [""]


def test_refusals_are_explained(lookup: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(Display, "v", lambda self, text: said.append(text))
    lookup.run([["gcc=12", "make=4"]], caches=CACHES)
    assert said == []
    monkeypatch.setattr(Display(), "verbosity", 1)
    lookup.run([["gcc=12", "make=4"]], caches=CACHES)
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
        lookup.run(["gcc=12"], caches=CACHES)
