"""The package index and its passwords: what is wrong with a reached index is an error, and no password gets out."""

import base64
import dataclasses
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from repository import Repository, lock_of, quiet

from vclust_py import apt
from vclust_py.errors import VclustError
from vclust_py.image import tuning
from vclust_py.image.store import fetch
from vclust_py.site import Site

PASSWORD = "p%40ss:w0rd"  # noqa: S105 - as it stands in a URI; "p@ss:w0rd" is meant


def released(toy: Repository, *lines: str) -> None:
    """Sign the Release file anew, with these lines in it."""
    release = toy.path / "dists/toy/Release"
    names = tuple(line.partition(":")[0] for line in lines)
    kept = [line for line in release.read_text().splitlines() if not line.startswith(names)]
    release.write_text("".join(f"{line}\n" for line in (*lines, *kept)))
    (toy.path / "dists/toy/InRelease").unlink()
    toy.gpg("--clearsign", "-o", "dists/toy/InRelease", "dists/toy/Release")


@pytest.mark.parametrize("there", [False, True], ids=["first", "with an older index"])
@pytest.mark.parametrize(
    "line", ["Valid-Until: Mon, 01 Jan 2024 00:00:00 UTC", "Date: Fri, 01 Jan 2100 00:00:00 UTC"]
)
def test_an_expired_index_is_an_error(toy: Repository, tmp_path: Path, line: str, there: bool) -> None:
    # As apt does of itself, unless the machine's settings say otherwise.
    with open(toy.sources, "a") as file:
        file.write("Check-Valid-Until: yes\nCheck-Date: yes\n")
    site = dataclasses.replace(toy.site(tmp_path / "site"), index_max_age=0)
    if there:
        lock_of(site, "hello")
    released(toy, line)
    with pytest.raises(VclustError, match="cannot fetch the package index"):
        lock_of(site, "hello")


@pytest.mark.parametrize("there", [False, True], ids=["first", "with an older index"])
def test_an_index_with_another_digest_is_an_error(toy: Repository, tmp_path: Path, there: bool) -> None:
    site = dataclasses.replace(toy.site(tmp_path / "site"), index_max_age=0)
    if there:
        lock_of(site, "hello")
        toy.add("libgreet", "1.6")
        toy.publish()
    index = toy.path / "dists/toy/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("Description: toy", "Description: tox", 1))
    with pytest.raises(VclustError, match="cannot fetch the package index"):
        lock_of(site, "hello")


def test_an_unsigned_repository_is_an_error(toy: Repository, tmp_path: Path) -> None:
    (toy.path / "dists/toy/InRelease").unlink()
    with pytest.raises(VclustError, match="cannot fetch the package index"):
        lock_of(toy.site(tmp_path / "site"), "hello")


@pytest.fixture
def guarded(toy: Repository) -> Iterator[tuple[str, list[str]]]:
    """The toy repository by HTTP, for one user: its URI with user and password, and the paths served."""
    expected = "Basic " + base64.b64encode(b"alice:p@ss:w0rd").decode()
    served: list[str] = []

    class Guarded(http.server.SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.headers.get("Authorization") != expected:
                self.send_error(401)
                return
            served.append(self.path)
            super().do_GET()

        def log_message(self, *_: object) -> None:
            pass

    handler = partial(Guarded, directory=str(toy.path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://alice:{PASSWORD}@127.0.0.1:{server.server_port}", served
        server.shutdown()


@pytest.mark.parametrize("form", ["deb822", "one line"])
def test_a_password_in_the_sources_serves_and_goes_nowhere(
    toy: Repository, tmp_path: Path, guarded: tuple[str, list[str]], form: str
) -> None:
    uri, served = guarded
    key = f"{toy.path}/toy.gpg"
    sources = toy.sources.with_suffix(".sources" if form == "deb822" else ".list")
    sources.write_text(
        f"Types: deb\nURIs: {uri}\nSuites: toy\nComponents: main\nSigned-By: {key}\n"
        if form == "deb822"
        else f"deb [signed-by={key}] {uri} toy main\n"
    )
    site = toy.site(tmp_path / "site", sources=str(sources))
    lock = lock_of(site, "hello")
    fetch(site, lock, quiet)
    assert any(path.endswith(".deb") for path in served)

    listed = apt.sources(site, "toy")
    assert "http://127.0.0.1:" in listed
    for folder in ("usr", "var"):
        (tmp_path / "node" / folder).mkdir(parents=True)
    tuning.tune(tmp_path / "node", listed)
    lock.save(site)
    spilled = [
        path
        for path in [*site.root.rglob("*"), *(tmp_path / "node").rglob("*")]
        if path.is_file() and any(word in path.read_bytes() for word in (b"w0rd", b"alice"))
    ]
    root = apt.AptRoot(site, "toy", "amd64").path
    assert spilled == [root / "auth.conf"]
    assert spilled[0].stat().st_mode & 0o777 == 0o600
    assert root.parent.stat().st_mode & 0o777 == 0o700


def test_a_wrong_password_is_an_error_that_does_not_say_it(
    toy: Repository, tmp_path: Path, guarded: tuple[str, list[str]]
) -> None:
    toy.sources.write_text(
        toy.sources.read_text().replace(f"file:{toy.path}\n", guarded[0].replace("w0rd", "wr0ng") + "\n")
    )
    with pytest.raises(VclustError) as caught:
        lock_of(toy.site(tmp_path / "site"), "hello")
    assert "401" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


@pytest.mark.parametrize("userinfo", ["alice", "alice:", "alice:a%20b", "alice:a%0Ab"])
def test_a_user_that_apt_could_not_read_is_refused(toy: Repository, tmp_path: Path, userinfo: str) -> None:
    toy.sources.write_text(
        f"Types: deb\nURIs: http://{userinfo}@127.0.0.1:1/\nSuites: toy\nComponents: main\n"
    )
    with pytest.raises(VclustError, match=r"http://127\.0\.0\.1:1/: got a user without a password") as caught:
        lock_of(toy.site(tmp_path / "site"), "hello")
    assert "alice" not in str(caught.value)


def test_a_password_in_the_proxys_setting_is_refused_unsaid(toy: Repository, tmp_path: Path) -> None:
    site = toy.site(tmp_path / "site", apt_proxy="http://alice:s3cret@127.0.0.1:3128")
    with pytest.raises(VclustError, match="apt_proxy: got a URL with a user in it") as caught:
        lock_of(site, "hello")
    assert "s3cret" not in str(caught.value)


def test_the_machines_proxy_and_passwords_serve_the_base_image_too(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = tmp_path / "etc"
    machine.mkdir()
    (machine / "auth.conf").write_text("machine mirror.example login bob password hush\n")
    monkeypatch.setattr(apt, "MACHINE", machine)
    site: Site = toy.site(tmp_path / "site", apt_proxy="http://127.0.0.1:3142")
    root = apt.AptRoot(site, "toy", "amd64")
    root.make()
    settings = tmp_path / "settings"
    settings.write_text(root.transport())
    known = subprocess.run(
        ["apt-config", "-c", settings, "dump"],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "APT_CONFIG": ""},
    ).stdout
    assert 'Acquire::http::Proxy "http://127.0.0.1:3142";' in known
    assert f'Dir::Etc::netrc "{root.path}/auth.conf";' in known
    assert "login bob password hush" in (root.path / "auth.conf").read_text()
