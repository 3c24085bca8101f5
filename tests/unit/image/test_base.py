"""What makes a base image a base: settings of its root, without mmdebstrap."""

import os
import subprocess
from pathlib import Path

import pytest
from image.baseroot import VERSION, fill

from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, base, base_key, recipe, tuning
from vclust_py.image.manifest import records
from vclust_py.lock import Lock, Package
from vclust_py.site import Site

SOURCES = "Types: deb\nURIs: http://example.org/debian\nSuites: bookworm\nSigned-By: {key}\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The places of a root that `tune` touches, as packages leave them."""
    root = tmp_path / "root"
    for name in (
        "usr/bin/true",
        "etc/hostname",
        "etc/machine-id",
        "etc/ssh/ssh_host_rsa_key",
        "etc/ssh/sshd_config",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/apt/apt.conf.d/01autoremove",
        "etc/apt/sources.list.d/0000sources.sources",
        "var/lib/apt/lists/deb.debian.org_index",
        "var/lib/apt/lists/partial/more",
        "var/log/journal/abc/system.journal",
        "var/log/dpkg.log",
        "etc/systemd/system/getty.target.wants/getty@tty1.service",
        "etc/systemd/system/multi-user.target.wants/ssh.service",
    ):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of a package\n")
    (root / "var").mkdir(exist_ok=True)
    return root


def test_a_tuned_root_has_no_identity_and_its_own_sources(root: Path) -> None:
    tuning.tune(root, SOURCES)
    assert (root / "etc/machine-id").read_text() == ""
    for gone in ("etc/hostname", "etc/ssh/ssh_host_rsa_key", "var/log/journal", "var/log/dpkg.log"):
        assert not (root / gone).exists(), gone
    assert list((root / "var/lib/apt/lists").iterdir()) == []
    assert [path.name for path in (root / "etc/apt/sources.list.d").iterdir()] == ["vclust.sources"]
    assert (root / "etc/apt/sources.list.d/vclust.sources").read_text() == SOURCES
    assert [path.name for path in (root / "etc/apt/apt.conf.d").iterdir()] == ["01autoremove"]
    assert (root / "etc/ssh/sshd_config").exists()


def test_units_are_masked_or_disabled_and_others_left(root: Path) -> None:
    tuning.tune(root, SOURCES)
    units = root / "etc/systemd/system"
    assert (units / "systemd-repart.service").readlink() == Path("/dev/null")
    assert not (units / "getty.target.wants/getty@tty1.service").exists()
    assert not (units / "systemd-udev-load-credentials.service").is_symlink()
    assert not (root / "etc/systemd/system-generators").exists()
    assert (units / "multi-user.target.wants/ssh.service").exists()
    for name in tuning.FILES:
        assert (root / name).stat().st_mode & 0o777 == 0o644


def test_where_systemd_starts_all_by_another_program_more_is_masked(root: Path) -> None:
    executor = root / tuning.EXECUTOR
    executor.parent.mkdir(parents=True)
    executor.touch()
    tuning.tune(root, SOURCES)
    settings = root / "etc/systemd"
    for name in (
        "system/systemd-repart.service",
        "system/systemd-udev-load-credentials.service",
        "system/multi-user.target.wants/systemd-logind.service",
        "system-generators/systemd-ssh-generator",
    ):
        assert (settings / name).readlink() == Path("/dev/null"), name
    (name,) = tuning.FILES_WITH_EXECUTOR
    assert (root / name).read_text() == tuning.FILES_WITH_EXECUTOR[name] != tuning.FILES[name]


def test_what_is_added_is_for_everybody_whatever_the_umask(root: Path) -> None:
    """Users run the proof of MPI; the units of systemd have another umask than people."""
    (root / "usr/lib").mkdir()
    there = set(root.rglob("*"))
    before = os.umask(0o077)
    try:
        tuning.tune(root, SOURCES)
        base._add_programs(root)
    finally:
        os.umask(before)
    for path in set(root.rglob("*")) - there:
        if not path.is_symlink():
            assert path.stat().st_mode & 0o777 in ((0o755,) if path.is_dir() else (0o644, 0o755)), path


def test_nothing_of_etc_and_var_counts_as_older_than_usr(root: Path) -> None:
    tuning.tune(root, SOURCES)
    made = (root / "usr").stat().st_mtime_ns
    assert {(root / name).stat().st_mtime_ns for name in ("etc/.updated", "var/.updated")} == {made}


def test_keys_of_the_sources_come_along(tmp_path: Path) -> None:
    key = tmp_path / "site.gpg"
    key.write_bytes(b"key")
    target = tmp_path / "root"
    base._copy_keys(SOURCES.format(key=key), target)
    assert (target / str(key).lstrip("/")).read_bytes() == b"key"


def test_kernel_and_installer_are_shared_by_bases_of_the_same_kernel() -> None:
    packages = [
        "bash=1",
        "busybox-static=2",
        "linux-image-6.1.0-1-cloud-amd64=3",
        "linux-image-cloud-amd64=4",
    ]
    for key in (recipe.kernel_key, recipe.installer_key):
        assert key(["bash=2", *packages[1:]]) == key(packages)
        assert key([*packages[:2], "linux-image-6.1.0-2-cloud-amd64=3"]) != key(packages)


@pytest.mark.parametrize("kind", ["kernel", "installer"])
def test_a_base_gets_a_new_kernel_or_installer_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, site = fill(tmp_path / "root"), Site(root=tmp_path / "site")
    (root / "boot").mkdir()
    (root / "boot" / f"vmlinuz-{VERSION}").write_bytes(b"MZ, a kernel")
    (tmp_path / "raw").touch()
    os.truncate(tmp_path / "raw", 64 << 20)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", root, tmp_path / "raw"], check=True)
    packages = tuple(
        Package(name, "1", "amd64", sha256="0" * 64)
        for name in ("busybox-static", f"linux-image-{VERSION}", "linux-image-cloud-amd64")
    )
    lock = Lock("bookworm", "amd64", "linux-image-cloud-amd64", packages, (), ())
    catalogue = Catalogue(site)
    key = base_key("bookworm", "amd64", "linux-image-cloud-amd64")
    with catalogue.building("base", key) as folder:
        made = folder / "base"
        subprocess.run(["qemu-img", "convert", "-O", "qcow2", tmp_path / "raw", made], check=True)
        image = catalogue.add(
            made, kind="base", key=key, suite="bookworm", architecture="amd64", packages=records(packages)
        )
    catalogue.status(image).write_text("")
    monkeypatch.setattr(base, "_tools", lambda: ())
    first = base.ensure_base(site, lock, lambda *_: None)
    assert first.base == image
    assert first.kernel.path.read_bytes() == b"MZ, a kernel"
    assert first.kernel.manifest.pinned == (f"linux-image-{VERSION}=1",)
    assert first.installer.path.read_bytes().startswith(b"070701")
    assert b"module virtio_blk" in first.installer.path.read_bytes()
    monkeypatch.setitem(recipe.RECIPES, kind, "next")
    assert base.find_base(site, lock) is None
    again = base.ensure_base(site, lock, lambda *_: None)
    assert again.base == image
    assert getattr(again, kind).manifest.key.endswith(" next")
    assert base.find_base(site, lock) == again


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    listed = tmp_path / "list.sources"
    listed.write_text(SOURCES.format(key="/nowhere"))
    site = Site(root=tmp_path / "site", sources=str(listed))
    huge = Package("bash", "1", "amd64", installed_size=1 << 60)
    lock = Lock("bookworm", "amd64", "linux-image-cloud-amd64", (huge,), (), ())
    with pytest.raises(VclustError, match="not enough space on the file system"):
        base.ensure_base(site, lock, lambda *_: None)
    assert list(site.images.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts are root's")
def test_files_are_put_together_in_memory_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "site").symlink_to(tmp_path / "disk")
    path = tmp_path / "site/root"
    with base._place(path, 1 << 20) as place:
        (place.root / "file").write_text("of the base\n")
        seen = subprocess.run(
            [*place.entering, "cat", path / "file"], capture_output=True, text=True, check=True
        )
        assert seen.stdout == "of the base\n"
        assert list(path.iterdir()) == []
        with pytest.raises(OSError, match="No space left"):
            (place.root / "large").write_bytes(bytes(2 << 20))
    assert not place.root.exists()
    assert str(tmp_path) not in Path("/proc/self/mounts").read_text()


def test_they_are_on_the_disk_where_memory_is_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_available_memory", lambda: 2 << 30)
    with base._place(tmp_path / "root", (1 << 30) + 1) as place:
        assert place == (tmp_path / "root", ())


def test_memory_that_cannot_be_mounted_is_told(tmp_path: Path) -> None:
    with (
        pytest.raises(VclustError, match=r"root: no memory can be mounted: .*"),
        base._place(tmp_path / "root", -1),
    ):
        pass
