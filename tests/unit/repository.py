"""A tiny apt repository on disk, signed with a throw-away key, so that apt's own checks really run."""

import contextlib
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from vclust_py.image.base import BASE_PACKAGES
from vclust_py.resolve import Lock, closure
from vclust_py.site import Site

KERNEL = "linux-image-cloud-amd64"


@dataclass(frozen=True)
class Repository:
    """`suite` is toy; `path` holds pool/ and dists/, `sources` is a deb822 file for it."""

    path: Path
    keys: Path

    @property
    def sources(self) -> Path:
        return self.path / "toy.sources"

    @property
    def pool(self) -> Path:
        return self.path / "pool"

    def site(self, root: Path, **settings: object) -> Site:
        return Site.from_mapping(
            {"root": str(root), "suite": "toy", "sources": str(self.sources), **settings}
        )

    def write_sources(self, suites: str = "toy") -> None:
        self.sources.write_text(
            f"Types: deb\nURIs: file:{self.path}\nSuites: {suites}\nComponents: main\n"
            f"Signed-By: {self.path}/toy.gpg\n"
        )

    def add(
        self,
        name: str,
        version: str = "1.0",
        files: Callable[[Path], None] | None = None,
        pool: str = "pool",
        **fields: str,
    ) -> None:
        """Build a package into the pool; fields' underscores stand for dashes."""
        folder = self.path / "new"
        (folder / "DEBIAN").mkdir(parents=True)
        lines = {
            "Package": name,
            "Version": version,
            "Architecture": "all",
            "Maintainer": "Nobody <nobody@example.org>",
            "Installed-Size": "7",
            "Description": "toy",
            **{key.replace("_", "-"): value for key, value in fields.items()},
        }
        (folder / "DEBIAN" / "control").write_text(
            "".join(f"{key}: {value}\n" for key, value in lines.items())
        )
        if files is not None:
            files(folder)
        (self.path / pool).mkdir(exist_ok=True)
        target = self.path / pool / f"{name}_{version.split(':')[-1]}_all.deb"
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "-b", folder, target], check=True, capture_output=True
        )
        shutil.rmtree(folder)

    def secure(self, name: str, version: str, **fields: str) -> None:
        """Have the package in an archive for security updates, which the sources name from then on."""
        self.add(name, version, pool="pool-security", **fields)
        self.publish("toy-security", "pool-security")
        self.write_sources("toy toy-security")

    def publish(self, suite: str = "toy", pool: str = "pool") -> None:
        """Write and sign the index of what is in the pool."""
        dist = f"dists/{suite}"
        index = self.path / dist / "main/binary-amd64"
        index.mkdir(parents=True, exist_ok=True)
        run = functools.partial(subprocess.run, cwd=self.path, check=True, capture_output=True, text=True)
        (index / "Packages").write_text(run(["apt-ftparchive", "packages", pool]).stdout)
        options = ["Suite", suite, "Codename", suite, "Components", "main", "Architectures", "amd64"]
        words = [
            f"-oAPT::FTPArchive::Release::{key}={value}"
            for key, value in zip(options[::2], options[1::2], strict=True)
        ]
        release = run(["apt-ftparchive", *words, "release", dist]).stdout
        (self.path / dist / "Release").write_text(release)
        (self.path / dist / "InRelease").unlink(missing_ok=True)
        self.gpg("--clearsign", "-o", f"{dist}/InRelease", f"{dist}/Release")

    def gpg(self, *words: str) -> None:
        home = {**os.environ, "GNUPGHOME": str(self.keys)}
        argv = ["gpg", "--batch", "--passphrase", "", *words]
        subprocess.run(argv, cwd=self.path, env=home, check=True, capture_output=True)


@contextlib.contextmanager
def a_repository(path: Path) -> Iterator[Repository]:
    """The toy repository, in the folder `path`; without its keys at the end."""
    keys = Path(f"/tmp/vclust-keys-{os.getpid()}")
    keys.mkdir(mode=0o700)  # gpg's socket needs a short path
    try:
        repository = Repository(path, keys)
        for name in {*BASE_PACKAGES, KERNEL, "apt"}:
            repository.add(name)
        repository.add("core", Essential="yes")
        repository.add("hello", "2:1.5-1", Depends="libgreet (>= 1)", Recommends="never-wanted")
        repository.add("libgreet", "1.5+dfsg~1")
        repository.add("never-wanted")
        repository.add("either", Depends="no-such | libgreet")
        repository.add("mailer", Depends="mail-agent")
        repository.add("exim", Provides="mail-agent")
        repository.add("two-a", Provides="two")
        repository.add("two-b", Provides="two")
        repository.add("fight-a", Conflicts="fight-b")
        repository.add("fight-b")
        repository.add("broken", Depends="libgreet (>= 99)")
        repository.add("evicts", Conflicts="core")
        repository.add("full", files=_rich)
        repository.gpg("--quick-gen-key", "Toy <toy@example.org>", "ed25519", "sign", "never")
        repository.gpg("--export", "-o", "toy.gpg")
        repository.publish()
        repository.write_sources()
        yield repository
    finally:
        subprocess.run(["gpgconf", "--homedir", keys, "--kill", "all"], check=False)
        shutil.rmtree(keys, ignore_errors=True)  # gpg-agent takes its sockets away at the same moment


@pytest.fixture(scope="session")
def toys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    """Never changed by a test; `toy` is a copy of it for one test."""
    with a_repository(tmp_path_factory.mktemp("repository")) as repository:
        yield repository


@pytest.fixture
def toy(toys: Repository, tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "repository", toys.keys)
    shutil.copytree(toys.path, repository.path)
    repository.write_sources()
    return repository


def _rich(folder: Path) -> None:
    """What re-packing must keep: hard and symbolic links, modes, an odd size, an empty file and folder."""
    place = folder / "usr/share/full"
    (place / "empty.d").mkdir(parents=True)
    (place / "text").write_bytes(b"abc" * 1001)
    os.link(place / "text", place / "same")
    (place / "link").symlink_to("text")
    (place / "empty").touch()
    os.chmod(place / "text", 0o2750)  # noqa: S103
    (folder / "etc").mkdir()
    (folder / "etc/full.conf").write_text("x\n")
    (folder / "DEBIAN/conffiles").write_text("/etc/full.conf\n")


def quiet(message: str, done: int, total: int) -> None:
    pass


def lock_of(site: Site, *names: str) -> Lock:
    """What installing these packages of the toy repository takes."""
    return closure(names, suite="toy", architecture="amd64", kernel=KERNEL, site=site, report=quiet)
