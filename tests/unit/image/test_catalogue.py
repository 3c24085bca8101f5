"""The catalogue against real files: what is refused, what is cleaned, what two processes see."""

import json
import logging
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.image import RETIRED, Catalogue, Image, Manifest, PackageRecord, snapshot
from vclust_py.image.manifest import SCHEMA
from vclust_py.site import Site

PACKAGES = (PackageRecord("b", "2", "02" * 32), PackageRecord("a", "1", "01" * 32))


@pytest.fixture
def catalogue(tmp_path: Path) -> Catalogue:
    site = Site(root=tmp_path / "site")
    site.make_directories()
    return Catalogue(site)


def make(catalogue: Catalogue, key: str, content: bytes, backing: Image | None = None) -> Image:
    with catalogue.building("layer", key) as folder:
        (folder / "new").write_bytes(content)
        return catalogue.add(folder / "new", kind="layer", key=key, backing=backing, packages=PACKAGES)


def test_an_image_is_found_by_key_and_digest(catalogue: Catalogue) -> None:
    image = make(catalogue, "k", b"content")
    assert catalogue.find("layer", "k") == image == catalogue.get(image.manifest.digest)
    assert catalogue.images() == [image]
    assert image.manifest.packages == PACKAGES[::-1]
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
    digest = snapshot.file_digest
    monkeypatch.setattr(snapshot, "file_digest", lambda path: read.append(path) or digest(path))
    for _ in range(3):
        assert catalogue.find("layer", "k") == image
    assert read == [image.path]
    os.chmod(image.path, 0o644)
    image.path.write_bytes(b"CONTENT")
    os.utime(image.path, ns=(later + 1, later + 1))
    assert catalogue.find("layer", "k") is None


def test_an_image_that_cannot_be_dated_is_read_once_a_process(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make(catalogue, "k", b"content")
    later = time.time_ns() + 10**9
    os.utime(image.path, ns=(later, later))
    read: list[Path] = []
    digest = snapshot.file_digest
    monkeypatch.setattr(snapshot, "file_digest", lambda path: read.append(path) or digest(path))

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.utime", refuse)
    for _ in range(3):
        assert Catalogue(catalogue.site).find("layer", "k") == image
    assert read == [image.path]


def test_what_a_newer_version_wrote_is_kept_and_said_once(
    catalogue: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    image = make(catalogue, "k", b"content")
    manifest = image.path.with_suffix(".json")
    data = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({"schema": SCHEMA + 1, "backing": data["digest"], "all": "else"}))
    catalogue.status(image).write_text("")
    before = sorted(catalogue.site.images.iterdir())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert Catalogue(catalogue.site).find("layer", "k") is None
            assert catalogue.clean() == []
    with catalogue.building("layer", "another"):
        pass
    assert sorted(catalogue.site.images.iterdir()) == before
    (newer,) = catalogue.newer()
    assert (newer.path, newer.backing) == (manifest, image.manifest.digest)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.endswith(f"images of a newer version of vclust are kept, and not used: {manifest.name}")


def test_a_retired_image_keeps_fields_of_others(catalogue: Catalogue) -> None:
    image = make(catalogue, "k", b"content")
    manifest = image.path.with_suffix(".json")
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"tomorrow": [1]}))
    catalogue.retire(image)
    assert catalogue.find("layer", "k") is None
    assert catalogue.get(image.manifest.digest).manifest.key == RETIRED
    assert json.loads(manifest.read_text())["tomorrow"] == [1]


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
