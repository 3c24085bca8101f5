"""Logs of failures: where they are, who may read them, how many there get to be and how large."""

import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from vclust_py import request as requests
from vclust_py.errors import VclustError
from vclust_py.run import CommandError
from vclust_py.site import Site, clusters, kept_logs
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe
from vclust_py.site.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    site = Site(root=tmp_path / "site")
    site.make_directories()
    store = Store(site)
    yield store
    store.close()


@pytest.fixture
def cluster(store: Store) -> Cluster:
    clusters.register(
        store,
        requests.from_mapping({"hardware": {"number_of_nodes": 1}, "software": {"name": "one"}}, "test"),
    )
    return clusters.get(store, "one")


def test_a_log_is_kept_beside_the_cluster_for_its_owner(store: Store, cluster: Cluster) -> None:
    path = kept_logs.keep(store, cluster, "n1", "dpkg: error\n\x1b[31mE: broken\x07")
    assert path == clusters.folder(store, cluster) / "logs" / "n1.log"
    assert path.read_text() == "dpkg: error\n\\x1b[31mE: broken\\x07\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert path.stat().st_uid == os.getuid()  # who has created it
    (told,) = describe(store, "one")
    assert [(log["name"], log["path"]) for log in told["logs"]] == [("n1", str(path))]
    assert told["logs"][0]["text"] == path.read_text()
    assert "text" not in describe(store)[0]["logs"][0]  # a list of all clusters needs no megabytes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize(("owner", "uid"), [("daemon", 1), ("nobody-has-this-name", 0)])
def test_its_owner_is_the_clusters(store: Store, cluster: Cluster, owner: str, uid: int) -> None:
    clusters.update(store, cluster, owner=owner)
    path = kept_logs.keep(store, clusters.get(store, "one"), "n1", "x")
    assert path is not None
    assert path.stat().st_uid == uid


def test_the_newest_of_a_name_stays(store: Store, cluster: Cluster) -> None:
    for text in ("first", "second"):
        path = kept_logs.keep(store, cluster, "ready", text)
    assert path is not None
    assert path.read_text() == "second\n"


def test_logs_are_bounded_in_size_and_number(store: Store, cluster: Cluster) -> None:
    for number in range(kept_logs.MOST_LOGS + 3):
        path = kept_logs.keep(store, cluster, f"n{number}", "\x00" * 500_000 + "the end")
        assert path is not None
        assert path.stat().st_size <= kept_logs.MOST_BYTES + 1
        assert path.read_text().endswith("the end\n")
        os.utime(path, (time.time(), number))
    names = [log["name"] for log in kept_logs.kept(store, cluster, texts=False)]
    assert names == [f"n{number}" for number in reversed(range(3, kept_logs.MOST_LOGS + 3))]


def test_what_others_may_have_done_to_a_file_does_no_harm(store: Store, cluster: Cluster) -> None:
    path = kept_logs.keep(store, cluster, "n1", "x")
    assert path is not None
    path.chmod(0o600)
    path.write_bytes(b"\x1b\xff" * 1_000_000)
    (log,) = kept_logs.kept(store, cluster, texts=True)
    assert len(log["text"].encode()) < 5 * kept_logs.MOST_BYTES
    assert "\x1b" not in log["text"]


def test_where_a_log_cannot_be_written_the_failure_is_told_all_the_same(
    store: Store, cluster: Cluster
) -> None:
    clusters.folder(store, cluster).write_text("in the way")
    error = VclustError("one: MPI does not reach every node")
    assert kept_logs.failure(store, cluster, "ready", error, "what it said") is error
    (told,) = describe(store, "one")
    assert told["logs"] == []


def test_an_error_says_where_its_log_is(store: Store, cluster: Cluster) -> None:
    folder = clusters.folder(store, cluster) / "logs"
    error = kept_logs.failure(store, cluster, "ready", VclustError("one: no login to n2"), "lines\nof output")
    assert str(error) == f"one: no login to n2\n  hint: the whole log: {folder}/ready.log"
    assert (folder / "ready.log").read_text() == "one: no login to n2\n\nlines\nof output\n"
    # Of a command's output the error shows the last lines only.
    output = "".join(f"line {number}\n" for number in range(100))
    error = kept_logs.failure(store, cluster, "image", CommandError(["dpkg"], "exit status 1", output))
    assert "line 0\n" not in str(error)
    assert "line 0\n" in (folder / "image.log").read_text()
    nothing = VclustError("one: nothing to keep")
    assert kept_logs.failure(store, cluster, "image", nothing) is nothing
