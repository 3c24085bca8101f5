"""Whom a process works for, what others may do with a cluster, and what the audit says of it."""

import os
import pwd
from dataclasses import replace
from pathlib import Path

import pytest
from test_placement import a_request

from vclust_py.errors import RequestError
from vclust_py.phases import Inputs, destroy
from vclust_py.request import Request
from vclust_py.site import Site, clusters
from vclust_py.site.describe import describe
from vclust_py.site.session import Session
from vclust_py.site.store import audited
from vclust_py.site.users import User, acting

SITE = Site.from_mapping({"administrators": ["carol"], "projects": {"bio": {"users": ["alice", "bob"]}}})
ACCOUNT = pwd.getpwuid(os.geteuid()).pw_name

sudo = pytest.mark.skipif(os.geteuid() != 0, reason="sudo makes processes root's")


@pytest.fixture(autouse=True)
def no_sudo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_USER", raising=False)


def test_without_sudo_it_is_the_account_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("USER", "mallory")
    monkeypatch.setenv("LOGNAME", "mallory")
    assert acting(SITE) == User(ACCOUNT, administrator=True)


@sudo
def test_with_sudo_it_is_who_called_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, found in (
        ("alice", User("alice", "bio")),
        ("dave", User("dave")),
        ("carol", User("carol", administrator=True)),
        ("root", User("root", administrator=True)),
    ):
        monkeypatch.setenv("SUDO_USER", name)
        assert acting(SITE) == found
        assert name == "root" or acting(SITE, name) == found


@sudo
def test_only_who_is_trusted_acts_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert acting(SITE, "alice") == User("alice", "bio", via="root")
    assert acting(SITE, "carol") == User("carol", administrator=True, via="root")
    monkeypatch.setenv("SUDO_USER", "carol")
    assert acting(SITE, "dave") == User("dave", via="carol")
    monkeypatch.setenv("SUDO_USER", "dave")
    with pytest.raises(RequestError, match=r"who: got 'alice' from 'dave', expected nobody else"):
        acting(SITE, "alice")
    for account in ("carol", "dave", "root", ""):
        monkeypatch.setenv("SUDO_USER", account)
        with pytest.raises(RequestError, match="who: got 'root', expected a person"):
            acting(SITE, "root")


def test_who_may_what_with_whose_cluster() -> None:
    may = {
        name: acting(SITE, name).may(owner="alice", project="bio")
        for name in ("alice", "bob", "carol", "dave")
    }
    assert may == {"alice": True, "bob": True, "carol": True, "dave": False}
    # Two without a project are in none together.
    assert not User("dave").may(owner="erin", project="")


def named(name: str, nodes: int = 2) -> Request:
    request = a_request(nodes)
    return replace(request, software=replace(request.software, name=name))


def as_user(tmp_path: Path, who: str) -> Session:
    site = Site.from_mapping({**SITE.to_mapping(), "root": str(tmp_path / "site")})
    return Session(site, who=who)


def test_a_cluster_is_its_owners(tmp_path: Path) -> None:
    request = named("one")
    with as_user(tmp_path, "alice") as session:
        clusters.register(session.store, request)
        cluster = clusters.get(session.store, "one")
        assert (cluster.owner, cluster.project) == ("alice", "bio")
        assert describe(session.store)[0]["ssh"]
    refused = r"one: belongs to alice \(project bio\): got dave, expected its owner, a member of its project"
    with as_user(tmp_path, "dave") as session:
        (told,) = describe(session.store)
        assert (told["owner"], told["project"], told["ssh"]) == ("alice", "bio", {})
        for attempt in (
            lambda: clusters.register(session.store, request),
            lambda: clusters.register(session.store, named("one", 1), check=True),
            lambda: destroy.run(session, Inputs("one")),
            lambda: destroy.run(session, Inputs("one", check=True)),
            lambda: clusters.require_access_to_all(session.store),
        ):
            with pytest.raises(RequestError, match=refused) as raised:
                attempt()
            assert raised.value.exit_code == 2
    with as_user(tmp_path, "bob") as session:
        assert not clusters.register(session.store, request).changed
        clusters.require_access_to_all(session.store)
        assert clusters.get(session.store, "one").owner == "alice"


def test_the_audit_says_who_and_through_whom(tmp_path: Path) -> None:
    for who, name in (("alice", "one"), ("dave", "two"), ("", "three")):
        with as_user(tmp_path, who) as session:
            clusters.register(session.store, named(name))

    def seen(acts: str, user: str = "", since: float = 0.0) -> list[tuple[str, str, str]]:
        with as_user(tmp_path, acts) as session:
            rows = audited(session.store, user, since)
        return [(row["who"], row["via"], row["cluster"]) for row in rows]

    alices, daves, ours = ("alice", ACCOUNT, "one"), ("dave", ACCOUNT, "two"), (ACCOUNT, "", "three")
    assert seen("") == seen("carol") == [alices, daves, ours]
    assert seen("", "dave") == [daves]
    assert seen("alice") == seen("alice", "alice") == [alices]
    assert seen("alice", "dave") == []
    with as_user(tmp_path, "") as session:
        times = [row["time"] for row in audited(session.store)]
    assert seen("", since=times[1]) == [daves, ours]
    assert seen("", since=times[2] + 1) == []
