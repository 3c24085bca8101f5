"""The package store: every .deb once, as signed by the archive, and a fast copy.

Unpacking an archive's .deb spends two thirds of its time in xz.  The fast copy differs in nothing but the
compression of its data: the tar stream inside is the same byte for byte, so owners, modes, links and order
are too.
"""

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vclust_py.apt import AptRoot
from vclust_py.errors import VclustError
from vclust_py.image import Report, file_digest, sync
from vclust_py.image.space import naming_full_disk
from vclust_py.image.watching import watched
from vclust_py.lock import Lock, Package
from vclust_py.run import DYING_WITH_PARENT, CommandError, run
from vclust_py.site import Site

APT_HELPER = "/usr/lib/apt/apt-helper"
_BATCH = 16
"""Packages in one call of apt's downloader: the next ones arrive while these are packed."""


def signed_copy(site: Site, package: Package) -> Path:
    """Where the .deb as signed by the archive is kept."""
    return site.packages / "signed" / f"{package.sha256}.deb"


def fast_copy(site: Site, package: Package) -> Path:
    """Where the fast copy is kept; `<name>.sum` beside it holds its sha256, without which it does not count."""
    return site.packages / "fast" / f"{package.sha256}.deb"


def files_of(site: Site) -> dict[str, list[Path]]:
    """All files of each package in the store, by its sha256."""
    found: dict[str, list[Path]] = {}
    for path in (*site.packages.glob("signed/*.deb"), *site.packages.glob("fast/*")):
        found.setdefault(path.stem, []).append(path)
    return found


def stored(site: Site, package: Package) -> bool:
    """Whether the package need not be downloaded."""
    path = signed_copy(site, package)
    return bool(package.sha256) and path.exists() and path.stat().st_size == package.size


def control(deb: Path) -> dict[str, str]:
    """The one-line fields of the package's own description, as deb-control(5) names them."""
    text = run(["dpkg-deb", "--field", deb, "Package", "Version", "Architecture", "Installed-Size"])
    return dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)


def missing(site: Site, packages: Iterable[Package]) -> tuple[Package, ...]:
    """The packages a fetch would download; the sum of their `size` is what `plan` shows."""
    return tuple(package for package in packages if not stored(site, package))


def give_to_apt(site: Site, packages: Iterable[Package], folder: Path) -> None:
    """Copy those packages that are stored to `folder`, apt's cache of archives, where apt takes them unseen."""
    for package in packages:
        path = signed_copy(site, package)
        if stored(site, package) and file_digest(path) == package.sha256:
            shutil.copyfile(path, folder / package.filename)


def fetch(site: Site, lock: Lock, report: Report) -> tuple[Path, ...]:
    """Fast copies of all packages of the lock, in its order; downloads and packs what is not there yet.

    apt downloads, so that proxies, certificates and credentials hold; every file is checked against the
    lock's sha256.  Raises VclustError for what cannot be had.
    """
    site.make_directories()
    for package in lock.packages:  # the least recently used go when there is no space for them
        with contextlib.suppress(FileNotFoundError):
            os.utime(fast_copy(site, package))
    wanted = [package for package in lock.packages if not _packed(site, package)]
    if wanted:
        with site.file_lock("packages"), naming_full_disk(site.packages):
            # Another fetch may have brought them while this one waited.
            wanted = [package for package in wanted if not _packed(site, package)]
            if wanted:
                _fetch(site, lock, wanted, report)
    return tuple(fast_copy(site, package) for package in lock.packages)


def _fetch(site: Site, lock: Lock, wanted: Sequence[Package], report: Report) -> None:
    folder = site.packages / "new.tmp"
    shutil.rmtree(folder, ignore_errors=True)  # of a fetch that was killed
    for path in (folder, site.packages / "signed", site.packages / "fast"):
        path.mkdir(mode=0o700, exist_ok=True)
    root = AptRoot(site, lock.suite, lock.architecture)
    downloads = missing(site, wanted)
    total = sum(package.size for package in downloads)
    done = 0
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            present = set(wanted) - set(downloads)
            packing = [pool.submit(_pack, site, package, folder) for package in wanted if package in present]
            try:
                if downloads:
                    root.make()
                for start in range(0, len(downloads), _BATCH):
                    batch = downloads[start : start + _BATCH]
                    look = functools.partial(_arrived, batch, folder, done)
                    with watched(report, "downloading packages", look, total):
                        _download(site, root, batch, folder)
                    done += sum(package.size for package in batch)
                    packing += [pool.submit(_pack, site, package, folder) for package in batch]
                for count, future in enumerate(packing):
                    report("packing packages", count, len(packing))
                    future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _arrived(batch: Sequence[Package], folder: Path, before: int) -> int:
    """Bytes that are there, with those of the batches before."""
    paths = [folder / f"{package.sha256}.deb" for package in batch]
    return before + sum(path.stat().st_size for path in paths if path.exists())


def _download(site: Site, root: AptRoot, batch: Sequence[Package], folder: Path) -> None:
    words: list[str] = []
    for package in batch:
        if not package.uri or not package.sha256:
            raise VclustError(f"{package.identity}: the lock does not say where it comes from")
        words += [package.uri, str(folder / f"{package.sha256}.deb")]
        # apt stops a download that is longer than it should be.
        words += [f"SHA256:{package.sha256}", f"Checksum-FileSize:{package.size}"]
    try:
        root.run(APT_HELPER, "-q", "download-file", *words)
    except CommandError as error:
        root.expire()
        raise CommandError(["apt-helper"], "cannot download packages", error.output) from error
    for package in batch:
        path = folder / f"{package.sha256}.deb"
        if path.is_symlink():  # what apt makes of a file: URI
            source = path.resolve()
            path.unlink()
            if source.is_file() and source.stat().st_size == package.size:
                shutil.copyfile(source, path)
        if not path.exists() or path.stat().st_size != package.size or file_digest(path) != package.sha256:
            raise VclustError(f"{package.identity}: what {package.uri} gave is not what the lock names")
        os.replace(path, signed_copy(site, package))


def _packed(site: Site, package: Package) -> bool:
    """Whether the fast copy is there and whole: a power loss may have left less of it than was written."""
    path = fast_copy(site, package)
    try:
        noted = path.with_suffix(".sum").read_text(encoding="ascii").strip()
        return file_digest(path) == noted and stored(site, package)
    except (FileNotFoundError, UnicodeDecodeError):
        return False


def _pack(site: Site, package: Package, folder: Path) -> None:
    original, final = signed_copy(site, package), fast_copy(site, package)
    if file_digest(original) != package.sha256:
        original.unlink()
        raise VclustError(f"{original}: damaged, removed", "try again: it will be downloaded again")
    draft, note = folder / f"{package.sha256}.fast", folder / f"{package.sha256}.sum"
    with naming_full_disk(site.packages):
        repack(original, draft)
        note.write_text(f"{file_digest(draft)}\n", encoding="ascii")
        sync(draft)
        sync(note)
        os.replace(draft, final)
        os.replace(note, final.with_suffix(".sum"))


def repack(deb: Path, target: Path) -> None:
    """Write a copy of `deb` whose data member is compressed with zstd level 1; all else is the same bytes."""
    with open(target, "w+b") as out:
        out.write(b"!<arch>\n")
        for name, content in _members(deb):
            if name.startswith("data.tar"):
                break
            out.write(_header(name, len(content)) + content + b"\n" * (len(content) % 2))
        place = out.tell()
        out.write(_header("data.tar.zst", 0))
        out.flush()
        # Both ends of the pipe are programs: the data never passes through Python.
        with subprocess.Popen(
            [*DYING_WITH_PARENT, "dpkg-deb", "--fsys-tarfile", deb],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as tar:
            packed = subprocess.run(
                [*DYING_WITH_PARENT, "zstd", "-q", "-1", "-T1", "-c"],
                stdin=tar.stdout,
                stdout=out,
                stderr=subprocess.PIPE,
                check=False,
            )
            complaint = (tar.stderr.read() if tar.stderr else b"") + packed.stderr
        if tar.returncode or packed.returncode:
            raise CommandError(["dpkg-deb"], f"cannot re-pack {deb}", complaint.decode(errors="replace"))
        size = out.seek(0, os.SEEK_END) - place - 60
        out.write(b"\n" * (size % 2))
        out.seek(place)
        out.write(_header("data.tar.zst", size))


def _members(deb: Path) -> Iterable[tuple[str, bytes]]:
    """The members of an ar archive, deb(5)."""
    with open(deb, "rb") as file:
        if file.read(8) != b"!<arch>\n":
            raise VclustError(f"{deb}: not a Debian package")
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode().strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                yield name, b""  # large, and not wanted from here
                file.seek(size, os.SEEK_CUR)
            else:
                yield name, file.read(size)
            file.seek(size % 2, os.SEEK_CUR)


def _header(name: str, size: int) -> bytes:
    # Times and owners of members are ignored by dpkg; 0 makes the copy reproducible.
    return f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{size:<10}`\n".encode("ascii")
