"""The database: who may read it, how it fails, transactions of threads, and every earlier form of it."""

import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from vclust_py.errors import VclustError
from vclust_py.site import PROJECT, Site, clusters, records
from vclust_py.site.hosts import known_hosts
from vclust_py.site.migrations import STEPS
from vclust_py.site.store import Store, audited, migrate

REQUEST = (
    '{"hardware": {"number_of_nodes": 2, "cpu_arch": "x86", "cpus": 1, "ram": "512000000B", "disk": "4000000000B",'
    ' "spread": "any", "min_nodes": 2}, "software": {"name": "%s", "users": [], "ssh_keys": [], "hostname": "n%%02d",'
    ' "network": "10.0.0.0/24", "packages": [], "meta_packages": [], "install": "auto"}}'
)
"""As versions before 5 of the database have it."""


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Site(root=tmp_path / "site"))
    yield store
    store.close()


def test_the_database_is_for_root_only(store: Store) -> None:
    store.execute("SELECT 1")
    assert stat.S_IMODE(store.site.database.stat().st_mode) == 0o600


def test_reading_makes_no_database(store: Store) -> None:
    assert clusters.live(store) == []
    assert clusters.find(store, "one") is None
    assert not store.site.database.exists()


def test_a_state_that_cannot_be_read_is_one_clear_error(store: Store) -> None:
    store.site.make_directories()
    store.site.database.write_bytes(b"not a database at all" * 100)
    with pytest.raises(VclustError, match=r"state\.db: file is not a database"):
        clusters.live(store)


def test_a_database_of_a_later_version_is_left_alone(store: Store) -> None:
    store.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    store.close()
    with pytest.raises(VclustError, match="a newer vclust has worked here"):
        store.execute("SELECT 1")


def test_a_transaction_is_all_or_nothing_and_nests(store: Store) -> None:
    store.execute("CREATE TABLE t (n INTEGER)")
    with store.transaction():
        store.execute("INSERT INTO t VALUES (1)")
        with store.transaction():
            store.execute("INSERT INTO t VALUES (2)")

    def fail() -> None:
        with store.transaction():
            store.execute("INSERT INTO t VALUES (3)")
            with store.transaction():
                raise KeyError

    with pytest.raises(KeyError):
        fail()
    with store.transaction():
        store.execute("INSERT INTO t VALUES (4)")
    with sqlite3.connect(store.site.database) as connection:
        assert connection.execute("SELECT n FROM t ORDER BY n").fetchall() == [(1,), (2,), (4,)]


def test_who_reads_waits_for_no_transaction_and_sees_one_state(store: Store) -> None:
    store.execute("CREATE TABLE t (n INTEGER)")
    other = Store(store.site)
    with other.transaction():  # would keep another one waiting for half a minute
        other.execute("INSERT INTO t VALUES (1)")
        assert clusters.live(store) == []
        assert known_hosts(store) == []
    with store.reading():
        assert len(store.rows("SELECT * FROM t")) == 1
        other.execute("INSERT INTO t VALUES (2)")
        with store.reading():
            assert len(store.rows("SELECT * FROM t")) == 1
        with pytest.raises(RuntimeError, match="a transaction within reading"):
            store.executemany("INSERT INTO t VALUES (?)", [(3,)])
    with store.transaction(), store.reading():  # part of the transaction
        store.executemany("INSERT INTO t VALUES (?)", [(4,)])
    other.close()
    assert [row["n"] for row in store.rows("SELECT n FROM t")] == [1, 2, 4]


def test_threads_share_the_connection_without_sharing_transactions(store: Store) -> None:
    store.execute("CREATE TABLE t (thread INTEGER, n INTEGER)")

    def work(thread: int) -> None:
        for number in range(20):
            with store.transaction():
                store.execute("INSERT INTO t VALUES (?, ?)", (thread, number))
                row = store.row("SELECT count(*) AS c FROM t WHERE thread = ?", (thread,))
                assert row is not None
                assert row["c"] == number + 1

    threads = [threading.Thread(target=work, args=(thread,)) for thread in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [row["c"] for row in store.rows("SELECT count(*) AS c FROM t GROUP BY thread")] == [20] * 8


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_a_database_of_every_earlier_version_is_taken_over(store: Store, version: int) -> None:
    """1 knew no Xen, 2 no caches, 3 not what hosts were sent, 4 no spec apart from what was seen, 5 not how
    old what it knew of a host was.
    """
    store.site.make_directories()
    with sqlite3.connect(store.site.database, isolation_level=None) as connection:
        migrate(connection, min(version, 4))  # where rows still have the form that is written here
        rows = ("one", "ready", None), ("gone", "ready", 9.0), ("two", "placed", None)
        for number, (name, state, destroyed) in enumerate(rows, 1):
            connection.execute(
                "INSERT INTO clusters (id, name, request, digest, state, created, destroyed)"
                " VALUES (?, ?, ?, 'd', ?, 1.5, ?)",
                (number, name, "" if destroyed else REQUEST % name, state, destroyed),
            )
            if not destroyed:
                node = [
                    number,
                    0,
                    "n01",
                    "h",
                    "xen:///system",
                    "10.0.0.1",
                    "m",
                    f"u{number}",
                    1,
                    2,
                    3,
                    "ready",
                ]
                node += [] if version < 2 else ["pv"]
                connection.execute(f"INSERT INTO nodes VALUES ({', '.join('?' * len(node))})", node)  # noqa: S608
        connection.execute(
            "INSERT INTO phases (cluster, phase, start, end, outcome) VALUES (2, 'image', 1, 3, 'done')"
        )
        migrate(connection, version)
        assert connection.execute("PRAGMA user_version").fetchone() == (version,)
    connection.close()
    for _ in range(2):
        one, two = clusters.live(store)
        assert (one.name, two.name) == ("one", "two")
        assert one.request.hardware.ram == 512_000_000
        # As the earlier versions reckoned them: its bridges and tunnels go on being its own.
        assert one.segment.startswith("vc")
        assert one.network == (int(one.segment[2:8], 16) or 1)
        assert one.network != two.network
        assert [(node.name, node.state, node.guest) for node in one.nodes] == [
            ("n01", "ready", "" if version < 2 else "pv")
        ]
        assert store.row("SELECT state FROM clusters WHERE id = 2")["state"] == "destroyed"  # type: ignore[index]
        assert store.rows("SELECT * FROM history, uses, rebuilds, sent, resolutions") == []
        assert (one.estimate, one.reason, records.time_models(store)) == ({}, "", {})
        clusters.observe_nodes(store, one, {"n01": one.nodes[0].state})
        store.close()


def test_what_was_known_of_hosts_gets_its_age(store: Store) -> None:
    """Version 5 had one time for both: of a host that did not answer at its last look the age is not known."""
    store.site.make_directories()
    with sqlite3.connect(store.site.database, isolation_level=None) as connection:
        migrate(connection, 5)
        connection.executemany(
            "INSERT INTO observed_hosts VALUES (?, ?, 1.5, ?)",
            [("a", "reachable", '{"cpus": 4}'), ("b", "unreachable", '{"cpus": 2}')],
        )
    connection.close()
    assert [(host.name, host.state, host.seen, host.answered, host.facts) for host in known_hosts(store)] == [
        ("a", "reachable", 1.5, 1.5, {"cpus": 4}),
        ("b", "unreachable", 1.5, None, {}),
    ]


def test_whose_a_cluster_is_was_in_the_audit_only(store: Store) -> None:
    """A name may have been others' before; of what nothing tells it is root's."""
    store.site.make_directories()
    with sqlite3.connect(store.site.database, isolation_level=None) as connection:
        migrate(connection, 7)
        connection.executemany(
            "INSERT INTO clusters (id, name, spec, digest, state, created, destroyed)"
            " VALUES (?, ?, ?, 'd', 'requested', ?, ?)",
            [
                (1, "one", "", 1.0, 3.0),
                (2, "one", REQUEST % "one", 5.0, None),
                (3, "two", REQUEST % "two", 6.0, None),
            ],
        )
        connection.executemany(
            "INSERT INTO audit (time, who, action, cluster, detail) VALUES (?, ?, ?, 'one', '')",
            [(1.0, "alice", "create"), (3.0, "carol", "destroy"), (5.1, "bob", "create")],
        )
    connection.close()
    assert [(one.name, one.owner, one.project) for one in clusters.live(store)] == [
        ("one", "bob", ""),
        ("two", "root", ""),
    ]
    assert store.rows("SELECT owner FROM clusters WHERE id = 1")[0]["owner"] == "alice"
    assert [row["via"] for row in audited(store)] == ["", "", ""]


def test_a_new_database_is_as_one_that_was_taken_over(store: Store, tmp_path: Path) -> None:
    store.execute("SELECT 1")
    with sqlite3.connect(tmp_path / "other.db", isolation_level=None) as connection:
        for version in range(1, len(STEPS) + 1):
            migrate(connection, version)
        form = connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall()
    connection.close()
    assert [tuple(row) for row in store.rows("SELECT sql FROM sqlite_master ORDER BY name")] == form


def test_all_sql_is_in_the_store() -> None:
    homes = {
        "store.py",
        "migrations.py",
        "clusters.py",
        "changes.py",
        "hosts.py",
        "records.py",
        "learning.py",
    }
    words = ("SELECT ", "INSERT ", "UPDATE ", "DELETE FROM", ".execute(", "sqlite3")
    outside = [
        str(path.relative_to(PROJECT))
        for folder in ("vclust_py", "library", "plugins")
        for path in (PROJECT / folder).rglob("*.py")
        if not (path.parent.name == "site" and path.name in homes)
        and any(word in path.read_text(encoding="utf-8") for word in words)
    ]
    assert outside == []


def test_a_copy_is_the_same_and_comes_back(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.execute("CREATE TABLE t (n INTEGER)")
    store.execute("INSERT INTO t VALUES (1)")
    copy = tmp_path / "copy.db"
    store.copy_to(copy)
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy.db", "site"]
    with pytest.raises(FileExistsError):
        store.copy_to(copy)
    store.execute("UPDATE t SET n = 2")

    # Somebody else is in a transaction: it is waited for, within bounds.
    other = sqlite3.connect(store.site.database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    monkeypatch.setattr("vclust_py.site.store._BUSY", 0.3)
    store.close()
    with pytest.raises(VclustError, match="another process is at work in it"):
        store.replace_by(copy)
    assert store.rows("SELECT n FROM t")[0]["n"] == 2
    other.execute("ROLLBACK")
    store.replace_by(copy)
    assert store.rows("SELECT n FROM t")[0]["n"] == 1
    assert other.execute("SELECT n FROM t").fetchall() == [(1,)]
    other.close()
