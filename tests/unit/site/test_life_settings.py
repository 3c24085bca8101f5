"""Settings of leases and fencing, as the inventory has them and as they are handed on."""

from pathlib import Path
from typing import Any

import pytest

from vclust_py.errors import VclustError
from vclust_py.site import Site


def test_as_the_inventory_has_them_and_back() -> None:
    settings = {
        "lease_grace": "2d",
        "lease_warnings": ["10m", "1h", "10m"],
        "hook": "/srv/hook",
        "fence": "/srv/fence",
        "fence_after": "90s",
    }
    site = Site.from_mapping(settings)
    assert (site.lease_grace, site.lease_warnings) == (2 * 86400, (3600, 600))
    assert (site.hook, site.fence, site.fence_after) == (Path("/srv/hook"), Path("/srv/fence"), 90)
    assert Site.from_mapping(site.to_mapping()) == site
    assert Site.from_mapping(Site().to_mapping()) == Site()
    assert Site.from_mapping({"lease_warnings": []}).lease_warnings == ()


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("lease_grace", "soon", "lease_grace: got 'soon', expected a time such as 30m"),
        ("lease_warnings", "1h", "lease_warnings: got '1h', expected a list such as"),
        ("lease_warnings", ["1h", "x"], "lease_warnings: got .*, expected a list, each a time such as"),
        ("hook", "mail", "hook: got 'mail', expected an absolute path"),
        ("fence", "off", "fence: got 'off', expected an absolute path"),
        ("fence_after", "0s", "fence_after: got '0s', expected a time such as"),
    ],
)
def test_what_they_cannot_be(setting: str, value: Any, said: str) -> None:
    with pytest.raises(VclustError, match=f"^vclust_site: {said}"):
        Site.from_mapping({setting: value})
