"""Strategies for what the site reads as locks and manifests: any text, and near misses of real ones."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from vclust_py.errors import RequestError
from vclust_py.image import Manifest
from vclust_py.lock import Lock

PACKAGE = {
    "name": "hello", "version": "2:1.5-1", "architecture": "all", "size": 1, "sha256": "0" * 64,
    "uri": "http://example.org/hello.deb", "filename": "hello_1.5_all.deb", "installed_size": 7,
}  # fmt: skip
LOCK = {
    "suite": "toy", "architecture": "amd64", "kernel": "linux-image-amd64", "base": [PACKAGE],
    "packages": [PACKAGE], "requested": ["hello"],
}  # fmt: skip
MANIFEST_0 = {
    "kind": "layer", "digest": "0" * 64, "key": "k", "backing": None, "packages": ["hello=1"],
    "installed_size": 1, "contents": "", "state": "configured", "bytes": 1, "virtual_size": 1,
    "build_seconds": 1.5, "tools": [],
}  # fmt: skip
MANIFEST = MANIFEST_0 | {
    "schema": 1, "suite": "toy", "architecture": "amd64",
    "packages": [{"name": "hello", "version": "2:1.5-1", "digest": "0" * 64}],
}  # fmt: skip

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=True),
    st.text(max_size=40),
    st.sampled_from(
        ["../x", "--x", "a b", "\x1b[2J", "{{ 7 * 7 }}", "$(id)", "x" * 5000, "file:/etc/shadow", "1\n2"]
    ),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    st.recursive(st.just([]), lambda inner: st.lists(inner, min_size=1, max_size=1), max_leaves=20),
)


def near(original: dict[str, Any]) -> SearchStrategy[str]:
    """The JSON of `original` with some of its fields, at the top or in a package, made odd, taken out or put in."""
    change = st.tuples(
        st.sampled_from([*original, *PACKAGE, "more"]), odd, st.sampled_from(["set", "out", "inside"])
    )

    def changed(changes: list[tuple[str, Any, str]]) -> str:
        data: dict[str, Any] = json.loads(json.dumps(original))
        for name, value, way in changes:
            packages = data.get("packages")
            first = packages[0] if isinstance(packages, list) and packages else None
            if way == "inside" and isinstance(first, dict):
                first[name] = value
            elif way == "out":
                data.pop(name, None)
            else:
                data[name] = value
        return json.dumps(data)

    return st.lists(change, min_size=1, max_size=4).map(changed)


def check_lock(text: str) -> None:
    try:
        lock = Lock.from_json(text, "mine.json")
    except RequestError as error:
        message = str(error)
    else:
        message = ""
        assert Lock.from_json(lock.to_json()) == lock
        assert all("/" not in package.filename for package in (*lock.base, *lock.packages))
    assert len(message.encode()) <= 4096


def check_manifest(text: str) -> None:
    try:
        message = Manifest.from_json(text).to_json()[:100]
    except ValueError as error:
        message = str(error)
    assert len(message.encode()) <= 4096


CASES: dict[str, tuple[SearchStrategy[str], Callable[[str], None]]] = {
    "locks": (near(LOCK), check_lock),
    "manifests": (near(MANIFEST), check_manifest),
    "manifests without a schema": (near(MANIFEST_0), check_manifest),
    "text as a lock": (st.text(alphabet='{}[]":,0eE-\\u \ud800xn', max_size=200), check_lock),
    "text as a manifest": (st.text(alphabet='{}[]":,0eE-\\u xn', max_size=200), check_manifest),
}
