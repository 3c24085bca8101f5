"""Snapshots of clusters' disks: hosts' files are numbers here, the copying of real ones is in tests/system."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, a_request, a_site, another, created, states
from repository import Repository

from vclust_py.errors import BusyError, CapacityError, RequestError, VclustError
from vclust_py.life import apply, snapshot, stop
from vclust_py.phases import Inputs, phase
from vclust_py.site import clusters, snapshots
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")
ONE = Inputs("one")


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0, snapshots=2)) as session:
        yield session


def files(session: FakeSession, cluster: Cluster, ending: str = ".qcow2") -> dict[str, int]:
    folder = clusters.folder(session.store, cluster).name
    return {
        name: content
        for host in session.hosts.values()
        for name, content in host.folders.get(folder, {}).items()
        if name.endswith(ending)
    }


def write(session: FakeSession, cluster: Cluster, content: int) -> None:
    """Let every node's disk hold something else."""
    folder = clusters.folder(session.store, cluster).name
    for node in cluster.nodes:
        session.hosts[node.host].folders[folder][f"{node.name}.qcow2"] = content


def tags(session: FakeSession) -> list[tuple[str, int | None]]:
    return [(one["tag"], one["bytes"]) for one in describe(session.store)[0]["snapshots"]]


def test_taken_restored_and_removed(session: FakeSession) -> None:
    cluster = created(session)
    names = [node.name for node in cluster.nodes]
    write(session, cluster, 7)
    would = snapshot.take(session, Inputs("one", check=True), "before")
    assert (tags(session), session.hosts["a"].calls["shutdown"]) == ([], 0)
    done = snapshot.take(session, ONE, "before")
    assert done == would
    assert (done.change.before, done.change.after) == ({"snapshots": []}, {"snapshots": ["before"]})
    assert done.facts == {"restarted": True}
    assert states(session) == ["ready", "ready"]
    assert files(session, cluster, "@before.qcow2") == {f"{name}@before.qcow2": 7 for name in names}
    assert tags(session) == [("before", 14)]

    write(session, cluster, 9)
    would = snapshot.restore(session, Inputs("one", check=True), "before")
    assert files(session, cluster)[f"{names[0]}.qcow2"] == 9
    assert snapshot.restore(session, ONE, "before") == would
    assert set(files(session, cluster).values()) == {7}
    assert states(session) == ["ready", "ready"]

    assert snapshot.remove(session, Inputs("one", check=True), "before").change.changed
    assert tags(session) == [("before", 14)]
    assert snapshot.remove(session, ONE, "before").change.changed
    assert not snapshot.remove(session, ONE, "before").change.changed
    assert sorted(files(session, cluster)) == [f"{name}.qcow2" for name in names]
    assert [row["action"] for row in audited(session.store)] == [
        "create", "snapshot", "restore", "remove snapshot",
    ]  # fmt: skip


def test_a_stopped_cluster_stays_stopped(session: FakeSession) -> None:
    created(session)
    stop.run(session, ONE)
    assert snapshot.take(session, ONE, "a").facts == {"restarted": False}
    assert snapshot.restore(session, ONE, "a").facts == {"restarted": False}
    assert states(session) == ["stopped", "stopped"]


def test_refused_tags(session: FakeSession) -> None:
    created(session)
    snapshot.take(session, ONE, "a")
    with pytest.raises(RequestError, match=r"one: snapshot a: is there since .*\n.*another tag"):
        snapshot.take(session, ONE, "a")
    with pytest.raises(RequestError, match=r"one: no snapshot b; there are: a$"):
        snapshot.restore(session, ONE, "b")
    snapshot.take(session, ONE, "b")
    with pytest.raises(
        RequestError, match=r"has 2 snapshots: a, b; expected fewer than 2 .*\n.*one a --remove"
    ):
        snapshot.take(session, ONE, "c")


def test_who_is_not_ready_and_who_is_somebody_elses(session: FakeSession) -> None:
    with pytest.raises(RequestError, match="one: no such cluster"):
        snapshot.take(session, ONE, "a")
    created(session, last="create")
    with pytest.raises(RequestError, match="one: got the state created"):
        snapshot.take(session, ONE, "a")
    with another(session) as other:
        other.store.who = "bob"
        for work in (snapshot.take, snapshot.restore, snapshot.remove):
            with pytest.raises(RequestError, match="one: belongs to root"):
                work(other, ONE, "a")


def test_busy(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    created(session)
    monkeypatch.setattr(snapshot, "_LOCK_TIMEOUT", 0.1)
    with another(session) as other, clusters.locked(other.store, "one"), pytest.raises(BusyError):
        snapshot.take(session, ONE, "a")


def test_no_space_beside_what_is_reserved(session: FakeSession) -> None:
    cluster = created(session)
    write(session, cluster, 1 << 30)
    disk = cluster.nodes[0].disk
    host = cluster.nodes[0].host
    session.hosts[host].disk_free = disk - 1
    with pytest.raises(
        CapacityError, match=rf"one: no space for a snapshot:\n  {host}: 1023 MB free.* 1024 MB"
    ):
        snapshot.take(session, ONE, "a")
    assert session.hosts[host].calls["shutdown"] == 0
    session.hosts[host].disk_free = disk
    snapshot.take(session, ONE, "a")


def test_a_full_disk_leaves_nothing_and_the_cluster_runs(session: FakeSession) -> None:
    cluster = created(session)
    last = cluster.nodes[-1]
    session.hosts[last.host].full = {f"{last.name}@a.qcow2"}
    with pytest.raises(VclustError, match="no space left"):
        snapshot.take(session, ONE, "a")
    assert (tags(session), files(session, cluster, "@a.qcow2")) == ([], {})
    assert states(session) == ["ready", "ready"]


def test_an_interrupted_restore_is_done_again_before_anything_starts(session: FakeSession) -> None:
    cluster = created(session)
    snapshot.take(session, ONE, "a")
    write(session, cluster, 9)
    last = cluster.nodes[-1]
    session.hosts[last.host].full = {f"{last.name}.qcow2"}
    with pytest.raises(VclustError, match=r"no space left"):
        snapshot.restore(session, ONE, "a")
    assert states(session) == ["stopped", "stopped"]
    session.hosts[last.host].full = set()
    for work in (lambda: phase("create")(session, ONE), lambda: snapshot.take(session, ONE, "b")):
        with pytest.raises(
            VclustError, match=r"one: its snapshot a is half restored\n.*vclust restore one a"
        ):
            work()
    with pytest.raises(RequestError, match="half restored"):
        snapshot.remove(session, ONE, "a")
    assert snapshot.restore(session, ONE, "a").facts == {"restarted": False}
    assert set(files(session, cluster).values()) == {1}
    for word in ("create", "install", "ready"):
        phase(word)(session, ONE)
    assert states(session) == ["ready", "ready"]


def test_an_interrupted_snapshot_is_no_snapshot(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = created(session)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "_written", interrupted)
        with pytest.raises(KeyboardInterrupt):
            snapshot.take(session, ONE, "a")
    assert tags(session) == [("a", None)]
    with pytest.raises(RequestError, match="snapshot a: its making was interrupted"):
        snapshot.restore(session, ONE, "a")
    snapshot.take(session, ONE, "a")
    assert tags(session) == [("a", 2)]
    snapshot.remove(session, ONE, "a")
    assert files(session, cluster, "@a.qcow2") == {}


def test_other_nodes_than_then(session: FakeSession) -> None:
    cluster = created(session)
    snapshot.take(session, ONE, "a")
    last = cluster.nodes[-1]
    apply.run(session, Inputs("one", hosts=HOSTS), number=1)
    assert list(files(session, cluster, "@a.qcow2")) == [f"{cluster.nodes[0].name}@a.qcow2"]
    with pytest.raises(RequestError, match=rf"has the disks of .*; nodes that were .* since: {last.name}$"):
        snapshot.restore(session, ONE, "a")
    snapshot.remove(session, ONE, "a")
    assert tags(session) == []


def test_a_lost_file_is_seen_before_anything_is_lost(session: FakeSession) -> None:
    cluster = created(session)
    snapshot.take(session, ONE, "a")
    first = cluster.nodes[0]
    folder = clusters.folder(session.store, cluster).name
    del session.hosts[first.host].folders[folder][f"{first.name}@a.qcow2"]
    with pytest.raises(
        VclustError, match=rf"a disk of it is lost:\n  {first.host}: {first.name}@a.qcow2 is not"
    ):
        snapshot.restore(session, ONE, "a")
    assert states(session) == ["ready", "ready"]


def test_a_host_that_does_not_answer(session: FakeSession) -> None:
    created(session)
    snapshot.take(session, ONE, "a")
    session.close()
    session.gone = {"b"}
    for work, tag in ((snapshot.take, "b"), (snapshot.restore, "a"), (snapshot.remove, "a")):
        with pytest.raises(VclustError, match="b: no route"):
            work(session, ONE, tag)
    assert tags(session) == [("a", 2)]


def test_told_again_of_what_the_disks_do_not_know(session: FakeSession) -> None:
    cluster = created(session)
    snapshot.take(session, ONE, "a")
    apply.run(
        session, Inputs("one", request=a_request(users=[{"name": "bob", "password_hash": "*"}]), hosts=HOSTS)
    )
    assert clusters.get(session.store, "one").generation == cluster.generation + 1
    stop.run(session, ONE)
    snapshot.restore(session, ONE, "a")
    assert {node.generation for node in clusters.get(session.store, "one").nodes} == {cluster.generation}


def test_destroy_takes_snapshots_along(session: FakeSession) -> None:
    cluster = created(session)
    snapshot.take(session, ONE, "a")
    phase("destroy")(session, ONE)
    assert files(session, cluster) == {}
    assert snapshots.of(session.store, cluster) == []
