"""`Volume` of a request."""

import pytest

from vclust_py.request import Volume
from vclust_py.request.model import BY_YAML
from vclust_py.request.values import Wrong

KIND = BY_YAML["volume"].kind


@pytest.mark.parametrize(
    ("text", "found", "form"),
    [
        ("data 20GB", Volume("data", 20 * 10**9, keep=False), "data 20GB"),
        ("data 20 GB  Keep", Volume("data", 20 * 10**9, keep=True), "data 20GB keep"),
        ("my-data  1.5tib keep", Volume("my-data", 3 * 2**39, keep=True), "my-data 1536GiB keep"),
        ("keep 1GB", Volume("keep", 10**9, keep=False), "keep 1GB"),
    ],
)
def test_good_ones(text: str, found: Volume, form: str) -> None:
    assert KIND(text) == found
    assert KIND(KIND.write(found)) == KIND.restore(KIND.write(found)) == found
    assert KIND.write(found) == form


@pytest.mark.parametrize(
    "text",
    [
        "data",
        "data keep",
        "20GB",
        "Data 20GB",
        "da/ta 20GB",
        "data 20GB kept",
        "data 20GB keep keep",
        "-a 1GB",
    ],
)
def test_bad_ones(text: str) -> None:
    with pytest.raises(Wrong, match="NAME SIZE"):
        KIND(text)


def test_sizes() -> None:
    with pytest.raises(Wrong, match="NAME SIZE, SIZE being a size such as 20GB, from 100MB"):
        KIND("data 1MB")
