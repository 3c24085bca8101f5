"""What of the builder needs no root: bundles, and what makes two layers the same one."""

import dataclasses
import subprocess
from pathlib import Path

import pytest
from repository import Repository, lock_of, quiet

from vclust_py.image import Catalogue, Image, Manifest
from vclust_py.image.builder import COMPRESSED, ensure_bundle, is_packed_with_zstd, layer_key
from vclust_py.lock import Lock
from vclust_py.metapackages import MetaPackage
from vclust_py.site import Site


@pytest.fixture
def site(toy: Repository, tmp_path: Path) -> Site:
    return toy.site(tmp_path / "site")


@pytest.fixture
def lock(site: Site) -> Lock:
    return lock_of(site, "hello", "full")


@pytest.mark.parametrize(
    ("options", "zstd"),
    [((), False), (COMPRESSED, False), (("-c", "-o", "compression_type=zstd"), True)],
    ids=["plain", "as caches are", "zstd"],
)
def test_what_xen_cannot_read_is_known(tmp_path: Path, options: tuple[str, ...], zstd: bool) -> None:
    raw, packed = tmp_path / "raw", tmp_path / "packed"
    raw.write_bytes(b"x" * (1 << 20))
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, packed], check=True)
    assert is_packed_with_zstd(packed) == zstd
    assert not is_packed_with_zstd(raw)
    assert not is_packed_with_zstd(tmp_path / "none")


def meta(*debconf: str) -> MetaPackage:
    return MetaPackage(
        name="m", description="", packages=(), debconf=debconf, steps=(), secrets=(), check=None
    )


def dump(bundle: Image, *request: str) -> str:
    argv = ["debugfs", "-R", " ".join(request), str(bundle.path)]
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_a_bundle_is_a_labelled_disk_with_packages_and_answers(site: Site, lock: Lock) -> None:
    bundle = ensure_bundle(site, lock, [meta("hello hello/greeting string hi")], quiet)
    listing = dump(bundle, "ls", "-p", "/")
    for package in lock.packages:
        assert f"/{package.name}_{package.architecture}.deb/" in listing
    assert dump(bundle, "cat", "/debconf") == "hello hello/greeting string hi\n"
    assert (
        "vclust-bundle"
        in subprocess.run(["e2label", bundle.path], check=True, capture_output=True, text=True).stdout
    )
    subprocess.run(["e2fsck", "-f", "-n", bundle.path], check=True, capture_output=True)
    assert bundle.manifest.state == "packed"
    assert bundle.manifest.bytes % 4096 == 0


def test_a_bundle_is_made_once(site: Site, lock: Lock) -> None:
    first = ensure_bundle(site, lock, [], quiet)
    assert ensure_bundle(site, lock, [], quiet) == first
    assert ensure_bundle(site, lock, [meta("hello hello/greeting string hi")], quiet) != first
    assert len(Catalogue(site).images()) == 2


def test_a_layers_key_covers_what_goes_in(lock: Lock) -> None:
    base, other = (
        Image(
            Path("b"), Manifest("base", digit * 64, "k", None, "", "", (), 0, "", "configured", 1, 1, 0.0, ())
        )
        for digit in ("0", "1")
    )
    key = layer_key(lock, base)
    fewer = dataclasses.replace(lock, packages=lock.packages[1:])
    moved = dataclasses.replace(
        lock, packages=tuple(dataclasses.replace(package, uri="file:/x") for package in lock.packages)
    )
    assert layer_key(moved, base) == key
    assert (
        len({key, layer_key(fewer, base), layer_key(lock, other), layer_key(lock, base, [meta("a b c d")])})
        == 4
    )
