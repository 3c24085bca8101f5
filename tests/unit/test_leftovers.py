"""Parts of clusters taken off hosts that only keep books."""

from collections.abc import Iterator
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from fakehost import FakeFiles, FakeHost, FakeSession

from vclust_py import leftovers
from vclust_py.errors import NoAnswerError, VclustError
from vclust_py.hypervisor import Segment
from vclust_py.site import Site
from vclust_py.site.clusters import Node, Part
from vclust_py.site.session import fan_out

NODES = 40


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    session = FakeSession(Site(root=tmp_path / "site"))
    yield session
    session.close()


def a_part(session: FakeSession, cluster: int, host: str) -> Part:
    """That is there."""
    fake, name = session.hosts[host], f"c{cluster}"
    nodes = tuple(
        Node(number, f"n{number}", host, "", "", "", f"{cluster} {host} {number}", 1, 2, 3)
        for number in range(NODES)
    )
    for node in nodes:
        fake.domains[node.uuid] = None  # type: ignore[assignment]
    part = Part(cluster, name, host, f"{name}.{cluster}", f"vc{cluster}", nodes)
    fake.segments[part.segment] = Segment(part.segment, cluster, IPv4Address("10.0.0.1"), {})
    FakeFiles(fake, part.folder).overlay("n0.qcow2", "base", 1)
    return part


def there(host: FakeHost) -> tuple[int, set[str], set[str]]:
    return len(host.domains), set(host.segments), {name for name, files in host.folders.items() if files}


def test_of_several_clusters_and_hosts_at_once(session: FakeSession) -> None:
    parts = [a_part(session, cluster, host) for cluster in (1, 2) for host in ("a", "b")]
    assert leftovers.remove(session, parts, session.hosts) == [None] * 4
    assert [there(host) for host in session.hosts.values()] == [(0, set(), set())] * 2
    assert [host.calls["clear"] for host in session.hosts.values()] == [2 * NODES] * 2
    assert leftovers.remove(session, parts, session.hosts) == [None] * 4
    assert leftovers.remove(session, [], session.hosts) == []


def test_a_node_that_cannot_be_removed_holds_up_no_other(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But the rest of its cluster on that host stays, as its disk is in use."""
    parts = [a_part(session, cluster, host) for cluster in (1, 2) for host in ("a", "b")]
    host, busy = session.hosts["a"], parts[0].nodes[0].uuid
    remove = host.remove

    def refuse(uuid: str) -> bool:
        if uuid == busy:
            raise VclustError(f"a: {uuid}: device busy")
        return remove(uuid)

    monkeypatch.setattr(host, "remove", refuse)
    errors = leftovers.remove(session, parts, session.hosts)
    assert [str(error) for error in errors] == [f"a: {busy}: device busy", "None", "None", "None"]
    assert there(host) == (1, {"vc1"}, {"c1.1"})
    assert there(session.hosts["b"]) == (0, set(), set())


def test_a_host_that_stops_answering_is_not_asked_again(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = [a_part(session, cluster, host) for cluster in (1, 2) for host in ("a", "b")]
    asked: list[str] = []

    def hang(uuid: str) -> bool:
        asked.append(uuid)
        raise NoAnswerError("a: no answer")

    monkeypatch.setattr(session.hosts["a"], "remove", hang)
    errors = leftovers.remove(session, parts, session.hosts)
    assert [str(error) for error in errors] == ["a: no answer", "None", "a: no answer", "None"]
    # Those calls that were under way by the time of the first answer.
    assert len(asked) <= fan_out(2)
    assert session.hosts["a"].calls["clear"] == 0
    assert there(session.hosts["b"]) == (0, set(), set())
