"""Archives of files that go to their places in a node: ustar, for busybox; owners are numbers."""

import gzip
import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class File:
    """A file, or with `data` None a folder; its path is relative to /; `owner` is uid and gid."""

    path: str
    data: bytes | None
    mode: int = 0o644
    owner: int = 0


def text(path: str, content: str, mode: int = 0o644, owner: int = 0) -> File:
    return File(path, content.encode(), mode, owner)


def folder(path: str, mode: int, owner: int = 0) -> File:
    return File(path, None, mode, owner)


def packed(files: Iterable[File]) -> bytes:
    """The gzip-compressed archive; the same files always give the same bytes."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in files:
            member = tarfile.TarInfo(file.path)
            member.type = tarfile.DIRTYPE if file.data is None else tarfile.REGTYPE
            member.mode, member.uid, member.gid = file.mode, file.owner, file.owner
            member.size = len(file.data or b"")
            archive.addfile(member, io.BytesIO(file.data or b""))
    return gzip.compress(out.getvalue(), mtime=0)
