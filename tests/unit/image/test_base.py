"""What makes a base image a base: settings of its root, without mmdebstrap."""

from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.image import base, tuning
from vclust_py.resolve import Lock, Package
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
    assert (units / "multi-user.target.wants/ssh.service").exists()
    for name in tuning.FILES:
        assert (root / name).stat().st_mode & 0o777 == 0o644


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
    key = base._boot_key(packages)
    assert base._boot_key(["bash=2", *packages[1:]]) == key
    assert base._boot_key([*packages[:2], "linux-image-6.1.0-2-cloud-amd64=3"]) != key


def test_a_disk_that_is_too_small_is_told_before_anything_is_fetched(tmp_path: Path) -> None:
    listed = tmp_path / "list.sources"
    listed.write_text(SOURCES.format(key="/nowhere"))
    site = Site(root=tmp_path / "site", sources=str(listed))
    huge = Package("bash", "1", "amd64", installed_size=1 << 60)
    lock = Lock("bookworm", "amd64", "linux-image-cloud-amd64", (huge,), (), ())
    with pytest.raises(VclustError, match="not enough space on the file system"):
        base.ensure_base(site, lock, lambda *_: None)
    assert list(site.images.iterdir()) == []
