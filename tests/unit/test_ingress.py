"""Whom a cluster's door is for; who gets how far is in tests/security/test_ingress.py."""

import pwd
from pathlib import Path

import pytest

from vclust_py import ingress
from vclust_py.site import Site

NODES = {"n1": "10.0.0.1"}


def uid(name: str) -> int:
    return pwd.getpwnam(name).pw_uid


def test_owner_project_and_administrators_with_an_account_here() -> None:
    site = Site.from_mapping(
        {
            "administrators": ["news", "nobody-here"],
            "projects": {"bio": {"users": ["games", "mail", "elsewhere"]}},
        }
    )
    door = ingress.door(site, "games", "bio", NODES)
    assert door == ingress.Door(NODES, frozenset({uid("games"), uid("mail"), uid("news")}))
    assert ingress.door(site, "games", "", NODES).uids == {uid("games"), uid("news")}
    assert ingress.door(site, "games", "gone", NODES).uids == {uid("games"), uid("news")}


def test_roots_own_cluster_needs_no_door(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ingress, "SOCKETS", tmp_path)
    door = ingress.door(Site(), "root", "", NODES)
    assert (door.uids, door.gateway) == (frozenset(), False)
    assert ingress.ensure("vc0000000000", door) == ()
    assert list(tmp_path.iterdir()) == []
    assert ingress.door(Site.from_mapping({"gateway": {"port": 2222}}), "root", "", NODES).gateway


def test_what_keeps_it_closed_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ingress, "NAMESPACES", tmp_path)
    monkeypatch.setattr(ingress, "ACCOUNT", "nobody")
    (said,) = ingress.ensure("vc0000000000", ingress.door(Site(), "games", "", NODES))
    assert said.startswith("ssh without root: the way in is not open: ")
    assert "vc0000000000" in said
