"""The step that makes a volume's file system and mounts it, run with real disks in a mount namespace of its own."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vclust_py.guest import volume

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="loop devices are root's"
)
_AROUND = """\
set -eu
mount -t tmpfs tmpfs "$1/dev"
cp -a /dev/null /dev/zero "$2" "$3" "$1/dev"
mknod "$1/dev/vda" b $(stat -c '0x%t 0x%T' "$2")
mknod "$1/dev/vdb" b $(stat -c '0x%t 0x%T' "$3")
mount --bind "$1/dev" /dev
mount -t tmpfs tmpfs /etc/systemd
mount -t tmpfs tmpfs /srv
mount -t tmpfs tmpfs /run
sh -e "$1/step"
start=$(sed -n 's/^ExecStart=//p' /etc/systemd/system/local-fs.target.wants/vclust-volume.service)
$start
stat -c %a /srv/data
cat /srv/data/work 2>/dev/null || echo work >/srv/data/work
"""


@pytest.fixture
def disks(tmp_path: Path) -> Iterator[list[str]]:
    """A node's root and an empty disk, as devices."""
    names = [str(tmp_path / name) for name in ("root", "volume")]
    (tmp_path / "dev").mkdir()
    (tmp_path / "step").write_text(volume.script("data"))
    for name in names:
        Path(name).touch()
        os.truncate(name, 64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", names[0]], check=True)
    devices: list[str] = []
    try:
        for name in names:
            shown = subprocess.run(["losetup", "-f", "--show", name], capture_output=True, text=True)
            if shown.returncode:
                pytest.skip(f"no loop device: {shown.stderr}")
            devices.append(shown.stdout.strip())
        yield devices
    finally:
        for device in devices:
            subprocess.run(["losetup", "-d", device], check=True)


def start(tmp_path: Path, disks: list[str]) -> subprocess.CompletedProcess[str]:
    """What a first start of a node does with its step, and then systemd."""
    words = ["unshare", "-m", "--propagation", "private", "sh", "-c", _AROUND, "sh", str(tmp_path), *disks]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_an_empty_disk_becomes_a_volume_that_comes_back(tmp_path: Path, disks: list[str]) -> None:
    done = start(tmp_path, disks)
    assert (done.returncode, done.stdout) == (0, "1777\n"), done.stderr
    done = start(tmp_path, disks)
    assert (done.returncode, done.stdout) == (0, "1777\nwork\n"), done.stderr


def test_what_is_not_empty_is_left_alone(tmp_path: Path, disks: list[str]) -> None:
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "theirs", disks[1]], check=True)
    done = start(tmp_path, disks)
    assert done.returncode == 1
    assert "the volume is not there, or somebody has made something else of it" in done.stdout
    label = subprocess.run(["e2label", disks[1]], capture_output=True, text=True, check=True).stdout
    assert label == "theirs\n"
