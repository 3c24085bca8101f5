"""Where templates and suspended installers lie.  Hosts keep books: `a` is the site manager, `b` and `c` are not."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cache.cachesite import make_base
from phases.fakehost import FakeFiles, FakeForking, FakeHost, FakeSession
from repository import KERNEL, Repository

from vclust_py import frozen, hosts, pki, repair
from vclust_py import request as requests
from vclust_py.cache import retention
from vclust_py.errors import VclustError
from vclust_py.hypervisor import HOST_ROOT, Host
from vclust_py.image import Catalogue, Image
from vclust_py.phases import ORDER, Inputs, phase
from vclust_py.site.describe import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

B, C = (
    Host(name, f"qemu+tls://{address}/system") for name, address in (("b", "127.0.0.2"), ("c", "127.0.0.3"))
)
FOLDERS = HOST_ROOT / "clusters"


@pytest.fixture
def session(toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSession]:
    monkeypatch.setattr("vclust_py.cache.background._start", lambda session, name: False)
    site = toy.site(tmp_path / "site", cache_every=1000)
    base, catalogue = make_base(site).base, Catalogue(site)
    # In the place of the base, a file of words, a disk that others can stand on.
    status = catalogue.status(base).read_text()
    catalogue.remove(base)
    disk = site.images / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    packages = base.manifest.packages
    made = catalogue.add(
        disk, kind="base", key=base.manifest.key, suite="toy", architecture="amd64", packages=packages
    )
    catalogue.status(made).write_text(status)
    with FakeSession(site) as session:
        session.hosts["c"] = FakeHost()
        for host in (Host("a"), B, C):
            session.hosts[host.name].forking = FakeForking(session.hosts[host.name], host.name, host.uri)
            session.hosts[host.name].accelerator = "tcg"
        yield session


def create(session: FakeSession, name: str, *on: Host, start: str = "fork") -> dict[str, tuple[str, str]]:
    """A cluster with one node on each of the hosts: how each node has started, and why not as it was to."""
    hardware = {"number_of_nodes": len(on), "ram": "512MB", "disk": "4GB", "spread": "hosts"}
    software = {"name": name, "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/16", "hostname": "n%d"}
    request = requests.from_mapping({"hardware": hardware, "software": software | {"start": start}}, "test")
    lock = ""
    for word in ORDER:
        if word != "distribute":  # the fakes are no hops
            inputs = Inputs(name, request=request, lock=lock, hosts=on)
            lock = phase(word)(session, inputs).facts.get("lock", lock)
    (told,) = describe(session.store, name)
    return {node["name"]: (node["start"], node["start_detail"]) for node in told["nodes"]}


def destroy(session: FakeSession, name: str) -> None:
    phase("destroy")(session, Inputs(name))


def made(session: FakeSession) -> list[Image]:
    return [image for image in session.images.images() if image.manifest.kind.startswith("remote-")]


def of(session: FakeSession, host: Host) -> FakeForking:
    found = session.hosts[host.name].forking
    assert found is not None
    return found


def folders(session: FakeSession, host: Host) -> dict[str, dict[str, int]]:
    """What is frozen there: by folder the files."""
    there = session.hosts[host.name].folders
    return {name: files for name, files in there.items() if name.startswith("remote-") and files}


@pytest.mark.parametrize("start", ["fork", "resume"])
def test_each_host_makes_and_keeps_its_own(session: FakeSession, start: str) -> None:
    assert create(session, "one", Host("a"), B, C, start=start) == dict.fromkeys(
        ("n1", "n2", "n3"), (start, "")
    )
    images = {image.manifest.place.host: image for image in made(session) if image.manifest.place}
    assert images.keys() == {"b", "c"}
    for host in (B, C):
        ((folder, files),) = folders(session, host).items()
        assert files.keys() == ({"memory", "disk.qcow2"} if start == "fork" else {"memory"})
        place = images[host.name].manifest.place
        assert place is not None
        assert (place.uri, place.folder, place.bytes) == (host.uri, folder, sum(files.values()))
        memory = FOLDERS / folder / "memory"
        assert set(of(session, host).forked.values()) == {(memory, images[host.name].path)}
        assert images[host.name].path.stat().st_size == 16, "the state is here"
    ((memory, _),) = of(session, Host("a")).forked.values()
    assert memory.parent == session.site.images
    assert create(session, "two", B, C, start=start) == {"n1": (start, ""), "n2": (start, "")}
    assert len(made(session)) == 2


def test_an_image_and_where_it_lies_are_read_again(session: FakeSession) -> None:
    create(session, "one", B)
    (image,) = made(session)
    assert Catalogue(session.site).images()[-1] == image
    (session.site.images.with_name("images.index")).unlink()
    assert Catalogue(session.site).get(image.manifest.digest).manifest.place == image.manifest.place


@pytest.mark.parametrize("damage", ["memory", "disk.qcow2", "all"])
def test_what_is_damaged_over_there_is_made_again(
    session: FakeSession, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    create(session, "one", B)
    ((folder, files),) = folders(session, B).items()
    if damage == "all":
        files.clear()
    else:
        files[damage] -= 1
    assert create(session, "two", B) == {"n1": ("fork", "")}
    assert len(of(session, B).frozen) == 2
    said = "memory is not there" if damage == "all" else f"{damage} has {files[damage]} bytes, expected"
    assert f"b: {folder}/{said}" in caplog.text


def test_a_host_without_space_has_none(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeFiles, "free", lambda files: 10**9)
    why = "no template: b: /fake: not enough space: 953 MB free, 978 MB needed"
    assert create(session, "one", B) == {"n1": ("boot", why)}
    assert folders(session, B) == {}


def test_nothing_is_left_of_what_does_not_work(session: FakeSession) -> None:
    of(session, B).error = "b: vclust-template: not waiting after 900 s"
    assert create(session, "one", B)["n1"][0] == "boot"
    assert folders(session, B) == {}


def left_by_a_killed_process(session: FakeSession, number: str = "5") -> str:
    name = f"remote-template-{number * 16}-00000001"
    FakeFiles(session.hosts["b"], name).make_raw("memory", 7)
    return name


def test_what_a_killed_process_left_goes(session: FakeSession) -> None:
    """With `destroy`, with `site repair`, and before more is made there; not while somebody makes it."""
    create(session, "one", B)
    kept = set(folders(session, B))
    others = session.hosts["b"].folders.setdefault("remote-volume.1", {"disk": 1})
    name = left_by_a_killed_process(session)
    result = repair.run(session, check=True)
    assert result.change.after == {f"{name} on b": "not there"}
    assert folders(session, B).keys() == kept | {name, "remote-volume.1"}
    with session.site.file_lock(f"image-{name[:-9]}"):
        assert not repair.run(session).change.changed
    assert repair.run(session).change.changed
    assert not repair.run(session).change.changed
    name = left_by_a_killed_process(session)
    destroy(session, "one")
    assert folders(session, B).keys() == kept | {"remote-volume.1"}
    name = left_by_a_killed_process(session)
    create(session, "two", B, start="resume")
    assert name not in folders(session, B)
    assert others == {"disk": 1}


def test_what_nodes_stand_on_stays_though_the_site_has_lost_its_image(session: FakeSession) -> None:
    """As a site has that was restored."""
    create(session, "one", B)
    (image,) = made(session)
    session.images.remove(image)
    repair.run(session)
    assert len(folders(session, B)) == 1
    destroy(session, "one")
    assert folders(session, B) == {}


def test_a_hosts_space_is_bounded(session: FakeSession) -> None:
    """Each host's of its own: the least recently used that no cluster stands on goes."""
    session.site = replace(session.site, template_space=10**9)
    for number, start in enumerate(("fork", "resume")):
        create(session, f"c{number}", B, C, start=start)
    (template, *_) = [image for image in made(session) if image.manifest.kind == "remote-template"]
    for image in made(session):
        os.utime(image.path, (1, 1))
        os.utime(image.path.with_suffix(".json"), (1, 1))
    session.store.execute("UPDATE uses SET used = 1")
    assert retention.trim(session) == []
    destroy(session, "c0")
    assert len(made(session)) == 4, "two of 512 MB are more than 1 GB only with a third"
    session.site = replace(session.site, template_space=4 * 10**8)
    session.store.execute("UPDATE uses SET used = 1")
    lines = retention.trim(session)
    assert len(lines) == 2
    assert f"{template.path.name}: least recently used beyond template_space, 381 MB" in lines
    for host in (B, C):
        assert [name.split("-")[1] for name in folders(session, host)] == ["suspended"]


def test_a_host_that_does_not_answer_keeps_it_until_it_does(session: FakeSession) -> None:
    create(session, "one", B)
    destroy(session, "one")
    session.site = replace(session.site, template_space=0)
    (image,) = made(session)
    for path in (image.path, image.path.with_suffix(".json")):
        os.utime(path, (1, 1))
    session.store.execute("UPDATE uses SET used = 1")
    session.close()
    session.gone.add("b")
    assert len(retention.trim(session)) == 1
    assert len(folders(session, B)) == 1
    session.gone.clear()
    create(session, "two", B, start="boot")
    assert len(folders(session, B)) == 1
    destroy(session, "two")
    assert folders(session, B) == {}


def test_a_host_that_leaves_takes_its_templates_with_it(session: FakeSession) -> None:
    create(session, "one", B)
    create(session, "two", C)
    destroy(session, "one")
    machine = pki.Machine("b", "")
    named = [f"{image.path.name} on b" for image in frozen.on_host(session, "b")]
    assert set(named) <= hosts.remove(session, machine, check=True).before.keys()
    assert len(made(session)) == 2
    hosts.remove(session, machine)
    assert frozen.on_host(session, "b") == []
    assert len(frozen.on_host(session, "c")) == 1


def test_what_does_not_answer_is_named(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent() -> str:
        raise VclustError("b: capabilities: libvirt does not answer after 120 s")

    monkeypatch.setattr(of(session, B), "identity", silent)
    why = "no template: b: capabilities: libvirt does not answer after 120 s"
    assert create(session, "one", B) == {"n1": ("boot", why)}
