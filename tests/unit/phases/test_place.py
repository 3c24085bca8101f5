"""Phase `place` against hosts of a given size."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cache.cachesite import a_lock, an_image, make_base, make_cache
from pastruns import add, node_facts
from repository import Repository
from test_placement import GB, NODE, a_capacity, a_request

from vclust_py import egress
from vclust_py import request as requests
from vclust_py.errors import CapacityError, VclustError
from vclust_py.free_capacity import free_capacity
from vclust_py.hypervisor import Capacity, Host
from vclust_py.image.builder import disk_size, layer_key
from vclust_py.lock import Lock, Package
from vclust_py.phases import Inputs, Result, place
from vclust_py.request import Request
from vclust_py.site import Site, clusters
from vclust_py.site.hosts import known_hosts
from vclust_py.site.session import Session
from vclust_py.site.store import Store

LOCK = Lock("bookworm", "amd64", "linux-image-cloud-amd64", (), (), ())


class FixedHost:
    """A hypervisor of a given size, and what its clusters' files take; it counts the looks at these."""

    def __init__(self, capacity: Capacity, allocated: Mapping[str, int] | None = None) -> None:
        self.capacity_given, self.given_files, self.looks = capacity, allocated or {}, 0

    def capacity(self) -> Capacity:
        return self.capacity_given

    def files(self, folder: str) -> "FixedHost":
        return self

    def allocated(self) -> dict[str, int]:
        self.looks += 1
        return dict(self.given_files)

    def images(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        pass


class Sized(Session):
    """A session whose hosts all have one capacity, which may change; those called dead do not answer."""

    given = a_capacity()

    def __init__(self, site: Site) -> None:
        self.dead = {"dead"}
        self.files: dict[str, int] = {}
        self.hosts: list[FixedHost] = []

        def connect(site: Site, host: Host) -> Any:
            if host.name in self.dead:
                raise VclustError(f"{host.name}: no route")
            self.hosts.append(FixedHost(self.given, self.files))
            return self.hosts[-1]

        super().__init__(site, connect=connect)

    def has(self, **values: Any) -> None:
        self.close()
        self.given = a_capacity(**values)


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Sized]:
    with Sized(Site(root=tmp_path / "site")) as session:
        session.site.make_directories()
        yield session


def placed(
    session: Session,
    request: Request,
    lock: Lock = LOCK,
    hosts: tuple[str, ...] = ("a",),
    *,
    check: bool = False,
) -> Result:
    return place_on(session, request, tuple(map(Host, hosts)), lock, check=check)


def place_on(
    session: Session, request: Request, hosts: tuple[Host, ...], lock: Lock = LOCK, *, check: bool = False
) -> Result:
    lock.save(session.site)
    inputs = Inputs(request.name, check=check, request=request, lock=lock.digest, hosts=hosts)
    return place.run(session, inputs)


def placement(result: Result) -> dict[str, str]:
    found: dict[str, str] = result.facts["plan"]["placement"]
    return found


def named(request: Request, name: str) -> Request:
    return replace(request, software=replace(request.software, name=name))


def test_check_writes_nothing_and_a_second_place_keeps_the_first(session: Sized) -> None:
    request = a_request(2)
    clusters.register(session.store, request)
    assert placed(session, request, check=True).change.changed
    assert clusters.get(session.store, "test").nodes == ()
    assert placed(session, request).change.changed
    nodes = clusters.get(session.store, "test").nodes
    assert not placed(session, request, hosts=("a", "b")).change.changed
    assert clusters.get(session.store, "test").nodes == nodes


def test_a_plan_says_that_there_is_no_way_out(session: Sized, monkeypatch: pytest.MonkeyPatch) -> None:
    """A create says so itself, when it has tried."""
    monkeypatch.setattr(egress, "PROGRAM", "no-such-proxy")
    (said,) = placed(session, a_request(1), check=True).warnings
    assert "no-such-proxy is not installed" in said
    clusters.register(session.store, a_request(1))
    assert placed(session, a_request(1)).warnings == ()


def test_a_plan_makes_no_store_and_waits_for_nobody(session: Sized) -> None:
    placed(session, a_request(2), check=True)
    assert not session.store.exists
    clusters.register(session.store, a_request(2))
    other = Store(session.site)
    with other.transaction():  # would keep another one waiting for half a minute
        assert placed(session, a_request(2), check=True).change.changed
    other.close()


def test_a_cluster_without_images_takes_another_lock(session: Sized) -> None:
    request, newer = a_request(2), replace(LOCK, suite="trixie")
    clusters.register(session.store, request)

    def place_with(lock: Lock, *, check: bool = False) -> str:
        placed(session, request, lock, check=check)
        return clusters.get(session.store, "test").lock

    assert place_with(LOCK) == LOCK.digest
    assert place_with(newer, check=True) == LOCK.digest
    assert place_with(newer) == newer.digest
    clusters.update(session.store, clusters.get(session.store, "test"), images={"base": "0" * 64})
    assert place_with(LOCK) == newer.digest


def test_a_second_cluster_gets_only_what_the_first_left(session: Sized) -> None:
    first, second = a_request(10), named(a_request(10, ram="1GB"), "second")
    clusters.register(session.store, first)
    placed(session, first)
    clusters.register(session.store, second)
    with pytest.raises(CapacityError, match=r"only 4 of 10 nodes fit"):
        placed(session, second)
    assert [cluster.name for cluster in clusters.live(session.store)] == ["test"]


def test_memory_that_running_nodes_may_still_take_is_not_given_twice(session: Sized) -> None:
    """16 GB, of which 8 GB are other programs'; a node of 6 GB has touched 1 GB so far."""
    first = a_request(1, ram="6GB")
    clusters.register(session.store, first)
    session.has(memory_free=8 * GB)
    placed(session, first)
    uuid = clusters.get(session.store, "test").nodes[0].uuid
    session.has(memory_free=7 * GB, resident={uuid: 1 * GB})
    for ram, fits in (("3GB", False), ("1GB", True)):
        second = named(a_request(1, ram=ram), f"second-{ram.lower()}")
        clusters.register(session.store, second)
        try:
            placed(session, second)
        except CapacityError:
            assert not fits
        else:
            assert fits


def packages_of(gigabytes: int) -> Lock:
    return replace(LOCK, packages=(Package("large", "1", "amd64", installed_size=gigabytes * GB),))


def test_all_that_a_nodes_disk_may_take_is_reserved(session: Sized) -> None:
    """9 GB of packages need a disk of 11.8 GB, whatever was asked for: what a layer is made of, overlays are too."""
    request, large = a_request(3, disk="3GB"), packages_of(9)
    session.has(disk_free=30 * GB)
    clusters.register(session.store, request)
    with pytest.raises(CapacityError, match="has 6377 MB of disk left, a node takes 11811"):
        placed(session, request, large)
    two = a_request(2, disk="3GB")
    clusters.register(session.store, two)
    plan = placed(session, two, large).facts["plan"]
    assert (plan["disk"], plan["disk_asked"]) == (disk_size(large), 3 * GB)
    assert [node.disk for node in clusters.get(session.store, "test").nodes] == [disk_size(large)] * 2
    assert plan["disk"] > 11 * GB
    third = named(two, "third")
    clusters.register(session.store, third)
    with pytest.raises(CapacityError, match="has 6377 MB of disk left"):
        placed(session, third, large)


def test_a_larger_disk_than_packages_need_is_as_asked_for(session: Sized) -> None:
    request = a_request(1, disk="20GB")
    clusters.register(session.store, request)
    plan = placed(session, request, packages_of(1)).facts["plan"]
    assert plan["disk"] == plan["disk_asked"] == 20 * GB


def test_no_hosts(session: Sized) -> None:
    with pytest.raises(CapacityError, match="vm_hosts is empty"):
        placed(session, a_request(), hosts=(), check=True)


def test_a_host_that_does_not_answer_takes_no_node(session: Sized) -> None:
    request = a_request()
    result = placed(session, request, hosts=("dead", "a"), check=True)
    assert set(placement(result).values()) == {"a"}
    assert result.facts["plan"]["unreachable"] == {"dead": "dead: no route"}
    with pytest.raises(CapacityError, match="dead: does not answer: dead: no route"):
        placed(session, a_request(200), hosts=("dead", "a"), check=True)
    with pytest.raises(VclustError, match=r"^dead: no route$"):
        placed(session, request, hosts=("dead",), check=True)


def test_what_a_host_had_that_does_not_answer_any_more_is_shown_with_its_age(session: Sized) -> None:
    clusters.register(session.store, a_request(spread="hosts"))
    placed(session, a_request(spread="hosts"), hosts=("dying", "a"))
    session.store.execute("UPDATE observed_hosts SET answered = answered - 3600, seen = seen - 3600")
    session.has()
    session.dead |= {"dying"}
    hosts = placed(session, a_request(), hosts=("dying", "dead", "a"), check=True).facts["plan"]["hosts"]
    assert (hosts["dying"]["answers"], hosts["dying"]["facts"]["cpus"], hosts["dying"]["nodes"]) == (
        False,
        4,
        1,
    )
    assert 3600 <= hosts["dying"]["age"] < 3700
    assert hosts["dead"] == {"state": "active", "answers": False, "facts": {}, "age": None, "nodes": 0}
    assert (hosts["a"]["answers"], hosts["a"]["age"], hosts["a"]["nodes"]) == (True, 0.0, 1)


def test_a_drained_host_takes_no_node_and_is_said_as_such(session: Sized) -> None:
    drained = Host("a", state="drain")
    result = place_on(session, a_request(), (drained, Host("b")), check=True)
    assert set(placement(result).values()) == {"b"}
    assert result.facts["plan"]["hosts"]["a"]["state"] == "drain"
    with pytest.raises(CapacityError, match=r"a: drained, takes no new nodes"):
        place_on(session, a_request(), (drained,), check=True)


def test_each_host_has_its_own_overcommit(session: Sized) -> None:
    """4 processors each: 4 virtual CPUs on one host, 8 on the other; the site's own setting is 4 for each."""
    hosts = Host("a", cpu_overcommit=1), Host("b", cpu_overcommit=2)
    result = place_on(session, a_request(12), hosts, check=True)
    assert Counter(placement(result).values()) == {"a": 4, "b": 8}
    with pytest.raises(CapacityError, match=r"only 12 of 13 nodes fit: needs 1 virtual CPU more;"):
        place_on(session, a_request(13), hosts, check=True)


OTHERS = {"sizes": {"other": (6, 3 * GB)}, "resident": {"other": GB}}


def test_what_runs_there_that_is_not_the_sites_is_counted_and_written_down(session: Sized) -> None:
    """16 virtual CPUs of which another domain has 6; it may take 3 GB, of which it has taken 1."""
    session.has(memory=10 * NODE + 3 * GB, memory_free=10 * NODE + 2 * GB, **OTHERS)
    clusters.register(session.store, a_request(10))
    with pytest.raises(
        CapacityError, match=r"only 10 of 11 nodes fit: needs 1 virtual CPU and 1.1 GB of memory more"
    ):
        placed(session, a_request(11), check=True)
    placed(session, a_request(10))
    (host,) = known_hosts(session.store)
    assert host.facts["foreign"] == {"domains": 1, "cpus": 6, "memory": 3 * GB}
    assert not {"sizes", "resident"} & host.facts.keys()
    # Nodes that run are the site's own.
    nodes = clusters.get(session.store, "test").nodes
    session.has(sizes={node.uuid: (1, GB) for node in nodes})
    facts = placed(session, a_request(10)).facts["plan"]["hosts"]["a"]["facts"]
    assert facts["foreign"] == {"domains": 0, "cpus": 0, "memory": 0}


def test_a_node_that_starts_while_hosts_are_asked_counts_once(session: Sized) -> None:
    """Another create has placed and started it after this one had looked which nodes there are: no foreign domain."""
    clusters.register(session.store, a_request(10))
    placed(session, a_request(10))
    nodes = [(node, 0) for node in clusters.get(session.store, "test").nodes]
    running = a_capacity(sizes={node.uuid: (1, GB) for node, _ in nodes})
    free = free_capacity(Host("a"), running, nodes, 4, foreign=frozenset(running.sizes))
    assert (free.busy, free.cpus, free.memory) == (10, 6, 16 * GB - 10 * NODE)


def test_what_disks_hold_is_looked_up_only_where_space_is_short(session: Sized) -> None:
    """Two nodes of 4 GB, one of which has written 3 GB."""
    clusters.register(session.store, a_request(2))
    placed(session, a_request(2))
    third = named(a_request(1), "third")
    session.files["test-01.qcow2"] = 3 * GB
    for free, reads in ((12 * GB, 0), (9 * GB, 1)):
        session.has(disk_free=free)
        placed(session, third, check=True)
        assert session.hosts[-1].looks == reads
    session.has(disk_free=9 * GB - 1)
    with pytest.raises(CapacityError, match="has 3999 MB of disk left"):
        placed(session, third, check=True)


def test_what_hosts_were_last_seen_to_be_is_written_down(session: Sized) -> None:
    clusters.register(session.store, a_request())
    placed(session, a_request(), hosts=("dead", "a"), check=True)
    assert session.store.rows("SELECT * FROM observed_hosts") == []
    placed(session, a_request(), hosts=("dead", "a"))
    rows = session.store.rows(
        "SELECT host, state, json_extract(facts, '$.accelerator') AS a FROM observed_hosts ORDER BY host"
    )
    assert [tuple(row) for row in rows] == [("a", "reachable", "kvm"), ("dead", "unreachable", None)]


@pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")
def test_hosts_that_hold_the_images_come_first(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cluster's layer stands on a VD cache: `c` has both, `b` the cache, `a` the base only; 4 processors each."""
    site = toy.site(tmp_path / "site", cache_every=0)
    base = make_base(site).base
    asked: dict[str, dict[str, Any]] = {
        "hardware": {"number_of_nodes": 9, "ram": "1GB"},
        "software": {"name": "test", "suite": "toy", "packages": ["hello"], "install": "once"},
    }
    request, lock = requests.from_mapping(asked, "test"), a_lock(site, "hello")
    cache = make_cache(site, a_lock(site, "libgreet"), base, "unpacked")
    layer = an_image(
        site, "layer", layer_key(lock, base), "layer", suite="toy", architecture="amd64", backing=cache
    )
    names = [image.path.name for image in (base, cache, layer)]
    images = {host: dict.fromkeys(names[:count], 1) for count, host in enumerate("abc", 1)}

    def connect(site: Site, host: Host) -> Any:
        found = FixedHost(a_capacity())
        found.images = lambda: images[host.name]  # type: ignore[method-assign]
        return found

    hosts = tuple(Host(name, f"xen+tls://{name}/system") for name in "abc")
    with Session(site, connect=connect) as session:
        plan = place_on(session, request, hosts, lock, check=True).facts["plan"]
        # Nothing is left to build, so nobody asks which strategy would be sooner.
        monkeypatch.setattr(place, "choose_strategy", lambda *_: "each")
        left_open = requests.from_mapping(
            {**asked, "software": {**asked["software"], "install": "auto"}}, "test"
        )
        assert place_on(session, left_open, hosts, lock, check=True).facts["plan"]["strategy"] == "once"
        unbuilt = a_lock(site, "libgreet")
        assert place_on(session, left_open, hosts, unbuilt, check=True).facts["plan"]["strategy"] == "each"
    assert plan["layer_there"]
    assert Counter(plan["placement"].values()) == {"c": 4, "b": 4, "a": 1}


def test_what_was_expected_is_kept_beside_what_comes(session: Sized) -> None:
    request = a_request(2)
    clusters.register(session.store, request)
    for seconds in (9.0, 10.0, 14.0):
        facts = {**node_facts(2), "accelerator": "kvm"}
        add(session.store, "ready", seconds, facts)
    assert placed(session, request, check=True).facts["plan"]["estimate"]["seconds"] == {"ready": 10.0}
    assert clusters.get(session.store, "test").estimate == {}
    plan = placed(session, request).facts["plan"]
    add(session.store, "ready", 100.0, {**node_facts(2), "accelerator": "kvm"})
    placed(session, request)
    kept = clusters.get(session.store, "test").estimate
    assert (kept["seconds"], kept["errors"]) == ({"ready": 10.0}, {"ready": 1.0})
    assert kept["unknown"] == list(plan["estimate"]["unknown"]) == ["image", "create", "install"]


def asked_by(session: Session, who: str, request: Request, *, check: bool = False) -> Result:
    """Registered and placed for that user, on the same site."""
    with Sized(session.site) as own:
        own.store.who = who
        if not check:
            clusters.register(own.store, request)
        return placed(own, request, check=check)


@pytest.mark.parametrize("check", [True, False], ids=["plan", "create"])
def test_a_quota_is_not_exceeded_and_who_uses_it_is_said(session: Sized, check: bool) -> None:
    settings = {
        "root": str(session.site.root),
        "administrators": ["carol"],
        "projects": {"bio": {"users": ["alice", "bob"], "quota": {"nodes": 6, "disk": "100GB"}}},
        "user_quota": {"nodes": 4},
    }
    session.site = Site.from_mapping(settings)
    asked_by(session, "alice", named(a_request(3), "one"))
    asked_by(session, "bob", named(a_request(2), "two"))
    with pytest.raises(CapacityError) as raised:
        asked_by(session, "alice", named(a_request(2), "three"), check=check)
    assert str(raised.value).splitlines()[1:3] == [
        "  user alice: nodes: 2 asked for, limit 4, 3 used by one (3)",
        "  project bio: nodes: 2 asked for, limit 6, 5 used by one (3), two (2)",
    ]
    assert {c.name: len(c.nodes) for c in clusters.live(session.store) if c.nodes} == {"one": 3, "two": 2}
    # One more is within both; an administrator has no quota.
    plan = asked_by(session, "alice", named(a_request(1), "four"), check=check).facts["plan"]
    assert [(one["whose"], one["what"], one["used"], one["asked"]) for one in plan["quota"]] == [
        ("user alice", "nodes", 3, 1),
        ("project bio", "nodes", 5, 1),
        ("project bio", "disk", 20 * GB, 4 * GB),
    ]
    assert asked_by(session, "carol", named(a_request(5), "five"), check=check).facts["plan"]["quota"] == ()


def test_disks_count_as_they_are_reserved(session: Sized) -> None:
    """9 GB of packages need a disk of 11.8 GB, whatever was asked for."""
    site = Site.from_mapping({"root": str(session.site.root), "user_quota": {"disk": "12GB"}})
    large = packages_of(9)
    with Session(site, connect=lambda *_: FixedHost(a_capacity()), who="alice") as own:  # type: ignore[arg-type,return-value]
        placed(own, a_request(1, disk="3GB"), large, check=True)
        with pytest.raises(
            CapacityError, match=r"user alice: disk: 23.6 GB asked for, limit 12.0 GB, none used"
        ):
            placed(own, a_request(2, disk="3GB"), large, check=True)


def test_a_cluster_taken_up_by_another_is_still_its_owners(session: Sized) -> None:
    """Root goes on with what a user has begun: the user's quota counts."""
    session.site = Site.from_mapping({"root": str(session.site.root), "user_quota": {"nodes": 1}})
    with Sized(session.site) as own:
        own.store.who = "alice"
        clusters.register(own.store, a_request(2))
    with Sized(session.site) as roots, pytest.raises(CapacityError, match="user alice: nodes: 2 asked for"):
        placed(roots, a_request(2))


def test_a_placed_cluster_stays_when_the_quota_is_lowered(session: Sized) -> None:
    clusters.register(session.store, a_request(2))
    session.store.execute("UPDATE clusters SET owner = 'alice'")
    placed(session, a_request(2))
    lowered = Site.from_mapping({"root": str(session.site.root), "user_quota": {"nodes": 1}})
    with Sized(lowered) as later:
        assert not placed(later, a_request(2)).change.changed
