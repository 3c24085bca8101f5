"""A site's state in one file, and back: what cannot be made again of it, so that a new site manager can go on.

A tar file, packed with gzip, of files for root only:

backup.json       format and time, the schema of the database, settings, names of clusters; digests of all the others
state.db          the store, as it was at one moment
pki/              the site's authority, keys and certificates
locks/            the package locks of clusters
clusters/*/       of each live cluster its keys, the nodes' seeds and the cluster's disk
images/*.json     what images there were; to look at, they are not restored

Not in it, as they are made again: images, packages, apt's indices, caches.  Nor are the nodes' own disks: they are on
the hosts, and those of nodes on the site manager itself go with its machine.
"""

import contextlib
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from vclust_py.errors import RequestError, VclustError
from vclust_py.image import file_digest, sync
from vclust_py.image.space import naming_full_disk
from vclust_py.site import clusters
from vclust_py.site.migrations import STEPS
from vclust_py.site.settings import Site
from vclust_py.site.store import Store, audit, check_file, migrate_file

FORMAT = 1
"""Of the archive; the database in it has its own number."""

_HEADER, _DATABASE = "backup.json", "state.db"
_MOST_HEADER = 64 << 20  # bytes
_FILE = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,254}"
_MEMBERS = (
    _DATABASE,
    rf"pki/{_FILE}",
    r"locks/[0-9a-f]{64}\.json",
    rf"clusters/{_FILE}/(keys/)?{_FILE}",
    rf"images/{_FILE}\.json",
)
"""What may be in an archive beside its header."""
_KEPT = (".img", ".iso")
"""Endings of a cluster's files that are kept: seeds and the cluster's disk, not overlays and consoles."""
_LOCK_TIMEOUT = 10.0
_MODES = (0o600, 0o644)


@dataclass(frozen=True)
class Header:
    """What an archive says of itself.  `created` is Unix time, `files` maps names in the archive to sha256."""

    format: int
    schema: int
    created: float
    settings: Mapping[str, Any]
    clusters: tuple[str, ...]
    """Names of the live ones."""
    files: Mapping[str, str]

    @classmethod
    def from_json(cls, text: bytes, source: Path) -> "Header":
        """Raises VclustError unless it is one of a format that this version knows."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise VclustError(
                    f"{source}: got a backup of format {data['format']}, expected {FORMAT}",
                    "a newer vclust has written it: use that one",
                )
            header = cls(
                format=FORMAT,
                schema=int(data["schema"]),
                created=float(data["created"]),
                settings=dict(data["settings"]),
                clusters=tuple(map(str, data["clusters"])),
                files={str(name): str(digest) for name, digest in data["files"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise VclustError(f"{source}: not a backup of vclust: {_HEADER}: {error}") from error
        for name in header.files:
            if not any(re.fullmatch(pattern, name) for pattern in _MEMBERS):
                raise VclustError(f"{source}: not a backup of vclust: holds '{name}'")
        return header


@dataclass(frozen=True)
class Restored:
    """What a restoration has done, or would do.  `earlier` is a backup of the state that was there; empty: none."""

    header: Header
    before: Mapping[str, Any]
    after: Mapping[str, Any]
    earlier: str = ""
    unknown: tuple[str, ...] = ()
    """Live clusters of the state that was there, which the backup does not have."""


def write(store: Store, path: Path) -> Header:
    """Write the site's state to `path`, whole or not at all, for its owner only; the site may be in use meanwhile.

    Raises VclustError when it cannot be read or written.
    """
    with _folder(store.site) as folder:
        return _write(store, path, folder / _DATABASE)


def _write(store: Store, path: Path, copy: Path) -> Header:
    """As `write`; `copy` is where the database may be in between."""
    site = store.site
    with _plain_errors(path), naming_full_disk(path.parent):
        store.copy_to(copy)
        live = clusters.live_in(copy)
        names, files = tuple(live), _collected(site, live.values())
        digests = {name: hashlib.sha256(data).hexdigest() for name, (data, _) in files.items()}
        digests[_DATABASE] = file_digest(copy)
        header = Header(FORMAT, len(STEPS), time.time(), site.to_mapping(), names, digests)
        draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with (
                open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
                tarfile.open(fileobj=file, mode="w:gz", compresslevel=6) as archive,
            ):
                _add(archive, _HEADER, json.dumps(asdict(header), indent=1).encode(), 0o600)
                archive.add(copy, _DATABASE, filter=_root_only)
                for name, (data, mode) in sorted(files.items()):
                    _add(archive, name, data, mode)
            sync(draft)
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        sync(path.parent)
    return header


def restore(store: Store, path: Path, *, replace: bool = False, check: bool = False) -> Restored:
    """Make the state in the archive `path` the site's own; the database comes last, and of an older schema forward.

    Raises VclustError when the archive is damaged or of a newer version; RequestError when the site has clusters or
    another authority already, unless `replace`: then what was there is backed up beside it first, and clusters that the
    archive does not have are forgotten.
    """
    site = store.site
    with _folder(site, check=check) as folder, _plain_errors(path):
        header = _extract(path, folder)
        try:
            check_file(folder / _DATABASE)
        except VclustError as error:
            raise VclustError(f"{path}: {_DATABASE}: {error}") from error
        present = set(clusters.names(store))
        before = {"clusters": sorted(present), "authority": _authority(site.pki)}
        after = {"clusters": sorted(header.clusters), "authority": _authority(folder / "pki")}
        own = clusters.any_ever(store) or (before["authority"] and before["authority"] != after["authority"])
        if own and not replace:
            raise RequestError(
                [f"{site.root}: got a site with a state of its own ({_told(before)}), expected a new one"],
                "to put the backup in its place, after a copy of it: --replace",
            )
        unknown = tuple(sorted(present - set(header.clusters)))
        if check:
            return Restored(header, before, after, "", unknown)
        earlier = ""
        with contextlib.ExitStack() as held:
            for name in sorted(present):
                held.enter_context(clusters.locked(store, name, timeout=_LOCK_TIMEOUT))
            if own:
                kept = site.root / f"before-restore-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz"
                _write(store, kept, folder / f"earlier-{_DATABASE}")
                earlier = str(kept)
            with naming_full_disk(site.root):
                _put_back(site, folder, header.files)
            migrate_file(folder / _DATABASE)
            clusters.skip_numbers(folder / _DATABASE)
            store.replace_by(folder / _DATABASE)
            audit(store, "restore", "", f"{path.name}, of {_day(header.created)}")
        return Restored(header, before, after, earlier, unknown)


def _collected(site: Site, folders: Iterable[str]) -> dict[str, tuple[bytes, int]]:
    """Name in the archive → content and mode, of all but the database.

    Each file was written whole under its name; what goes meanwhile has been destroyed.
    """
    with site.file_lock("pki", timeout=_LOCK_TIMEOUT):
        files = _read(site.pki, "pki", lambda name: not name.endswith(".tmp"))
    files |= _read(site.locks, "locks", lambda name: re.fullmatch(r"[0-9a-f]{64}\.json", name) is not None)
    files |= _read(site.images, "images", lambda name: name.endswith(".json"))
    for folder in folders:
        path, name = site.clusters / folder, f"clusters/{folder}"
        files |= _read(path, name, lambda name: name.endswith(_KEPT))
        files |= _read(path / "keys", f"{name}/keys", lambda name: not name.endswith(".tmp"))
    return files


def _read(folder: Path, name: str, wanted: Callable[[str], bool]) -> dict[str, tuple[bytes, int]]:
    found = {}
    with contextlib.suppress(FileNotFoundError):
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            named = re.fullmatch(_FILE, entry.name) and wanted(entry.name)  # drafts begin with a dot
            if not named or not entry.is_file(follow_symlinks=False):
                continue
            with contextlib.suppress(FileNotFoundError):
                public = entry.stat().st_mode & 0o004
                found[f"{name}/{entry.name}"] = (Path(entry).read_bytes(), _MODES[bool(public)])
    return found


def _add(archive: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), mode, int(time.time())
    archive.addfile(member, io.BytesIO(data))


def _root_only(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.mode, member.uid, member.gid, member.uname, member.gname = 0o600, 0, 0, "", ""
    return member


def _extract(path: Path, folder: Path) -> Header:
    """The archive's files below `folder`, each checked by its digest; nothing that the header does not name."""
    with _damaged(path), tarfile.open(path, "r:gz") as archive:
        first = archive.next()
        if first is None or first.name != _HEADER or not first.isreg() or first.size > _MOST_HEADER:
            raise VclustError(f"{path}: not a backup of vclust: does not begin with {_HEADER}")
        header = Header.from_json(_content(archive, first).read(), path)
        left = dict(header.files)
        while (member := archive.next()) is not None:
            wanted = left.pop(member.name, None)
            if wanted is None or not member.isreg():
                raise VclustError(f"{path}: damaged: {member.name} is no file that {_HEADER} names")
            target = folder / member.name
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                shutil.copyfileobj(_content(archive, member), file)
            target.chmod(0o644 if member.mode & 0o004 else 0o600)
            if file_digest(target) != wanted:
                raise VclustError(f"{path}: damaged: {member.name} is not what {_HEADER} says")
    if left:
        raise VclustError(f"{path}: damaged: {min(left)} is missing, and {len(left) - 1} more")
    return header


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None  # noqa: S101 - of a regular file there is one
    return content


def _put_back(site: Site, folder: Path, names: Iterable[str]) -> None:
    """Every file to its place, whole; folders as their makers have them.  Nothing of another authority stays."""
    site.make_directories()
    written = set()
    with site.file_lock("pki", timeout=_LOCK_TIMEOUT):
        for name in sorted(names):
            top, *below = name.split("/")
            if top in ("images", _DATABASE):
                continue
            target = site.root / name
            if top == "clusters":
                cluster = site.clusters / below[0]
                cluster.mkdir(exist_ok=True)
                cluster.chmod(0o711)  # hypervisor processes walk through it
            target.parent.mkdir(mode=0o700, exist_ok=True)
            draft = target.with_name(f".{target.name}.tmp")
            shutil.copy(folder / name, draft)
            sync(draft)
            draft.replace(target)
            written.add(target.parent)
        for other in set(site.pki.glob("*")) - {site.root / name for name in names}:
            other.unlink()
    for parent in written:
        sync(parent)


def _authority(pki: Path) -> str:
    """What tells one authority from another; empty: there is none."""
    with contextlib.suppress(FileNotFoundError):
        return hashlib.sha256((pki / "cacert.pem").read_bytes()).hexdigest()[:16]
    return ""


def _told(state: Mapping[str, Any]) -> str:
    named = ", ".join(state["clusters"]) or "none now"
    return f"clusters: {named}; authority: {state['authority'] or 'none'}"


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(moment))


@contextlib.contextmanager
def _folder(site: Site, *, check: bool = False) -> Iterator[Path]:
    """A folder of root's alone; beside the state, as /tmp may be memory, unless nothing may be made there."""
    if check:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    with site.file_lock("backup", timeout=_LOCK_TIMEOUT):
        place = site.root / "backup.tmp"
        shutil.rmtree(place, ignore_errors=True)  # of one that was killed
        place.mkdir(mode=0o700)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _damaged(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise VclustError(f"{path}: damaged, or not a backup of vclust: {error}") from error


@contextlib.contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise VclustError(f"{error.filename or path}: {error.strerror or error}") from error
