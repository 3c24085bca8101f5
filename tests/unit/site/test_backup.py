"""A site's state in one file and back; verified with tar and sqlite3, not with what is said of it."""

import io
import json
import os
import sqlite3
import stat
import subprocess
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession

from vclust_py import pki
from vclust_py import request as requests
from vclust_py.errors import RequestError, VclustError
from vclust_py.hypervisor import Host
from vclust_py.phases import Inputs, phase
from vclust_py.site import Site, backup, clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.migrations import STEPS
from vclust_py.site.store import Store, migrate

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

KEPT = {"keys/user": b"key", "keys/known_hosts": b"known", "n1.img": b"seed", "_cluster.img": b"shared"}
LEFT = {"n1.qcow2": b"overlay", "n1.console": b"console", ".n2.img.tmp": b"draft", "a stray.img": b"x"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(Site(root=tmp_path / "site"))
    yield store
    store.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """The new site manager's."""
    store = Store(Site(root=tmp_path / "other"))
    yield store
    store.close()


def a_cluster(store: Store, name: str = "one") -> Cluster:
    """Placed, with its files, and what a site with hosts has."""
    asked = {"hardware": {"number_of_nodes": 1}, "software": {"name": name}}
    request = requests.from_mapping(asked, "test")
    clusters.register(store, request)
    node = Node(0, "n1", "far", "xen+tls://far/system", "10.0.0.1", f"mac {name}", f"uuid {name}", 1, 2, 3)
    clusters.place(store, clusters.get(store, name), [node], lock="a" * 64)
    cluster = clusters.get(store, name)
    folder = clusters.folder(store, cluster)
    (folder / "keys").mkdir(parents=True, mode=0o700)
    for path, data in {**KEPT, **LEFT}.items():
        (folder / path).write_bytes(data)
        (folder / path).chmod(0o600)
    (store.site.locks / f"{'a' * 64}.json").write_text("{}")
    (store.site.images / "base-x.json").write_text("{}")
    (store.site.images / "base-x.qcow2").write_text("large")
    pki.roll_out(store.site)
    return cluster


def dump(database: Path) -> list[str]:
    """All of it but that it was restored."""
    with sqlite3.connect(database) as connection:
        lines = list(connection.iterdump())
    return [line for line in lines if "sqlite_sequence" not in line and "'restore'" not in line]


def listed(path: Path) -> set[str]:
    return set(
        subprocess.run(["tar", "-tf", path], capture_output=True, text=True, check=True).stdout.split()
    )


def test_what_cannot_be_made_again_is_in_it_and_comes_back(
    store: Store, other: Store, tmp_path: Path
) -> None:
    cluster, path = a_cluster(store), tmp_path / "backup.tar.gz"
    a_cluster(store, "gone")
    clusters.forget(store, clusters.get(store, "gone"))
    header = backup.write(store, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one for one in path.parent.iterdir() if ".tmp" in one.name] == []
    folder = f"clusters/one.{cluster.id}"
    names = listed(path)
    assert {name for name in names if name.startswith("clusters/")} == {f"{folder}/{name}" for name in KEPT}
    assert {f"locks/{'a' * 64}.json", "images/base-x.json", "state.db", "pki/cakey.pem"} <= names
    assert "images/base-x.qcow2" not in names
    assert header.clusters == ("one",)

    restored = backup.restore(other, path)
    assert (restored.earlier, restored.unknown) == ("", ())
    last = other.row("SELECT action FROM audit ORDER BY id DESC")
    assert last is not None
    assert last["action"] == "restore"
    assert dump(other.site.database) == dump(store.site.database)
    assert clusters.get(other, "one") == cluster
    root = other.site.root
    for name, data in KEPT.items():
        assert (root / folder / name).read_bytes() == data
        assert stat.S_IMODE((root / folder / name).stat().st_mode) == 0o600
    modes = {
        place: stat.S_IMODE((root / place).stat().st_mode)
        for place in (folder, f"{folder}/keys", "pki", "state.db")
    }
    assert modes == {folder: 0o711, f"{folder}/keys": 0o700, "pki": 0o700, "state.db": 0o600}
    for name in os.listdir(store.site.pki):
        before, after = store.site.pki / name, other.site.pki / name
        assert (before.read_bytes(), before.stat().st_mode) == (after.read_bytes(), after.stat().st_mode)
    assert list(other.site.images.iterdir()) == []
    assert not (root / "backup.tmp").exists()
    assert pki.roll_out(other.site, check=True)[0].changed is False


def test_a_site_with_a_state_of_its_own_is_not_overwritten(
    store: Store, other: Store, tmp_path: Path
) -> None:
    a_cluster(store)
    path = tmp_path / "backup.tar.gz"
    backup.write(store, path)
    pki.roll_out(other.site)  # a roll-out came first: another authority
    (other.site.pki / "of-the-other.json").touch()
    with pytest.raises(
        RequestError, match=r"a state of its own \(clusters: none now; authority: [0-9a-f]+\)"
    ):
        backup.restore(other, path)
    assert not other.site.database.exists()
    a_cluster(other, "newer")
    before = dump(other.site.database)
    for check in (True, False):
        with pytest.raises(RequestError, match="clusters: newer"):
            backup.restore(other, path, check=check)
    would = backup.restore(other, path, replace=True, check=True)
    assert (would.unknown, dump(other.site.database)) == (("newer",), before)

    # What a killed one has left does not stand in the way.
    (other.site.root / "backup.tmp/pki").mkdir(parents=True)
    restored = backup.restore(other, path, replace=True)
    assert clusters.names(other) == ["one"]
    assert sorted(os.listdir(other.site.pki)) == sorted(os.listdir(store.site.pki))
    assert restored.unknown == ("newer",)
    assert Path(restored.earlier).parent == other.site.root
    # And back: nothing that was there is lost.
    backup.restore(other, Path(restored.earlier), replace=True)
    assert dump(other.site.database) == before


@pytest.mark.parametrize("first", [True, False])
def test_a_later_cluster_never_has_the_folder_of_one_that_the_backup_does_not_know(
    store: Store, other: Store, tmp_path: Path, first: bool
) -> None:
    """Its nodes may run on hosts, on disks in that folder."""
    if not first:
        a_cluster(store)
    path = tmp_path / "backup.tar.gz"
    backup.write(store, path)
    lost = a_cluster(store, "lost")
    backup.restore(other, path)
    again = a_cluster(other, "lost")
    assert clusters.folder(store, lost).name != clusters.folder(other, again).name
    assert again.id > lost.id + 1000


def test_a_cluster_that_is_worked_on_is_not_replaced(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_cluster(store)
    path = tmp_path / "backup.tar.gz"
    backup.write(store, path)
    monkeypatch.setattr(backup, "_LOCK_TIMEOUT", 0.1)
    with (
        store.site.file_lock("cluster-one"),
        pytest.raises(VclustError, match="another vclust process is at work on it"),
    ):
        backup.restore(store, path, replace=True)


def test_others_that_have_the_store_open_see_the_new_state_at_once(
    store: Store, other: Store, tmp_path: Path
) -> None:
    a_cluster(store)
    path = tmp_path / "backup.tar.gz"
    backup.write(store, path)
    reader = Store(other.site)
    assert reader.rows("SELECT name FROM clusters") == []
    backup.restore(other, path)
    assert clusters.names(reader) == ["one"]
    reader.close()


def test_a_backup_is_consistent_while_the_site_is_in_use(store: Store, other: Store, tmp_path: Path) -> None:
    """A writer keeps two rows the same, in transactions; no backup sees them differ."""
    store.execute("CREATE TABLE pair (a INTEGER, b INTEGER)")
    store.execute("INSERT INTO pair VALUES (0, 0)")
    over, writer = threading.Event(), Store(store.site)

    def write() -> None:
        number = 0
        while not over.is_set():
            number += 1
            with writer.transaction():
                writer.execute("UPDATE pair SET a = ?", (number,))
                writer.execute("UPDATE pair SET b = ?", (number,))

    thread = threading.Thread(target=write)
    thread.start()
    seen = set()
    try:
        for number in range(8):
            path = tmp_path / f"{number}.tar.gz"
            backup.write(store, path)
            subprocess.run(["tar", "-xf", path, "-C", tmp_path, "state.db"], check=True)
            with sqlite3.connect(tmp_path / "state.db") as database:
                (a, b) = database.execute("SELECT a, b FROM pair").fetchone()
            assert a == b
            seen.add(a)
    finally:
        over.set()
        thread.join()
        writer.close()
    assert len(seen) > 1  # it was in use


@pytest.mark.parametrize("version", range(1, len(STEPS)))
def test_a_state_of_an_earlier_version_is_brought_forward(
    store: Store, other: Store, tmp_path: Path, version: int
) -> None:
    path = tmp_path / "backup.tar.gz"
    backup.write(store, path)
    old = tmp_path / "old.db"
    with sqlite3.connect(old, isolation_level=None) as connection:
        migrate(connection, version)
        connection.execute(
            "INSERT INTO audit (time, who, action, cluster, detail) VALUES (1, 'x', 'old', '', '')"
        )
    rebuilt(path, lambda name, data: old.read_bytes() if name == "state.db" else data)
    backup.restore(other, path)
    assert other.rows("PRAGMA user_version")[0][0] == len(STEPS)
    assert [row["action"] for row in other.rows("SELECT action FROM audit")] == ["old", "restore"]


def rebuilt(path: Path, changed: Callable[[str, bytes], bytes | None], *, digests: bool = True) -> None:
    """The archive written again, each file as `changed` gives it; with or without the digests of that."""
    import hashlib

    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    header = json.loads(files.pop("backup.json"))
    new = {name: data for name, old in files.items() if (data := changed(name, old)) is not None}
    if digests:
        header["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in new.items()}
    with tarfile.open(path, "w:gz") as archive:
        for name, data in {"backup.json": json.dumps(header).encode(), **new}.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def test_what_is_damaged_or_newer_is_refused_and_changes_nothing(
    store: Store, other: Store, tmp_path: Path
) -> None:
    a_cluster(store)
    good = tmp_path / "good.tar.gz"
    backup.write(store, good)
    newer = tmp_path / "newer.db"
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA user_version = {len(STEPS) + 1}")
    whole = good.read_bytes()

    def spoilt(pages: bytes) -> bytes:
        return pages[:4096] + os.urandom(4096) + pages[8192:]

    cases: list[tuple[Callable[[Path], object], str]] = [
        (lambda path: path.write_bytes(b"no archive" * 100), "damaged, or not a backup of vclust"),
        (lambda path: path.write_bytes(whole[: len(whole) // 2]), "damaged"),
        (lambda path: path.unlink(), "No such file"),
        (
            lambda path: rebuilt(
                path, lambda name, data: None if "keys/user" in name else data, digests=False
            ),
            "keys/user is missing",
        ),
        (
            lambda path: rebuilt(path, lambda name, data: data + b"x", digests=False),
            "is not what backup.json says",
        ),
        (
            lambda path: rebuilt(path, lambda name, data: spoilt(data) if name == "state.db" else data),
            r"state\.db: damaged: ",
        ),
        (
            lambda path: rebuilt(path, lambda name, data: newer.read_bytes() if name == "state.db" else data),
            f"got version {len(STEPS) + 1} of the state, expected 1 to {len(STEPS)}",
        ),
    ]
    for spoil, said in cases:
        path = tmp_path / "backup.tar.gz"
        path.write_bytes(whole)
        spoil(path)
        with pytest.raises(VclustError, match=said):
            backup.restore(other, path)
        assert not other.exists
        assert not other.site.pki.exists()
    for name in ("../state.db", "/etc/passwd", "pki/../x", "clusters/a.1/../../x", "pki/a/b", "held/x"):
        text = json.dumps(
            {"format": 1, "schema": 1, "created": 1, "settings": {}, "clusters": [], "files": {name: ""}}
        )
        with pytest.raises(VclustError, match="holds"):
            backup.Header.from_json(text.encode(), good)
    with pytest.raises(VclustError, match=r"got a backup of format 2, expected 1\n.*newer vclust"):
        backup.Header.from_json(b'{"format": 2}', good)


def test_members_that_are_no_plain_files_are_refused(store: Store, other: Store, tmp_path: Path) -> None:
    path = tmp_path / "backup.tar.gz"
    header = {
        "format": 1,
        "schema": 1,
        "created": 1,
        "settings": {},
        "clusters": [],
        "files": {"pki/a": "", "pki/b": ""},
    }
    data = json.dumps(header).encode()
    with tarfile.open(path, "w:gz") as archive:
        first = tarfile.TarInfo("backup.json")
        first.size = len(data)
        archive.addfile(first, io.BytesIO(data))
        link = tarfile.TarInfo("pki/a")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(VclustError, match=r"pki/a is no file that backup\.json names"):
        backup.restore(other, path)


def test_a_backup_that_fails_leaves_the_earlier_one(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "backup.tar.gz"
    backup.write(store, path)
    before = path.read_bytes()

    def fail(file: Path) -> None:
        raise OSError(28, os.strerror(28), str(file))

    monkeypatch.setattr(backup, "sync", fail)
    with pytest.raises(VclustError, match="not enough space on the file system"):
        backup.write(store, path)
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["backup.tar.gz", "site"]
    with pytest.raises(VclustError, match="No such file or directory"):
        backup.write(store, tmp_path / "nowhere" / "x")


def test_destroy_works_for_what_a_new_site_manager_took_over(store: Store, tmp_path: Path) -> None:
    a_cluster(store)
    path = tmp_path / "backup.tar.gz"
    backup.write(store, path)
    with FakeSession(replace(store.site, root=tmp_path / "new")) as session:
        session.hosts["far"] = session.hosts["a"]
        backup.restore(session.store, path)
        session.hosts["a"].domains["uuid one"] = None  # type: ignore[assignment]
        phase("destroy")(session, Inputs("one", hosts=(Host("far"),)))
        assert session.hosts["a"].domains == {}
        assert clusters.names(session.store) == []
        assert list(session.site.clusters.iterdir()) == []
