"""What the system tests share: a site that is kept from run to run, as its base image takes most of a minute."""

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
