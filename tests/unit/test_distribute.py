"""The phase `distribute`: real hops on this machine, and what becomes of their words."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hops import Hosts, Running, made

from vclust_py import chain, distribute, request, state
from vclust_py.chain import Hop, Keys, Outcome
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Hypervisor
from vclust_py.image import Catalogue
from vclust_py.image.manifest import SCHEMA
from vclust_py.site import PROJECT, Site
from vclust_py.state import Change


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
def site(tmp_path: Path, hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> Site:
    """Has the keys that the hops know."""
    monkeypatch.setattr(distribute, "keys", lambda site: hosts.trust.head)
    return Site(root=tmp_path / "site")


@pytest.fixture
def reach(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """All hosts of a site listen at one port; these, which are one machine, each at its own."""

    def install(**hosts: Running) -> None:
        def hop(name: str, machine: str, rack: str = "") -> Hop:
            found = hosts[name].hop
            return Hop(name, found.address, found.port, rack)

        monkeypatch.setattr(distribute, "Hop", hop)

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
def layered(site: Site) -> dict[str, str]:
    """Images of a site, by role: a layer on a cache on a base, and a kernel."""
    catalogue, made = Catalogue(site), {}
    site.make_directories()
    backing = None
    for kind, role in (("base", "base"), ("layer", "middle"), ("layer", "root"), ("kernel", "kernel")):
        with catalogue.building(kind, role) as folder:
            (folder / "file").write_bytes(role.encode() * 1000)
            one = catalogue.add(
                folder / "file", kind=kind, key=role, backing=backing if kind == "layer" else None
            )
        backing, made[role] = one, one.manifest.digest
    return made


def placed(site: Site, images: dict[str, str], *uris: str) -> None:
    asked = {"hardware": {"number_of_nodes": len(uris)}, "software": {"name": "pair"}}
    state.register(site, request.from_mapping(asked, "test"))
    with state.connect(site) as connection:
        for number, uri in enumerate(uris):
            connection.execute(
                "INSERT INTO nodes VALUES (1, ?, ?, ?, ?, 'a', 'm', 'u', 1, 1, 1, 'placed', '')",
                (number, f"n{number}", f"h{number}", uri),
            )
    state.update(site, state.get(site, "pair"), images=images)


def test_phase_four_ways(
    site: Site, layered: dict[str, str], hosts: Hosts, reach: Callable[..., None]
) -> None:
    placed(site, {role: layered[role] for role in ("root", "kernel")}, "xen+tls://host.example/system")
    (host,) = hosts.start(1, name="h0")
    reach(h0=host)
    there = host.folder

    def run(check: bool) -> Change:
        return distribute.distribute(site, "pair", check=check, connect=lambda _, host: Driver(there))

    names = sorted(image.path.name for image in Catalogue(site).images())
    would = run(True)
    assert would.changed
    assert would.before == {"lacks": {"h0": names}, "superseded": {"h0": []}}
    assert list(there.iterdir()) == []
    assert run(False) == would
    assert sorted(path.name for path in there.iterdir()) == names
    for image in Catalogue(site).images():
        assert (there / image.path.name).read_bytes() == image.path.read_bytes()
    (record,) = [one for one in state.describe(site, "pair")[0]["phases"] if one["phase"] == "distribute"]
    assert record["outcome"] == "done"
    assert record["bytes"] == sum(path.stat().st_size for path in there.iterdir())
    assert not run(False).changed
    assert not run(True).changed
    # One that went is sent again, the others are not.
    (there / names[0]).unlink()
    assert run(False).before["lacks"] == {"h0": names[:1]}
    assert sorted(path.name for path in there.iterdir()) == names


def test_what_a_host_was_sent_and_the_site_has_no_more_goes(
    site: Site,
    layered: dict[str, str],
    hosts: Hosts,
    reach: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(driver: Driver, name: str) -> None:
        raise VclustError(f"h0: {name}: Read-only file system")

    def run(cluster: str, check: bool = False) -> Change:
        return distribute.distribute(site, cluster, check=check, connect=lambda _, host: Driver(host_folder))

    placed(site, {"root": layered["root"]}, "xen+tls://host.example/system")
    (host,) = hosts.start(1, name="h0")
    reach(h0=host)
    host_folder = host.folder
    run("pair")
    sent = {path.name for path in host_folder.iterdir()}
    (host_folder / "of-somebody-else.qcow2").write_bytes(b"x")
    catalogue = Catalogue(site)
    for role in ("root", "middle"):
        catalogue.remove(catalogue.get(layered[role]))
    (kept,) = sent & {image.path.name for image in catalogue.images()}
    # A live cluster stands on both of them, though the site's own copies are gone.
    state.update(site, state.get(site, "pair"), images={"root": layered["root"]})
    others = request.from_mapping({"hardware": {"number_of_nodes": 1}, "software": {"name": "other"}}, "test")
    state.register(site, others)
    with state.connect(site) as connection:
        connection.execute(
            "INSERT INTO nodes VALUES (2, 0, 'n', 'h0', 'xen+tls://host.example/system', 'a', 'm', 'u', 1, 1, 1, "
            "'placed', '')"
        )
    state.update(site, state.get(site, "other"), images={"kernel": layered["kernel"]})
    assert run("other").before["superseded"] == {"h0": []}
    state.update(site, state.get(site, "pair"), images={})
    manifests = [path.with_suffix(".json") for path in map(site.images.joinpath, sent - {kept})]
    for manifest in manifests:  # gone from here for this version only
        manifest.write_text(json.dumps({"schema": SCHEMA + 1}))
    assert run("other").before["superseded"] == {"h0": []}
    for manifest in manifests:
        manifest.unlink()
    # Nobody knows what this one stands on: it came by another way.
    state.update(site, state.get(site, "pair"), images={"root": "0" * 64})
    assert run("other").before["superseded"] == {"h0": []}
    # None does any more.
    state.update(site, state.get(site, "pair"), images={})
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
    assert left == {kept, "of-somebody-else.qcow2", Catalogue(site).get(layered["kernel"]).path.name}
    assert not run("other").changed


def test_nothing_to_do_on_the_site_manager(site: Site, layered: dict[str, str]) -> None:
    placed(site, layered, "qemu:///system")

    def connect(site: Site, host: Host) -> Hypervisor:
        raise AssertionError

    assert not distribute.distribute(site, "pair", connect=connect).changed
    assert state.describe(site, "pair")[0]["phases"] == []


def test_one_host_fails_and_the_other_is_supplied(
    site: Site, layered: dict[str, str], hosts: Hosts, reach: Callable[..., None]
) -> None:
    placed(site, {"kernel": layered["kernel"]}, "xen+tls://a.example/system", "xen+tls://b.example/system")
    good, dead = hosts.start(1, name="h0") + hosts.start(1, name="h1")
    dead.end()
    reach(h0=good, h1=dead)
    with pytest.raises(VclustError, match=r"^h1: not reached: .*\n  hint: is that machine up\?") as caught:
        distribute.distribute(
            site, "pair", connect=lambda _, host: Driver((good if host.name == "h0" else dead).folder)
        )
    assert "h0" not in str(caught.value)
    assert [len(list(host.folder.iterdir())) for host in (good, dead)] == [1, 0]
    described = state.describe(site, "pair")[0]
    assert described["detail"].startswith("distribute failed: h1: ")
    assert [(row["node"], row["outcome"] == "done") for row in described["node_phases"]] == [
        ("h0", True),
        ("h1", False),
    ]


def test_hosts_that_could_not_send_to_each_other_are_named(
    site: Site,
    layered: dict[str, str],
    hosts: Hosts,
    reach: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    placed(site, {"kernel": layered["kernel"]}, "xen+tls://a.example/system", "xen+tls://b.example/system")
    monkeypatch.setenv("HONEST", "0")
    monkeypatch.setenv("ONCE", "1")
    liar = str(PROJECT / "tests/security/chain_liar.py")
    first, second = hosts.start(1, name="h0") + hosts.start(1, name="h1", program=liar)
    reach(h0=first, h1=second)
    told: list[str] = []
    distribute.distribute(
        site,
        "pair",
        connect=lambda _, host: Driver((first if host.name == "h0" else second).folder),
        warn=told.append,
    )
    assert told == [
        "h1 got wrong data from h0: a block has a wrong tag; is the memory, disk or network card of one of them bad?"
    ]
    assert [len(list(host.folder.iterdir())) for host in (first, second)] == [1, 1]
    described = state.describe(site, "pair")[0]
    assert [row["outcome"] for row in described["node_phases"]] == [f"done; {told[0]}"] * 2


def test_racks_reach_the_chain(
    site: Site, layered: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    placed(site, {"kernel": layered["kernel"]}, "xen+tls://a.example/system", "xen+tls://b.example/system")
    sent: list[Hop] = []

    def send(files: object, hops: list[Hop], keys: Keys, report: object) -> tuple[Outcome, ...]:
        sent.extend(hops)
        return ()

    monkeypatch.setattr(chain, "send", send)
    distribute.distribute(
        site, "pair", racks={"h1": "r7"}, connect=lambda _, host: Driver(tmp_path / "site" / "held")
    )
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
    said = distribute.explained(Outcome("h0", (), (), failed))
    assert said.startswith(f"h0: {failed}")
    assert hint in said
    assert ("hint" in said) == bool(hint)


def test_without_images(site: Site) -> None:
    placed(site, {}, "xen+tls://host.example/system")
    with pytest.raises(VclustError, match="images are not made"):
        distribute.distribute(site, "pair")
