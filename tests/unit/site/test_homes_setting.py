"""The setting of homes that outlive clusters, as the inventory has it and as it is handed on."""

from pathlib import Path
from typing import Any

import pytest

from vclust_py.errors import VclustError
from vclust_py.site import Site
from vclust_py.site.settings import HomesSetting


@pytest.mark.parametrize(
    ("value", "setting"),
    [
        (None, None),
        ({"path": "/srv/homes"}, HomesSetting(Path("/srv/homes"), 20 * 10**9)),
        ({"path": "/srv/homes", "size": "100MB"}, HomesSetting(Path("/srv/homes"), 100 * 10**6)),
    ],
)
def test_as_the_inventory_has_it_and_back(value: Any, setting: HomesSetting | None) -> None:
    site = Site.from_mapping({"homes": value})
    assert site.homes == setting
    assert Site.from_mapping(site.to_mapping()) == site


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("/srv/homes", r"expected path, and size where wanted, as \{path: /srv/homes, size: 20GB\}"),
        ({"size": "1GB"}, "expected path"),
        ({"path": "/srv/homes", "quota": "1GB"}, "expected path"),
        ({"path": "homes"}, "path: got 'homes', expected an absolute path"),
        ({"path": "/srv/../etc"}, r"path: got '/srv/\.\./etc', expected an absolute path"),
        ({"path": "/srv/homes", "size": "20"}, "size: got '20', expected a size such as 20GB"),
        ({"path": "/srv/homes", "size": "1MB"}, "size: got '1MB', expected"),
    ],
)
def test_what_it_cannot_be(value: Any, said: str) -> None:
    with pytest.raises(VclustError, match=f"^vclust_site: homes: {said}"):
        Site.from_mapping({"homes": value})
