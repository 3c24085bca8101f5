"""How hosts are told to be, with real hops where a host is another machine, and taking one out of the site."""

import dataclasses
import sqlite3
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hops import Hosts, free_port, made
from phases.fakehost import FakeSession
from test_module import call
from test_pki import FakeHost as RolledOut

from vclust_py import chain, hosts, pki
from vclust_py import request as requests
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Node
from vclust_py.site.hosts import known_hosts, knows_host, observe_hosts

A, B = Host("a"), Host("b", state="drain", rack="r1")


@pytest.fixture
def session(tmp_path: Path) -> Iterator[FakeSession]:
    with FakeSession(Site(root=tmp_path / "site")) as session:
        yield session


def place(session: FakeSession, name: str, host: str, nodes: int) -> clusters.Cluster:
    hardware, software = {"number_of_nodes": nodes}, {"name": name, "hostname": f"{name}%02d"}
    request = requests.from_mapping({"hardware": hardware, "software": software}, "test")
    clusters.register(session.store, request)
    cluster = clusters.get(session.store, name)
    pairs = zip(request.hostnames, request.addresses, strict=True)
    placed = [
        Node(
            position,
            node,
            host,
            "qemu:///system",
            str(address),
            f"m{name}{position}",
            f"u{name}{position}",
            2,
            3,
            5,
        )
        for position, (node, address) in enumerate(pairs)
    ]
    clusters.place(session.store, cluster, placed)
    return clusters.get(session.store, name)


def test_what_hosts_have_and_run(session: FakeSession) -> None:
    session.site.make_directories()
    place(session, "one", "b", 2)
    place(session, "two", "b", 1)
    place(session, "three", "lost", 1)
    a, b, lost = hosts.status(session, [A, B])
    assert (a.reachable, a.problems, a.nodes, a.used) == (True, (), {}, {"cpus": 0, "memory": 0, "disk": 0})
    assert (a.facts["cpus"], a.facts["accelerator"], "resident" in a.facts) == (4096, "kvm", False)
    assert (a.driver, a.versions["libvirt"]) == ("qemu", "9.0.0")
    assert a.seen is not None
    assert abs(a.seen - time.time()) < 60
    assert (b.state, b.rack, b.used) == ("drain", "r1", {"cpus": 6, "memory": 9, "disk": 15})
    assert hosts.listed(b.nodes) == "one (one01, one02), two (two01)"
    assert (lost.name, lost.state, lost.reachable) == ("lost", "absent", False)
    assert "not in the inventory, and nodes of three (three01) are there" in lost.problems[0]


def test_a_host_that_does_not_answer_is_told_as_it_was(session: FakeSession) -> None:
    session.site.make_directories()
    session.gone = {"b", "c"}
    observe_hosts(session.store, {"b": {"cpus": 7}}, {})
    a, b, c = hosts.status(session, [A, B, Host("c")])
    assert a.problems == ()
    assert (b.facts, b.problems, b.versions) == ({"cpus": 7}, ("b: no route",), {})
    assert b.seen is not None
    assert (c.facts, c.seen, c.problems) == ({}, None, ("c: no route",))
    assert "b: no route" in [one.error for one in known_hosts(session.store)]
    assert hosts.status(session, [B], check=True)[0].seen == b.seen


def test_hops_and_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the host's hop does not run, then it does; its certificates near their end."""
    trust = made(tmp_path)
    site = Site(root=trust.head.ca.parents[1])
    running = Hosts(tmp_path, trust)
    remote = Host("b", "qemu+tls://127.0.0.1/system")
    port = free_port("127.0.0.1")
    monkeypatch.setattr(hosts, "Hop", lambda *names, rack: chain.Hop(*names, port, rack))
    try:
        with FakeSession(site) as session:
            (found,) = hosts.status(session, [remote])
            assert found.reachable
            assert "b: not reached: Connection refused" in found.problems[0]
            assert "hint: is that machine up?" in found.problems[0]
            assert "hop" not in found.versions
            running.start(1, name="b", port=port)
            (found,) = hosts.status(session, [remote])
            assert (found.problems, found.versions["hop"], set(found.certificates)) == ((), "1", {"hop"})
            monkeypatch.setattr(hosts, "RENEW", timedelta(days=10_000))
            (found,) = hosts.status(session, [remote])
            day = time.strftime("%Y-%m-%d", time.localtime(found.certificates["hop"]))
            assert (
                f"b: the certificate of its hop ends on {day}\n  hint: run the roll-out" in found.problems[0]
            )
    finally:
        for one in running.running:
            one.end()


def test_taking_a_host_out(session: FakeSession) -> None:
    host = RolledOut("a")
    host.roll_out(session.site)
    observe_hosts(session.store, {"a": {}, "b": {}}, {})
    clusters.record_sent(session.store, [("a", "image", "d", None), ("b", "image", "d", None)])
    cluster = place(session, "one", "a", 2)
    with pytest.raises(
        VclustError, match=r"a: vclust_host_state: got absent, .*one \(one01, one02\)\n  hint: vclust"
    ):
        hosts.remove(session, host.machine)
    assert pki.ends(session.site)["a"]
    clusters.forget(session.store, cluster)
    assert hosts.remove(session, host.machine, check=True).changed
    assert knows_host(session.store, "a")
    assert hosts.remove(session, host.machine).changed
    assert not hosts.remove(session, host.machine).changed
    assert "a" not in pki.ends(session.site)
    with sqlite3.connect(session.site.database) as connection:
        assert connection.execute("SELECT host FROM observed_hosts").fetchall() == [("b",)]
        assert connection.execute("SELECT host FROM sent").fetchall() == [("b",)]
        assert connection.execute("SELECT action, detail FROM audit").fetchall()[-1] == ("remove host", "a")


def test_certificates_that_are_in_no_list(session: FakeSession, caplog: pytest.LogCaptureFixture) -> None:
    RolledOut("a").roll_out(session.site)
    (session.site.pki / "issued.json").unlink()
    observe_hosts(session.store, {}, {"a": "no route"})
    assert hosts.remove(session, pki.Machine("a", "")).changed
    assert "its certificates are not revoked" in caplog.text
    assert "vclust site rotate-keys" in caplog.text


def test_module(tmp_path: Path) -> None:
    """Whatever this machine has for a hypervisor, it is told."""
    root = tmp_path / "site"
    Site(root=root).make_directories()
    answer: dict[str, Any] = call(
        "vclust_hosts", {"site": {"root": str(root)}, "hosts": [{"name": "x", "uri": "no://y"}]}
    )
    (found,) = answer["hosts"]
    assert not answer["changed"]
    assert (found["name"], found["reachable"], found["age"], found["there"]) == ("x", False, None, "")
    assert "vclust_libvirt_uri: got 'no://y'" in found["problems"][0]
    assert answer["site_manager"]["root"] == str(root)
    assert {field.name for field in dataclasses.fields(hosts.Status)} | {"age", "there"} == found.keys()
