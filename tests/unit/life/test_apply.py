"""Another request for a cluster that is made, on hosts that only keep books."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, Told, a_request, a_site, another, created, states
from repository import Repository

from vclust_py.errors import CapacityError, RequestError, VclustError
from vclust_py.life import apply, heal, stop, teach
from vclust_py.life.apply import resized
from vclust_py.life.keeper import Keeper
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, Result, phase
from vclust_py.quotas import Quota
from vclust_py.request import Request
from vclust_py.run import CommandError
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

HASH = "$6$saltsalt$" + "x" * 86


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


@pytest.fixture
def told(session: FakeSession) -> Told:
    return Told(session)


def found(session: FakeSession) -> Cluster:
    return clusters.get(session.store, "one")


def applied(session: FakeSession, request: Request | None = None, **how: object) -> Result:
    """As the playbook does it."""
    inputs = Inputs("one", request=request, hosts=HOSTS)
    result = apply.run(session, inputs, **how)  # type: ignore[arg-type]
    for word in ("image", "create"):
        phase(word)(session, inputs)
    teach.run(session, inputs)
    for word in ("install", "ready"):
        phase(word)(session, inputs)
    return result


def names(session: FakeSession) -> list[str]:
    return [node.name for node in found(session).nodes]


def starts(session: FakeSession) -> int:
    return sum(host.calls["start"] for host in session.hosts.values())


def running(session: FakeSession) -> Counter[str]:
    return Counter(
        domain.name.partition(".")[0] for host in session.hosts.values() for domain in host.domains.values()
    )


def test_two_nodes_more_four_ways(session: FakeSession, told: Told) -> None:
    created(session, a_request(nodes=2))
    inputs = Inputs("one", hosts=HOSTS, check=True)
    would = apply.run(session, inputs, number=4)
    assert (names(session), starts(session)) == (["one-01", "one-02"], 2)
    done = applied(session, number=4)
    assert done.change == would.change
    assert done.facts == would.facts
    assert list(done.facts["add"]) == ["one-03", "one-04"]
    assert sorted(done.facts["add"].values()) == ["a", "b"]
    cluster = found(session)
    assert (cluster.generation, cluster.state, cluster.request.hardware.min_nodes) == (2, "ready", 4)
    assert states(session) == ["ready"] * 4
    assert [node.address for node in cluster.nodes] == [f"10.20.0.{number}" for number in (1, 2, 3, 4)]
    assert (starts(session), set(running(session).values())) == (4, {1})
    # Those that were there are told once, and not tried again.
    assert sorted(told.nodes) == [("one-01", 2), ("one-02", 2)]
    assert session.login.tried == ["one-03", "one-04"]
    assert [node.generation for node in cluster.nodes] == [2] * 4
    for check in (False, True):
        again = apply.run(session, replace(inputs, check=check), number=4)
        assert (again.change.changed, again.facts["add"]) == (False, {})
    assert (starts(session), len(told.nodes)) == (4, 2)
    assert audited(session.store)[-1]["detail"].startswith("NumberOfNodes: is 2, the request says 4")
    # Its request is the new one: creating that again changes nothing.
    assert created(session, resized(a_request(nodes=2), 4)) == cluster


def test_seeds_and_keys_stay_and_new_ones_are_made(session: FakeSession, told: Told) -> None:
    cluster = created(session, a_request(users=[{"name": "ann", "password_hash": HASH}]))
    folder = clusters.folder(session.store, cluster)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    applied(session, number=3)
    after = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    changed = {path.name for path, data in before.items() if after[path] != data}
    assert {path.name for path in after.keys() - before.keys()} == {"one-03.img", "installed.json"}
    assert changed == {"_cluster.img", "generation", "report.html"}


def test_fewer_nodes_those_with_the_highest_numbers(session: FakeSession, told: Told) -> None:
    cluster = created(session, a_request(nodes=4))
    folder = clusters.folder(session.store, cluster)
    would = apply.run(session, Inputs("one", check=True, hosts=HOSTS), number=2)
    assert would.facts["remove"] == ["one-03", "one-04"]
    assert len(running(session)) == 4
    applied(session, number=2)
    assert names(session) == ["one-01", "one-02"]
    assert sorted(running(session)) == ["one-01", "one-02"]
    assert sorted(path.name for path in folder.glob("one-*.img")) == ["one-01.img", "one-02.img"]
    kept = {
        name
        for host in session.hosts.values()
        for name in host.folders[folder.name]
        if name.endswith("qcow2")
    }
    assert kept == {"one-01.qcow2", "one-02.qcow2"}
    assert states(session) == ["ready", "ready"]
    assert sorted(told.nodes) == [("one-01", 2), ("one-02", 2)]
    phase("destroy")(session, Inputs("one"))
    assert session.store.rows("SELECT * FROM nodes") == []


def test_nodes_that_are_named_and_their_numbers_again(session: FakeSession, told: Told) -> None:
    created(session, a_request(nodes=4))
    applied(session, number=2, remove=["one-02", "one-03"])
    assert names(session) == ["one-01", "one-04"]
    applied(session, number=4)
    cluster = found(session)
    assert [(node.name, node.address) for node in cluster.nodes] == [
        (f"one-0{number}", f"10.20.0.{number}") for number in (1, 2, 3, 4)
    ]
    assert (cluster.generation, set(states(session))) == (3, {"ready"})


@pytest.mark.parametrize(
    ("number", "remove", "said"),
    [
        (3, ["one-01"], "one-01: is the first node of one, which leads: it stays"),
        (3, ["x"], "x: no such node of one; there are: one-01, one-02, one-03, one-04"),
        (2, ["one-02"], r"nodes: got 1 to remove, expected 2: 4 are there, 2 are to stay"),
        (5, ["one-02"], r"nodes: got 1 to remove, expected 0"),
        (253, [], r"Network: 10.20.0.0/24 has 254 addresses, expected 255"),
    ],
)
def test_numbers_that_cannot_be(session: FakeSession, number: int, remove: list[str], said: str) -> None:
    before = created(session, a_request(nodes=4))
    with pytest.raises(RequestError, match=said):
        apply.run(session, Inputs("one", hosts=HOSTS), number=number, remove=remove)
    assert found(session) == before


def test_users_and_keys_lease_and_healing(session: FakeSession, told: Told) -> None:
    ann, bob = ({"name": name, "password_hash": HASH} for name in ("ann", "bob"))
    created(session, a_request(users=[ann, bob], lease="1h"))
    eve = {"name": "eve", "password_hash": HASH}
    begun = time.time()
    changed = a_request(users=[bob, eve], lease="8h", heal="off")
    done = applied(session, changed)
    assert done.facts["add"] == {}
    assert [line.partition(":")[0] for line in done.facts["differences"]] == ["User", "Lease", "Heal"]
    assert HASH not in str(done)
    cluster = found(session)
    assert (cluster.request, starts(session)) == (changed, 2)
    assert cluster.ends is not None
    assert begun + 8 * 3600 <= cluster.ends <= time.time() + 8 * 3600
    assert sorted(told.nodes) == [("one-01", 2), ("one-02", 2)]
    keys = clusters.folder(session.store, cluster) / "keys"
    assert '"uids": {"ann": 1000, "bob": 1001, "eve": 1002}' in (keys / "identity.json").read_text()
    assert describe(session.store)[0]["ssh"]["user"] == "bob"
    applied(session, a_request(users=[bob, eve]))
    assert found(session).ends is None


def test_what_cannot_change_in_place(session: FakeSession) -> None:
    before = created(session)
    other = a_request(hardware={"disk": "3GB"}, suite="other", network="10.21.0.0/24")
    with pytest.raises(RequestError) as refused:
        apply.run(session, Inputs("one", request=other, hosts=HOSTS))
    text = str(refused.value)
    for word in (
        "one: Disk: is 4GB, the request says 3GB: disks only grow",
        "one: Suite: ",
        "one: Network: ",
    ):
        assert word in text
    assert "vclust destroy one" in text
    assert found(session) == before


def test_a_node_that_cannot_be_told_is_told_later(session: FakeSession, told: Told) -> None:
    created(session)
    told.away = {"one-02"}
    apply.run(session, Inputs("one", hosts=HOSTS), number=3)
    phase("create")(session, Inputs("one"))
    would = teach.run(session, Inputs("one", check=True))
    assert (would.facts["told"], told.nodes) == (["one-01", "one-02"], [])
    result = teach.run(session, Inputs("one"))
    assert result.facts == {"told": ["one-01"], "late": ["one-02"]}
    assert result.warnings == ("ssh: one-02: no route; it is told when it can be",)
    told.away = set()
    assert teach.run(session, Inputs("one")).facts == {"told": ["one-02"], "late": []}
    assert not teach.run(session, Inputs("one")).change.changed
    assert told.nodes == [("one-01", 2), ("one-02", 2)]


def test_interrupted_at_any_point_it_can_be_given_again(session: FakeSession, told: Told) -> None:
    created(session, a_request(nodes=2))
    inputs = Inputs("one", hosts=HOSTS)
    apply.run(session, inputs, number=4)
    assert describe(session.store)[0]["state"] == "degraded"
    applied(session, number=4)
    assert describe(session.store)[0]["state"] == "ready"
    # In the middle of a removal: a domain is gone, the rows are not.
    last = found(session).nodes[3]
    session.hosts[last.host].remove(last.uuid)
    applied(session, number=3)
    assert (names(session), set(states(session))) == (["one-01", "one-02", "one-03"], {"ready"})


def test_no_space_and_no_quota(session: FakeSession) -> None:
    before = created(session, a_request(hardware={"spread": "hosts"}))
    with pytest.raises(CapacityError):
        apply.run(session, Inputs("one", hosts=HOSTS), number=3)
    session.store.execute("UPDATE clusters SET owner = 'alice'")
    session.site = replace(session.site, user_quota=Quota(nodes=2))
    with pytest.raises(CapacityError, match="nodes: 3 asked for, limit 2"):
        apply.run(session, Inputs("one", hosts=HOSTS), number=3)
    assert found(session).nodes == before.nodes


def test_a_host_that_does_not_answer(session: FakeSession, told: Told) -> None:
    """What is there goes when it answers again, and is none of the cluster's meanwhile."""
    cluster = created(session, a_request(nodes=4))
    session.close()
    session.gone = {"b"}
    away = [node for node in cluster.nodes if node.host == "b"][-1]
    result = apply.run(session, Inputs("one", hosts=HOSTS), number=3, remove=[away.name])
    assert result.warnings == (f"{away.name}: b: no route; it is removed when its host answers",)
    assert len(names(session)) == 3
    assert [node.name for node in found(session).leaving] == [away.name]
    assert running(session)[away.name] == 1
    # Its number, address and place on the host are in use until then.
    session.gone = set()
    session.close()
    with FakeSession(session.site) as other:
        other.hosts, other.gone, other.networks = session.hosts, {"b"}, session.networks
        apply.run(other, Inputs("one", hosts=HOSTS), number=4)
    assert names(session)[-1] == "one-05"
    apply.run(session, Inputs("one", hosts=HOSTS), number=4)
    assert found(session).leaving == ()
    assert running(session)[away.name] == 0


def test_a_cluster_is_destroyed_with_those_that_are_leaving(session: FakeSession, told: Told) -> None:
    cluster = created(session, a_request(nodes=4))
    session.close()
    session.gone = {"b"}
    away = [node for node in cluster.nodes if node.host == "b"]
    apply.run(session, Inputs("one", hosts=HOSTS), number=2, remove=[node.name for node in away])
    with pytest.raises(VclustError, match="b: no route"):
        phase("destroy")(session, Inputs("one"))
    session.gone = set()
    phase("destroy")(session, Inputs("one"))
    assert not running(session)
    assert session.store.rows("SELECT * FROM nodes") == []
    assert not any(files for host in session.hosts.values() for files in host.folders.values())


def test_clusters_that_cannot_be_changed_now(session: FakeSession, told: Told) -> None:
    created(session)
    stop.run(session, Inputs("one"))
    with pytest.raises(RequestError, match=r"got the state stopped.*\n.*vclust start one"):
        apply.run(session, Inputs("one", hosts=HOSTS), number=3)
    with pytest.raises(RequestError, match="no such cluster"):
        apply.run(session, Inputs("two", hosts=HOSTS), number=3)
    # One of an earlier version, which has kept too little of what it told its nodes.
    cluster = created(session)
    (clusters.folder(session.store, cluster) / "keys/identity.json").unlink()
    apply.run(session, Inputs("one", hosts=HOSTS), number=3)
    with pytest.raises(VclustError, match="was made by an earlier version"):
        phase("create")(session, Inputs("one"))


def test_a_resize_while_a_node_is_down(session: FakeSession, told: Told) -> None:
    cluster = created(session)
    down = cluster.nodes[1]
    session.hosts[down.host].remove(down.uuid)
    applied(session, number=3)
    assert set(states(session)) == {"ready"}
    assert not heal.run(session, Inputs("one")).change.changed
    assert len(running(session)) == 3


def test_a_lease_that_ends_meanwhile(session: FakeSession, told: Told) -> None:
    """The keeper comes between two phases; who is at work begins another lease."""
    created(session, a_request(nodes=2, lease="1h"))
    inputs = Inputs("one", hosts=HOSTS)
    apply.run(session, inputs, number=3)
    session.store.execute("UPDATE clusters SET ends = 5")
    with another(session) as other:
        keeper = Keeper(lambda: other, HOSTS)
        assert keeper.round(answer=10, work=60) == ["one: its lease has ended, it is stopped"]
        for word in ("image", "create"):
            phase(word)(session, inputs)
        teach.run(session, inputs)
        for word in ("install", "ready"):
            phase(word)(session, inputs)
        assert keeper.round(answer=10, work=60) == []
        keeper.close()
    cluster = found(session)
    assert (states(session), cluster.ended) == (["ready"] * 3, None)
    assert cluster.ends is not None
    assert cluster.ends > time.time()
    assert [node.generation for node in cluster.nodes] == [2] * 3


def test_two_at_once(session: FakeSession, told: Told) -> None:
    """One after the other: what the later one says is what is."""
    created(session, a_request(nodes=2))
    inputs = Inputs("one", hosts=HOSTS)
    with another(session) as other, ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda one: apply.run(one[0], inputs, number=one[1]), ((session, 3), (other, 4))))
    applied(session, found(session).request)
    cluster = found(session)
    assert len(cluster.nodes) == cluster.request.hardware.number_of_nodes
    assert (cluster.generation, set(states(session))) == (3, {"ready"})
    assert sum(running(session).values()) == len(cluster.nodes)


BUNDLE = """
description: a test
packages: []
steps: [{nodes: all, run: "true"}]
"""
CHANGES = """change: systemctl restart thing
leave: |
  drain "$VCLUST_LEAVING"
"""


@pytest.mark.parametrize("changes", [False, True])
def test_meta_packages_that_have_told_nodes_of_each_other(
    toy: Repository, tmp_path: Path, changes: bool
) -> None:
    folder = tmp_path / "metapackages"
    folder.mkdir()
    (folder / "thing.yml").write_text(BUNDLE + (CHANGES if changes else ""))
    site = toy.site(tmp_path / "site", cache_every=0, metapackages=(folder,))
    with a_site(toy, site) as session:
        told, asked = Told(session), list[str]()
        real = session.run

        def run(argv: list[str], *, stdin: str, **options: object) -> str:
            if "VCLUST_LEAVING" in stdin:
                assert argv[-3] == "root@one-01"
                asked.append(stdin)
                return ""
            return real(argv, stdin=stdin, **options)

        session.run = run
        created(session, a_request(nodes=3, meta_packages="thing"))
        inputs = Inputs("one", hosts=HOSTS)
        if not changes:
            with pytest.raises(RequestError, match="the meta package thing has told the nodes of each other"):
                apply.run(session, inputs, number=4)
            return
        applied(session, number=4)
        assert asked == []
        applied(session, number=2)
        (text,) = asked
        assert text == 'set -eu\nexport VCLUST_LEAVING=one-03,one-04\ndrain "$VCLUST_LEAVING"\n'
        assert names(session) == ["one-01", "one-02"]
        assert told.nodes[-2:] == [("one-01", 3), ("one-02", 3)]

        def refuse(argv: list[str], *, stdin: str, **options: object) -> str:
            if "VCLUST_LEAVING" in stdin:
                raise CommandError(argv, "exit status 1", "jobs still run on one-02")
            return real(argv, stdin=stdin, **options)

        session.run = refuse  # type: ignore[method-assign]
        with pytest.raises(VclustError, match="jobs still run on one-02"):
            apply.run(session, inputs, number=1)
        assert names(session) == ["one-01", "one-02"]


def with_packages(*names: str, nodes: int = 2, **software: object) -> Request:
    return a_request(nodes=nodes, packages=list(names), install="each", **software)


def test_packages_in_place_four_ways(session: FakeSession, told: Told) -> None:
    created(session, with_packages("hello"))
    before = found(session)
    asked = with_packages("full")
    would = apply.run(session, Inputs("one", request=asked, hosts=HOSTS, check=True))
    assert would.facts["packages"] == {"install": ["full=1.0"], "remove": ["hello", "libgreet"]}
    assert found(session) == before
    done = applied(session, asked)
    assert done.change == would.change
    # Once for each node, with what it lacks; nothing else of it was started or made.
    assert told.packages == [["debconf", "remove", "full_all.deb"]] * 2
    cluster = found(session)
    assert (cluster.images, cluster.state, states(session)) == (before.images, "ready", ["ready"] * 2)
    assert [node.generation for node in cluster.nodes] == [2, 2]
    lock = Lock.load(session.site, cluster.lock)
    assert ([package.name for package in lock.packages], lock.requested) == (["full"], ("full",))
    assert starts(session) == 2
    for check in (False, True):
        again = apply.run(session, Inputs("one", request=asked, hosts=HOSTS, check=check))
        assert not again.change.changed
    # What is told next has nothing of that any more.
    applied(session, with_packages("full", lease="2h"))
    assert (len(told.packages), told.nodes[-1]) == (2, ("one-02", 3))


def test_new_nodes_start_with_the_new_packages(session: FakeSession, told: Told) -> None:
    created(session, with_packages("hello"))
    old = found(session).images
    applied(session, with_packages("hello", "full", nodes=3))
    cluster = found(session)
    assert cluster.images["bundle"] != old["bundle"]
    assert set(session.images.get(cluster.images["bundle"]).manifest.pinned) == {
        "full=1.0",
        "hello=2:1.5-1",
        "libgreet=1.5+dfsg~1",
    }
    assert len(told.packages) == 2  # the new node was not given any
    assert states(session) == ["ready"] * 3
    domain = next(one for host in session.hosts.values() for one in host.domains.values() if "03" in one.name)
    assert session.images.get(cluster.images["bundle"]).path.name in str(domain.disks[-1].path)


def test_a_node_that_was_away_gets_what_it_lacks_later(session: FakeSession, told: Told) -> None:
    created(session, with_packages("hello"))
    told.away = {"one-02"}
    apply.run(session, Inputs("one", request=with_packages("hello", "full"), hosts=HOSTS))
    assert teach.run(session, Inputs("one")).facts["late"] == ["one-02"]
    apply.run(session, Inputs("one", request=with_packages("full"), hosts=HOSTS))
    assert told.packages == [["debconf", "remove", "full_all.deb"]] * 2
    told.away = set()
    told.packages.clear()
    assert teach.run(session, Inputs("one")).facts["late"] == []
    # The one lacks what the other has been given already; neither is to keep what went.
    assert sorted(told.packages) == [["debconf", "remove"], ["debconf", "remove", "full_all.deb"]]


def test_meta_packages_in_place(session: FakeSession, told: Told, tmp_path: Path) -> None:
    folder = tmp_path / "metapackages"
    folder.mkdir()
    (folder / "greeting.yml").write_text(
        "description: greets\npackages: [hello]\nsecrets: [{name: word, bytes: 16}]\n"
        "debconf: ['hello hello/loud boolean true']\nsteps: [{nodes: all, run: 'echo hi'}]\ncheck: hello\n"
    )
    session.site = replace(session.site, metapackages=(folder,))
    created(session, with_packages())
    asked = with_packages(meta_packages=["greeting"])
    result = apply.run(session, Inputs("one", request=asked, hosts=HOSTS))
    assert (result.facts["prove"], result.facts["packages"]["remove"]) == (True, [])
    assert result.facts["packages"]["install"] == ["hello=2:1.5-1", "libgreet=1.5+dfsg~1"]
    assert teach.run(session, Inputs("one")).facts["late"] == []
    assert told.packages == [["debconf", "remove", "hello_all.deb", "libgreet_all.deb"]] * 2
    # Its secrets are made, once.
    keys = clusters.folder(session.store, found(session)) / "keys/identity.json"
    secret = json.loads(keys.read_text())["secrets"]["word"]
    result = apply.run(
        session, Inputs("one", request=with_packages("full", meta_packages=["greeting"]), hosts=HOSTS)
    )
    assert not result.facts["prove"]
    teach.run(session, Inputs("one"))
    assert json.loads(keys.read_text())["secrets"]["word"] == secret
    with pytest.raises(RequestError, match="MetaPackages: greeting has set the nodes up"):
        apply.run(session, Inputs("one", request=with_packages("full"), hosts=HOSTS))


def test_packages_that_cannot_come(session: FakeSession, told: Told) -> None:
    created(session, with_packages("fight-b"))
    before = found(session)
    for asked, problem in (
        (with_packages("fight-b", "fight-a"), "cannot be installed together"),
        (with_packages("fight-b", "hallo"), "did you mean hello"),
    ):
        with pytest.raises(RequestError, match=problem):
            apply.run(session, Inputs("one", request=asked, hosts=HOSTS))
    assert (found(session), told.nodes) == (before, [])


def test_a_new_node_after_a_crash_of_its_host_has_the_new_packages(session: FakeSession, told: Told) -> None:
    """The keeper makes what it starts from."""
    created(session, with_packages("hello"))
    apply.run(session, Inputs("one", request=with_packages("hello", "full", nodes=3), hosts=HOSTS))
    keeper = Keeper(lambda: another(session), HOSTS)
    for _ in range(4):  # who applied was killed before images were made
        keeper.round(answer=10, work=60)
    keeper.close()
    cluster = found(session)
    assert states(session) == ["ready"] * 3
    assert "full=1.0" in session.images.get(cluster.images["bundle"]).manifest.pinned
