"""A lock comes from a user: what it says of anything but names, versions and digests counts for nothing."""

import dataclasses
import http.server
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from repository import Repository, lock_of, quiet

from vclust_py import request as requests
from vclust_py.errors import RequestError, VclustError
from vclust_py.image.builder import ensure_bundle
from vclust_py.image.store import fetch, signed_copy
from vclust_py.lock import Lock, Package
from vclust_py.phases.resolve import find_lock
from vclust_py.resolve import complete
from vclust_py.site import Site
from vclust_py.site.session import Session


@pytest.fixture
def site(toy: Repository, tmp_path: Path) -> Site:
    return toy.site(tmp_path / "site")


def changed(lock: Lock, **fields: object) -> Lock:
    """As a user may write it: each package with these fields, read as a lock is."""
    data = json.loads(lock.to_json())
    for package in data["packages"]:
        package.update(fields)
    return Lock.from_json(json.dumps(data))


def asked(*packages: str) -> requests.Request:
    software = {"name": "test", "packages": list(packages)}
    return requests.from_mapping({"hardware": {"number_of_nodes": 1}, "software": software}, "test")


@pytest.mark.parametrize(
    "uri", ["copy:{secret}", "file:{secret}", "http://127.0.0.1:{port}/x", "file:/dev/zero", "copy:/dev/zero"]
)
def test_no_lock_says_where_files_come_from(site: Site, tmp_path: Path, uri: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hush")
    secret.chmod(0o600)
    lock = lock_of(site, "hello")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        given = changed(lock, uri=uri.format(secret=secret, port=server.getsockname()[1]))
        taken = find_lock(Session(site), asked("hello"), [], quiet, cluster=None, given=given)
        fetch(site, taken, quiet)
        with pytest.raises(TimeoutError):
            server.accept()
    assert taken == lock
    assert [path for path in site.root.rglob("*") if path.is_file() and path.read_bytes() == b"hush"] == []


def test_an_honest_lock_of_the_same_digest_stays_what_it_is(site: Site) -> None:
    lock = lock_of(site, "hello")
    given = changed(
        lock, uri="http://192.0.2.1/x.deb", size=1, installed_size=1 << 39, filename="x_1_all.deb"
    )
    assert given.digest == lock.digest
    find_lock(Session(site), asked("hello"), [], quiet, cluster=None, given=given)
    assert Lock.load(site, lock.digest) == lock


def test_sizes_of_a_base_are_not_believed_either(site: Site) -> None:
    lock = lock_of(site, "hello")
    data = json.loads(lock.to_json())
    for package in data["base"]:
        package["installed_size"] = 1 << 39
    given = Lock.from_json(json.dumps(data))
    assert given.digest == lock.digest
    assert complete(given, site, quiet) == lock


def test_a_base_that_is_nowhere_is_refused_before_anything_is_built(site: Site) -> None:
    data = json.loads(lock_of(site, "hello").to_json())
    data["base"][0]["version"] = "99"
    with pytest.raises(RequestError, match=r"lock: base: .*=99.* in no base image"):
        complete(Lock.from_json(json.dumps(data)), site, quiet)


def test_packages_that_only_the_store_has_are_what_their_files_say(site: Site, toy: Repository) -> None:
    lock = lock_of(site, "libgreet")
    fetch(site, lock, quiet)
    toy.add("libgreet", "1.6")
    (toy.pool / "libgreet_1.5+dfsg~1_all.deb").unlink()
    toy.publish()
    today = dataclasses.replace(site, index_max_age=0)
    taken = complete(changed(lock, size=7, installed_size=1, uri="file:/etc/shadow"), today, quiet)
    (package,) = taken.packages
    assert (package.size, package.installed_size, package.uri) == (
        lock.packages[0].size, 7 * 1024, ""
    )  # fmt: skip
    with pytest.raises(RequestError, match="not in the package store"):
        complete(changed(lock, name="hello"), today, quiet)


def test_a_package_given_twice_is_refused_and_never_written_through_a_link(
    site: Site, toy: Repository
) -> None:
    lock = lock_of(site, "hello")
    data = json.loads(lock.to_json())
    data["packages"].append(data["packages"][0])
    with pytest.raises(RequestError, match="hello: got it twice"):
        Lock.from_json(json.dumps(data))
    toy.add("libgreet", "1.6")
    toy.publish()
    other = lock_of(dataclasses.replace(site, index_max_age=0), "libgreet").packages[0]
    twice = dataclasses.replace(lock, packages=(*lock.packages, other))
    copies = fetch(site, twice, quiet)
    before = [path.read_bytes() for path in copies]
    with pytest.raises(OSError, match="File exists"):
        ensure_bundle(site, twice, [], quiet)
    assert [path.read_bytes() for path in copies] == before


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"suite":' * 100_000,
        '{"suite": "x", "packages": ' + "[" * 5000 + "]" * 5000 + "}",
        "1" * 100_000,
        "\ud800",
        "NaN",
        "{}" + " " * (33 << 20),
    ],
    ids=["lists", "mappings", "inside", "number", "surrogate", "not a number", "long"],
)
def test_text_that_is_no_lock_is_one_error(text: str) -> None:
    with pytest.raises(RequestError, match="not a lock") as caught:
        Lock.from_json(text)
    assert len(str(caught.value)) < 4096


@pytest.mark.parametrize("size", [-1, 1 << 63, 1 << 200, 1e300, True, "7", None])
@pytest.mark.parametrize("field", ["size", "installed_size"])
def test_absurd_sizes_are_refused(site: Site, field: str, size: object) -> None:
    with pytest.raises(RequestError, match=f"hello: {field}: got"):
        changed(lock_of(site, "hello"), **{field: size})


@pytest.fixture
def endless() -> Iterator[tuple[str, Callable[[], int]]]:
    """A server whose every file goes on for ever: its URI, and how many bytes it got rid of."""
    sent = [0]

    class Endless(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    sent[0] += self.wfile.write(bytes(1 << 16))
            except OSError:
                pass

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", lambda: sent[0]
        server.shutdown()


def test_a_download_ends_at_the_size_the_index_states(
    site: Site, endless: tuple[str, Callable[[], int]]
) -> None:
    uri, sent = endless
    lock = lock_of(site, "hello")
    mirror = tuple(dataclasses.replace(package, uri=f"{uri}/{package.filename}") for package in lock.packages)
    with pytest.raises(VclustError, match="cannot download packages"):
        fetch(site, dataclasses.replace(lock, packages=mirror), quiet)
    assert sent() < 100 << 20
    assert list(site.packages.rglob("*.FAILED")) == []
    assert not any(signed_copy(site, package).exists() for package in lock.packages)


def test_what_root_fetches_lies_in_folders_of_root_alone(site: Site, tmp_path: Path) -> None:
    fetch(site, lock_of(site, "hello"), quiet)
    for folder in (site.packages, site.apt, site.locks):
        assert folder.stat().st_mode & 0o777 == 0o700
    # As a user of the machine sees it.
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.setgroups([])
        os.setuid(65534)
        seen = [path for path in (site.packages, site.apt, site.locks) if os.access(path, os.R_OK | os.X_OK)]
        os.write(writing, str(len(seen)).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writing)
    assert os.read(reading, 10) == b"0"
    os.close(reading)


def test_packages_without_a_digest_are_not_taken_from_a_lock(site: Site) -> None:
    with pytest.raises(RequestError, match="not in the package store"):
        complete(changed(lock_of(site, "hello"), sha256=""), site, quiet)


def test_a_lock_of_an_unknown_package_is_refused(site: Site) -> None:
    lock = lock_of(site, "hello")
    own = Package("evil", "1", "all", 1, "0" * 64, "file:/etc/shadow", "evil_1_all.deb", 1)
    with pytest.raises(RequestError, match=r"evil=1:all: not in the signed package index of toy"):
        complete(dataclasses.replace(lock, packages=(*lock.packages, own)), site, quiet)
