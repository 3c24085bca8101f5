"""Every phase from the request to a ready cluster and its end, on hosts that only keep books; 2 and 1,000 nodes."""

import ast
import importlib
import os
import pwd
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cache.cachesite import make_base
from fakehost import FakeLogin, FakeSession
from repository import KERNEL, Repository

from vclust_py import request as requests
from vclust_py.errors import NoAnswerError, RequestError, VclustError
from vclust_py.gateway import Admitted
from vclust_py.hypervisor import Host
from vclust_py.image import manifest
from vclust_py.ingress import Door
from vclust_py.phases import ORDER, Inputs, Result, phase
from vclust_py.site import PROJECT, clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe, summary

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

HOSTS = (Host("a"), Host("b"))
SSH_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43} me"


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    site = toy.site(tmp_path / "site", cache_every=0)
    make_base(site)
    with FakeSession(site) as session:
        yield session


def a_request(nodes: int, **hardware: object) -> requests.Request:
    hardware = {"number_of_nodes": nodes, "ram": "512MB", "disk": "4GB"} | hardware
    software = {"name": "all", "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/16"}
    software["hostname"] = "n%04d"
    return requests.from_mapping({"hardware": hardware, "software": software}, "test")


def run(
    session: FakeSession,
    word: str,
    request: requests.Request,
    *,
    check: bool = False,
    lock: str = "",
    hosts: tuple[Host, ...] = HOSTS,
    forget: frozenset[str] = frozenset(),
) -> Result:
    inputs = Inputs(request.name, check=check, request=request, lock=lock, hosts=hosts, forget=forget)
    return phase(word)(session, inputs)


def up_to(
    session: FakeSession, last: str, request: requests.Request, hosts: tuple[Host, ...] = HOSTS
) -> dict[str, Result]:
    results: dict[str, Result] = {}
    for word in ORDER[: ORDER.index(last) + 1]:
        lock = results["resolve"].facts["lock"] if "resolve" in results else ""
        results[word] = run(session, word, request, lock=lock, hosts=hosts)
    return results


def found(session: FakeSession) -> Cluster:
    return clusters.get(session.store, "all")


@pytest.mark.parametrize("nodes", [2, 1000])
def test_from_a_request_to_a_ready_cluster_and_its_end(session: FakeSession, nodes: int) -> None:
    request = a_request(nodes)
    up_to(session, "ready", request)
    cluster = found(session)
    assert (cluster.state, {node.state for node in cluster.nodes}) == ("ready", {"ready"})
    assert Counter(node.host for node in cluster.nodes) == {"a": nodes // 2, "b": nodes // 2}
    assert [host.calls["start"] for host in session.hosts.values()] == [nodes // 2] * 2
    assert {domain.bridge for domain in session.hosts["a"].domains.values()} == {cluster.segment}
    assert session.fake_networks.segments == {cluster.segment: cluster.network}
    assert session.logins == 1
    rows = describe(session.store)[0]
    assert [row["phase"] for row in rows["phases"]] == [word for word in ORDER if word != "distribute"]
    assert len(rows["node_phases"]) == 3 * nodes
    short = summary(session.store, "all")
    assert (short["name"], short["state"], short["user"], short["login"]) == (
        "all", "ready", "root", "vclust ssh all"
    )  # fmt: skip
    assert short["addresses"] == {node.name: node.address for node in cluster.nodes}
    assert short["addresses"]["n0002"] == "10.20.0.2"
    assert list(short["seconds"]) == [row["phase"] for row in rows["phases"]]
    assert short["cache"] == cluster.cache
    # What nodes are told does not grow with the cluster: a small disk for each, and one that all share.
    folder = clusters.folder(session.store, cluster)
    seeds = {path.stat().st_size for path in folder.glob("*.img") if path.name.startswith("n")}
    assert sum(path.stat().st_size for path in folder.glob("*.img")) < 10_000_000
    assert max(seeds) < 10_000
    for word in ORDER[4:]:
        assert not run(session, word, request).change.changed, word
    page = run(session, "ready", request).facts["report"]
    assert (page, os.stat(page).st_mode & 0o777) == (str(folder / "report.html"), 0o600)
    assert 0 < os.stat(page).st_size < 2_000_000
    destroyed = run(session, "destroy", request)
    assert destroyed.change.changed
    assert session.stops == 1
    assert not run(session, "destroy", request).change.changed
    assert not folder.exists()
    assert session.fake_networks.segments == {}
    assert [host.domains for host in session.hosts.values()] == [{}, {}]
    assert clusters.live(session.store) == []


def test_a_cluster_is_open_to_its_people_until_its_end(toy: Repository, tmp_path: Path) -> None:
    """By sockets, by the gateway, and by a key of each user on the site manager."""
    site = toy.site(tmp_path / "site", cache_every=0, administrators=["games"], gateway={"port": 2222})
    make_base(site)
    mapping = requests.to_mapping(a_request(2))
    mapping["software"]["users"] = ["alice:*", "bob:*"]
    mapping["software"]["ssh_keys"] = [f"alice:{SSH_KEY}"]
    request = requests.from_mapping(mapping, "test")
    with FakeSession(site) as session:
        up_to(session, "create", request)
        networks, cluster = session.fake_networks, found(session)
        assert networks.doors[cluster.segment] == Door(
            {"n0001": "10.20.0.1", "n0002": "10.20.0.2"},
            frozenset({pwd.getpwnam("games").pw_uid}),
            gateway=True,
        )
        assert networks.admitted == [Admitted("all", cluster.segment, (SSH_KEY,))]
        keys = describe(session.store)[0]["ssh"]["user_keys"]
        files = [Path(keys[user]) for user in ("alice", "bob")]
        assert len({file.read_bytes() for file in files}) == 2
        for user, file in zip(keys, files, strict=True):
            said = subprocess.run(
                ["ssh-keygen", "-L", "-f", f"{file}-cert.pub"], capture_output=True, text=True, check=True
            ).stdout
            assert f'Key ID: "{user}"' in said
            assert file.stat().st_mode & 0o777 == 0o600
        run(session, "destroy", request)
        assert networks.admitted == []


def test_a_cluster_is_ready_also_where_its_page_cannot_be_written(session: FakeSession) -> None:
    request = a_request(2)
    up_to(session, "install", request)
    (clusters.folder(session.store, found(session)) / "report.html").mkdir()
    assert run(session, "ready", request).facts == {"lost": [], "report": ""}
    assert found(session).state == "ready"


def test_a_ready_cluster_is_proven_again_when_asked_for(session: FakeSession) -> None:
    request = a_request(2)
    up_to(session, "ready", request)
    before = list(sqlite3.connect(session.site.database).iterdump())
    again = phase("ready")
    assert not again(session, Inputs(request.name, again=True)).change.changed
    assert session.logins == 2
    again(session, Inputs(request.name, again=True, check=True))
    again(session, Inputs(request.name))
    assert session.logins == 2
    (uuid,) = (node.uuid for node in found(session).nodes if node.name == "n0002")
    for host in session.hosts.values():
        host.domains.pop(uuid, None)
    with pytest.raises(VclustError, match="no login to n0002"):
        again(session, Inputs(request.name, again=True))
    assert list(sqlite3.connect(session.site.database).iterdump()) == before


@pytest.mark.parametrize("word", ["install", "ready"])
def test_phases_that_wait_for_nodes_need_some_that_were_started(session: FakeSession, word: str) -> None:
    """By tags somebody may ask for one too early: no node has failed then, and create goes on."""
    request = a_request(2)
    up_to(session, "image", request)
    with pytest.raises(
        VclustError, match="all: got no node that was started\n  hint: run the phase `create`"
    ):
        run(session, word, request)
    assert {node.state for node in found(session).nodes} == {"placed"}
    up_to(session, "ready", request)


def test_check_mode_changes_nothing_at_any_phase(session: FakeSession) -> None:
    request = a_request(2)
    results: dict[str, Result] = {}
    for word in ORDER:
        lock = results["resolve"].facts["lock"] if "resolve" in results else ""
        if word in ORDER[:4]:
            assert run(session, word, request, check=True, lock=lock) is not None
            if word == "request":
                assert clusters.live(session.store) == []
        else:
            before = list(sqlite3.connect(session.site.database).iterdump())
            assert run(session, word, request, check=True).change.changed or word == "distribute"
            assert list(sqlite3.connect(session.site.database).iterdump()) == before
            assert session.hosts["a"].calls["start"] == (1 if word in ("install", "ready") else 0)
        results[word] = run(session, word, request, lock=lock)
    before = list(sqlite3.connect(session.site.database).iterdump())
    assert run(session, "destroy", request, check=True).change.changed
    assert list(sqlite3.connect(session.site.database).iterdump()) == before


def test_a_session_connects_once_and_closes_in_one_place(session: FakeSession) -> None:
    up_to(session, "ready", a_request(4))
    run(session, "destroy", a_request(4))
    assert session.connects == 2
    assert [host.calls["close"] for host in session.hosts.values()] == [0, 0]
    session.close()
    assert [host.calls["close"] for host in session.hosts.values()] == [1, 1]


def test_a_session_reads_each_manifest_once(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    read: Counter[str] = Counter()
    real = manifest.Manifest.from_json

    def counted(text: str, name: str) -> manifest.Manifest:
        read[name] += 1
        return real(text, name)

    monkeypatch.setattr(manifest.Manifest, "from_json", counted)
    up_to(session, "ready", a_request(2))
    assert set(read.values()) <= {1}


def test_a_node_that_fails_is_made_anew_by_the_next_run(session: FakeSession) -> None:
    request = a_request(4)
    session.hosts["a"].failing = session.hosts["b"].failing = {"n0002"}
    with pytest.raises(VclustError, match="n0002: disk: broken") as failed:
        up_to(session, "install", request)
    (log,) = describe(session.store, "all")[0]["logs"]
    assert f"hint: the end of the console: {log['path']}; " in str(failed.value)
    assert "n0002 on " in log["text"]
    assert "vclust: failed disk: broken" in log["text"]
    assert {node.name for node in found(session).nodes if node.state == "failed"} == {"n0002"}
    assert describe(session.store)[0]["detail"].startswith("install failed: ")
    session.hosts["a"].failing = session.hosts["b"].failing = set()
    results = up_to(session, "ready", request)
    assert results["create"].change.before["n0002"] == "absent"
    assert found(session).state == "ready"
    assert sum(host.calls["start"] for host in session.hosts.values()) == 5
    assert Path(log["path"]).exists()  # until the cluster goes
    run(session, "destroy", request)
    assert not Path(log["path"]).exists()


def test_the_log_of_a_proof_that_fails_is_kept(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    request = a_request(2)
    up_to(session, "install", request)
    said = "ssh: connect to host n0002 port 22: No route to host"
    talk = session.talk

    def without_others(argv: list[str], **options: object) -> FakeLogin:
        login = talk(argv, **options)
        assert isinstance(login, FakeLogin)
        monkeypatch.setattr(login, "there", lambda name: said)
        return login

    monkeypatch.setattr(session, "talk", without_others)
    with pytest.raises(VclustError, match="no login to n0002") as failed:
        run(session, "ready", request)
    (log,) = describe(session.store, "all")[0]["logs"]
    assert str(failed.value).endswith(f"hint: the whole log: {log['path']}")
    assert said in log["text"]


@pytest.mark.parametrize("started", [1, 4])
def test_a_create_that_was_killed_before_it_wrote_down_what_it_started(
    session: FakeSession, started: int
) -> None:
    request = a_request(4)
    up_to(session, "create", request)
    assert [host.calls["clear"] for host in session.hosts.values()] == [0, 0]  # nothing was there
    cluster = found(session)
    for node in cluster.nodes[started:]:
        session.hosts[node.host].remove(node.uuid)
    session.store.execute("UPDATE observed_nodes SET state = 'placed'")
    session.store.execute("UPDATE clusters SET state = 'images'")
    up_to(session, "ready", request)
    assert (found(session).state, {node.state for node in found(session).nodes}) == ("ready", {"ready"})
    assert sum(host.calls["start"] for host in session.hosts.values()) == 4 + 4 - started
    assert sum(host.calls["clear"] for host in session.hosts.values()) == 4 - started


def test_with_min_nodes_the_rest_is_used(session: FakeSession) -> None:
    request = a_request(4, min_nodes=3)
    session.hosts["a"].silent = session.hosts["b"].silent = {"n0003"}
    results = up_to(session, "ready", request)
    assert results["ready"].facts["lost"] == ["n0003"]
    assert found(session).detail == "without n0003, which failed (MinNodes allows it)"


def test_a_host_that_is_away_keeps_its_cluster_until_it_is_back(session: FakeSession) -> None:
    up_to(session, "ready", a_request(2))
    session.close()
    session.gone = {"b"}
    with pytest.raises(VclustError, match=r"^b: no route\n.* vclust destroy all --forget-host b$"):
        run(session, "destroy", a_request(2))
    assert found(session).nodes
    assert session.hosts["a"].domains == {}
    session.gone = set()
    assert run(session, "destroy", a_request(2)).change.changed
    assert session.hosts["b"].domains == {}


def test_what_fails_on_one_host_holds_up_no_other(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    up_to(session, "ready", a_request(4))
    busy = next(iter(session.hosts["b"].domains))
    remove = session.hosts["b"].remove

    def all_but_one(uuid: str) -> bool:
        if uuid == busy:
            raise VclustError("b: device busy")
        return remove(uuid)

    monkeypatch.setattr(session.hosts["b"], "remove", all_but_one)
    with pytest.raises(VclustError, match=r"^b: device busy\n.* vclust destroy all --forget-host b$"):
        run(session, "destroy", a_request(4))
    assert found(session).nodes
    assert [list(host.domains) for host in session.hosts.values()] == [[], [busy]]
    assert [any(host.folders.values()) for host in session.hosts.values()] == [False, True]
    monkeypatch.undo()
    assert run(session, "destroy", a_request(4)).change.changed
    assert session.hosts["b"].domains == {}
    assert not any(session.hosts["b"].folders.values())


@pytest.mark.parametrize("hangs", [False, True])
def test_a_host_that_never_comes_back_is_written_off(
    session: FakeSession, hangs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is still there when it comes back after all goes with the next create, or destroy, that it takes part in."""
    request = a_request(2)
    up_to(session, "ready", request)
    cluster = found(session)
    with pytest.raises(RequestError, match=r"^all: has no node on c; its hosts: a, b$"):
        run(session, "destroy", request, forget=frozenset({"c"}))
    session.close()
    asked: list[str] = []
    if hangs:  # it lets itself be connected to, and no more; each call would take minutes
        monkeypatch.setattr(session.hosts["b"], "remove", lambda uuid: (asked.append(uuid), refuse(uuid)))
    else:
        session.gone = {"b"}
    result = run(session, "destroy", request, forget=frozenset({"a", "b"}))
    assert result.facts["written_off"] == ["b"]
    assert len(asked) == (1 if hangs else 0)
    (said,) = result.warnings
    (lost,) = (node for node in cluster.nodes if node.host == "b")
    for word in ("b is written off", f"{lost.name}.all", f"clusters/all.{cluster.id}", cluster.segment):
        assert word in said
    assert clusters.live(session.store) == []
    assert session.fake_networks.segments == {}
    assert session.hosts["a"].domains == {}
    assert len(session.hosts["b"].domains) == 1

    # Its network is still in use over there, and no other cluster's; the lost node takes no capacity.
    rows = session.store.rows("SELECT segment, network FROM clusters")
    assert [tuple(row) for row in rows] == [(cluster.segment, cluster.network)]
    session.close()
    up_to(session, "place", request, hosts=HOSTS[:1])
    assert clusters.placed(session.store).keys() == {"a"}
    assert len(session.hosts["b"].domains) == 1
    run(session, "destroy", request)

    session.close()
    session.gone = set()
    monkeypatch.undo()
    results = up_to(session, "place", request)
    assert results["place"].change.changed
    assert session.hosts["b"].domains == {}
    assert not any(session.hosts["b"].folders.values())
    assert (
        session.store.rows("SELECT segment FROM clusters WHERE destroyed IS NOT NULL AND segment != ''") == []
    )
    audited = session.store.rows("SELECT detail FROM audit WHERE action = 'clear'")
    assert [row["detail"] for row in audited] == ["left on b"]


def refuse(uuid: str) -> bool:
    raise NoAnswerError("b: keepalive")


def test_what_is_left_on_a_host_stays_written_down_while_it_cannot_be_removed(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    up_to(session, "ready", a_request(2))
    session.close()
    session.gone = {"b"}
    run(session, "destroy", a_request(2), forget=frozenset({"b"}))
    session.close()
    session.gone = set()
    monkeypatch.setattr(session.hosts["b"], "remove", refuse)
    up_to(session, "place", a_request(2))
    assert "b: what all has left there is not removed: b: keepalive" in caplog.text
    assert [left.host for left in clusters.leftovers(session.store)] == ["b"]
    assert len(session.hosts["b"].domains) == 1


def test_each_phase_is_a_role_a_tag_a_file_and_a_function() -> None:
    folder = PROJECT / "vclust_py/phases"
    assert {path.stem for path in folder.glob("*.py")} == {*ORDER, "destroy", "__init__"}
    playbook = (PROJECT / "playbooks/create_vcluster.yml").read_text(encoding="utf-8")
    call = "        name: {0}\n        rolespec_validate: false\n      tags: {0}\n"
    places = [playbook.index(call.format(word)) for word in ORDER]
    assert places == sorted(places)
    for word in (*ORDER, "destroy"):
        assert (PROJECT / "roles" / word / "tasks/main.yml").exists()
        module = importlib.import_module(f"vclust_py.phases.{word}")
        tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        assert [name for name in functions if not name.startswith("_")][:1] == ["run"]
        assert phase(word) is module.run


def test_a_base_image_is_begun_when_packages_are_known_and_the_request_is_meant(session: FakeSession) -> None:
    request = a_request(2)
    run(session, "request", request)
    run(session, "resolve", request, check=True)
    assert session.begun == []
    lock = run(session, "resolve", request).facts["lock"]
    assert session.begun == [lock]


def test_libvirt_is_started_while_other_phases_are_at_work(session: FakeSession) -> None:
    """Where the site manager is a host itself, and the request is meant."""
    request = phase("request")
    for check, local, starts in ((True, True, 0), (False, False, 0), (False, True, 1)):
        request(session, Inputs("all", check=check, request=a_request(2), local=local))
        assert session.starts == starts
