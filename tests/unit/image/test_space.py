"""A full disk is told as such; other failures stay what they are."""

import errno
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.image.space import mount_point, naming_full_disk
from vclust_py.run import CommandError


def test_a_full_disk_names_its_file_system(tmp_path: Path) -> None:
    for error in (
        OSError(errno.ENOSPC, "no"),
        CommandError(["qemu-img"], "exit status 1", "write failed: No space left on device"),
    ):
        with (
            pytest.raises(VclustError, match="no space left on the file system") as caught,
            naming_full_disk(tmp_path),
        ):
            raise error
        assert str(mount_point(tmp_path)) in str(caught.value)


def test_other_failures_pass(tmp_path: Path) -> None:
    for error in (OSError(errno.EACCES, "no"), CommandError(["qemu-img"], "exit status 1", "bad format")):
        with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path):
            raise error
        assert caught.value is error


def test_mount_point_of_the_root() -> None:
    assert mount_point(Path("/")) == Path("/")
    assert mount_point(Path("/proc/self/nothing")) == Path("/proc")
