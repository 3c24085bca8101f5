"""The disks of a template, read by other tools: nothing of anybody's, and the agent."""

import re
import shutil
from pathlib import Path

import pytest
from guest.disks import listing, unpack

from vclust_py.guest import template

pytestmark = pytest.mark.skipif(shutil.which("mcopy") is None, reason="needs mtools")


@pytest.fixture
def disks(tmp_path: Path) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in template.ROOM}
    for name, image in template.disks().items():
        assert len(image) < template.ROOM[name]
        folders[name].mkdir()
        unpack(image, folders[name])
    return folders


def test_a_template_is_nobody(disks: dict[str, Path]) -> None:
    """No user, no key, no password, no secret: neither file nor folder for one."""
    assert listing(disks["cluster"]) == {}
    for name in ("passwd", "shadow", "group", "groups", "environment"):
        assert (disks["cluster"] / name).read_text() == ""
    assert sorted(listing(disks["seed"])) == [
        "etc/hostname",
        "etc/machine-id",
        "etc/systemd/system/vclust-agent.service",
        "etc/udev/rules.d/60-vclust.rules",
        "run/systemd/system/basic.target.d/vclust-fork.conf",
        "run/systemd/system/systemd-journald.service.d/vclust-fork.conf",
        "run/systemd/system/timer.d/vclust-fork.conf",
        "run/systemd/system/vclust-fork.service",
        "run/vclust/fork-agent",
        "run/vclust/identity",
        "usr/libexec/vclust/agent",
    ]
    assert re.fullmatch(r"[0-9a-f]{32}\n", (disks["seed"] / "files/etc/machine-id").read_text())
    node = dict(line.split("=") for line in (disks["seed"] / "node").read_text().splitlines())
    assert node["address"] == "'192.0.2.1/24'"
    assert node.keys() == {"instance", "name", "mac", "address", "router", "mtu"}


def test_two_templates_have_different_disks() -> None:
    assert template.disks()["seed"] != template.disks()["seed"]
    assert template.version() == template.version()
