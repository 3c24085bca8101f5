"""What manifests say, kept beside their folder: other processes read no manifest that has not changed."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from vclust_py.image import Catalogue, Image, PackageRecord, index, snapshot
from vclust_py.image.snapshot import Snapshot
from vclust_py.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(root=tmp_path / "site")
    site.make_directories()
    return site


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Manifests that were read."""
    names: list[str] = []
    read = snapshot.read_manifest

    def note(path: Path) -> str:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(snapshot, "read_manifest", note)
    return names


def make(site: Site, key: str, backing: Image | None = None) -> Image:
    draft = site.images / "draft"
    draft.write_text(f"image {key}")
    packages = [PackageRecord("p", key, "ab"), PackageRecord("q", "1:2~3")]
    image = Catalogue(site).add(
        draft, kind="cache", key=key, backing=backing, packages=packages, tools=("t 1",)
    )
    assert image in Catalogue(site).images()
    return image


def another_process(site: Site) -> list[Image]:
    return list(Snapshot(site.images).look().images)


def path(site: Site) -> Path:
    return site.root / "images.index"


def test_another_process_reads_nothing_again(site: Site, reads: list[str]) -> None:
    images = [make(site, "one")]
    images.append(make(site, "two", images[0]))
    reads.clear()
    assert another_process(site) == images
    assert reads == []
    assert path(site).stat().st_mode & 0o777 == 0o600


def test_what_has_changed_is_read(site: Site, reads: list[str]) -> None:
    images = [make(site, key) for key in ("one", "two", "three")]
    Catalogue(site).retire(images[0])
    Catalogue(site).remove(images[1])
    reads.clear()
    found = another_process(site)
    assert [image.manifest.key for image in found] == ["three", "retired"]
    assert reads == [images[0].path.with_suffix(".json").name]
    reads.clear()
    assert another_process(site) == found
    assert reads == []


def test_an_image_that_is_no_more_what_its_manifest_says_is_refused(site: Site) -> None:
    image = make(site, "one")
    image.path.chmod(0o644)
    image.path.write_text("shorter")
    assert another_process(site) == []


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(json.dumps({"form": 1, "entries": {"x.json": [[1], [2], [], [], []]}})),
        lambda path: path.write_text(path.read_text().replace('"form":1', '"form":2')),
        lambda path: path.write_text(path.read_text().replace('"cache"', '"nothing"')),
        lambda path: path.chmod(0o622),
    ],
)
def test_without_an_index_to_trust_manifests_are_read(
    site: Site, reads: list[str], damage: Callable[[Path], object]
) -> None:
    image = make(site, "one")
    reads.clear()
    damage(path(site))
    assert another_process(site) == [image]
    assert len(reads) == 1
    assert another_process(site) == [image]
    assert len(reads) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a file to somebody else")
def test_nobody_else_says_what_images_there_are(site: Site, reads: list[str]) -> None:
    image = make(site, "one")
    reads.clear()
    os.chown(path(site), 65534, 65534)
    assert another_process(site) == [image]
    assert len(reads) == 1


def test_who_may_not_write_it_reads(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make(site, "one")
    path(site).unlink()

    def refuse(*words: object) -> int:
        raise PermissionError

    monkeypatch.setattr(index.os, "open", refuse)
    assert another_process(site) == [image]
    assert not path(site).exists()
