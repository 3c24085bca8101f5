"""The keeper, on hosts that only keep books: what it notices, what it does by itself, and what it leaves alone."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fakehost import FakeSession
from life.living import a_request, a_site, another, crash, created, states
from repository import Repository

from vclust_py.life import keeper as keeper_module
from vclust_py.life import stop
from vclust_py.life.keeper import LOCK, Keeper
from vclust_py.phases import ORDER, Inputs, phase
from vclust_py.site import PROJECT, clusters
from vclust_py.site.describe import describe
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


class Kept:
    """A site with a keeper; `told` is what its hook was."""

    def __init__(self, session: FakeSession) -> None:
        self.session = session
        self.told: list[dict[str, Any]] = []
        self.said: list[str] = []
        self.keeper = Keeper(self.make)

    def make(self) -> FakeSession:
        new = another(self.session)
        new.site = replace(new.site, hook=Path("/hook"), lease_warnings=(600,), lease_grace=1000)
        new.run = self.run  # type: ignore[method-assign]
        return new

    def run(self, argv: list[str], *, stdin: str, **options: object) -> str:
        if argv == ["/hook"]:
            self.told.append(json.loads(stdin))
        elif argv[-1] == "wall":
            self.said.append(stdin)
        return ""

    def round(self) -> list[str]:
        return self.keeper.round(answer=10, work=60)

    @property
    def events(self) -> list[str]:
        found = [one["event"] for one in self.told]
        self.told.clear()
        return found


@pytest.fixture
def kept(toy: Repository, tmp_path: Path) -> Iterator[Kept]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        made = Kept(session)
        yield made
        made.keeper.close()


def test_a_site_without_state_stays_without(kept: Kept) -> None:
    site = kept.session.site
    assert kept.round() == []
    with FakeSession(replace(site, root=site.root / "none")) as empty:
        keeper = Keeper(lambda: empty)
        assert keeper.round() == []
        assert not empty.site.database.exists()
        keeper.close()


def test_what_is_well_is_left_alone_and_known(kept: Kept) -> None:
    created(kept.session)
    before = time.time()
    assert kept.round() == []
    (told,) = describe(kept.session.store)
    assert (told["state"], told["seen"] >= before) == ("ready", True)
    assert kept.events == []


def test_a_node_that_crashed_runs_again(kept: Kept) -> None:
    cluster = created(kept.session, a_request(nodes=3))
    crash(kept.session, cluster, 1)
    name = cluster.nodes[1].name
    assert kept.round() == [f"one: does not run any more: {name}", f"one: started again: {name}"]
    assert states(kept.session) == ["ready", "started", "ready"]
    assert describe(kept.session.store)[0]["state"] == "degraded"
    assert kept.events == ["node-failed", "node-restarted"]
    # FakeHost reports with the second look at its console that it is ready.
    assert kept.round() + kept.round() == [f"one: ready again: {name}"]
    assert describe(kept.session.store)[0]["state"] == "ready"
    assert [row["detail"] for row in audited(kept.session.store)][-1] == f"started again: {name}"
    assert sum(host.calls["start"] for host in kept.session.hosts.values()) == 4
    assert kept.round() == []


def test_all_is_gone_after_a_restart_of_the_machine(kept: Kept) -> None:
    cluster = created(kept.session)
    crash(kept.session, cluster, 0, 1)
    kept.session.fake_networks.segments.clear()
    for _ in range(4):
        kept.round()
    assert states(kept.session) == ["ready", "ready"]
    assert kept.session.fake_networks.segments == {cluster.segment: cluster.network}


def test_a_network_alone_is_made_again(kept: Kept) -> None:
    cluster = created(kept.session)
    kept.session.fake_networks.segments.clear()
    kept.session.fake_networks.closed = ("gateway: port 2222 is in use",)
    told = ["one: its network is made again", "one: gateway: port 2222 is in use"]
    assert kept.round() == told
    assert kept.session.fake_networks.segments == {cluster.segment: cluster.network}
    assert kept.round() == []


def test_healing_that_is_off_and_one_that_is_in_vain(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    off = created(kept.session, a_request("off", heal="off"))
    crash(kept.session, off, 0)
    assert kept.round() == [f"off: does not run any more: {off.nodes[0].name}"]
    assert kept.events == ["node-failed"]
    assert kept.round() == []
    assert sorted(states(kept.session, "off")) == ["failed", "ready"]

    monkeypatch.setattr("vclust_py.life.heal.DELAYS", (0.0, 0.0))
    cluster = created(kept.session)
    for _ in range(6):
        crash(kept.session, cluster, 0)
        kept.round()
    assert kept.events == [*["node-failed", "node-restarted"] * 2, "node-failed", "node-given-up"]
    assert states(kept.session)[0] == "failed"


def test_a_node_that_says_nothing_after_its_start_has_failed(kept: Kept) -> None:
    cluster = created(kept.session)
    crash(kept.session, cluster, 0)
    host = kept.session.hosts[cluster.nodes[0].host]
    host.mute = {cluster.nodes[0].name}
    kept.round()
    kept.round()
    assert states(kept.session)[0] == "started"
    kept.session.store.execute("UPDATE observed_nodes SET seen = seen - 10000 WHERE state = 'started'")
    kept.round()
    assert states(kept.session)[0] == "failed"
    assert cluster.nodes[0].uuid not in host.domains


def test_a_host_that_is_away_is_known_to_be_and_what_is_there_is_not_started_elsewhere(kept: Kept) -> None:
    created(kept.session)
    kept.session.gone.add("b")
    assert kept.round() == []
    (told,) = describe(kept.session.store)
    assert (told["state"], told["ready_nodes"]) == ("degraded", 1)
    assert sorted(node["state"] for node in told["nodes"]) == ["ready", "unknown"]
    assert states(kept.session) == ["ready", "ready"]
    kept.session.gone.clear()
    assert kept.round() == []
    assert describe(kept.session.store)[0]["state"] == "ready"


def test_a_host_that_hangs_keeps_nobody_waiting(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = created(kept.session)
    kept.round()
    free = threading.Event()
    real = kept.session.hosts["b"].running

    def hang() -> set[str]:
        free.wait(60)
        return real()

    monkeypatch.setattr(kept.session.hosts["b"], "running", hang)
    (here,) = (node for node in cluster.nodes if node.host == "a")
    crash(kept.session, cluster, here.position)
    lines = kept.keeper.round(answer=0.3, work=30)
    assert f"one: started again: {here.name}" in lines
    monkeypatch.setattr(keeper_module, "_HUNG", 0.0)
    kept.keeper.round(answer=0.1, work=30)
    (other,) = (node for node in describe(kept.session.store)[0]["nodes"] if node["host"] == "b")
    assert other["state"] == "unknown"
    free.set()
    kept.round()
    assert sorted(states(kept.session)) == ["ready", "ready"]


def test_what_somebody_works_on_or_has_stopped_is_left_alone(kept: Kept) -> None:
    cluster = created(kept.session)
    crash(kept.session, cluster, 0)
    with clusters.locked(kept.session.store, "one"):
        assert kept.round() == []
    assert states(kept.session) == ["ready", "ready"]
    stop.run(kept.session, Inputs("one"))
    assert kept.round() == []
    assert states(kept.session) == ["stopped", "stopped"]
    # A creation in the middle.
    created(kept.session, a_request("two"), last="create")
    for host in kept.session.hosts.values():
        host.domains.clear()
    assert kept.round() == []
    assert states(kept.session, "two") == ["started", "started"]


def test_a_node_that_was_started_while_its_host_was_asked_is_not_taken_for_a_crashed_one(kept: Kept) -> None:
    cluster = created(kept.session)
    known = {host: replace(one, running=frozenset()) for host, one in kept.keeper._look(10).items()}
    kept.session.store.execute("UPDATE observed_nodes SET seen = ?", (time.time(),))
    crash(kept.session, cluster, 0, 1)
    assert keeper_module._down(clusters.get(kept.session.store, "one"), known) == []
    # Of the future: the clock was set back, and the look of now counts.
    kept.session.store.execute("UPDATE observed_nodes SET seen = seen + 7200")
    assert len(keeper_module._down(clusters.get(kept.session.store, "one"), known)) == 2


def test_a_lease_from_its_warning_to_its_removal(kept: Kept) -> None:
    created(kept.session, a_request(lease="1h"))
    store = kept.session.store

    def pass_by(seconds: float) -> list[str]:
        store.execute("UPDATE clusters SET ends = ends - ?, ended = ended - ?", (seconds, seconds))
        return kept.round()

    assert pass_by(0) == []
    (said,) = pass_by(3010)
    assert said == "one: the lease of one ends in 9 min; vclust renew prolongs it"
    assert kept.said == [f"vclust: {said.removeprefix('one: ')}\n"] * 2
    (told,) = kept.told
    assert (told["event"], told["cluster"], told["owner"], 500 < told["left"] < 600) == (
        "lease-warning", "one", "root", True
    )  # fmt: skip
    assert kept.round() == []
    kept.told.clear()
    assert pass_by(600) == ["one: its lease has ended, it is stopped"]
    assert kept.events == ["lease-ended"]
    assert describe(store)[0]["state"] == "stopped"
    assert [host.domains for host in kept.session.hosts.values()] == [{}, {}]
    assert any(kept.session.hosts["a"].folders.values())
    assert pass_by(990) == []
    assert pass_by(20) == ["one: the time after its lease is over, it is removed"]
    assert clusters.live(store) == []
    assert not any(files for host in kept.session.hosts.values() for files in host.folders.values())
    assert [row["action"] for row in audited(store)] == ["create", "lease-end", "destroy"]


def test_what_has_happened_to_it_since_it_was_made(kept: Kept) -> None:
    created(kept.session)
    destroy = Inputs("one")
    phase("destroy")(kept.session, destroy)
    cluster = created(kept.session)  # another one of that name
    crash(kept.session, cluster, 0)
    kept.round()
    (told,) = describe(kept.session.store)
    assert [event["action"] for event in told["events"]] == [
        "create", *(word for word in ORDER if word != "distribute"), "heal", "heal"
    ]  # fmt: skip
    assert sorted(told["events"], key=lambda event: event["time"]) == told["events"]
    assert told["events"][-1]["detail"].startswith("done after ")
    kept.session.store.execute("UPDATE clusters SET owner = 'alice'")
    with another(kept.session) as other:
        other.store.who = "bob"
        assert describe(other.store)[0]["events"] == []


def test_a_cluster_whose_lease_has_ended_comes_back_by_create(kept: Kept) -> None:
    created(kept.session, a_request(lease="1h"))
    kept.session.store.execute("UPDATE clusters SET ends = 5")
    kept.round()
    assert states(kept.session) == ["stopped", "stopped"]
    cluster = created(kept.session, a_request(lease="1h"))
    assert (cluster.state, cluster.ended) == ("ready", None)
    assert kept.round() == []


def test_a_lease_that_ends_while_the_cluster_is_stopped(kept: Kept) -> None:
    created(kept.session, a_request(lease="1h"))
    stop.run(kept.session, Inputs("one"))
    kept.session.store.execute("UPDATE clusters SET ends = 5")
    assert kept.round() == ["one: its lease has ended, it is stopped"]
    assert kept.round() == []
    assert len(clusters.live(kept.session.store)) == 1


def test_what_goes_wrong_is_said_once(kept: Kept) -> None:
    created(kept.session, a_request(lease="1h"))
    kept.session.store.execute("UPDATE clusters SET ends = 5")
    kept.session.gone.add("b")
    (line,) = kept.round()
    assert line.startswith("one: b: no route")
    assert kept.round() == []
    assert sorted(states(kept.session)) == ["ready", "stopped"]
    kept.session.gone.clear()
    assert kept.round() == ["one: its lease has ended, it is stopped"]


def test_as_systemd_runs_it(kept: Kept) -> None:
    """One keeper a site; it ends when it is told to."""
    site = kept.session.site
    settings = json.dumps({"site": {"root": str(site.root)}})
    argv = [sys.executable, "-m", "vclust_py.life.keeper"]
    environment = {"PYTHONPATH": str(PROJECT), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    with site.file_lock(LOCK):
        second = subprocess.run(
            argv, cwd="/", env=environment, input=settings, capture_output=True, text=True, check=False
        )
    assert second.returncode == 1
    assert second.stderr.startswith("vclust: keeper: another vclust process is at work on it")
    with subprocess.Popen(argv, cwd="/", env=environment, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(settings)
        process.stdin.close()
        held = site.root / "held" / LOCK
        deadline = time.monotonic() + 60
        while not _is_locked(held) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def _is_locked(path: Path) -> bool:
    done = subprocess.run(["flock", "--nonblock", path, "true"], check=False)
    return done.returncode == 1
