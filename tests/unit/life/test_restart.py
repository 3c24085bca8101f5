"""Other CPUs, memory and disks for a cluster that is made, on hosts that only keep books."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, Told, a_request, a_site, another, crash, created, states
from repository import Repository

from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.life import apply, heal, restart, stop, teach
from vclust_py.life.keeper import Keeper
from vclust_py.phases import Inputs, Result, phase
from vclust_py.quotas import Quota
from vclust_py.request import Request
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

MB, GB = 10**6, 10**9
INPUTS = Inputs("one", hosts=HOSTS)


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


@pytest.fixture
def told(session: FakeSession) -> Told:
    return Told(session)


def larger(nodes: int = 2, **software: object) -> Request:
    return a_request(nodes=nodes, hardware={"ram": "1GB", "cpus": 2, "disk": "6GB"}, **software)


def asked(session: FakeSession, request: Request, *, restarts: bool = True) -> Result:
    return apply.run(session, replace(INPUTS, request=request), restarts=restarts)


def machines(session: FakeSession) -> dict[str, tuple[int, int, int]]:
    """By name of each node that runs CPUs, memory and disk as its host has them."""
    cluster = clusters.get(session.store, "one")
    folder = clusters.folder(session.store, cluster).name
    return {
        node.name: (*machine, session.hosts[node.host].files(folder).virtual_size(f"{node.name}.qcow2"))
        for node in cluster.nodes
        if (machine := session.hosts[node.host].machine(node.uuid)) is not None
    }


def found(session: FakeSession) -> Cluster:
    return clusters.get(session.store, "one")


SMALL, LARGE = (1, 512 * MB, 4 * GB), (2, GB, 6 * GB)


def test_one_after_the_other_four_ways(session: FakeSession, told: Told) -> None:
    created(session)
    before = found(session)
    would = apply.run(session, replace(INPUTS, request=larger(), check=True), restarts=True)
    assert (would.facts["restart"], found(session)) == (["one-01", "one-02"], before)
    done = asked(session, larger())
    assert (done.change, done.facts) == (would.change, would.facts)
    assert done.facts["prove"]
    assert set(machines(session).values()) == {SMALL}
    assert restart.run(session, replace(INPUTS, check=True)).facts["restarted"] == ["one-01", "one-02"]
    assert set(machines(session).values()) == {SMALL}

    result = restart.run(session, INPUTS)
    assert (result.facts["restarted"], result.change.changed) == (["one-01", "one-02"], True)
    assert machines(session) == {"one-01": LARGE, "one-02": LARGE}
    assert states(session) == ["ready", "ready"]
    # The first node, which promises others' memory, comes last; each is told when it is ready again.
    assert told.nodes == [("one-02", 2), ("one-01", 2)]
    assert [row["detail"] for row in audited(session.store) if row["action"] == "restart"] == [
        "one-02",
        "one-01",
    ]
    cluster = found(session)
    assert [(node.name, node.address, node.uuid) for node in cluster.nodes] == [
        (node.name, node.address, node.uuid) for node in before.nodes
    ]
    assert (cluster.state, cluster.request) == ("ready", larger())
    for check in (False, True):
        inputs = replace(INPUTS, request=larger(), check=check)
        assert not apply.run(session, inputs, restarts=True).change.changed
        assert not restart.run(session, inputs).change.changed
    assert not teach.run(session, INPUTS).change.changed


def test_a_disk_alone(session: FakeSession, told: Told) -> None:
    created(session)
    assert asked(session, a_request(hardware={"disk": "6GB"})).facts["restart"] == ["one-01", "one-02"]
    assert restart.run(session, INPUTS).facts["restarted"] == ["one-01", "one-02"]
    assert set(machines(session).values()) == {(1, 512 * MB, 6 * GB)}
    assert not asked(session, a_request(hardware={"disk": "6GB"}), restarts=False).change.changed


def test_a_cluster_that_an_earlier_version_has_changed(session: FakeSession, told: Told) -> None:
    cluster = created(session)
    asked(session, a_request(lease="8h"))
    teach.run(session, INPUTS)
    path = clusters.folder(session.store, cluster) / "keys/installed.json"
    noted = json.loads(path.read_text())
    path.write_text(json.dumps({number: {**held, "machine": None} for number, held in noted.items()}))
    asked(session, larger(lease="8h"))
    assert restart.run(session, INPUTS).facts["restarted"] == ["one-01", "one-02"]
    assert set(machines(session).values()) == {LARGE}
    assert not teach.run(session, INPUTS).change.changed


def test_never_two_nodes_at_once_are_down(session: FakeSession, told: Told) -> None:
    created(session, a_request(nodes=4))
    asked(session, larger(nodes=4))
    least = []
    for host in session.hosts.values():
        start = host.start
        host.start = lambda domain, start=start: (least.append(len(machines(session))), start(domain))[1]  # type: ignore[method-assign, misc]
    restart.run(session, INPUTS)
    assert least == [3, 3, 3, 3]


def test_less_memory_begins_with_the_first_node(session: FakeSession, told: Told) -> None:
    created(session, a_request(hardware={"ram": "1GB"}))
    asked(session, a_request())
    restart.run(session, INPUTS)
    assert [name for name, _ in told.nodes] == ["one-01", "one-02"]
    assert set(machines(session).values()) == {SMALL}


def test_refused_unless_restarts_are_allowed(session: FakeSession, told: Told) -> None:
    created(session)
    before = found(session)
    with pytest.raises(RequestError) as refused:
        asked(session, larger(), restarts=False)
    for line in ("one: CPUs: is 1", "one: RAM: is 512MB", "one: Disk: is 4GB", "vclust apply --restart"):
        assert line in str(refused.value)
    assert found(session) == before
    # What was interrupted is to be brought to its end first.
    asked(session, larger())
    for word in ("apply", "resize"):
        with pytest.raises(RequestError, match="yet to be restarted for an earlier change: one-01, one-02"):
            apply.run(session, replace(INPUTS, request=larger()), number=3 if word == "resize" else None)
    assert restart.run(session, INPUTS).facts["restarted"] == ["one-01", "one-02"]
    assert not asked(session, larger(), restarts=False).change.changed


def test_all_or_nothing(session: FakeSession) -> None:
    """Host b has space for the nodes' CPUs, a has not."""
    before = created(session, a_request(nodes=4))
    session.hosts["a"].cpus = 1
    session.site = replace(session.site, cpu_overcommit=4)
    with pytest.raises(CapacityError) as refused:
        asked(session, a_request(nodes=5, hardware={"cpus": 3}))
    assert "one: its nodes do not fit where they are:\n  a: 1 CPUs, asked for 3 in one node\n" in str(
        refused.value
    )
    session.hosts["a"].cpus = 2
    session.site = replace(session.site, cpu_overcommit=1)
    for check in (True, False):
        with pytest.raises(CapacityError, match="a: lacks 2 virtual CPUs\n"):
            apply.run(
                session,
                replace(INPUTS, request=a_request(nodes=4, hardware={"cpus": 2}), check=check),
                restarts=True,
            )
    session.hosts["a"].disk_free = 10 * GB
    with pytest.raises(CapacityError, match="a: lacks 2 GB of disk\n"):
        asked(session, a_request(nodes=4, hardware={"disk": "6GB"}))
    assert found(session) == before
    # Less is no question of space: a's disk has been promised twice, and stays so.
    session.hosts["a"].disk_free = 0
    asked(session, a_request(nodes=4, hardware={"ram": "400MB"}))


def test_the_quota_counts_what_is_to_be(session: FakeSession) -> None:
    before = created(session)
    session.store.execute("UPDATE clusters SET owner = 'alice'")
    session.site = replace(session.site, user_quota=Quota(memory=1500 * MB))
    with pytest.raises(CapacityError, match=r"2\.0 GB asked for, limit 1\.5 GB"):
        asked(session, larger())
    assert found(session).nodes == before.nodes


def test_a_silent_host(session: FakeSession, told: Told) -> None:
    """Nobody knows whether there is space, or whether nodes there are restarted yet."""
    before = created(session)
    session.close()
    session.gone = {"b"}
    with pytest.raises(CapacityError, match="do not fit where they are:\n  b: no route"):
        asked(session, larger())
    assert found(session).nodes == before.nodes
    session.gone = set()
    asked(session, larger())
    session.close()
    session.gone = {"b"}
    with pytest.raises(VclustError, match="b: no route"):
        restart.run(session, INPUTS)
    session.gone = set()
    assert set(machines(session).values()) == {SMALL}


def test_interrupted_it_goes_on_where_it_was(session: FakeSession, told: Told) -> None:
    """Killed when a node was shut down: the keeper starts it, with what it is to have; the rest is asked for again."""
    created(session, a_request(nodes=3))
    asked(session, larger(nodes=3))

    class Killed(BaseException):
        pass

    def killed(domain: object) -> bool:
        raise Killed

    host = session.hosts[found(session).nodes[1].host]
    real, host.start = host.start, killed  # type: ignore[method-assign, assignment]
    with pytest.raises(Killed):
        restart.run(session, INPUTS)
    host.start = real  # type: ignore[method-assign]
    assert states(session) == ["ready", "failed", "ready"]
    with another(session) as other:
        other.run = told  # type: ignore[assignment]
        keeper = Keeper(lambda: other, HOSTS)
        for _ in range(3):
            keeper.round(answer=10, work=60)
        keeper.close()
    assert states(session) == ["ready"] * 3
    assert machines(session) == {"one-01": SMALL, "one-02": LARGE, "one-03": SMALL}
    assert asked(session, larger(nodes=3)).facts["restart"] == ["one-01", "one-03"]
    assert restart.run(session, INPUTS).facts["restarted"] == ["one-01", "one-03"]
    assert set(machines(session).values()) == {LARGE}
    assert sorted(told.nodes) == [("one-01", 2), ("one-02", 2), ("one-03", 2)]


def test_one_that_does_not_come_back_ends_it(session: FakeSession, told: Told) -> None:
    created(session, a_request(nodes=3))
    asked(session, larger(nodes=3))
    broken = session.hosts[found(session).nodes[1].host]
    broken.failing = {"one-02"}
    with pytest.raises(VclustError, match="one-02: not ready after its restart"):
        restart.run(session, INPUTS)
    assert states(session) == ["ready", "failed", "ready"]
    assert machines(session) == {"one-01": SMALL, "one-03": SMALL}
    broken.failing = set()
    heal.run(session, INPUTS)
    restart.run(session, INPUTS)
    assert set(machines(session).values()) == {LARGE}


def test_nodes_that_start_anyway_are_as_they_are_to_be(session: FakeSession, told: Told) -> None:
    cluster = created(session)
    asked(session, larger())
    crash(session, cluster, 1)
    assert restart.run(session, replace(INPUTS, check=True)).facts["restarted"] == ["one-01"]
    heal.run(session, INPUTS)
    stop.run(session, INPUTS)
    assert restart.run(session, INPUTS).facts["restarted"] == []
    for word in ("create", "install", "ready"):
        phase(word)(session, INPUTS)
    assert set(machines(session).values()) == {LARGE}
    assert not asked(session, larger(), restarts=False).change.changed


def test_more_nodes_at_once(session: FakeSession, told: Told) -> None:
    created(session)
    done = asked(session, larger(nodes=3))
    assert (done.facts["restart"], list(done.facts["add"])) == (["one-01", "one-02"], ["one-03"])
    restart.run(session, INPUTS)
    for word in ("image", "create"):
        phase(word)(session, INPUTS)
    teach.run(session, INPUTS)
    for word in ("install", "ready"):
        phase(word)(session, INPUTS)
    assert machines(session) == dict.fromkeys(("one-01", "one-02", "one-03"), LARGE)
    assert states(session) == ["ready"] * 3


def test_fewer_nodes_at_once(session: FakeSession, told: Told) -> None:
    """Those that go are neither restarted nor counted."""
    created(session, a_request(nodes=4))
    session.hosts["a"].disk_free = session.hosts["b"].disk_free = 10 * GB
    done = asked(session, larger(nodes=2))
    assert (done.facts["restart"], done.facts["remove"]) == (["one-01", "one-02"], ["one-03", "one-04"])
    assert restart.run(session, INPUTS).facts["restarted"] == ["one-01", "one-02"]


SIZED = """
description: a test
packages: []
steps: [{nodes: all, run: "echo $VCLUST_RAM_MB"}]
"""
CHANGES = """change: systemctl restart thing
leave: |
  drain "$VCLUST_LEAVING"
"""
RESUMES = """resume: |
  undrain "$VCLUST_NODE"
"""


@pytest.mark.parametrize("more", ["", CHANGES, CHANGES + RESUMES])
def test_what_runs_on_the_nodes_is_told(toy: Repository, tmp_path: Path, more: str) -> None:
    folder = tmp_path / "metapackages"
    folder.mkdir()
    (folder / "thing.yml").write_text(SIZED + more)
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0, metapackages=(folder,))) as session:
        told = Told(session)
        said, real = list[str](), session.run

        def run(argv: list[str], *, stdin: str, **options: object) -> str:
            if "VCLUST_LEAVING" in stdin:
                assert argv[-3] == "root@one-01"
                said.append(stdin.splitlines()[1])
                return ""
            if "generation=" in stdin:
                said.append(argv[-3])
            return real(argv, stdin=stdin, **options)

        session.run = run  # type: ignore[method-assign]
        created(session, a_request(meta_packages="thing"))
        if not more:
            with pytest.raises(RequestError, match="CPUs, RAM: the meta package thing has told the nodes"):
                asked(session, larger(meta_packages="thing"))
            return
        asked(session, larger(meta_packages="thing"))
        restart.run(session, INPUTS)
        nodes = ["root@one-02", "root@one-01"]
        if RESUMES in more:
            leaving = [f"export VCLUST_LEAVING={name}" for name in ("one-02", "one-01")]
            assert said == [leaving[0], nodes[0], leaving[1], nodes[1]]
        else:
            assert said == nodes
        assert len(told.nodes) == 2
