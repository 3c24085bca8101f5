"""Whom the gateway admits, and what leads where; real clients try it in tests/security/test_ingress.py."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import gateway, gateway_jump
from vclust_py.errors import VclustError
from vclust_py.gateway import Admitted
from vclust_py.site import Site
from vclust_py.site.settings import Gateway

KEY, OTHER = "ssh-ed25519 AAAAC3Nz", "ssh-rsa AAAAB3Nz"
ALPHA, BETA = "vc0000000001", "vc0000000002"


def test_each_key_has_one_line_and_its_own_clusters() -> None:
    lines, reach = gateway._keys(
        Path("/g"),
        [Admitted("alpha", ALPHA, (f"{KEY} me at home", OTHER)), Admitted("beta", BETA, (f"{KEY} again",))],
    )
    assert list(reach.values()) == [{"alpha": ALPHA, "beta": BETA}, {"alpha": ALPHA}]
    for line, digest, key in zip(lines.splitlines(), reach, (KEY, OTHER), strict=True):
        assert line == f'restrict,command="/usr/bin/python3 -IS /g/jump /g/keys.json {digest}" {key}'


@given(st.one_of(st.text(), st.from_regex(r"[a-z.;$/ \n-]{0,12}\.alpha", fullmatch=True)))
def test_only_a_plain_name_leads_to_a_socket(words: str) -> None:
    found = gateway_jump.target(words, {"alpha": ALPHA})
    if found is None:
        assert not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}\.alpha", words)
    else:
        assert found == f"{gateway_jump.RUN}/{ALPHA}/{words.removesuffix('.alpha')}"
        assert Path(found).resolve() == Path(found)


@pytest.mark.parametrize(
    "words", ["", "n1.beta", "n1.alpha\n", "n1.alpha x", "N1.alpha", "../lock.alpha", "lock", ".alpha"]
)
def test_what_leads_nowhere(words: str) -> None:
    assert gateway_jump.target("n1.alpha", {"alpha": ALPHA}) == f"/run/vclust/ssh/{ALPHA}/n1"
    assert gateway_jump.target(words, {"alpha": ALPHA}) is None
    assert gateway_jump.target("n1.alpha", {"alpha": "../../etc"}) is None


def test_settings() -> None:
    site = Site.from_mapping({"gateway": {"port": "2222", "listen": "192.0.2.7", "host": "hpc.example.org"}})
    assert site.gateway == Gateway(2222, ("192.0.2.7",), "hpc.example.org")
    assert Site.from_mapping(json.loads(json.dumps(site.to_mapping()))) == site
    assert Site().gateway is None
    assert Site.from_mapping(Site().to_mapping()) == Site()


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (2222, "gateway: expected port"),
        ({}, "gateway: expected port"),
        ({"port": 22, "shell": True}, "gateway: expected port"),
        ({"port": 0}, "gateway: port: got '0', expected"),
        ({"port": "22\nPermitRootLogin yes"}, "gateway: port: got"),
        ({"port": 22, "listen": ["here"]}, "gateway: listen: 'here'"),
        ({"port": 22, "listen": ["192.0.2.7\nUsePAM yes"]}, "gateway: listen:"),
        ({"port": 22, "host": "a b"}, "gateway: host: got 'a b'"),
        ({"port": 22, "host": "-oProxyCommand=id"}, "gateway: host: got"),
    ],
)
def test_settings_that_are_refused(value: object, said: str) -> None:
    with pytest.raises(VclustError, match=rf"^vclust_site: {re.escape(said)}"):
        Site.from_mapping({"gateway": value})


def test_without_the_setting_nothing_is_asked_or_made(tmp_path: Path) -> None:
    site = Site(root=tmp_path / "site")
    assert gateway.refresh(site, lambda: pytest.fail("nobody needs to know")) == ()
    assert not (tmp_path / "site").exists()


def test_a_root_that_no_line_can_name_is_said(tmp_path: Path) -> None:
    site = Site.from_mapping({"root": str(tmp_path / "a site"), "gateway": {"port": 2222}})
    (said,) = gateway.refresh(site, lambda: [Admitted("alpha", ALPHA, (KEY,))])
    assert said.startswith("gateway: nobody comes in from other machines: ")
