"""A full disk is told as such; other failures stay what they are."""

import errno
import re
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.image.space import free_bytes, mount_point, naming_full_disk, require_space
from vclust_py.run import CommandError


def test_a_full_disk_names_its_file_system(tmp_path: Path) -> None:
    for error in (
        OSError(errno.ENOSPC, "no"),
        CommandError(["qemu-img"], "exit status 1", "write failed: No space left on device"),
    ):
        with (
            pytest.raises(VclustError, match="not enough space on the file system") as caught,
            naming_full_disk(tmp_path),
        ):
            raise error
        assert str(mount_point(tmp_path)) in str(caught.value)


def test_a_disk_too_full_for_what_comes_is_the_same_error_with_what_is_needed(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    needed = free_bytes(tmp_path) + (1 << 40)
    place = re.escape(str(mount_point(tmp_path)))
    with pytest.raises(
        VclustError,
        match=rf"not enough space on the file system {place}: \d+ MB free, {needed >> 20} MB needed\n",
    ):
        require_space(tmp_path, needed)


def test_other_failures_pass(tmp_path: Path) -> None:
    for error in (OSError(errno.EACCES, "no"), CommandError(["qemu-img"], "exit status 1", "bad format")):
        with pytest.raises(type(error)) as caught, naming_full_disk(tmp_path):
            raise error
        assert caught.value is error


def test_mount_point_of_the_root() -> None:
    assert mount_point(Path("/")) == Path("/")
    assert mount_point(Path("/proc/self/nothing")) == Path("/proc")
