"""Recipes have versions, raised by hand: here what each one makes is compared with its version."""

import gzip
import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from image.baseroot import PVH_NOTE, VERSION, bzimage, fill

from vclust_py import suspended, templates
from vclust_py.hypervisor import Domain, Host
from vclust_py.image import Catalogue, Image, base, builder, installer, tuning
from vclust_py.image.manifest import EXTENSIONS, REMOTE
from vclust_py.image.recipe import BASES, RECIPES
from vclust_py.image.store import fast_copy
from vclust_py.metapackages import MetaPackage
from vclust_py.resolve import Lock, Package
from vclust_py.site import PROJECT, Site
from vclust_py.site.session import Session

PINNED = {
    "base": ("4", "f4f82a4d1b34292b"),
    "kernel": ("973bb9b2444c", "11846f521fe0cb0d"),
    "base of trixie": ("5", "2608c50c77f9ec87"),
    "installer": ("7", "3c915db706f36ad5"),
    "cache": ("2", "4b4a9162ec51ea39"),
    "layer": ("1 7a39fc5e5a7b27312f5adc198f83248a3d4f5aa8a326e8a1c810288a2e2b24ff", "dd279e965db64466"),
    "template": ("4", "234c4c504df19535"),
    "suspended": ("3", "56628e6abf466f9e"),
    "bundle": ("1 7a39fc5e5a7b27312f5adc198f83248a3d4f5aa8a326e8a1c810288a2e2b24ff", "4c328b624e52da13"),
}
"""Version and digest of the output of each recipe."""

SOURCES = "Types: deb\nURIs: http://example.org/debian\nSuites: bookworm\nComponents: main\n"
KERNEL = "linux-image-cloud-amd64"
BASE = tuple(
    Package(name, "1", "amd64", 1, digit * 64, installed_size=1024)
    for name, digit in (
        ("bash", "1"),
        ("busybox-static", "2"),
        (f"linux-image-{VERSION}", "3"),
        (KERNEL, "4"),
    )
)
PACKAGES = tuple(
    Package(name, "2", "amd64", 1, name[0] * 64, installed_size=1 << 20) for name in ("abc", "def")
)
LOCK = Lock("bookworm", "amd64", KERNEL, BASE, PACKAGES, ("abc",))
META = MetaPackage("m", "", (), ("abc abc/x string y",), (), (), None)


def quiet(message: str, done: int, total: int) -> None:
    pass


class Recorder:
    """Stands in for `run`: writes down commands and what they find.  Places of this machine are SITE and PROJECT."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.lines: list[str] = []

    def __call__(self, argv: Sequence[str | Path], **options: Any) -> str:
        words = [str(word) for word in argv]
        environment = {key: value for key, value in options.get("env", {}).items() if key != "PATH"}
        self.note(" ".join(words), str(sorted(environment.items())))
        if "--mode=root" in words:
            root = fill(Path(words[-2]))
            self.note((root.parent / "apt.conf").read_text(), Path(words[-1]).read_text())
            (root / "boot").mkdir()
            (root / "boot" / f"vmlinuz-{VERSION}").write_bytes(b"kernel")
            (root / "var/lib/dpkg").mkdir(parents=True)
            (root / "var/lib/dpkg/status").write_text("status")
            (root / "etc/systemd/system/multi-user.target.wants").mkdir(parents=True)
            if words[-3] == "trixie":
                (root / tuning.EXECUTOR).parent.mkdir()
                (root / tuning.EXECUTOR).touch()
        elif words[0] == "dpkg-query" and "--admindir" in words[1]:
            return "\n".join(package.pinned for package in BASE)
        elif words[-1] == "--version":
            return "qemu-img version 1"
        elif words[0] == "mke2fs":
            self.note(*tree(Path(words[words.index("-d") + 1])))
        elif words[:2] == ["qemu-img", "convert"]:
            (options.get("cwd", Path()) / words[-1]).write_text("made")
        elif words[:2] == ["qemu-img", "create"]:
            Path(words[-2]).write_text("made")
        return ""

    def note(self, *texts: str) -> None:
        self.lines += [
            text.replace(sys.executable, "PYTHON")
            .replace(str(self.site.root), "SITE")
            .replace(str(PROJECT), "PROJECT")
            for text in texts
        ]

    def digest(self) -> str:
        return hashlib.sha256("\n".join(self.lines).encode()).hexdigest()[:16]


def tree(root: Path) -> list[str]:
    """Every path below `root` with its mode and what it holds, but for the kernel's modules, which are `fill`'s."""
    found = []
    for path in sorted(path for path in root.rglob("*") if not path.is_relative_to(root / "usr/lib/modules")):
        held = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else ""
        found.append(f"{path.relative_to(root)} {path.lstat().st_mode:o} {held!r}")
    return found


@pytest.fixture
def site(tmp_path: Path) -> Site:
    listed = tmp_path / "list.sources"
    listed.write_text(SOURCES)
    site = Site(root=tmp_path / "site", sources=str(listed))
    site.make_directories()
    return site


@pytest.fixture
def recorder(site: Site, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(site)
    monkeypatch.setattr(base, "run", recorder)
    # The same is made there, by words that differ.
    monkeypatch.setattr(base, "_available_memory", lambda: 0)
    monkeypatch.setattr(builder, "run", recorder)
    monkeypatch.setattr(base.AptRoot, "make", lambda self: None)
    monkeypatch.setattr(base.AptRoot, "transport", lambda self: "")
    monkeypatch.setattr("os.sync", lambda: None)

    def fetch(site: Site, lock: Lock, report: object) -> tuple[Path, ...]:
        copies = tuple(fast_copy(site, package) for package in lock.packages)
        for copy in copies:
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text("deb")
        return copies

    def install(work: Path, state: str, report: object) -> dict[str, float]:
        recorder.note(
            " ".join(builder._command(work, state)), builder._SCRIPT.read_text(), *tree(work / "packages")
        )
        return {}

    monkeypatch.setattr(builder, "fetch", fetch)
    monkeypatch.setattr(builder, "_install", install)
    return recorder


def a_base(site: Site) -> Image:
    (site.images / "new").write_text("base")
    return Catalogue(site).add(site.images / "new", kind="base", key="k", virtual_size=3 << 30)


def make_base(site: Site, recorder: Recorder) -> None:
    recorder.note(*tuning.REMOVED)
    base.ensure_base(site, LOCK, quiet)


def make_base_of_trixie(site: Site, recorder: Recorder) -> None:
    Path(str(site.sources)).write_text(SOURCES.replace("bookworm", "trixie"))
    base.ensure_base(site, replace(LOCK, suite="trixie"), quiet)


def make_kernel(site: Site, recorder: Recorder) -> None:
    folder = site.root
    for image in (bzimage(gzip.compress(b"\x7fELF" + PVH_NOTE, mtime=0)), b"MZ" + bytes(0x300)):
        (folder / "vmlinuz").write_bytes(image)
        recorder.note(str(installer.raw_kernel(folder / "vmlinuz", folder).read_bytes()))


def make_installer(site: Site, recorder: Recorder) -> None:
    installer.build(fill(site.root / "root"), site.root / "installer")
    recorder.note(str((site.root / "installer").read_bytes()))


def make_cache(site: Site, recorder: Recorder) -> None:
    parent = a_base(site)
    for state in ("unpacked", "configured"):
        builder.ensure_cache(site, LOCK, parent, state, quiet)


def make_layer(site: Site, recorder: Recorder) -> None:
    builder.ensure_layer(site, LOCK, a_base(site), [META], quiet)


def make_bundle(site: Site, recorder: Recorder) -> None:
    builder.ensure_bundle(site, LOCK, [META], quiet)


class Freezing:
    """Writes down what it is to freeze."""

    host = Host("here")

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def identity(self) -> str:
        return "this host"

    def workplace(self, folder: str) -> None:
        return None

    def workplaces(self) -> list[str]:
        raise AssertionError

    def freeze(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        self._recorder.note(f"{domain.cpus} {domain.memory} {domain.command_line}")
        self._recorder.note(*(f"{disk.path.name} {disk.format} {disk.readonly}" for disk in domain.disks))
        for path in (folder / "memory", state):
            path.write_text(path.name)

    suspend = freeze

    def fork(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        raise AssertionError

    resume = fork

    def clear(self, uuids: Iterable[str]) -> list[str]:
        raise AssertionError


def make_template(site: Site, recorder: Recorder) -> None:
    """Its agent has a digest of its own in the key."""
    digest = a_base(site).manifest.digest
    shape = templates.Shape((digest, digest, digest), "quiet", "amd64", 2, 1 << 28, 4 << 30)
    with Session(site) as session:
        templates.ensure(session, shape, Freezing(recorder), quiet)
    # The folder is called after the key, and that has the digest of the agent.
    recorder.lines = [re.sub(r"image-template-[0-9a-f]{16}", "FOLDER", line) for line in recorder.lines]


def make_suspended(site: Site, recorder: Recorder) -> None:
    digest = a_base(site).manifest.digest
    shape = suspended.Shape(digest, digest, "quiet", "amd64", 2, 1 << 28, 3)
    with Session(site) as session:
        suspended.ensure(session, shape, Freezing(recorder), quiet)


VERSIONS = RECIPES | {f"base of {suite}": version for suite, version in BASES.items()}

MAKERS: dict[str, Callable[[Site, Recorder], None]] = {
    "base": make_base,
    "base of trixie": make_base_of_trixie,
    "kernel": make_kernel,
    "installer": make_installer,
    "cache": make_cache,
    "layer": make_layer,
    "bundle": make_bundle,
    "template": make_template,
    "suspended": make_suspended,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_recipe_whose_output_changed_has_another_version(kind: str, site: Site, recorder: Recorder) -> None:
    before = os.umask(0o022)
    try:
        MAKERS[kind](site, recorder)
    finally:
        os.umask(before)
    version, digest = PINNED[kind]
    raised = VERSIONS[kind]
    now = f'"{kind}": ("{raised}", "{recorder.digest()}")'
    if raised != version:
        pytest.fail(f"the version of {kind} has changed: pin it in PINNED: {now}")
    if recorder.digest() != digest:
        pytest.fail(
            f"what the recipe of {kind} images makes has changed. If a node could notice, raise its version in"
            f" vclust_py/image/recipe.py and pin both; if not (a comment), pin the digest alone: {now}"
        )


def test_every_kind_of_image_has_a_recipe() -> None:
    assert RECIPES.keys() | set(REMOTE.values()) == EXTENSIONS.keys()
    assert VERSIONS.keys() == MAKERS.keys() == PINNED.keys()
