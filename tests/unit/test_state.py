"""The site's state; what is written is read back with sqlite3 itself."""

import json
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from vclust_py import request as requests
from vclust_py import state, timing
from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.request import Request, User
from vclust_py.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(root=tmp_path / "site")


@pytest.fixture
def request_() -> Request:
    request = requests.from_mapping({"hardware": {"number_of_nodes": 2}, "software": {"name": "one"}}, "test")
    return replace(request, software=replace(request.software, users=(User("alice", "$6$salt$" + "x" * 86),)))


def test_register_is_idempotent_and_refuses_another_request(site: Site, request_: Request) -> None:
    assert state.register(site, request_, check=True).changed
    assert state.clusters(site) == []
    assert state.register(site, request_).changed
    assert not state.register(site, request_).changed
    assert not state.register(site, request_, check=True).changed
    other = replace(request_, hardware=replace(request_.hardware, cpus=2))
    with state.connect(site) as connection:
        connection.execute(
            "INSERT INTO nodes VALUES (1, 0, 'n', 'h', 'u', 'a', 'm', 'u', 1, 1, 1, 'placed', '')"
        )
    with pytest.raises(RequestError, match="exists with a different request"):
        state.register(site, other)
    assert state.get(site, "one").request == request_


def test_a_request_that_was_never_placed_gives_way(site: Site, request_: Request) -> None:
    state.register(site, request_)
    other = replace(request_, hardware=replace(request_.hardware, cpus=2))
    assert state.register(site, other).changed
    assert [cluster.request for cluster in state.clusters(site)] == [other]


@pytest.mark.parametrize("error", [RequestError(["unknown package"]), CapacityError("too large")])
def test_an_unfit_request_is_forgotten(site: Site, request_: Request, error: VclustError) -> None:
    state.register(site, request_)
    with pytest.raises(type(error)), timing.trial(site, request_, "resolve"):
        raise error
    assert state.clusters(site) == []


def test_an_interrupted_request_is_kept(site: Site, request_: Request) -> None:
    state.register(site, request_)
    with pytest.raises(KeyboardInterrupt), timing.trial(site, request_, "resolve"):
        raise KeyboardInterrupt
    assert state.describe(site, "one")[0]["detail"] == "resolve interrupted"


def test_the_database_is_for_root_only(site: Site, request_: Request) -> None:
    state.register(site, request_)
    assert stat.S_IMODE(site.database.stat().st_mode) == 0o600


def test_unknown_cluster_names_those_there_are(site: Site, request_: Request) -> None:
    state.register(site, request_)
    with pytest.raises(RequestError, match=r"two: no such cluster; there are: one"):
        state.get(site, "two")


def test_describe_leaves_hashes_out(site: Site, request_: Request) -> None:
    state.register(site, request_)
    assert "$6$" not in repr(state.describe(site))
    assert state.describe(site)[0]["ssh"]["user"] == "alice"


def test_a_forgotten_cluster_frees_its_name_and_leaves_no_hash(site: Site, request_: Request) -> None:
    state.register(site, request_)
    state.forget(site, state.get(site, "one"))
    assert state.clusters(site) == []
    assert state.register(site, request_).changed
    with sqlite3.connect(site.database) as connection:
        assert connection.execute("SELECT request FROM clusters WHERE destroyed IS NOT NULL").fetchall() == [
            ("",)
        ]
        actions = connection.execute("SELECT action, cluster FROM audit ORDER BY id").fetchall()
    assert actions == [("create", "one"), ("destroy", "one"), ("create", "one")]


def test_a_phase_records_its_end_and_its_failure(site: Site, request_: Request) -> None:
    state.register(site, request_)
    cluster = state.get(site, "one")
    with timing.phase(site, cluster, "image") as record:
        record.bytes, record.facts = 1000, {"strategy": "once"}
        record.report("unpack", 1, 2)
        record.report("unpack", 2, 2)
        record.node("one-01", 10.0, 12.5)
    with pytest.raises(VclustError), timing.phase(site, cluster, "image"):
        raise VclustError("disk full")
    described = state.describe(site, "one")[0]
    assert [phase["outcome"] for phase in described["phases"]] == ["done", "failed: disk full"]
    assert described["detail"] == "image failed: disk full"
    assert [(row["node"], row["seconds"]) for row in described["node_phases"]] == [("one-01", 2.5)]
    assert [(row["done"], row["total"]) for row in state.progress(site, "one")][-1] == (2, 2)


def test_past_runs_foretell_only_the_same_kind(site: Site, request_: Request) -> None:
    state.register(site, request_)
    cluster = state.get(site, "one")
    assert timing.past(site, "image", strategy="once") == []
    assert timing.median_rate(site, "image", "unpack", strategy="once") is None
    for count in (0, 100, 300):
        with timing.phase(site, cluster, "image") as record:
            record.facts = {"strategy": "once", "unpack": 1.0, "unpack_bytes": count}
    with state.connect(site) as connection:
        connection.execute("UPDATE phases SET start = 0, end = 2")
    assert [run.seconds for run in timing.past(site, "image", strategy="once")] == [2, 2, 2]
    assert timing.median_rate(site, "image", "unpack", strategy="once") == 200
    assert timing.past(site, "image", strategy="each") == []


def test_a_state_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "state.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(VclustError, match=r"state\.db: file is not a database"):
        state.clusters(Site(root=tmp_path / "site"))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_database_is_taken_over(tmp_path: Path, version: int) -> None:
    """1 knew no Xen, 2 no caches, 3 not what hosts were sent."""
    site = Site(root=tmp_path / "site")
    with state.connect(site) as connection:
        connection.execute("DROP TABLE sent")
        if version < 3:
            connection.execute("ALTER TABLE clusters DROP COLUMN cache")
            for table in ("history", "uses", "rebuilds"):
                connection.execute(f"DROP TABLE {table}")
        if version < 2:
            connection.execute("ALTER TABLE nodes DROP COLUMN guest")
        connection.execute(f"PRAGMA user_version = {version}")
    for _ in range(2):
        with state.connect(site) as connection:
            columns = [row["name"] for row in connection.execute("PRAGMA table_info(nodes)")]
            assert columns[-2:] == ["state", "guest"]
            assert list(connection.execute("SELECT cache FROM clusters")) == []
            assert list(connection.execute("SELECT * FROM history, uses, rebuilds, sent")) == []


def test_a_request_that_todays_rules_refuse_spoils_nothing(site: Site, request_: Request) -> None:
    """As an earlier version may have written it, without a schema number."""
    state.register(site, request_)
    old = replace(request_, hardware=replace(request_.hardware, ram=64 * 10**6))
    with pytest.raises(RequestError):
        requests.from_mapping(requests.to_mapping(old), "test")
    with sqlite3.connect(site.database) as connection:
        connection.execute("UPDATE clusters SET request = ?", (json.dumps(requests.to_mapping(old)),))
    assert state.get(site, "one").request == old
    assert [cluster.request for cluster in state.clusters(site)] == [old]
