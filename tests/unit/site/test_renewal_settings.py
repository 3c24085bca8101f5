"""Settings of what is renewed and what is kept, as the inventory has them and as they are handed on."""

from typing import Any

import pytest

from vclust_py.errors import VclustError
from vclust_py.site import Site


def test_as_the_inventory_has_them_and_back() -> None:
    site = Site.from_mapping({"base_renewal": "7d", "package_space": "3GB", "index_space": "500MB"})
    assert (site.base_renewal, site.package_space, site.index_space) == (7 * 86400, 3 * 10**9, 500 * 10**6)
    assert Site.from_mapping(site.to_mapping()) == site
    for never in (0, "0"):
        site = Site.from_mapping({"base_renewal": never})
        assert site.base_renewal == 0
        assert Site.from_mapping(site.to_mapping()) == site


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("base_renewal", False, r"base_renewal: got 'False', expected a time such as 30m.*, or 0"),
        ("base_renewal", "daily", r"base_renewal: got 'daily', expected a time such as 30m.*, or 0"),
        ("package_space", "20", "package_space: got '20', expected a size such as 20GB"),
        ("index_space", "-1GB", "index_space: got '-1GB', expected a size such as 2GB"),
    ],
)
def test_what_they_cannot_be(setting: str, value: Any, said: str) -> None:
    with pytest.raises(VclustError, match=f"^vclust_site: {said}"):
        Site.from_mapping({setting: value})
