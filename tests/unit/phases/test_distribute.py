"""The phase `distribute`: real hops on this machine, and what becomes of their words."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hops import Hosts, Running, made

from vclust_py import chain, request
from vclust_py.chain import Hop, Keys, Outcome
from vclust_py.chain.report import explained
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.image.manifest import SCHEMA
from vclust_py.phases import Inputs, Result, distribute
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.clusters import Node
from vclust_py.site.describe import describe
from vclust_py.site.session import Session


@pytest.fixture(scope="session")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if os.geteuid() != 0:
        pytest.skip("the site is root's")
    folder = tmp_path_factory.mktemp("distribute")
    hosts = Hosts(folder, made(folder / "trust"))
    yield hosts
    for host in hosts.running:
        host.end()


@pytest.fixture
def folders() -> dict[str, Path]:
    """The folder of each host's images."""
    return {}


@pytest.fixture
def session(
    tmp_path: Path, hosts: Hosts, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Session]:
    """Has the keys that the hops know."""
    monkeypatch.setattr(distribute, "keys", lambda site: hosts.trust.head)

    def connect(site: Site, host: Host) -> Any:
        return Driver(folders[host.name])

    with Session(Site(root=tmp_path / "site"), connect=connect) as session:
        yield session


@pytest.fixture
def reach(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """All hosts of a site listen at one port; these, which are one machine, each at its own."""

    def install(**hosts: Running) -> None:
        def hop(name: str, machine: str, rack: str = "") -> Hop:
            found = hosts[name].hop
            return Hop(name, found.address, found.port, rack)

        monkeypatch.setattr(distribute, "Hop", hop)
        folders.update({name: host.folder for name, host in hosts.items()})

    return install


class Driver:
    """As much of a hypervisor as the phase asks for: what images a host has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def files(self, folder: str) -> "Driver":
        return self

    def images(self) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in self.folder.iterdir()}

    def discard_image(self, name: str) -> None:
        (self.folder / name).unlink()

    def close(self) -> None:
        pass


@pytest.fixture
def layered(session: Session) -> dict[str, str]:
    """Images of a site, by role: a layer on a cache on a base, and a kernel."""
    catalogue, made = session.images, {}
    session.site.make_directories()
    backing = None
    for kind, role in (("base", "base"), ("layer", "middle"), ("layer", "root"), ("kernel", "kernel")):
        with catalogue.building(kind, role) as folder:
            (folder / "file").write_bytes(role.encode() * 1000)
            one = catalogue.add(
                folder / "file", kind=kind, key=role, backing=backing if kind == "layer" else None
            )
        backing, made[role] = one, one.manifest.digest
    return made


def placed(session: Session, name: str, images: dict[str, str], *uris: str) -> None:
    asked = {"hardware": {"number_of_nodes": len(uris)}, "software": {"name": name}}
    clusters.register(session.store, request.from_mapping(asked, "test"))
    nodes = [
        Node(number, f"n{number}", f"h{number}", uri, f"a{number}", f"m{number}", f"{name} {number}", 1, 1, 1)
        for number, uri in enumerate(uris)
    ]
    clusters.place(session.store, clusters.get(session.store, name), nodes)
    has_images(session, name, images)


def has_images(session: Session, name: str, images: dict[str, str]) -> None:
    clusters.update(session.store, clusters.get(session.store, name), images=images)


def described(session: Session) -> dict[str, Any]:
    return describe(session.store, "pair")[0]


def ran(
    session: Session, name: str = "pair", *, racks: dict[str, str] | None = None, check: bool = False
) -> Result:
    hosts = tuple(Host(host, rack=rack) for host, rack in (racks or {}).items())
    return distribute.run(session, Inputs(name, check=check, hosts=hosts))


def test_phase_four_ways(
    session: Session, layered: dict[str, str], hosts: Hosts, reach: Callable[..., None]
) -> None:
    placed(
        session, "pair", {role: layered[role] for role in ("root", "kernel")}, "xen+tls://host.example/system"
    )
    (host,) = hosts.start(1, name="h0")
    reach(h0=host)
    there = host.folder

    def run(check: bool) -> Change:
        return ran(session, check=check).change

    names = sorted(image.path.name for image in session.images.images())
    would = run(True)
    assert would.changed
    assert would.before == {"lacks": {"h0": names}, "superseded": {"h0": []}}
    assert list(there.iterdir()) == []
    assert run(False) == would
    assert sorted(path.name for path in there.iterdir()) == names
    for image in session.images.images():
        assert (there / image.path.name).read_bytes() == image.path.read_bytes()
    (record,) = [one for one in described(session)["phases"] if one["phase"] == "distribute"]
    assert record["outcome"] == "done"
    assert record["bytes"] == sum(path.stat().st_size for path in there.iterdir())
    assert not run(False).changed
    assert not run(True).changed
    # One that went is sent again, the others are not.
    (there / names[0]).unlink()
    assert run(False).before["lacks"] == {"h0": names[:1]}
    assert sorted(path.name for path in there.iterdir()) == names


def test_what_a_host_was_sent_and_the_site_has_no_more_goes(
    session: Session,
    layered: dict[str, str],
    hosts: Hosts,
    reach: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(driver: Driver, name: str) -> None:
        raise VclustError(f"h0: {name}: Read-only file system")

    def run(cluster: str, check: bool = False) -> Change:
        return ran(session, cluster, check=check).change

    placed(session, "pair", {"root": layered["root"]}, "xen+tls://host.example/system")
    (host,) = hosts.start(1, name="h0")
    reach(h0=host)
    host_folder = host.folder
    run("pair")
    sent = {path.name for path in host_folder.iterdir()}
    (host_folder / "of-somebody-else.qcow2").write_bytes(b"x")
    catalogue = session.images
    for role in ("root", "middle"):
        catalogue.remove(catalogue.get(layered[role]))
    (kept,) = sent & {image.path.name for image in catalogue.images()}
    # A live cluster stands on both of them, though the site's own copies are gone.
    has_images(session, "pair", {"root": layered["root"]})
    placed(session, "other", {}, "xen+tls://host.example/system")
    has_images(session, "other", {"kernel": layered["kernel"]})
    assert run("other").before["superseded"] == {"h0": []}
    has_images(session, "pair", {})
    manifests = [path.with_suffix(".json") for path in map(session.site.images.joinpath, sent - {kept})]
    for manifest in manifests:  # gone from here for this version only
        manifest.write_text(json.dumps({"schema": SCHEMA + 1}))
    assert run("other").before["superseded"] == {"h0": []}
    for manifest in manifests:
        manifest.unlink()
    # Nobody knows what this one stands on: it came by another way.
    has_images(session, "pair", {"root": "0" * 64})
    assert run("other").before["superseded"] == {"h0": []}
    # None does any more.
    has_images(session, "pair", {})
    would = run("other", check=True)
    assert would.before["superseded"] == {"h0": sorted(sent - {kept})}
    assert sent < {path.name for path in host_folder.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(Driver, "discard_image", refuse)
        failed = run("other")
    assert failed.before == would.before
    assert failed.after["superseded"] == would.before["superseded"]
    assert run("other").after == would.after
    left = {path.name for path in host_folder.iterdir()}
    assert left == {kept, "of-somebody-else.qcow2", session.images.get(layered["kernel"]).path.name}
    assert not run("other").changed


def test_nothing_to_do_on_the_site_manager(session: Session, layered: dict[str, str]) -> None:
    placed(session, "pair", layered, "qemu:///system")
    assert not ran(session).change.changed  # connecting would fail
    assert described(session)["phases"] == []


def test_one_host_fails_and_the_other_is_supplied(
    session: Session, layered: dict[str, str], hosts: Hosts, reach: Callable[..., None]
) -> None:
    placed(
        session,
        "pair",
        {"kernel": layered["kernel"]},
        "xen+tls://a.example/system",
        "xen+tls://b.example/system",
    )
    good, dead = hosts.start(1, name="h0") + hosts.start(1, name="h1")
    dead.end()
    reach(h0=good, h1=dead)
    with pytest.raises(VclustError, match=r"^h1: not reached: .*\n  hint: is that machine up\?") as caught:
        ran(session)
    assert "h0" not in str(caught.value)
    assert [len(list(host.folder.iterdir())) for host in (good, dead)] == [1, 0]
    found = described(session)
    assert found["detail"].startswith("distribute failed: h1: ")
    assert [(row["node"], row["outcome"] == "done") for row in found["node_phases"]] == [
        ("h0", True),
        ("h1", False),
    ]


def test_hosts_that_could_not_send_to_each_other_are_named(
    session: Session,
    layered: dict[str, str],
    hosts: Hosts,
    reach: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed(
        session,
        "pair",
        {"kernel": layered["kernel"]},
        "xen+tls://a.example/system",
        "xen+tls://b.example/system",
    )
    monkeypatch.setenv("HONEST", "0")
    monkeypatch.setenv("ONCE", "1")
    liar = str(PROJECT / "tests/security/chain_liar.py")
    first, second = hosts.start(1, name="h0") + hosts.start(1, name="h1", program=liar)
    reach(h0=first, h1=second)
    told = ran(session).warnings
    assert list(told) == [
        "h1 got wrong data from h0: a block has a wrong tag; is the memory, disk or network card of one of them bad?"
    ]
    assert [len(list(host.folder.iterdir())) for host in (first, second)] == [1, 1]
    found = described(session)
    assert [row["outcome"] for row in found["node_phases"]] == [f"done; {told[0]}"] * 2


def test_racks_reach_the_chain(
    session: Session,
    layered: dict[str, str],
    folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    placed(
        session,
        "pair",
        {"kernel": layered["kernel"]},
        "xen+tls://a.example/system",
        "xen+tls://b.example/system",
    )
    sent: list[Hop] = []

    def send(files: object, hops: list[Hop], keys: Keys, report: object) -> tuple[Outcome, ...]:
        sent.extend(hops)
        return ()

    monkeypatch.setattr(chain, "send", send)
    folders.update(h0=tmp_path / "site/held", h1=tmp_path / "site/held")
    ran(session, racks={"h1": "r7"})
    assert sent == [Hop("h0", "a.example"), Hop("h1", "b.example", rack="r7")]


@pytest.mark.parametrize(
    ("failed", "hint"),
    [
        ("[Errno 28] No space left on device", "free some space in /var/lib/vclust"),
        ("not reached: Connection refused", "rolled out"),
        ("shows a certificate that is not this site's: x", "playbooks/site.yml"),
        ("speaks version 1 of the chain, not 2", "playbooks/site.yml"),
        ("gets nothing from h1: silent for 4 s", "MTUs"),
        ("gets wrong data from h1 and the site manager: a block has a wrong tag", "network card bad"),
        ("shows a certificate that is not for its hop: Hostname mismatch", "playbooks/site.yml"),
        ("lost: it has closed the connection", ""),
    ],
)
def test_what_a_host_says_comes_with_the_next_step(failed: str, hint: str) -> None:
    said = explained(Outcome("h0", (), (), failed))
    assert said.startswith(f"h0: {failed}")
    assert hint in said
    assert ("hint" in said) == bool(hint)


def test_without_images(session: Session) -> None:
    placed(session, "pair", {}, "xen+tls://host.example/system")
    with pytest.raises(VclustError, match="images are not made"):
        ran(session)
