"""The package store over the toy repository."""

import subprocess
from pathlib import Path

import pytest
from repository import Repository, lock_of, quiet

from vclust_py.errors import VclustError
from vclust_py.image import file_digest, store
from vclust_py.site import Site


@pytest.fixture
def site(toy: Repository, tmp_path: Path) -> Site:
    return toy.site(tmp_path / "site")


def output(*argv: object) -> str:
    return subprocess.run([str(word) for word in argv], check=True, capture_output=True, text=True).stdout


def test_a_fast_copy_differs_in_compression_only(site: Site) -> None:
    lock = lock_of(site, "full")
    (fast,) = store.fetch(site, lock, quiet)
    signed = store.signed_copy(site, lock.packages[0])
    assert "data.tar.zst" in output("ar", "t", fast)
    for tool in ("--fsys-tarfile", "--ctrl-tarfile"):
        streams = [
            subprocess.run(["dpkg-deb", tool, deb], check=True, capture_output=True).stdout
            for deb in (signed, fast)
        ]
        assert streams[0] == streams[1]
    assert output("dpkg-deb", "-I", fast).count("Package: full") == 1
    assert "link to" in output("dpkg-deb", "-c", fast)


def test_only_missing_packages_are_fetched(site: Site, toy: Repository) -> None:
    lock = lock_of(site, "hello")
    assert store.missing(site, lock.packages) == lock.packages
    first = store.fetch(site, lock, quiet)
    assert [path.name for path in first] == [f"{package.sha256}.deb" for package in lock.packages]
    assert store.missing(site, lock.packages) == ()
    toy.pool.rename(toy.path / "gone")  # nothing is left to fetch from
    assert store.fetch(site, lock, quiet) == first
    first[0].unlink()
    assert store.fetch(site, lock, quiet) == first  # packed again from the signed copy


def test_apt_is_given_what_is_stored_and_whole(site: Site, tmp_path: Path) -> None:
    lock = lock_of(site, "hello")
    store.fetch(site, lock, quiet)
    store.give_to_apt(site, [*lock.packages, *lock_of(site, "full").packages], tmp_path)
    assert {path.name for path in tmp_path.glob("*.deb")} == {package.filename for package in lock.packages}
    one, other = lock.packages
    path = store.signed_copy(site, one)
    path.write_bytes(b"x" * one.size)
    folder = tmp_path / "other"
    folder.mkdir()
    store.give_to_apt(site, lock.packages, folder)
    assert [path.name for path in folder.iterdir()] == [other.filename]


def test_a_corrupted_package_is_refused(site: Site, toy: Repository) -> None:
    lock = lock_of(site, "hello")
    deb = toy.pool / "libgreet_1.5+dfsg~1_all.deb"
    content = bytearray(deb.read_bytes())
    content[-5] ^= 1
    deb.write_bytes(bytes(content))
    with pytest.raises(VclustError):
        store.fetch(site, lock, quiet)
    assert "libgreet" in [package.name for package in store.missing(site, lock.packages)]
    assert not (site.packages / "new.tmp").exists()


def test_a_damaged_store_heals(site: Site) -> None:
    lock = lock_of(site, "libgreet")
    (fast,) = store.fetch(site, lock, quiet)
    signed = store.signed_copy(site, lock.packages[0])
    signed.write_bytes(b"x" * signed.stat().st_size)
    fast.unlink()
    with pytest.raises(VclustError, match="damaged, removed"):
        store.fetch(site, lock, quiet)
    assert store.fetch(site, lock, quiet) == (fast,)


@pytest.mark.parametrize("harm", ["truncate", "zeros", "note"])
def test_a_fast_copy_that_is_not_whole_is_packed_again(site: Site, harm: str) -> None:
    lock = lock_of(site, "libgreet")
    (fast,) = store.fetch(site, lock, quiet)
    whole = fast.read_bytes()
    if harm == "note":
        fast.with_suffix(".sum").write_bytes(b"\xff" * 65)
    else:
        fast.write_bytes(b"" if harm == "truncate" else bytes(len(whole)))
    assert store.fetch(site, lock, quiet) == (fast,)
    assert fast.read_bytes() == whole
    assert fast.with_suffix(".sum").read_text().strip() == file_digest(fast)


def test_a_package_that_is_gone_is_an_error(site: Site, toy: Repository) -> None:
    lock = lock_of(site, "hello")
    (toy.pool / "hello_1.5-1_all.deb").unlink()
    with pytest.raises(VclustError, match="cannot download packages"):
        store.fetch(site, lock, quiet)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.deb").write_bytes(b"nothing")
    with pytest.raises(VclustError, match="not a Debian package"):
        store.repack(tmp_path / "x.deb", tmp_path / "y.deb")
