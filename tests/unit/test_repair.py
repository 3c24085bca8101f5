"""The site manager's part of running clusters, made again, on hosts that only keep books."""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cache.cachesite import make_base
from fakehost import FakeSession
from repository import KERNEL, Repository

from vclust_py import repair
from vclust_py import request as requests
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Segment
from vclust_py.phases import ORDER, Inputs, phase
from vclust_py.site import backup, clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    site = toy.site(tmp_path / "site", cache_every=0)
    make_base(site)
    with FakeSession(site) as session:
        yield session


def created(session: FakeSession, last: str = "ready", uri: str = Host.uri, name: str = "all") -> Cluster:
    """A cluster of two nodes, one a host, that has come as far as the phase `last`."""
    asked = {
        "hardware": {"number_of_nodes": 2, "ram": "512MB", "disk": "4GB"},
        "software": {"name": name, "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/24"},
    }
    request, lock = requests.from_mapping(asked, "test"), ""
    for word in ORDER[: ORDER.index(last) + 1]:
        inputs = Inputs(name, request=request, lock=lock, hosts=(Host("a"), Host("b", uri)))
        if word == "distribute":
            continue
        result = phase(word)(session, inputs)
        lock = result.facts["lock"] if word == "resolve" else lock
    return clusters.get(session.store, name)


def states(session: FakeSession) -> dict[str, str]:
    return {node.name: str(node.state) for node in clusters.get(session.store, "all").nodes}


def test_nothing_is_changed_where_all_is_there(session: FakeSession) -> None:
    created(session)
    for check in (True, False):
        result = repair.run(session, check=check)
        assert (result.change.changed, result.facts, result.warnings) == (
            False,
            {"repaired": [], "removed": []},
            (),
        )


def test_a_network_that_is_gone_is_made_again_with_its_way_out(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = created(session)
    session.fake_networks.segments.clear()
    session.fake_networks.doors.clear()
    would = repair.run(session, check=True)
    assert (session.fake_networks.segments, would.warnings) == ({}, ())
    monkeypatch.setattr(session.fake_networks, "let_out", lambda segment, way: (f"{segment}: no proxy",))
    result = repair.run(session)
    assert result.warnings == (f"all: {cluster.segment}: no proxy",)
    assert list(session.fake_networks.doors.pop(cluster.segment).nodes) == [
        node.name for node in cluster.nodes
    ]
    monkeypatch.undo()
    assert result.change == would.change
    assert result.change.after == {"all": "network there"}
    assert session.fake_networks.segments == {cluster.segment: cluster.network}
    assert set(states(session).values()) == {"ready"}
    assert not repair.run(session).change.changed


def test_ends_of_the_tunnel_are_made_on_hosts_too(session: FakeSession) -> None:
    cluster = created(session, uri="xen+tls://127.0.0.2/system")
    (far,) = (node for node in cluster.nodes if urlsplit(node.uri).hostname)
    session.hosts["b"].segments.clear()
    session.fake_networks.segments.clear()
    repair.run(session, check=True)
    assert session.hosts["b"].segments == {}
    repair.run(session)
    end = session.hosts["b"].segments[cluster.segment]
    assert isinstance(end, Segment)
    assert (end.vni, str(end.local)) == (cluster.network, far.machine)


def test_nodes_that_do_not_run_any_more_are_noted(session: FakeSession) -> None:
    cluster = created(session)
    first, second = cluster.nodes
    session.hosts[first.host].domains.clear()
    session.hosts[second.host].domains.clear()
    session.hosts[second.host].folders.clear()
    would = repair.run(session, check=True)
    assert set(states(session).values()) == {"ready"}
    result = repair.run(session)
    assert (
        result.warnings
        == would.warnings
        == (
            f"all: {first.name} does not run on {first.host}; create with the cluster's request starts it again",
            f"all: {second.name} does not run on {second.host}, and its disk is not there any more",
        )
    )
    assert states(session) == {first.name: "failed", second.name: "failed"}
    assert not repair.run(session).change.changed


def test_a_host_that_does_not_answer_and_one_that_refuses_are_warned_of(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = created(session, uri="xen+tls://127.0.0.2/system")
    session.close()
    session.gone = {"a"}
    session.fake_networks.segments.clear()

    def refuse(segment: Segment) -> None:
        raise VclustError("b: its other hosts have changed")

    monkeypatch.setattr(session.hosts["b"], "ensure_segment", refuse)
    assert repair.run(session).warnings == (
        "all: as it was there: a: no route",
        "all: its network there is as it was: b: its other hosts have changed",
    )
    assert session.fake_networks.segments == {cluster.segment: cluster.network}
    assert set(states(session).values()) == {"ready"}


def test_what_was_never_started_and_what_is_worked_on_is_left_alone(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    created(session, "place")
    assert not repair.run(session).change.changed
    assert session.fake_networks.segments == {}
    created(session)
    session.fake_networks.segments.clear()
    monkeypatch.setattr(repair, "_LOCK_TIMEOUT", 0.1)
    with session.site.file_lock("cluster-all"):
        (said,) = repair.run(session).warnings
    assert said.startswith("all: cluster-all: another vclust process is at work on it")
    assert session.fake_networks.segments == {}


def test_a_new_site_manager_takes_up_what_runs(session: FakeSession, toy: Repository, tmp_path: Path) -> None:
    """With nothing but a backup: no images, no networks; the hosts and their nodes are as they were."""
    cluster = created(session)
    backup.write(session.store, tmp_path / "backup.tar.gz")
    with FakeSession(toy.site(tmp_path / "new", cache_every=0)) as new:
        new.hosts = session.hosts
        backup.restore(new.store, tmp_path / "backup.tar.gz")
        result = repair.run(new)
        assert (result.facts, result.warnings) == ({"repaired": ["all"], "removed": []}, ())
        assert new.fake_networks.segments == {cluster.segment: cluster.network}
        (described,) = describe(new.store)
        assert described["state"] == "ready"
        for file in ("key", "admin_key", "known_hosts"):
            assert Path(described["ssh"][file]).read_bytes()
        # The next cluster has images of its own, which stand beside those that are not here any more.
        make_base(new.site)
        created(new, name="next")
        for name in ("next", "all"):
            phase("destroy")(new, Inputs(name))
        assert clusters.live(new.store) == []
    assert [host.domains for host in session.hosts.values()] == [{}, {}]
