"""The catalogue against real files: what is refused, what is cleaned, what two processes see."""

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from vclust_py import image as images
from vclust_py.errors import VclustError
from vclust_py.image import Catalogue, Image, Manifest
from vclust_py.site import Site


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    site = Site(root=tmp_path / "site")
    site.make_directories()
    return Catalogue(site)


def make(catalogue: Catalogue, key: str, content: bytes, backing: Image | None = None) -> Image:
    with catalogue.building("layer", key) as folder:
        (folder / "new").write_bytes(content)
        return catalogue.add(folder / "new", kind="layer", key=key, backing=backing, packages=("b=2", "a=1"))


def test_an_image_is_found_by_key_and_digest(catalogue: Catalogue) -> None:
    image = make(catalogue, "k", b"content")
    assert catalogue.find("layer", "k") == image == catalogue.get(image.manifest.digest)
    assert catalogue.images() == [image]
    assert image.manifest.packages == ("a=1", "b=2")
    assert image.path.read_bytes() == b"content"
    assert Manifest.from_json(image.path.with_suffix(".json").read_text()) == image.manifest
    assert catalogue.find("base", "k") is None
    assert sorted(path.suffix for path in catalogue.site.images.iterdir()) == [".json", ".qcow2"]


def test_a_removed_image_is_gone(catalogue: Catalogue) -> None:
    image = make(catalogue, "k", b"content")
    catalogue.remove(image)
    assert catalogue.find("layer", "k") is None
    assert list(catalogue.site.images.iterdir()) == []
    with pytest.raises(VclustError, match="no valid image"):
        catalogue.get(image.manifest.digest)


@pytest.mark.parametrize("harm", ["truncate", "overwrite", "remove", "manifest", "fields"])
def test_a_damaged_image_is_refused_and_cleaned(catalogue: Catalogue, harm: str) -> None:
    image = make(catalogue, "k", b"content")
    manifest = image.path.with_suffix(".json")
    os.chmod(image.path, 0o644)
    if harm == "truncate":
        image.path.write_bytes(b"cont")
    elif harm == "overwrite":
        image.path.write_bytes(b"CONTENT")
        later = time.time_ns() + 10**9
        os.utime(image.path, ns=(later, later))
    elif harm == "remove":
        image.path.unlink()
    elif harm == "manifest":
        manifest.write_text(manifest.read_text()[:40])
    else:
        manifest.write_text(manifest.read_text().replace('"bytes": 7', '"bytes": "7"'))
    assert catalogue.find("layer", "k") is None
    if harm in ("manifest", "fields"):  # another version of vclust may still read it
        assert catalogue.clean() == []
        assert image.path.exists()
    else:
        assert catalogue.clean()
        assert list(catalogue.site.images.iterdir()) == []


def test_an_image_without_its_times_is_read_once(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make(catalogue, "k", b"content")
    later = time.time_ns() + 10**9
    os.utime(image.path, ns=(later, later))
    read: list[Path] = []
    digest = images.file_digest
    monkeypatch.setattr(images, "file_digest", lambda path: read.append(path) or digest(path))
    for _ in range(3):
        assert catalogue.find("layer", "k") == image
    assert read == [image.path]
    os.chmod(image.path, 0o644)
    image.path.write_bytes(b"CONTENT")
    os.utime(image.path, ns=(later + 1, later + 1))
    assert catalogue.find("layer", "k") is None


def test_an_image_counts_only_with_its_backing(catalogue: Catalogue) -> None:
    base = make(catalogue, "base", b"base")
    layer = make(catalogue, "layer", b"layer", backing=base)
    assert catalogue.find("layer", "layer") == layer
    catalogue.remove(base)
    assert catalogue.find("layer", "layer") is None


@pytest.mark.parametrize("key", ["k", "another"])
def test_leftovers_of_a_killed_build_go_with_the_next(catalogue: Catalogue, key: str) -> None:
    def build_and_die() -> None:
        with catalogue.building("layer", "k") as folder:
            (folder / "half").write_bytes(b"x" * 1000)
            os._exit(9)

    process = multiprocessing.get_context("fork").Process(target=build_and_die)
    process.start()
    process.join()
    assert [path.suffix for path in catalogue.site.images.iterdir()] == [".tmp"]
    with catalogue.building("layer", key) as folder:
        assert list(folder.iterdir()) == []
        assert list(catalogue.site.images.iterdir()) == [folder]
    assert list(catalogue.site.images.iterdir()) == []


def test_clean_spares_a_build_that_goes_on(catalogue: Catalogue) -> None:
    with catalogue.building("layer", "k") as folder:
        (folder / "half").write_bytes(b"x")
        assert catalogue.clean() == []
        assert folder.exists()


def test_a_build_spares_another_that_goes_on(catalogue: Catalogue) -> None:
    with catalogue.building("layer", "k") as folder, catalogue.building("layer", "another"):
        assert folder.exists()


def test_two_processes_build_once(catalogue: Catalogue) -> None:
    built = multiprocessing.get_context("fork").Value("i", 0)

    def ensure() -> None:
        with catalogue.building("layer", "k") as folder:
            if catalogue.find("layer", "k") is None:
                time.sleep(0.2)
                (folder / "new").write_bytes(b"content")
                catalogue.add(folder / "new", kind="layer", key="k")
                with built.get_lock():
                    built.value += 1

    processes = [multiprocessing.get_context("fork").Process(target=ensure) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert built.value == 1
    assert catalogue.find("layer", "k") is not None
