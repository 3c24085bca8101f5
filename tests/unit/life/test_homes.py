"""Homes of the site in the life of clusters, on hosts that only keep books; the homes themselves are real."""

import io
import os
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, a_request, a_site, another, created
from repository import Repository

from vclust_py import homes as kept_homes
from vclust_py import identities
from vclust_py.errors import RequestError, VclustError
from vclust_py.guest import cluster_disk
from vclust_py.life import apply, homes, stop
from vclust_py.life.keeper import Keeper
from vclust_py.phases import Inputs, phase
from vclust_py.request import Request
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.describe import describe, describe_homes
from vclust_py.site.store import audited

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

META = """\
description: the shipped one without its packages, which the archive of these tests has not
steps: [{nodes: all, run: "true"}]
change: "true"
"""


@pytest.fixture
def session(toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeSession]:
    programs, metapackages = tmp_path / "programs", tmp_path / "metapackages"
    for folder in (programs, metapackages):
        folder.mkdir()
    (metapackages / "home-site.yml").write_text(META)
    (programs / "ganesha.nfsd").symlink_to("/bin/false")  # FakeNetworks starts none
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:{programs}")
    site = toy.site(
        tmp_path / "site",
        cache_every=0,
        metapackages=(metapackages,),
        homes={"path": str(tmp_path / "homes"), "size": "64MB"},
    )
    with a_site(toy, site) as session:
        yield session


def asked(name: str = "one", *users: str, **software: object) -> Request:
    words = [{"name": user, "password_hash": "*"} for user in users or ("carol",)]
    return a_request(name, 2, users=words, **{"home": "site", **software})


def numbers(session: FakeSession, cluster: Cluster) -> dict[str, int]:
    return dict(identities.shared(session, cluster, ()).uids)


def destroy(session: FakeSession, name: str) -> None:
    phase("destroy")(session, Inputs(name))


def test_from_one_cluster_to_the_next(session: FakeSession) -> None:
    cluster = created(session, asked())
    share = session.fake_networks.homes[cluster.segment]
    assert (share.homes.owner, share.network, share.cluster) == ("root", asked().software.network, cluster.id)
    assert describe(session.store)[0]["homes"]
    assert numbers(session, cluster) == {"carol": 1000}
    assert describe_homes(session.store) == [
        {"owner": "root", "users": {"carol": 1000}, "size": 64 * 10**6, "clusters": ["one"]}
    ]
    # A second one at the same time, whose users come in another order.
    cluster = created(session, asked("two", "dave", "carol"))
    assert numbers(session, cluster) == {"carol": 1000, "dave": 1001}
    assert set(session.fake_networks.homes[cluster.segment].clusters) == {1, 2}
    for name in ("one", "two"):
        with pytest.raises(RequestError, match=f"root: these homes are in use by .*{name}"):
            homes.remove(session, "root")
        destroy(session, name)
    assert session.fake_networks.homes == {}
    assert [one["clusters"] for one in describe_homes(session.store)] == [[]]

    assert homes.remove(session, "root", check=True).change.changed
    assert len(describe_homes(session.store)) == 1
    assert homes.remove(session, "root").change.changed
    assert not homes.remove(session, "root").change.changed
    assert describe_homes(session.store) == []
    assert audited(session.store)[-1]["action"] == "remove homes"


def test_each_owner_has_their_own(session: FakeSession) -> None:
    created(session, asked())
    with another(session) as other:
        other.store.who = "bob"
        cluster = created(other, asked("two"))
        assert session.fake_networks.homes[cluster.segment].homes.owner == "bob"
        assert [one["owner"] for one in describe_homes(other.store)] == ["bob"]
        with pytest.raises(RequestError, match="root: got bob, expected the owner of these homes"):
            homes.remove(other, "root")
    assert [one["owner"] for one in describe_homes(session.store)] == ["bob", "root"]


def test_a_site_that_keeps_none_refuses(session: FakeSession) -> None:
    session.site = replace(session.site, homes=None)
    with pytest.raises(RequestError, match="Home: got 'site', but this site keeps no homes"):
        created(session, asked())
    assert clusters.live(session.store) == []


def test_a_site_manager_without_the_server_refuses_before_anything_is_made(
    session: FakeSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(kept_homes.PACKAGES, "no-such-server", "nfs-ganesha-vfs")
    with pytest.raises(VclustError, match="Home: site: the site manager lacks nfs-ganesha-vfs"):
        created(session, asked(), last="place")
    assert not (session.site.homes and session.site.homes.path.exists())


def test_keys_are_the_clusters_own_and_not_in_the_homes(session: FakeSession, tmp_path: Path) -> None:
    cluster = created(session, asked())
    parts = cluster_disk.parts(identities.shared(session, cluster, ()))
    with tarfile.open(fileobj=io.BytesIO(parts["files.tar.gz"])) as tar:
        members = {member.name: (member.mode, member.uid) for member in tar}
        expected = tar.extractfile("var/lib/vclust/expected")
        sshd = tar.extractfile("etc/ssh/sshd_config.d/vclust.conf")
        ssh = tar.extractfile("etc/ssh/ssh_config.d/vclust.conf")
        assert expected and sshd and ssh  # noqa: PT018
        texts = [file.read().decode() for file in (expected, sshd, ssh)]
    assert [name for name in members if name.startswith("home/")] == ["home/carol"]
    keys = "etc/ssh/vclust_users/carol"
    assert members[keys] == (0o755, 0)
    assert members[f"{keys}/authorized_keys"] == (0o644, 0)
    assert members[f"{keys}/id_ecdsa"] == (0o600, 1000)
    assert f"{keys}/id_ecdsa-cert.pub" in members
    assert "key carol" not in texts[0]
    assert "user carol 1000\n" in texts[0]
    # OpenSSH understands what is written for it.
    config = tmp_path / "config"
    config.write_text(texts[2])
    told = subprocess.run(
        ["ssh", "-G", "-F", config, "node"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    first = next(line for line in told if line.startswith("identityfile"))
    assert first == "identityfile /etc/ssh/vclust_users/%u/id_ecdsa"
    assert "AuthorizedKeysFile .ssh/authorized_keys /etc/ssh/vclust_users/%u/authorized_keys\n" in texts[1]


def test_users_come_to_a_cluster_that_runs(session: FakeSession) -> None:
    created(session, asked())
    created(session, asked("two", "dave"))
    phase = apply.to_request()
    phase(session, Inputs("one", request=asked("one", "carol", "erin"), hosts=HOSTS))
    cluster = clusters.get(session.store, "one")
    assert numbers(session, cluster) == {"carol": 1000, "erin": 1002}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"home": "site"}, {"home": "local"}),
        ({"home": "local"}, {"home": "site"}),
        ({"home": None, "meta_packages": []}, {"home": None, "meta_packages": ["home-site"]}),
    ],
)
def test_homes_do_not_move_in_place(
    session: FakeSession, before: dict[str, object], after: dict[str, object]
) -> None:
    created(session, asked(**before))
    with pytest.raises(
        RequestError, match=r"one: (Home: is|MetaPackages: homes move) .*cannot change in place"
    ):
        apply.to_request()(session, Inputs("one", request=asked(**after), hosts=HOSTS))


def test_stopped_and_started(session: FakeSession) -> None:
    cluster = created(session, asked())
    assert not session.fake_networks.homes[cluster.segment].keep, "no node has anything to come back to"
    stop.run(session, Inputs("one"))
    assert session.fake_networks.homes == {}
    for word in ("create", "install", "ready"):
        phase(word)(session, Inputs("one", request=asked(), hosts=HOSTS))
    assert set(session.fake_networks.homes) == {cluster.segment}


def test_the_keeper_brings_the_server_back(session: FakeSession) -> None:
    cluster = created(session, asked())
    keeper = Keeper(lambda: another(session))
    try:
        assert keeper.round(answer=10, work=60) == []
        session.fake_networks.homes.clear()
        assert keeper.round(answer=10, work=60) == ["one: its homes are served again"]
        assert session.fake_networks.homes[cluster.segment].keep, "its nodes come back to their locks"
        assert keeper.round(answer=10, work=60) == []
        # With the whole network, as after a restart of the machine.
        session.fake_networks.homes.clear()
        session.fake_networks.segments.clear()
        assert keeper.round(answer=10, work=60) == ["one: its network is made again"]
        assert set(session.fake_networks.homes) == {cluster.segment}
    finally:
        keeper.close()
