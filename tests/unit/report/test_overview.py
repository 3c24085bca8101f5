"""What a site has and did, read from a real store."""

from pathlib import Path

import pytest
from report.markup import Page

from vclust_py import request
from vclust_py.report import page, read
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Node
from vclust_py.site.describe import describe
from vclust_py.site.hosts import observe_hosts
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState


def placed(session: Session, name: str, host_uri: str = "qemu:///system") -> clusters.Cluster:
    asked = request.from_mapping({"hardware": {"number_of_nodes": 2}, "software": {"name": name}}, "test")
    clusters.register(session.store, asked)
    nodes = [
        Node(
            number,
            f"n{number}",
            "h",
            host_uri,
            f"10.0.0.{number}",
            f"m{name}{number}",
            f"{name}{number}",
            1,
            512,
            1,
        )
        for number in range(2)
    ]
    clusters.place(session.store, clusters.get(session.store, name), nodes)
    return clusters.get(session.store, name)


def test_hosts_clusters_and_who_created_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "alice")
    with Session(Site(root=tmp_path)) as session:
        first = placed(session, "one")
        clusters.observe_nodes(session.store, first, {"n0": NodeState.FAILED})
        observe_hosts(
            session.store, {"h": {"cpus": 4, "memory": 4096, "memory_free": 1, "disk_free": 1}}, {"g": "no"}
        )
        told = read(session)["overview"]
        (cluster,) = told["clusters"]
        assert (cluster["owner"], cluster["nodes"], cluster["failed"]) == ("alice", 2, 1)
        assert cluster["node_states"] == {"placed": 1, "failed": 1}
        assert {host["name"]: (host["nodes"], host["cpus"]) for host in told["hosts"]} == {
            "g": (0, 0),
            "h": (2, 2),
        }
        assert told["space"]["free"] > 0
    told["hosts"][1]["facts"]["accelerator"] = "kvm"
    Page(page.site(told, "lab"))


def test_a_site_that_was_never_used_is_left_alone(tmp_path: Path) -> None:
    with Session(Site(root=tmp_path / "none")) as session:
        told = read(session)["overview"]
    assert (told["hosts"], told["clusters"], told["space"]["images"]) == ([], [], {})
    assert not (tmp_path / "none").exists()
    Page(page.site(told, "lab"))


def test_the_end_of_a_failed_nodes_console(tmp_path: Path) -> None:
    with Session(Site(root=tmp_path)) as session:
        here, far = placed(session, "here"), placed(session, "far", "qemu+tls://far.example/system")
        for cluster in (here, far):
            clusters.observe_nodes(session.store, cluster, {"n0": NodeState.FAILED})
            folder = clusters.folder(session.store, cluster)
            folder.mkdir(parents=True)
            for node in ("n0", "n1"):
                text = b"early\n" * 10**5 + b"\n".join(b"line %d\x1b[2J\xff" % number for number in range(99))
                (folder / f"{node}.{cluster.name}.console").write_bytes(text)
        told = {one["name"]: one["consoles"] for one in describe(session.store)}
    assert told["far"] == {}
    assert list(told["here"]) == ["n0"]  # the other has not failed
    lines = told["here"]["n0"].splitlines()
    assert (len(lines), lines[-1]) == (15, "line 98\\x1b[2J�")


def test_a_cluster_as_a_store_has_it_makes_a_page(tmp_path: Path) -> None:
    with Session(Site(root=tmp_path)) as session:
        cluster = placed(session, "one")
        clusters.observe_nodes(session.store, cluster, {"n0": NodeState.FAILED})
        (told,) = describe(session.store, "one")
    assert "no reason was noted" in Page(page.cluster(told, "lab")).text
