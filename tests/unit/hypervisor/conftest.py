"""libvirt's test driver, which lives in this process."""

from pathlib import Path

import pytest


@pytest.fixture
def pretended(tmp_path: Path) -> str:
    """URI of a host with nothing on it; unlike test:///default it is no other test's too."""
    (tmp_path / "node.xml").write_text("<node/>")
    return f"test://{tmp_path}/node.xml"
