"""Which nodes start as clones of a template, what it is made from, and what boots instead, on hosts that keep books."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cache.cachesite import make_base
from fakehost import FakeForking, FakeSession
from repository import KERNEL, Repository

from vclust_py import clones
from vclust_py import request as requests
from vclust_py.cache import retention
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.image import Catalogue, Image
from vclust_py.life import apply, heal, stop
from vclust_py.phases import ORDER, Inputs, phase
from vclust_py.site import Site, clusters
from vclust_py.site.describe import describe
from vclust_py.templates import ROLE

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def session(toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSession]:
    monkeypatch.setattr("vclust_py.cache.background._start", lambda session, name: False)
    site = toy.site(tmp_path / "site", cache_every=1000)
    make_disk_of(site, make_base(site).base)
    with FakeSession(site) as session:
        session.hosts["a"].forking = FakeForking(session.hosts["a"])
        session.hosts["a"].accelerator = "tcg"
        session.hosts["a"].cpus = 8  # with four virtual ones each
        yield session


def make_disk_of(site: Site, base: Image) -> None:
    """In place of the base, a file of words, a disk that others can stand on."""
    catalogue, disk = Catalogue(site), site.images / "disk"
    status = catalogue.status(base).read_text()
    catalogue.remove(base)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    made = catalogue.add(
        disk,
        kind="base",
        key=base.manifest.key,
        suite="toy",
        architecture="amd64",
        packages=base.manifest.packages,
    )
    catalogue.status(made).write_text(status)


def a_request(name: str, nodes: int, *, start: str = "fork", **hardware: object) -> requests.Request:
    hardware = {"number_of_nodes": nodes, "ram": "512MB", "disk": "4GB"} | hardware
    software = {"name": name, "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/16", "hostname": "n%d"}
    return requests.from_mapping({"hardware": hardware, "software": software | {"start": start}}, "test")


def create(session: FakeSession, request: requests.Request, host: str = "a") -> dict[str, tuple[str, str]]:
    """How each node has started, and why not as it was to."""
    lock = ""
    for word in ORDER:
        inputs = Inputs(request.name, request=request, lock=lock, hosts=(Host(host),))
        result = phase(word)(session, inputs)
        lock = result.facts.get("lock", lock)
    (told,) = describe(session.store, request.name)
    assert told["state"] == "ready"
    return {node["name"]: (node["start"], node["start_detail"]) for node in told["nodes"]}


def create_again(session: FakeSession, name: str) -> dict[str, tuple[str, str]]:
    return create(session, clusters.get(session.store, name).request)


def destroy(session: FakeSession, name: str) -> None:
    phase("destroy")(session, Inputs(name))


def forking(session: FakeSession) -> FakeForking:
    found = session.hosts["a"].forking
    assert found is not None
    return found


def templates(session: FakeSession) -> list[Image]:
    return [image for image in session.images.images() if image.manifest.kind == "template"]


def test_the_nodes_of_a_cluster_are_clones_of_one_template(session: FakeSession) -> None:
    assert create(session, a_request("one", 3)) == dict.fromkeys(("n1", "n2", "n3"), ("fork", ""))
    (image,) = templates(session)
    assert set(forking(session).forked.values()) == {(image.companions["memory"], image.companions["state"])}
    assert session.hosts["a"].calls["start"] == 0
    # It has the nodes' sizes, and nothing that tells it from anybody else's.
    (frozen,) = forking(session).frozen
    (node, *_) = session.hosts["a"].domains.values()
    assert (frozen.cpus, frozen.memory, frozen.command_line) == (node.cpus, node.memory, node.command_line)
    assert frozen.uuid not in session.hosts["a"].domains
    assert image.manifest.backing == clusters.get(session.store, "one").images["root"]


def test_a_later_cluster_finds_the_template_of_an_earlier_one(session: FakeSession) -> None:
    create(session, a_request("one", 1))
    destroy(session, "one")
    assert create(session, a_request("two", 2, start="auto")) == {"n1": ("fork", ""), "n2": ("fork", "")}
    assert len(forking(session).frozen) == 1


@pytest.mark.parametrize("other", [{"ram": "1GB"}, {"disk": "5GB"}, {"cpus": 2}])
def test_other_sizes_have_another_template(session: FakeSession, other: dict[str, object]) -> None:
    create(session, a_request("one", 1))
    create(session, a_request("two", 1, **other))
    assert len(templates(session)) == 2


def test_another_emulator_has_another_template(session: FakeSession) -> None:
    create(session, a_request("one", 1))
    forking(session).version = "two"
    assert create(session, a_request("two", 1)) == {"n1": ("fork", "")}
    assert len(forking(session).frozen) == 2


@pytest.mark.parametrize(("nodes", "start"), [(1, "boot"), (9, "boot"), (10, "fork")])
def test_auto_makes_a_template_where_that_is_sooner(session: FakeSession, nodes: int, start: str) -> None:
    """On eight CPUs ten boots take 10 * 10 / 8 = 12.5 s, a template and ten clones 9 + 10 * 2 / 8 = 11.5 s."""
    started = create(session, a_request("one", nodes, start="auto"))
    assert {how for how, _ in started.values()} == {start}


def test_with_kvm_nodes_are_clones_only_where_the_request_says_so(session: FakeSession) -> None:
    """As nobody has tried it there."""
    session.hosts["a"].accelerator = "kvm"
    assert set(create(session, a_request("one", 10, start="auto")).values()) == {("boot", "")}
    assert create(session, a_request("two", 1)) == {"n1": ("fork", "")}
    assert create(session, a_request("three", 1, start="auto")) == {"n1": ("boot", "")}


def test_a_site_that_learns_nothing_makes_clones_only_where_the_request_says_so(session: FakeSession) -> None:
    session.site = replace(session.site, cache_every=0)
    assert set(create(session, a_request("one", 10, start="auto")).values()) == {("boot", "")}
    assert create(session, a_request("two", 1)) == {"n1": ("fork", "")}
    assert create(session, a_request("three", 1, start="auto")) == {"n1": ("boot", "")}


def test_boot_is_boot(session: FakeSession) -> None:
    create(session, a_request("one", 1))
    assert create(session, a_request("two", 2, start="boot")) == {"n1": ("boot", ""), "n2": ("boot", "")}


def test_a_site_may_refuse_templates(session: FakeSession) -> None:
    session.site = replace(session.site, templates="refuse")
    why = "the site refuses templates"
    assert create(session, a_request("one", 1)) == {"n1": ("boot", why)}
    assert create(session, a_request("two", 1, start="auto")) == {"n1": ("boot", "")}
    assert templates(session) == []


def test_a_host_without_templates(session: FakeSession) -> None:
    assert create(session, a_request("one", 1), "b") == {
        "n1": ("boot", "b: nodes do not start as clones there")
    }


def test_a_clone_that_does_not_come_up_boots_once(session: FakeSession) -> None:
    forking(session).failing = {"n2"}
    started = create(session, a_request("one", 2))
    assert started == {"n1": ("fork", ""), "n2": ("boot", "n2.one: not ready after 90 s")}
    assert session.hosts["a"].calls["start"] == 1
    assert len(session.hosts["a"].domains) == 2
    assert create(session, a_request("two", 1)) == {"n1": ("fork", "")}
    assert len(forking(session).frozen) == 1


def test_a_clone_that_does_not_report_boots_once(session: FakeSession) -> None:
    """It has its identity, and then something is wrong; the others of its template are clones."""
    forking(session).broken = {"n1"}
    started = create(session, a_request("one", 3))
    assert started == {"n1": ("boot", "disk: broken"), "n2": ("fork", ""), "n3": ("fork", "")}
    assert session.hosts["a"].calls["start"] == 1
    assert create_again(session, "one") == started
    assert session.hosts["a"].calls["start"] == 1
    destroy(session, "one")
    assert create(session, a_request("two", 1, start="auto")) == {"n1": ("boot", "disk: broken")}


def test_a_clone_that_says_nothing_boots_sooner_than_a_node_would_be_given_up(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clones, "_timeout", lambda site: 0.3)
    forking(session).mute = {"n2"}
    assert create(session, a_request("one", 2)) == {
        "n1": ("fork", ""),
        "n2": ("boot", "no report after 0.3 s; its console ended with:\n    kernel"),
    }


def test_a_template_of_which_no_clone_reports_is_not_found_again(session: FakeSession) -> None:
    forking(session).broken = {"n1", "n2"}
    create(session, a_request("one", 2))
    assert session.hosts["a"].calls["start"] == 2
    destroy(session, "one")
    forking(session).broken = set()
    assert create(session, a_request("two", 1, start="auto")) == {"n1": ("boot", "")}


def test_a_clone_that_boots_in_vain_has_failed(session: FakeSession) -> None:
    """Once: what is wrong then is no fault of the template's."""
    forking(session).broken = {"n2"}
    session.hosts["a"].start = lambda domain: session.hosts["a"].domains.update({domain.uuid: domain}) or True  # type: ignore[method-assign]
    with pytest.raises(VclustError, match="n2: disk: broken"):
        create(session, a_request("one", 2))


def test_a_template_of_which_no_clone_comes_up_is_not_found_again(session: FakeSession) -> None:
    forking(session).failing = {"n1"}
    create(session, a_request("one", 1))
    forking(session).failing = set()
    assert create(session, a_request("two", 1)) == {"n1": ("fork", "")}
    assert len(forking(session).frozen) == 2


def test_without_a_template_all_boot(session: FakeSession) -> None:
    forking(session).error = "a: vclust-template: not waiting after 900 s"
    why = "no template: a: vclust-template: not waiting after 900 s"
    assert create(session, a_request("one", 2)) == dict.fromkeys(("n1", "n2"), ("boot", why))
    assert not list(session.site.images.glob("*.tmp"))


@pytest.mark.parametrize("damage", ["truncated", "gone", "written"])
def test_a_damaged_template_is_made_again(session: FakeSession, damage: str) -> None:
    create(session, a_request("one", 1))
    (image,) = templates(session)
    memory, state = image.companions["memory"], image.companions["state"]
    if damage == "truncated":
        os.truncate(memory, 1 << 20)
        os.utime(memory, (0, 0))
    elif damage == "gone":
        state.unlink()
    else:
        memory.touch()
    assert create(session, a_request("two", 1)) == {"n1": ("fork", "")}
    assert len(forking(session).frozen) == 2


def test_templates_are_kept_while_clusters_stand_on_them(session: FakeSession) -> None:
    session.site = replace(session.site, template_space=0)
    create(session, a_request("one", 1))
    (image,) = templates(session)
    for path in (image.path, image.path.with_suffix(".json")):
        os.utime(path, (1, 1))
    assert retention.trim(session) == []
    session.images.clean()
    assert all(path.exists() for path in image.companions.values())
    destroy(session, "one")
    os.utime(image.path.with_suffix(".json"), (1, 1))
    session.store.execute("UPDATE uses SET used = 1")
    (line,) = retention.trim(session)
    assert line == f"{image.path.name}: least recently used beyond template_space, 0 MB"
    assert not any(path.exists() for path in (image.path, *image.companions.values()))


def test_templates_stay_when_further_nodes_start_from_other_images(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(session, a_request("one", 1))
    before = clusters.get(session.store, "one").images
    assert any(role.startswith(ROLE) for role in before)
    monkeypatch.setattr("vclust_py.phases.image.is_outdated", lambda session, cluster: True)
    phase("image")(session, Inputs("one", hosts=(Host("a"),)))
    assert clusters.get(session.store, "one").images == before


def test_a_node_with_a_users_work_is_not_made_anew(session: FakeSession) -> None:
    request = a_request("one", 2)
    create(session, request)
    uuid = next(uuid for uuid, domain in session.hosts["a"].domains.items() if domain.name == "n1.one")
    session.hosts["a"].domains.pop(uuid)
    create(session, request)
    assert session.hosts["a"].calls["start"] == 1
    assert set(forking(session).forked) == {"n1", "n2"}


def test_what_is_asked_often_gets_a_template(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself, in the background, where the site learns; here in this process."""
    started: list[str] = []
    monkeypatch.setattr("vclust_py.cache.background._start", lambda session, name: not started.append(name))
    for number, wanted in enumerate([[], ["c1"], ["c1", "c2"]]):
        assert create(session, a_request(f"c{number}", 1, start="auto")) == {"n1": ("boot", "")}
        assert started == wanted
    (image,) = clones.make(session, "c1", lambda message, done, total: None)
    assert clones.make(session, "c2", lambda message, done, total: None) == []
    assert create(session, a_request("c3", 1, start="auto")) == {"n1": ("fork", "")}
    assert templates(session) == [image]
    assert started == ["c1", "c2"]


def test_a_clone_that_was_cut_off_is_made_anew(session: FakeSession) -> None:
    """As when a create is killed while the clone's memory is there and its identity is not."""
    request = a_request("one", 2)
    create(session, request)
    cluster = clusters.get(session.store, "one")
    session.store.execute("UPDATE observed_nodes SET state = 'placed' WHERE position = 0")
    session.store.execute("UPDATE clusters SET state = 'images', ready = NULL")
    cut = cluster.nodes[0]
    forking(session).cut.add(cut.uuid)
    forking(session).forked.clear()
    create(session, request)
    assert set(forking(session).forked) == {cut.name}
    assert len(session.hosts["a"].domains) == 2


def test_a_cluster_keeps_every_template_that_it_stands_on(session: FakeSession) -> None:
    """A node that is made again may start from another one than its neighbours did."""
    request = a_request("one", 2)
    create(session, request)
    (first,) = templates(session)
    forking(session).version = "two"
    session.store.execute("UPDATE observed_nodes SET state = 'failed' WHERE position = 0")
    session.store.execute("UPDATE clusters SET state = 'images', ready = NULL")
    create(session, request)
    pinned = set(clusters.get(session.store, "one").images.values())
    assert {image.manifest.digest for image in templates(session)} <= pinned
    assert first.manifest.digest in pinned
    assert len(templates(session)) == 2


def test_a_clone_that_was_stopped_boots_from_its_disk(session: FakeSession) -> None:
    request = a_request("one", 2)
    create(session, request)
    forking(session).forked.clear()
    stop.run(session, Inputs("one"))
    assert session.hosts["a"].domains == {}
    assert set(create(session, request)) == {"n1", "n2"}
    assert forking(session).forked == {}
    assert session.hosts["a"].calls["start"] == 2


def test_a_clone_that_has_crashed_boots_from_its_disk(session: FakeSession) -> None:
    create(session, a_request("one", 2))
    forking(session).forked.clear()
    uuid = next(uuid for uuid, domain in session.hosts["a"].domains.items() if domain.name == "n2.one")
    session.hosts["a"].domains.pop(uuid)
    assert heal.run(session, Inputs("one", hosts=(Host("a"),))).facts["started"] == ["n2"]
    (told,) = describe(session.store, "one")
    assert {node["name"]: node["start"] for node in told["nodes"]} == {"n1": "fork", "n2": "boot"}
    assert forking(session).forked == {}


def test_more_nodes_of_a_cluster_are_clones(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    create(session, a_request("one", 1))
    monkeypatch.setattr("vclust_py.life.teach.teach", lambda *arguments: {})
    inputs = Inputs("one", hosts=(Host("a"),))
    apply.run(session, inputs, number=2)
    for word in ("image", "distribute", "create", "install"):
        phase(word)(session, inputs)
    assert set(forking(session).forked) == {"n1", "n2"}
    assert len(forking(session).frozen) == 1


def suspended(session: FakeSession) -> list[Image]:
    return [image for image in session.images.images() if image.manifest.kind == "suspended"]


def test_nodes_of_any_layer_disk_and_strategy_go_on_from_one_installer(session: FakeSession) -> None:
    assert create(session, a_request("one", 2, start="resume")) == dict.fromkeys(("n1", "n2"), ("resume", ""))
    (image,) = suspended(session)
    assert templates(session) == []
    (frozen,) = forking(session).frozen
    assert frozen.command_line.endswith(" vclust.suspend")
    assert "vclust.suspend" not in next(iter(session.hosts["a"].domains.values())).command_line
    assert set(forking(session).forked.values()) == {(image.companions["memory"], image.path)}
    assert create(session, a_request("two", 1, start="resume", disk="5GB")) == {"n1": ("resume", "")}
    assert suspended(session) == [image]
    assert session.hosts["a"].calls["start"] == 0


@pytest.mark.parametrize("other", [{"ram": "1GB"}, {"cpus": 2}])
def test_other_sizes_have_another_suspended_installer(session: FakeSession, other: dict[str, object]) -> None:
    create(session, a_request("one", 1, start="resume"))
    create(session, a_request("two", 1, start="resume", **other))
    assert len(suspended(session)) == 2


def test_a_node_that_does_not_resume_boots_once(session: FakeSession) -> None:
    forking(session).failing = {"n1"}
    assert create(session, a_request("one", 1, start="resume")) == {
        "n1": ("boot", "n1.one: not ready after 90 s")
    }
    forking(session).failing = set()
    assert create(session, a_request("two", 1, start="resume")) == {"n1": ("resume", "")}
    assert len(forking(session).frozen) == 2, "nobody finds the first one again"


def test_a_truncated_suspended_installer_is_made_again(session: FakeSession) -> None:
    create(session, a_request("one", 1, start="resume"))
    memory = suspended(session)[0].companions["memory"]
    os.truncate(memory, 1 << 20)
    os.utime(memory, (0, 0))
    assert create(session, a_request("two", 1, start="resume")) == {"n1": ("resume", "")}
    assert len(forking(session).frozen) == 2


def test_without_a_suspended_installer_all_boot(session: FakeSession) -> None:
    forking(session).error = "a: vclust-suspended: not waiting after 900 s"
    why = "no suspended installer: a: vclust-suspended: not waiting after 900 s"
    assert create(session, a_request("one", 2, start="resume")) == dict.fromkeys(("n1", "n2"), ("boot", why))


def test_where_no_installer_is_suspended(session: FakeSession) -> None:
    why = "b: installers are not suspended there"
    assert create(session, a_request("one", 1, start="resume"), "b") == {"n1": ("boot", why)}
    session.site = replace(session.site, templates="refuse")
    assert create(session, a_request("two", 1, start="resume")) == {
        "n1": ("boot", "the site refuses templates")
    }


def test_suspended_installers_are_kept_like_templates(session: FakeSession) -> None:
    session.site = replace(session.site, template_space=0)
    create(session, a_request("one", 1, start="resume"))
    (image,) = suspended(session)
    for path in (image.path, image.path.with_suffix(".json")):
        os.utime(path, (1, 1))
    assert retention.trim(session) == []
    destroy(session, "one")
    session.store.execute("UPDATE uses SET used = 1")
    (line,) = retention.trim(session)
    assert line.startswith(f"{image.path.name}: least recently used beyond template_space")
    assert not any(path.exists() for path in (image.path, *image.companions.values()))


def took(session: FakeSession, name: str, seconds: float) -> None:
    """Until the cluster's nodes were installed."""
    session.store.execute(
        "UPDATE phases SET end = (SELECT min(begun.start) FROM phases AS begun WHERE begun.cluster = phases.cluster"
        " AND begun.node = phases.node AND begun.phase = 'create') + ? WHERE phase = 'install' AND node <> ''"
        " AND cluster = (SELECT id FROM clusters WHERE name = ?)",
        (seconds, name),
    )


@pytest.mark.parametrize(
    ("booting", "resuming", "nodes", "start"),
    [(5, 4, 1, "resume"), (4, 5, 1, "boot"), (5, 4, 2, "boot")],  # nothing is known of two nodes
)
def test_auto_resumes_where_like_nodes_were_sooner(
    session: FakeSession, booting: float, resuming: float, nodes: int, start: str
) -> None:
    for number in range(3):
        for kind, seconds in (("boot", booting), ("resume", resuming)):
            create(session, a_request(f"{kind}{number}", 1, start=kind))
            took(session, f"{kind}{number}", seconds)
    assert {how for how, _ in create(session, a_request("last", nodes, start="auto")).values()} == {start}


def test_auto_takes_a_template_before_a_suspended_installer(session: FakeSession) -> None:
    for number in range(3):
        for kind, seconds in (("boot", 5), ("resume", 4)):
            create(session, a_request(f"{kind}{number}", 1, start=kind))
            took(session, f"{kind}{number}", seconds)
    create(session, a_request("one", 1))
    assert create(session, a_request("two", 1, start="auto")) == {"n1": ("fork", "")}
