"""A full disk is one clear error that names the place, wherever in the building it shows."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from vclust_py.errors import VclustError
from vclust_py.run import CommandError


@contextlib.contextmanager
def naming_full_disk(path: Path) -> Iterator[None]:
    """Around work that writes below `path`: VclustError naming its file system when that is full."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise full_disk(path) from error
    except CommandError as error:
        # What a program says of a full disk is in its own words; what the disk says of itself is not.
        if os.strerror(errno.ENOSPC) not in error.output and free_bytes(path) > 1 << 20:
            raise
        raise full_disk(path) from error


def full_disk(path: Path, needed: int = 0) -> VclustError:
    """The one error for it, whichever check sees it first; `needed` are bytes, where they are known."""
    place = mount_point(path)
    wanted = f", {needed >> 20} MB needed" if needed else ""
    return VclustError(
        f"{path}: not enough space on the file system {place}: {free_bytes(place) >> 20} MB free{wanted}",
        "free some space there, or give the site another root",
    )


def require_space(path: Path, needed: int) -> None:
    """Raises VclustError when the file system of `path` has less than `needed` bytes free."""
    if free_bytes(path) < needed:
        raise full_disk(path, needed)


def free_bytes(path: Path) -> int:
    status = os.statvfs(path)
    return status.f_bavail * status.f_frsize


def mount_point(path: Path) -> Path:
    path = path.resolve()
    while not path.is_mount():
        path = path.parent
    return path
