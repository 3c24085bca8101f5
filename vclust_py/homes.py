"""Homes that outlive clusters (`Home: site`): each owner's are a file system of their own on the site manager.

Names of users are chosen freely in requests: they mean somebody for their owner only, and so do their numbers, which
stay the same in all clusters of that owner.  The file system is in a file, all of whose space is reserved: what users
write fills nobody else's disk, and no file handle that a node's root makes up (NFS) leads out of it.

In the site's folder of homes, for root only, is a folder for each owner: `homes.ext4`, and `users.json` with the
owner's name, the users' numbers, and whose homes are made.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from vclust_py import home_mount
from vclust_py.errors import RequestError, VclustError
from vclust_py.guest.cluster_disk import FIRST_UID
from vclust_py.request.values import size_text
from vclust_py.run import CommandError, run
from vclust_py.site.settings import HomesSetting, Site

RUN = Path("/run/vclust/homes")
"""A folder for each segment with a server, and one to mount on, by each in a mount namespace of its own."""
_RECORD = "users.json"
PACKAGES = {
    "ganesha.nfsd": "nfs-ganesha-vfs",
    "bwrap": "bubblewrap",
    "mkfs.ext4": "e2fsprogs",
    "nsenter": "util-linux",
}
"""By each program the package that has it."""


@dataclass(frozen=True)
class Homes:
    """One owner's; `size` in bytes, `users` their numbers by name."""

    owner: str
    folder: Path
    users: dict[str, int]
    size: int

    @property
    def image(self) -> Path:
        return self.folder / "homes.ext4"


def setting(site: Site) -> HomesSetting:
    """The site's setting.  Raises RequestError where it has none."""
    if site.homes is None:
        raise RequestError(
            ["Home: got 'site', but this site keeps no homes, expected local or shared"],
            "its administrator allows it by vclust_site.homes (docs/life.md)",
        )
    return site.homes


def require(site: Site) -> None:
    """Raises RequestError where the site keeps no homes, VclustError where it lacks a program for that."""
    setting(site)
    if lacking := sorted({package for program, package in PACKAGES.items() if not _path(program)}):
        raise VclustError(
            f"Home: site: the site manager lacks {', '.join(lacking)}",
            "vclust site rollout installs what is missing"
            f" (or: RUNLEVEL=1 apt-get install --no-install-recommends {' '.join(lacking)})",
        )


def _path(program: str) -> str | None:
    """With the folders of daemons, which a user's PATH may lack."""
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def prepare(site: Site, owner: str, users: Sequence[str]) -> Homes:
    """The owner's homes, with one for each of these users; what is there stays.

    They grow where the site's setting has become larger and nobody uses them.  Raises VclustError where there is no
    space for them, RequestError where the site keeps none.
    """
    size = setting(site).size
    with alone():
        folder = _folder(site, owner)
        homes = Homes(owner, folder, {}, 0)
        known = (folder / _RECORD).exists() or homes.image.exists()
        kept = _kept(folder) if known else _Kept(owner)
        for user in users:
            kept.users.setdefault(user, max(kept.users.values(), default=FIRST_UID - 1) + 1)
        try:
            for path in (folder.parent, folder):
                if not path.exists():
                    path.mkdir(parents=True)
                    path.chmod(0o700)  # whatever the umask
            # Before any home: what is interrupted must not give a number to somebody else.
            _write(folder, kept)
            if kept.size < size and not _is_mounted(homes.image):
                _reserve(homes.image, size)
                kept.size = size
        except OSError as error:
            raise VclustError(
                f"{error.filename or folder}: homes cannot be kept there: {error.strerror}",
                f"each owner's take {size_text(size)}: free some space there, or set another path or size in"
                " vclust_site.homes",
            ) from error
        if new := [user for user in users if user not in kept.made]:
            _make(homes.image, {user: kept.users[user] for user in new})
            kept.made += new
        _write(folder, kept)
        return replace(homes, users=kept.users, size=kept.size)


def _make(image: Path, users: dict[str, int]) -> None:
    """Homes in the image for these users."""
    given = {"image": str(image), "folder": str(mount_point()), "users": users, "serve": None}
    run([*PRIVATE, sys.executable, "-IS", home_mount.__file__], stdin=json.dumps(given))


def mount_point() -> Path:
    """Where each process mounts, for itself."""
    (RUN / "mnt").mkdir(mode=0o700, exist_ok=True)
    return RUN / "mnt"


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Of all on this machine that mount homes, or change what is written down of them."""
    RUN.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(RUN / "mutex", "w", encoding="ascii") as mutex:
        fcntl.flock(mutex, fcntl.LOCK_EX)
        yield


PRIVATE = ("unshare", "--mount", "--propagation", "private", "--")
"""Put before a command, it has mounts of its own."""


def every(site: Site) -> list[Homes]:
    """All that the site keeps, by owner."""
    if site.homes is None:
        return []
    folders = [path.parent for path in site.homes.path.glob(f"*/{_RECORD}")]
    found = [(folder, _kept(folder)) for folder in folders]
    homes = [Homes(kept.owner, folder, kept.users, kept.size) for folder, kept in found]
    return sorted(homes, key=lambda one: one.owner)


def remove(site: Site, owner: str, users: Callable[[], Sequence[str]]) -> None:
    """Remove all of the owner's homes.  Raises RequestError where clusters use them, whose names are `users`."""
    with alone():
        require_unused(owner, users())
        shutil.rmtree(_folder(site, owner))


def require_unused(owner: str, users: Sequence[str]) -> None:
    """Raises RequestError where clusters use the owner's homes, whose names are `users`."""
    if users:
        raise RequestError(
            [f"{owner}: these homes are in use by {', '.join(users)}"],
            f"first: {'; '.join(f'vclust destroy {name}' for name in users)}",
        )


def _folder(site: Site, owner: str) -> Path:
    """The owner's; no name of a user begins with a tilde."""
    plain = re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}", owner)
    return setting(site).path / (owner if plain else f"~{hashlib.sha256(owner.encode()).hexdigest()}")


@dataclass
class _Kept:
    """What is written down of an owner's homes."""

    owner: str
    users: dict[str, int] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    size: int = 0
    """Bytes of the file system; 0: there is none yet."""


def _kept(folder: Path) -> _Kept:
    try:
        return _Kept(**json.loads((folder / _RECORD).read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise VclustError(
            f"{folder / _RECORD}: got {error}, expected the numbers of the users, to whom the homes belong",
            f"bring it back from a backup; if nobody needs these homes: rm -r {folder}",
        ) from error


def _write(folder: Path, kept: _Kept) -> None:
    draft = folder / f".{_RECORD}"
    with open(draft, "w", encoding="utf-8") as file:
        json.dump(asdict(kept), file)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(folder / _RECORD)


def _is_mounted(image: Path) -> bool:
    """Whether a server has the image: its loop device goes with the last mount."""
    return image.exists() and bool(run(["losetup", "--associated", image]))


def _reserve(image: Path, size: int) -> None:
    """Make the image, or have it grow.  Raises OSError, CommandError."""
    there = image.stat().st_size if image.exists() else 0
    draft = image if there else image.with_name(".homes.ext4")
    with open(draft, "r+b" if there else "wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            os.ftruncate(file.fileno(), there)
            raise OSError(error.errno, error.strerror, str(image)) from error
    if there:
        with contextlib.suppress(CommandError):  # what it has mended is no failure of it
            run(["e2fsck", "-f", "-p", image])
        run(["resize2fs", image])
        return
    draft.chmod(0o600)
    # Nothing of the reserved space is given back (nodiscard), and none is root's.
    run(["mkfs.ext4", "-q", "-F", "-m", "0", "-E", "nodiscard", "-L", "homes", draft])
    draft.rename(image)
