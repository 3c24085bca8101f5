"""Volumes from the request that makes them to their end; what is on them is in tests/system."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, a_request, a_site, another, created
from repository import Repository

from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.hosts import remove as remove_host
from vclust_py.life import volume
from vclust_py.phases import Inputs, phase
from vclust_py.pki import Machine
from vclust_py.request import Request
from vclust_py.site import clusters, volumes
from vclust_py.site.describe import describe, describe_volumes

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


def asked(name: str = "one", text: str = "data 20GB keep", nodes: int = 2, **hardware: object) -> Request:
    return a_request(name, nodes, {"volume": text, **hardware})


def destroy(session: FakeSession, name: str = "one", *forget: str) -> None:
    phase("destroy")(session, Inputs(name, forget=frozenset(forget)))


def folders(session: FakeSession) -> set[str]:
    """By host and name those of volumes that have something."""
    return {
        f"{name}:{folder}"
        for name, host in session.hosts.items()
        for folder, files in host.folders.items()
        if ".volume." in folder and files
    }


def test_made_kept_and_taken_again_on_its_host(session: FakeSession) -> None:
    cluster = created(session, asked())
    first = cluster.nodes[0]
    (one,) = volumes.every(session.store)
    assert (one.host, one.size, one.keep, one.user) == (first.host, 20 * 10**9, True, "one")
    assert folders(session) == {f"{first.host}:{one.folder}"}
    disks = {node.name: session.hosts[node.host].domains[node.uuid].disks for node in cluster.nodes}
    assert disks[first.name][-1].path.name == volumes.FILE_NAME
    assert not disks[first.name][-1].readonly
    assert all(disk.path.name != volumes.FILE_NAME for disk in disks[cluster.nodes[1].name])
    assert describe(session.store)[0]["volume"] == {
        "name": "data", "size": 20 * 10**9, "keep": True, "host": first.host,
    }  # fmt: skip

    with pytest.raises(RequestError, match="two: Volume: data is in use by the cluster one"):
        created(session, asked("two"))
    with pytest.raises(RequestError, match=r"data: is in use by the cluster one\n.*vclust destroy one"):
        volume.remove(session, "data")
    destroy(session)
    assert folders(session) == {f"{first.host}:{one.folder}"}
    assert describe_volumes(session.store)[0]["cluster"] == ""

    # Wherever the next one's first node would like to be; and kept, whatever its request says.
    busy = created(session, a_request("busy", 1))
    cluster = created(session, asked("two", "data 20GB", nodes=1))
    assert (cluster.nodes[0].host, busy.nodes[0].host) == (first.host, busy.nodes[0].host)
    destroy(session, "two")
    assert [one.user for one in volumes.every(session.store)] == [""]
    assert volume.remove(session, "data", check=True).change.changed
    assert len(volumes.every(session.store)) == 1
    assert volume.remove(session, "data").change.changed
    assert not volume.remove(session, "data").change.changed
    assert (volumes.every(session.store), folders(session)) == ([], set())


def test_without_keep_it_goes_with_its_cluster(session: FakeSession) -> None:
    created(session, asked(text="data 20GB"))
    assert len(folders(session)) == 1
    destroy(session)
    assert (volumes.every(session.store), folders(session)) == ([], set())


def test_its_node_is_shut_down_as_what_was_written_may_be_in_memory(session: FakeSession) -> None:
    cluster = created(session, asked(nodes=3))
    host = session.hosts[cluster.nodes[0].host]
    destroy(session)
    assert host.calls["shutdown"] == 1
    created(session, asked("two", "other 20GB", nodes=3))  # nobody will read it again
    destroy(session, "two")
    assert sum(one.calls["shutdown"] for one in session.hosts.values()) == 1


def test_another_size_is_refused(session: FakeSession) -> None:
    created(session, asked())
    destroy(session)
    with pytest.raises(
        RequestError, match=r"one: Volume: data has 20GB, the request says 30GB\n.*volume remove data"
    ):
        created(session, asked(text="data 30GB"))


def test_each_owner_has_their_own(session: FakeSession) -> None:
    created(session, asked())
    with another(session) as other:
        other.store.who = "bob"
        created(other, asked("two"))
        assert [one["owner"] for one in describe_volumes(other.store)] == ["bob"]
        destroy(other, "two")
        with pytest.raises(RequestError, match="data: belongs to root"):
            volume.remove(other, "data", owner="root")
    assert [(one.owner, one.user) for one in volumes.every(session.store)] == [("bob", ""), ("root", "one")]
    volume.remove(session, "data", owner="bob")
    assert [one.owner for one in volumes.every(session.store)] == ["root"]


def test_space_for_it_is_reserved(session: FakeSession) -> None:
    created(session, asked())
    destroy(session)
    (one,) = volumes.every(session.store)
    for host in session.hosts.values():
        host.disk_free = 21 * 10**9
    # Only 1 GB is left beside it there, and a node takes 4.
    cluster = created(session, a_request("other", 2))
    assert {node.host for node in cluster.nodes} == {"a", "b"} - {one.host}
    with pytest.raises(
        CapacityError, match=rf"one: its volume is on {one.host}, and so must its first node be:"
    ):
        created(session, asked())


def test_a_new_one_needs_space_on_the_first_nodes_host(session: FakeSession) -> None:
    session.hosts["a"].disk_free = 10 * 10**9
    cluster = created(session, asked(nodes=3))
    assert cluster.nodes[0].host == "b"
    assert [node.name for node in cluster.nodes] == list(asked(nodes=3).hostnames)
    assert [node.address for node in cluster.nodes] == [str(one) for one in asked(nodes=3).addresses]
    assert [node.position for node in cluster.nodes] == [0, 1, 2]


def test_quotas_count_it(session: FakeSession) -> None:
    quota = session.site.user_quota
    limited = replace(session.site, user_quota=replace(quota, disk=30 * 10**9))
    with FakeSession(limited) as other:
        other.store.who = "bob"
        created(other, asked())  # 20 and two nodes of 4
        destroy(other)
        with pytest.raises(
            CapacityError, match=r"12.0 GB asked for, limit 30.0 GB, 20.0 GB used by volume data"
        ):
            created(other, a_request("two", 3))
        created(other, asked("two"))
        destroy(other, "two")
        with pytest.raises(CapacityError, match="vclust volume remove data"):
            created(other, asked("two", "more 20GB", nodes=1))


def test_a_host_that_does_not_answer(session: FakeSession) -> None:
    cluster = created(session, asked(text="data 20GB", nodes=1))
    host = cluster.nodes[0].host
    session.close()
    session.gone = {host}
    destroy(session, "one", host)
    assert [one.user for one in volumes.every(session.store)] == [""]  # what may be there is not forgotten
    with pytest.raises(VclustError, match="got absent, and volumes are there: data of root"):
        remove_host(session, Machine(host, "192.0.2.1"))
    with pytest.raises(VclustError, match=r"no route\n.*--forget"):
        volume.remove(session, "data")
    with pytest.raises(CapacityError, match=rf"its volume is on {host}, .*\n{host}: no route"):
        created(session, asked())
    result = volume.remove(session, "data", forget=True)
    assert (
        f"{host} does not answer: there may still be the folder clusters/data.volume." in result.warnings[0]
    )
    assert volumes.every(session.store) == []


def test_check_mode_takes_nothing(session: FakeSession) -> None:
    request = asked()
    lock = phase("resolve")(session, Inputs("one", check=True, request=request, hosts=HOSTS)).facts["lock"]
    inputs = Inputs("one", check=True, request=request, lock=lock, hosts=HOSTS)
    assert phase("place")(session, inputs).facts["plan"]["placement"]
    assert volumes.every(session.store) == []
    assert clusters.names(session.store) == []
