"""Today's versions for a cluster that runs, on hosts that only keep books; by real indices of a toy archive."""

import io
import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, a_request, a_site, crash, created, fetched
from repository import KERNEL, Repository

from vclust_py.errors import RequestError, VclustError
from vclust_py.image.store import stored
from vclust_py.life import apply, heal, snapshot, stop, teach, upgrade
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, Result, phase
from vclust_py.run import CommandError
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe
from vclust_py.site.states import NodeState
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


class Told:
    """In place of logins: which nodes were given which packages, in which generation."""

    def __init__(self, session: FakeSession) -> None:
        self.nodes: list[tuple[str, int, list[str]]] = []
        self.away: set[str] = set()
        self.broken: set[str] = set()
        session.run = self  # type: ignore[assignment]

    def __call__(self, argv: list[str], *, stdin: str, **options: object) -> str:
        names = []
        if "VCLUST_PACKAGES=" in stdin:
            with tarfile.open(fileobj=io.BytesIO(fetched(stdin))) as archive:
                names = archive.getnames()
        found = re.search(r"^generation=(\d+)$", stdin, re.MULTILINE)
        assert found is not None
        node = argv[-3].removeprefix("root@")
        if node in self.away:
            raise CommandError(argv, "exit status 255", f"ssh: {node}: no route\n")
        assert "\necho vclust: reached\n" in f"\n{stdin}"
        if node in self.broken:
            raise CommandError(argv, "exit status 1", "vclust: reached\nvclust: failed service x: no\n")
        self.nodes.append((node, int(found[1]), names))
        return f"vclust: reached\nvclust: generation {found[1]}\n"


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


@pytest.fixture
def told(session: FakeSession) -> Told:
    return Told(session)


def found(session: FakeSession) -> Cluster:
    return clusters.get(session.store, "one")


def lock_of(session: FakeSession) -> Lock:
    return Lock.load(session.site, found(session).lock)


def newer(session: FakeSession, toy: Repository, **versions: str) -> None:
    """The archive has these packages from now on."""
    for name, version in versions.items():
        toy.add(name, version)
    toy.publish()
    (session.site.apt / "toy-amd64/fetched").unlink()


def upgraded(session: FakeSession, *, at_once: bool = False) -> tuple[Result, Result]:
    """As the playbook does it."""
    inputs = Inputs("one", hosts=HOSTS)
    results = upgrade.run(session, inputs), teach.run(session, inputs, in_turn=not at_once)
    phase("ready")(session, replace(inputs, again=True))
    return results


def generations(session: FakeSession) -> list[int]:
    return [node.generation for node in found(session).nodes]


def test_four_ways(session: FakeSession, told: Told, toy: Repository) -> None:
    created(session, a_request(packages=["hello"], install="each"))
    newer(session, toy, core="1.1", libgreet="1.6", **{KERNEL: "2.0"})
    before = found(session)
    inputs = Inputs("one", hosts=HOSTS)
    would = upgrade.run(session, replace(inputs, check=True))
    assert would.facts == {
        "packages": ["core=1.1", "libgreet=1.6"],
        "kept": [],
        "kernel": f"{KERNEL}=2.0",
        "absent": [],
    }
    assert would.change.before == {"core": "1.0", "libgreet": "1.5+dfsg~1"}
    assert (found(session), told.nodes) == (before, [])

    done, taught = upgraded(session)
    assert (done.change, done.facts) == (would.change, would.facts)
    brought = ["debconf", "remove", "replaces", "core_all.deb", "libgreet_all.deb"]
    assert told.nodes == [("one-01", 2, brought), ("one-02", 2, brought)]
    assert taught.facts == {"told": ["one-01", "one-02"], "late": []}
    assert session.logins == 2  # the proofs: when it was made, and now
    cluster, lock = found(session), lock_of(session)
    assert (cluster.request, cluster.images, cluster.state) == (before.request, before.images, "ready")
    assert (lock.installed()["core"], lock.installed()["libgreet"]) == ("1.1", "1.6")
    known = describe(session.store)[0]["updates"]
    assert (known["updates"], known["security"]) == ([KERNEL], [])
    last = audited(session.store)[-1]
    assert (last["action"], last["detail"]) == ("upgrade", "core, libgreet")

    for check in (False, True):
        again = upgrade.run(session, replace(inputs, check=check))
        assert (again.change.changed, again.facts["packages"]) == (False, [])
    assert not teach.run(session, inputs, in_turn=True).change.changed


def test_what_apt_leaves_is_named(session: FakeSession, told: Told, toy: Repository) -> None:
    created(session, a_request(packages=["fight-b"], install="each"))
    toy.add("fight-b", "2.0", Depends="fight-a")
    newer(session, toy)
    done = upgrade.run(session, Inputs("one"))
    assert (done.facts["packages"], done.facts["kept"]) == ([], ["fight-b=2.0"])
    assert not upgrade.run(session, Inputs("one"), security=True).facts["kept"]


def test_no_other_node_after_one_that_does_not_bear_it(
    session: FakeSession, told: Told, toy: Repository
) -> None:
    created(session, a_request(nodes=4))
    newer(session, toy, core="1.1")
    told.broken = {"one-02"}
    upgrade.run(session, Inputs("one"))
    result = teach.run(session, Inputs("one"), in_turn=True)
    assert result.facts == {"told": ["one-01"], "late": ["one-02", "one-03", "one-04"]}
    assert result.warnings == (
        "one-02: was not changed: service x: no; it is told when it can be",
        "one-03: waits for one-02; it is told when it can be",
        "one-04: waits for one-02; it is told when it can be",
    )
    assert generations(session) == [2, 1, 1, 1]
    # Given again it goes on with what is left, though the archive has moved on; all have the same then.
    told.broken = set()
    newer(session, toy, core="1.2")
    upgraded(session)
    assert [(node, generation) for node, generation, _ in told.nodes] == [
        *(("one-01", 2), ("one-01", 3), ("one-02", 3), ("one-03", 3), ("one-04", 3)),
    ]
    assert generations(session) == [3] * 4
    assert lock_of(session).installed()["core"] == "1.2"


def test_all_at_once_the_others_do_not_wait(session: FakeSession, told: Told, toy: Repository) -> None:
    created(session, a_request(nodes=3))
    newer(session, toy, core="1.1")
    told.broken = {"one-01"}
    upgrade.run(session, Inputs("one"))
    result = teach.run(session, Inputs("one"))
    assert result.facts == {"told": ["one-02", "one-03"], "late": ["one-01"]}


def test_a_node_that_is_away_comes_to_it_later(session: FakeSession, told: Told, toy: Repository) -> None:
    """One that cannot be reached holds no other up; one that does not run is told when it is ready again."""
    created(session, a_request(nodes=3))
    newer(session, toy, core="1.1")
    told.away = {"one-01"}
    crash(session, found(session), 1)
    clusters.observe_nodes(session.store, found(session), {"one-02": NodeState.FAILED})
    done = upgrade.run(session, Inputs("one"))
    assert done.facts["absent"] == ["one-02"]
    assert done.warnings == ("one-02: is not ready; it comes to this when it is again",)
    assert teach.run(session, Inputs("one"), in_turn=True).facts == {"told": ["one-03"], "late": ["one-01"]}
    told.away = set()
    heal.run(session, Inputs("one", hosts=HOSTS))
    assert generations(session) == [1, 2, 2]
    upgraded(session)
    assert [node for node, _, _ in told.nodes] == ["one-03", "one-02", "one-01"]
    assert generations(session) == [2, 2, 2]


def test_new_nodes_have_what_the_others_have(session: FakeSession, told: Told, toy: Repository) -> None:
    created(session, a_request(packages=["hello"], install="each"))
    newer(session, toy, core="1.1", libgreet="1.6")
    upgraded(session)
    inputs = Inputs("one", hosts=HOSTS)
    apply.run(session, inputs, number=3)
    for word in ("image", "create"):
        phase(word)(session, inputs)
    cluster = found(session)
    held = set(session.images.get(cluster.images["bundle"]).manifest.pinned)
    assert held == {"core=1.1", "hello=2:1.5-1", "libgreet=1.6"}


def test_packages_are_there_before_it_is_written_down(
    session: FakeSession, told: Told, toy: Repository
) -> None:
    created(session, a_request(packages=["hello"], install="each"))
    newer(session, toy, libgreet="1.6")
    (toy.pool / "libgreet_1.6_all.deb").rename(toy.path / "away")
    before = found(session)
    with pytest.raises(VclustError, match="cannot download packages"):
        upgrade.run(session, Inputs("one"))
    assert (found(session).lock, found(session).generation) == (before.lock, before.generation)
    assert "upgrade failed: " in found(session).detail
    (toy.path / "away").rename(toy.pool / "libgreet_1.6_all.deb")
    upgrade.run(session, Inputs("one"))
    assert all(stored(session.site, one) for one in lock_of(session).packages if one.name == "libgreet")


def test_clusters_that_are_not_to_be_upgraded(session: FakeSession, told: Told, toy: Repository) -> None:
    with pytest.raises(RequestError, match="one: no such cluster"):
        upgrade.run(session, Inputs("one"))
    created(session, last="create")
    with pytest.raises(RequestError, match="one: got the state created, expected a cluster that is ready"):
        upgrade.run(session, Inputs("one"))
    created(session)
    stop.run(session, Inputs("one"))
    with pytest.raises(RequestError, match="one: got the state stopped"):
        upgrade.run(session, Inputs("one"))
    phase("destroy")(session, Inputs("one"))


def test_disks_that_are_too_small(session: FakeSession, told: Told, toy: Repository) -> None:
    before = created(session, a_request(packages=["hello"], install="each"))
    toy.add("libgreet", "1.6", Installed_Size=str(8 << 20))
    newer(session, toy)
    with pytest.raises(RequestError, match="one: Packages: need disks of "):
        upgrade.run(session, Inputs("one"))
    assert found(session) == before


def test_a_snapshot_goes_back_to_before_the_upgrade(
    session: FakeSession, told: Told, toy: Repository
) -> None:
    created(session, a_request(packages=["hello"], install="each"))
    before = found(session)
    snapshot.take(session, Inputs("one"), "before")
    newer(session, toy, core="1.1", libgreet="1.6")
    upgraded(session)
    after = found(session)
    told.nodes.clear()
    would = snapshot.restore(session, Inputs("one", check=True), "before")
    assert found(session) == after
    assert snapshot.restore(session, Inputs("one"), "before").change == would.change
    cluster = found(session)
    assert (cluster.lock, cluster.generation, cluster.state) == (before.lock, after.generation + 1, "ready")
    # No package comes: the disks have what the lock says.
    assert sorted(told.nodes) == [("one-01", 3, []), ("one-02", 3, [])]
    assert generations(session) == [3, 3]
    # New nodes are as the others; what that takes is in the store, whatever the archive has.
    (toy.pool / "libgreet_1.5+dfsg~1_all.deb").unlink()
    apply.run(session, Inputs("one", hosts=HOSTS), number=3)
    phase("image")(session, Inputs("one"))
    held = set(session.images.get(found(session).images["bundle"]).manifest.pinned)
    assert held == {"hello=2:1.5-1", "libgreet=1.5+dfsg~1"}
    # And forward again.
    assert upgrade.run(session, Inputs("one", check=True)).facts["packages"] == ["core=1.1", "libgreet=1.6"]


def test_a_snapshot_of_other_packages_is_none_to_go_back_to(session: FakeSession, told: Told) -> None:
    created(session, a_request(packages=["hello"], install="each"))
    snapshot.take(session, Inputs("one"), "before")
    asked = a_request(packages=["hello", "full"], install="each")
    apply.run(session, Inputs("one", request=asked, hosts=HOSTS))
    with pytest.raises(RequestError, match="the cluster has got other packages since it was made"):
        snapshot.restore(session, Inputs("one"), "before")
