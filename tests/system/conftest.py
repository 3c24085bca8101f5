"""What the system tests share: a site that is kept from run to run, as its base image takes most of a minute.

Tests marked `xen` are left out unless `--xen` is given.
"""

import os
from pathlib import Path

import pytest

from vclust_py.site import Site


@pytest.fixture(scope="session")
def site() -> Site:
    """Root: the environment variable VCLUST_TEST_ROOT, else /var/lib/vclust-test."""
    site = Site(root=Path(os.environ.get("VCLUST_TEST_ROOT", "/var/lib/vclust-test")))
    site.make_directories()
    return site


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--xen", action="store_true", help="also test on an emulated Xen host: half an hour more"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--xen"):
        left_out = [item for item in items if item.get_closest_marker("xen")]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]
