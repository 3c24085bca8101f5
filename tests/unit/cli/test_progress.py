"""What a command shows of a cluster while it works on it."""

import os
import time
from pathlib import Path

import pytest

from vclust_py import request, timing
from vclust_py.cli.progress import Follow, cluster_progress
from vclust_py.module import site_manager
from vclust_py.site import Site, clusters
from vclust_py.site.store import Store

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root's commands read the state")


def report(store: Store, word: str) -> None:
    with timing.phase(store, clusters.get(store, "pair"), "create") as record:
        record.report(word, 1, 1)


def test_rows_of_this_run_and_all_of_them(tmp_path: Path) -> None:
    """However late Ansible tells where the state is."""
    store = Store(Site(root=tmp_path / "site"))
    wanted = {"hardware": {"number_of_nodes": 1}, "software": {"name": "pair"}}
    clusters.register(store, request.from_mapping(wanted, "test"))
    report(store, "an earlier run")
    time.sleep(0.01)
    follow = Follow(cluster_progress("pair"))
    report(store, "before it is known")
    assert follow.rows() == []
    follow.found("vclust_image", {"changed": True})
    assert follow.rows() == []
    follow.found("vclust_request", site_manager(store.site))
    assert [row["message"] for row in follow.rows()] == ["before it is known"]
    report(store, "after")
    assert [row["message"] for row in follow.rows()] == ["after"]
    assert follow.rows() == []


@pytest.mark.parametrize("other", [{"boot_id": "x"}, {"mounts": "mnt:[1]"}])
def test_a_state_elsewhere_is_not_looked_for_here(tmp_path: Path, other: dict[str, str]) -> None:
    place = {**site_manager(Site(root=tmp_path))["site_manager"], **other}
    follow = Follow(lambda site: pytest.fail("read"))
    follow.found("vclust_request", {"site_manager": place})
    assert follow.rows() == []
