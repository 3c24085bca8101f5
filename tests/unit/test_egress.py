"""What a cluster may fetch, and what its nodes are told; who gets how far is in tests/security/test_egress.py."""

import os
import shutil
from ipaddress import IPv4Network
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vclust_py import apt, egress, egress_relay, nat
from vclust_py.errors import VclustError
from vclust_py.request import Request, from_mapping
from vclust_py.site import Site

SOURCES = """\
Types: deb
URIs: http://deb.example.org/debian/ https://user:secret@mirror.example.org:8443/debian file:/srv/mirror
Suites: toy toy-updates
Components: main
Signed-By: /usr/share/keyrings/toy.gpg

Types: deb
URIs: cdrom:/debian
Suites: toy
Components: main
"""


@pytest.fixture
def request_() -> Request:
    software = {"name": "x", "suite": "toy", "network": "192.168.70.0/24", "packages": "gcc"}
    return from_mapping({"hardware": {"number_of_nodes": 1}, "software": software}, "test")


def site(path: Path, **settings: str) -> Site:
    (path / "toy.sources").write_text(SOURCES)
    return Site.from_mapping({"root": str(path / "site"), "sources": str(path / "toy.sources"), **settings})


def test_nodes_are_told_of_the_sites_archives(tmp_path: Path, request_: Request) -> None:
    where = site(tmp_path)
    apt.AptRoot(where, "toy", request_.hardware.architecture).make()
    way = egress.way(where, request_, ())
    assert [(one.public, one.remote) for one in way.archives] == [
        ("http://deb.example.org/debian/", "http://deb.example.org/debian/"),
        ("http://mirror.example.org:8443/debian", "https://mirror.example.org:8443/debian"),
    ]
    assert way.left_out == ("file:/srv/mirror", "cdrom:/debian")
    files = {file.path: (file.data or b"").decode() for file in way.files}
    assert set(files) == {"etc/apt/apt.conf.d/90vclust", egress.SOURCES, "etc/resolv.conf"}
    assert "nameserver" not in files["etc/resolv.conf"]
    assert '"http://192.168.70.254:3142"' in files["etc/apt/apt.conf.d/90vclust"]
    assert set(files[egress.SOURCES].splitlines()) == {
        "Types: deb",
        "URIs: http://deb.example.org/debian/ http://mirror.example.org:8443/debian",
        "Suites: toy toy-updates",
        "Components: main",
        "Signed-By: /usr/share/keyrings/toy.gpg",
    }


def test_none_has_neither_sources_nor_name_servers(tmp_path: Path, request_: Request) -> None:
    where = site(tmp_path, egress="none")
    apt.AptRoot(where, "toy", request_.hardware.architecture).make()
    way = egress.way(where, request_, ())
    files = {file.path: (file.data or b"").decode() for file in way.files}
    assert set(files) == {egress.SOURCES, "etc/resolv.conf"}
    assert all(line.startswith("#") for text in files.values() for line in text.splitlines())
    assert way.archives == ()
    assert egress.missing(where) == ()


def test_no_source_that_a_node_can_use(tmp_path: Path, request_: Request) -> None:
    where = site(tmp_path)
    (tmp_path / "toy.sources").write_text(
        "Types: deb\nURIs: file:/srv/mirror\nSuites: toy\nComponents: main\n"
    )
    apt.AptRoot(where, "toy", request_.hardware.architecture).make()
    files = {file.path: (file.data or b"").decode() for file in egress.way(where, request_, ()).files}
    assert files[egress.SOURCES].startswith(
        "# Nodes of this site do not reach its package archives: none of them"
    )


def test_what_is_missing_is_said(tmp_path: Path, request_: Request, monkeypatch: pytest.MonkeyPatch) -> None:
    where = site(tmp_path)
    monkeypatch.setattr(egress, "PROGRAM", "no-such-proxy")
    (said,) = egress.missing(where)
    assert "no-such-proxy is not installed" in said
    assert egress.ensure("vc0000000000", egress.way(where, request_, ())) == (said,)


def test_without_sources_on_the_net(tmp_path: Path, request_: Request) -> None:
    if shutil.which("apt-cacher-ng", path="/usr/sbin") is None:
        pytest.skip("apt-cacher-ng is not installed")
    (said,) = egress.ensure("vc0000000000", egress.way(site(tmp_path), request_, ()))
    assert "http or https" in said


def test_nat_has_the_proxy_and_name_servers_too(
    tmp_path: Path, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = site(tmp_path, egress="nat")
    apt.AptRoot(where, "toy", request_.hardware.architecture).make()
    stub, real = tmp_path / "stub", tmp_path / "real"
    stub.write_text("nameserver 127.0.0.53\n")
    real.write_text("# ours\nnameserver fe80::1\nnameserver\n")
    monkeypatch.setattr(nat, "_RESOLVERS", (stub, real))
    assert nat.resolvers() == [], "none that a node could reach"
    assert not any(b"nameserver" in (file.data or b"") for file in egress.way(where, request_, ()).files)
    real.write_text("search example.org\nnameserver fe80::1\nnameserver 192.0.2.53\nnameserver 127.0.0.1\n")
    way = egress.way(where, request_, ["h1"])
    files = {file.path: file.data for file in way.files}
    assert files["etc/resolv.conf"] == b"nameserver 192.0.2.53\n"
    assert egress.SOURCES in files
    assert (str(way.network), way.machines) == ("192.168.70.0/24", ("h1",))


def test_a_machine_that_is_no_router_is_said_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = tmp_path / "ip_forward"
    monkeypatch.setattr(nat, "_FORWARDING", setting)
    for value, count in (("0", 1), ("1", 0)):
        setting.write_text(f"{value}\n")
        assert (
            len([said for said in egress.missing(site(tmp_path, egress="nat")) if "ip_forward" in said])
            == count
        )
        assert [said for said in egress.missing(site(tmp_path)) if "ip_forward" in said] == []


def test_networks_that_are_not_for_nodes() -> None:
    where = Site.from_mapping({"egress": "nat", "egress_blocked": ["192.0.2.0/24", "198.51.100.7"]})
    assert where.egress_blocked == (IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.7/32"))
    assert Site.from_mapping(where.to_mapping()) == where
    with pytest.raises(VclustError, match=r"^vclust_site: egress_blocked: .*, expected a list of networks"):
        Site.from_mapping({"egress_blocked": ["192.0.2.1/24"]})


def test_another_setting() -> None:
    with pytest.raises(VclustError, match=r"^vclust_site: egress: got 'tor'"):
        Site.from_mapping({"egress": "tor"})


# Requests -----------------------------------------------------------------------------------------------------------

ARCHIVES = [
    egress.archive("http://a.example/debian"),
    egress.archive("https://a.example/debian/extra/"),
    egress.archive("http://b.example:8080"),
]
DEBIAN, EXTRA, B = (archive.key for archive in ARCHIVES)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("http://a.example/debian/dists/x/Release", f"/{DEBIAN}/dists/x/Release"),
        ("HTTP://A.Example:80//debian/./x", f"/{DEBIAN}/x"),
        ("http://a.example/debian/extra/x", f"/{EXTRA}/x"),
        ("http://a.example/debian/extra2/x", f"/{DEBIAN}/extra2/x"),
        ("http://a.example/debian/x%2b1%7e2_all.deb", f"/{DEBIAN}/x%2b1%7e2_all.deb"),
        ("http://b.example:8080/x", f"/{B}/x"),
    ],
)
def test_paths(target: str, path: str) -> None:
    assert egress_relay.path_of(target, ARCHIVES) == path


WORDS = [
    "http://",
    "https://",
    "a.example",
    "b.example",
    ":8080",
    ":80",
    "debian",
    "debian2",
    "extra",
    "x",
    "/",
    "//",
]
WORDS += [".", "..", "%2e", "%2E", "%2f", "%5c", "%25", "@", "?", "#", "\\", "%00", "%c3%a9", " ", "é"]


@given(st.lists(st.sampled_from(WORDS), max_size=10).map("".join), st.booleans())
def test_what_is_passed_on_lies_below_an_archive(words: str, whole: bool) -> None:
    """Wherever a path leads that is decoded as often as it can be, it is where the words before it say."""
    target = f"http://a.example/debian/{words}" if whole else words
    try:
        path = egress_relay.path_of(target, ARCHIVES)
    except egress_relay.Refused:
        return
    _, key, *rest = path.split("/")
    assert key in (DEBIAN, EXTRA, B)
    assert rest
    decoded = path
    while unquote(decoded) != decoded:
        decoded = unquote(decoded)
    assert decoded.count("/") == path.count("/")
    assert not {"", ".", ".."} & set(decoded.split("/")[1:])
    assert decoded.isascii()
    assert decoded.isprintable()


@given(st.binary(max_size=200))
def test_any_head_is_a_request_or_refused(head: bytes) -> None:
    try:
        said = egress_relay.request_of(
            b"GET http://a.example/debian/x HTTP/1.1\r\n" + head + b"\r\n\r\n", ARCHIVES
        )
    except egress_relay.Refused:
        return
    assert said.startswith(f"GET /{DEBIAN}/x HTTP/1.1\r\nHost: archives\r\nConnection: close\r\n".encode())
    assert said.endswith(b"\r\n\r\n")
    assert said.count(b"\r\n\r\n") == 1
    assert said.count(b"\n") == said.count(b"\r\n") == said.count(b"\r")


def test_the_oldest_files_go(tmp_path: Path) -> None:
    for number in range(4):
        file = tmp_path / f"{number}"
        file.write_bytes(b"x" * 8192)
        os.utime(file, (number, number))
    assert egress_relay.prune(str(tmp_path), 2 * 8192) <= 2 * 8192
    assert sorted(file.name for file in tmp_path.iterdir()) == ["2", "3"]
