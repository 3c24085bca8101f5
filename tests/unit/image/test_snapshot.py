"""The snapshot of a folder of images: each manifest is read once a process, and every change is seen at once."""

import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vclust_py.image import Catalogue, Image, Manifest, PackageRecord, snapshot
from vclust_py.image.manifest import EXTENSIONS
from vclust_py.image.snapshot import Refusal, Snapshot
from vclust_py.site import Site

CACHES = 64


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(root=tmp_path / "site")
    site.make_directories()
    return site


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each manifest was read."""
    counted: Counter[str] = Counter()
    read = snapshot.read_manifest

    def count(path: Path) -> str:
        counted[path.name] += 1
        return read(path)

    monkeypatch.setattr(snapshot, "read_manifest", count)
    return counted


def make(site: Site, number: int, backing: Image | None = None) -> Image:
    catalogue = Catalogue(site)
    draft = site.images / "draft"
    draft.write_text(f"image {number}")
    packages = [PackageRecord("p", str(number))]
    return catalogue.add(draft, kind="cache", key=str(number), backing=backing, packages=packages)


def test_each_manifest_is_read_once_whoever_asks(site: Site, reads: Counter[str]) -> None:
    images = [make(site, 0)]
    for number in range(1, CACHES):
        images.append(make(site, number, images[-1] if number % 8 else None))
    for _ in range(10):
        catalogue = Catalogue(site)
        assert len(catalogue.images()) == CACHES
        assert catalogue.find("cache", "40") == images[40]
        assert len(catalogue.chain(catalogue.get(images[7].manifest.digest))) == 8
    assert set(reads.values()) == {1}
    assert len(reads) == CACHES


def test_threads_share_what_one_has_read(site: Site, reads: Counter[str]) -> None:
    for number in range(CACHES):
        make(site, number)
    reads.clear()
    snapshot._snapshots.clear()
    together = threading.Barrier(8)

    def look(_: int) -> int:
        together.wait()
        return len(Catalogue(site).images())

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(look, range(8))) == [CACHES] * 8
    assert set(reads.values()) == {1}


def test_what_another_process_does_is_seen_at_once(site: Site, reads: Counter[str]) -> None:
    first = make(site, 1)
    catalogue = Catalogue(site)
    assert catalogue.images() == [first]

    def change() -> None:
        make(site, 2)
        Catalogue(site).remove(first)

    process = multiprocessing.get_context("fork").Process(target=change)
    process.start()
    process.join()
    (second,) = catalogue.images()
    assert second.manifest.key == "2"
    catalogue.retire(second)
    assert catalogue.find("cache", "2") is None
    assert reads[second.path.with_suffix(".json").name] == 2  # it is another version of the file now


def test_a_child_looks_though_another_thread_was_looking(site: Site) -> None:
    make(site, 1)
    with snapshot._mutex:
        if (child := os.fork()) == 0:
            os._exit(0 if len(Catalogue(site).images()) == 1 else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def plain(folder: Path) -> tuple[list[Image], list[str]]:
    """The brute-force twin: everything read afresh, all in full."""
    images, refused = [], []
    for path in sorted(folder.glob("*.json")):
        try:
            manifest = Manifest.from_json(path.read_text(), path.stem)
        except ValueError:
            refused.append(path.name)
            continue
        file = path.with_suffix(f".{EXTENSIONS[manifest.kind]}")
        if file.exists() and snapshot.file_digest(file) == manifest.digest:
            images.append((path.stat().st_mtime_ns, Image(file, manifest)))
        else:
            refused.append(path.name)
    images.sort(key=lambda pair: (pair[0], pair[1].manifest.digest))
    return [image for _, image in images], refused


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "damage", "truncate", "rewrite", "touch"]), st.integers(0, 4)
    ),
    max_size=12,
)


@settings(max_examples=60, deadline=None)
@given(steps=STEPS)
def test_a_snapshot_sees_what_reading_all_would(
    steps: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    site = Site(root=tmp_path_factory.mktemp("site"))
    site.make_directories()
    try:
        kept, start = Snapshot(site.images), time.time_ns()
        for seconds, (step, number) in enumerate(steps, 1):
            change(site, step, number, start + seconds * 10**9)
            view = kept.look()
            images, refused = plain(site.images)
            assert list(view.images) == images
            assert [refusal.path.name for refusal in view.refusals] == refused
            assert all(isinstance(refusal, Refusal) and refusal.reason for refusal in view.refusals)
    finally:
        shutil.rmtree(site.root)


def change(site: Site, step: str, number: int, moment: int) -> None:
    """One thing that happens to a folder at `moment` (ns): what is changed later has a later time."""
    known = sorted(site.images.glob("*.json"))
    if step == "add" or not known:
        make(site, number)
        return
    manifest = known[number % len(known)]
    image = manifest.with_suffix(".qcow2")
    if not image.exists() or step == "remove":
        manifest.unlink()
        image.unlink(missing_ok=True)
    elif step == "rewrite":
        manifest.write_text("{" if number else manifest.read_text())
    else:
        image.chmod(0o644)
        if step == "damage":
            image.write_bytes(b"X" * image.stat().st_size)
        elif step == "truncate":
            image.write_bytes(b"X")
        os.utime(image, ns=(moment, moment))
