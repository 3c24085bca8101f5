"""Closures by real apt over a toy repository; nothing here leaves the machine."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from repository import KERNEL, Repository, quiet

from vclust_py import apt
from vclust_py.errors import RequestError, VclustError
from vclust_py.image import Catalogue, base_key
from vclust_py.image.base import BASE_PACKAGES
from vclust_py.lock import Lock
from vclust_py.resolve import closure, complete, sources
from vclust_py.site import Site


def lock_of(
    toy: Repository, root: Path, *names: str, said: list[str] | None = None, **settings: object
) -> Lock:
    return closure(
        names,
        suite="toy",
        architecture="amd64",
        kernel=KERNEL,
        site=toy.site(root, **settings),
        report=lambda message, done, total: None if said is None else said.append(message),
    )


def names(lock: Lock) -> list[str]:
    return [package.name for package in lock.packages]


def test_the_sites_own_packages_are_in_the_base(toy: Repository, tmp_path: Path) -> None:
    lock = lock_of(toy, tmp_path / "site", "hello", base_packages=["two-a", "libgreet"])
    assert {package.name for package in lock.base} == {
        *BASE_PACKAGES,
        KERNEL,
        "apt",
        "core",
        "two-a",
        "libgreet",
    }
    assert names(lock) == ["hello"]
    with pytest.raises(
        RequestError, match=r"vclust_site: base_packages: package 'helo': not in toy .* hello\?"
    ):
        lock_of(toy, tmp_path / "site", base_packages=["helo"])


def test_a_base_with_other_packages_is_another_base(toy: Repository, tmp_path: Path) -> None:
    plain = base_key("toy", "amd64", KERNEL)
    assert base_key("toy", "amd64", KERNEL, ["vim", "rsync"]) == f"{plain} rsync vim"
    site = toy.site(tmp_path / "site", base_packages="two-a")
    site.make_directories()
    catalogue = Catalogue(site)
    with catalogue.building("base", plain) as folder:
        (folder / "base").write_bytes(b"x")
        image = catalogue.add(folder / "base", kind="base", key=plain)
    catalogue.status(image).write_text("")
    lock = lock_of(toy, tmp_path / "site", base_packages="two-a")
    assert "two-a" in {package.name for package in lock.base}


@pytest.mark.parametrize("value", ["-o Dir=/", ["vim", "a=1"], {"vim": 1}, 7])
def test_base_packages_are_names_of_packages(value: object) -> None:
    with pytest.raises(VclustError, match=r"^vclust_site: base_packages: .*expected"):
        Site.from_mapping({"base_packages": value})
    site = Site.from_mapping({"base_packages": "vim-tiny rsync vim-tiny"})
    assert site.base_packages == ("vim-tiny", "rsync")
    assert Site.from_mapping(site.to_mapping()) == site


def test_the_closure_has_versions_sizes_and_digests(toy: Repository, tmp_path: Path) -> None:
    lock = lock_of(toy, tmp_path / "site", "hello")
    assert names(lock) == ["hello", "libgreet"]
    hello = lock.packages[0]
    deb = toy.pool / "hello_1.5-1_all.deb"
    assert (hello.version, hello.architecture) == ("2:1.5-1", "all")
    assert hello.size == deb.stat().st_size
    assert (
        hello.sha256 == subprocess.run(["sha256sum", deb], capture_output=True, text=True).stdout.split()[0]
    )
    assert hello.installed_size == 7 * 1024
    assert hello.uri == f"file:{deb}"
    assert {package.name for package in lock.base} == {*BASE_PACKAGES, KERNEL, "apt", "core"}
    assert lock.requested == ("hello",)


def test_a_second_resolve_does_not_fetch_the_index(toy: Repository, tmp_path: Path) -> None:
    said: list[str] = []
    first = lock_of(toy, tmp_path / "site", "hello", said=said)
    assert any("fetching" in line for line in said)
    said.clear()
    assert lock_of(toy, tmp_path / "site", "hello", said=said) == first
    assert said == []


def test_what_other_processes_read_is_written_only_when_it_differs(toy: Repository, tmp_path: Path) -> None:
    site = toy.site(tmp_path / "site")
    root = apt.AptRoot(site, "toy", "amd64")
    root.make()
    files = (root.path / "apt.conf", root.path / "sources.d/vclust.sources")
    before = [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files]
    root.make()
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in files] == before
    with open(files[0], encoding="utf-8") as reader:
        apt.AptRoot(toy.site(site.root, apt_proxy="http://p:1"), "toy", "amd64").make()
        assert "http://p:1" not in reader.read()  # the whole old file: a new one took its place
    assert "http://p:1" in files[0].read_text()
    assert [path.name for path in files[1].parent.iterdir()] == ["vclust.sources"]


def test_an_old_index_is_fetched_again(toy: Repository, tmp_path: Path) -> None:
    lock_of(toy, tmp_path / "site", "hello")
    toy.add("libgreet", "1.6")
    toy.publish()
    assert lock_of(toy, tmp_path / "site", "libgreet").packages[0].version == "1.5+dfsg~1"
    assert lock_of(toy, tmp_path / "site", "libgreet", index_max_age=0).packages[0].version == "1.6"


def test_or_groups_and_virtual_packages(toy: Repository, tmp_path: Path) -> None:
    assert names(lock_of(toy, tmp_path / "site", "either", "mailer")) == [
        "either",
        "exim",
        "libgreet",
        "mailer",
    ]
    assert names(lock_of(toy, tmp_path / "site", "mail-agent")) == ["exim"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["two"], "two-a"),  # virtual, two providers: apt lists them
        (["fight-a", "fight-b"], "fight-b"),
        (["broken"], "libgreet"),
        (["evicts"], "core"),  # nothing of the base may go
    ],
)
def test_what_cannot_be_installed_is_explained_by_apt(
    toy: Repository, tmp_path: Path, wanted: list[str], message: str
) -> None:
    with pytest.raises(RequestError, match="cannot be installed together") as caught:
        lock_of(toy, tmp_path / "site", *wanted)
    assert message in str(caught.value)


def test_all_unknown_names_are_told_with_near_ones(toy: Repository, tmp_path: Path) -> None:
    with pytest.raises(RequestError) as caught:
        lock_of(toy, tmp_path / "site", "hello", "hellp", "libgret", "zzz")
    assert len(caught.value.problems) == 3
    text = str(caught.value)
    assert "'hellp': not in toy for amd64; did you mean hello" in text
    assert "libgreet" in text


@pytest.mark.parametrize(
    "name",
    [
        "--help",
        "-y",
        "hello-",
        "hello+",
        "hel.*",
        "hel.o",
        "hello=2",
        "hello/toy",
        "task^",
        "?essential",
        "a b",
        "",
    ],
)
def test_names_cannot_be_options_patterns_or_versions(toy: Repository, tmp_path: Path, name: str) -> None:
    with pytest.raises(RequestError, match="not in toy"):
        lock_of(toy, tmp_path / "site", name)


def test_a_name_that_others_only_mention_is_no_package(toy: Repository, tmp_path: Path) -> None:
    """As Debian has no openmpi, but packages that conflict with it; it is named beside others, and never proposed."""
    toy.add("grid-bin", Conflicts="grid, hellp")
    toy.publish()
    with pytest.raises(RequestError) as caught:
        lock_of(toy, tmp_path / "site", "grid", "hello")
    assert caught.value.problems == ["package 'grid': not in toy for amd64; did you mean grid-bin?"]
    with pytest.raises(RequestError) as caught:
        lock_of(toy, tmp_path / "site", "grid", "helli", "mail-agent")
    assert caught.value.problems == [
        "package 'grid': not in toy for amd64; did you mean grid-bin?",
        "package 'helli': not in toy for amd64; did you mean hello?",
    ]
    assert "exim" in names(lock_of(toy, tmp_path / "site", "mail-agent"))  # others provide it


def test_a_wrong_signature_is_an_error(toy: Repository, tmp_path: Path) -> None:
    release = toy.path / "dists/toy/InRelease"
    release.write_text(release.read_text().replace("Codename: toy", "Codename: top"))
    with pytest.raises(VclustError, match="cannot fetch the package index"):
        lock_of(toy, tmp_path / "site", "hello")
    assert not (tmp_path / "site/apt/toy-amd64/names").exists()


def test_a_wrong_signature_is_an_error_even_with_an_older_index(toy: Repository, tmp_path: Path) -> None:
    lock_of(toy, tmp_path / "site", "hello")
    release = toy.path / "dists/toy/InRelease"
    release.write_text(release.read_text().replace("Codename: toy", "Codename: top"))
    with pytest.raises(VclustError, match="cannot fetch the package index"):
        lock_of(toy, tmp_path / "site", "hello", index_max_age=0)


def test_an_index_that_is_not_the_signed_one_is_an_error(toy: Repository, tmp_path: Path) -> None:
    index = toy.path / "dists/toy/main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("libgreet (>= 1)", "never-wanted"))
    with pytest.raises(VclustError, match="cannot fetch the package index"):
        lock_of(toy, tmp_path / "site", "hello")


def test_offline_the_index_there_is_serves(toy: Repository, tmp_path: Path) -> None:
    first = lock_of(toy, tmp_path / "site", "hello")
    (toy.path / "dists").rename(toy.path / "gone")
    said: list[str] = []
    assert lock_of(toy, tmp_path / "site", "hello", said=said, index_max_age=0) == first
    assert any("not reached, going on" in line for line in said)


def test_offline_without_an_index_is_an_error(toy: Repository, tmp_path: Path) -> None:
    (toy.path / "dists").rename(toy.path / "gone")
    with pytest.raises(VclustError, match="cannot fetch the package index"):
        lock_of(toy, tmp_path / "site", "hello")


def test_the_base_image_that_is_there_counts(toy: Repository, tmp_path: Path) -> None:
    site = toy.site(tmp_path / "site")
    site.make_directories()
    catalogue = Catalogue(site)
    key = base_key("toy", "amd64", KERNEL)
    with catalogue.building("base", key) as folder:
        (folder / "base").write_bytes(b"x")
        image = catalogue.add(folder / "base", kind="base", key=key)
    catalogue.status(image).write_text(
        "Package: libgreet\nStatus: install ok installed\nArchitecture: all\nVersion: 1.5+dfsg~1\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 1\n"
    )
    lock = lock_of(toy, tmp_path / "site", "hello")
    assert names(lock) == ["hello"]
    assert [package.name for package in lock.base] == ["libgreet"]


def test_a_lock_survives_json_and_the_site(toy: Repository, tmp_path: Path) -> None:
    lock = lock_of(toy, tmp_path / "site", "hello")
    site = toy.site(tmp_path / "site")
    assert Lock.from_json(lock.to_json()) == lock
    assert lock.save(site).name == f"{lock.digest}.json"
    assert Lock.load(site, lock.digest) == lock
    with pytest.raises(VclustError, match="no such lock"):
        Lock.load(site, "0" * 64)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sha256", "../../etc"),
        ("filename", "../x.deb"),
        ("uri", "ssh://host/x"),
        ("size", "1"),
        ("name", "--x"),
        ("version", None),
    ],
)
def test_a_lock_that_is_none_is_refused(toy: Repository, tmp_path: Path, field: str, value: object) -> None:
    data = json.loads(lock_of(toy, tmp_path / "site", "hello").to_json())
    data["packages"][0][field] = value
    with pytest.raises(RequestError, match="not a lock"):
        Lock.from_json(json.dumps(data), "mine.json")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"suite": 1}', "null"])
def test_text_that_is_no_lock_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="not a lock"):
        Lock.from_json(text)


def test_a_lock_from_outside_is_checked_against_the_signed_index(toy: Repository, tmp_path: Path) -> None:
    site = toy.site(tmp_path / "site")
    lock = lock_of(toy, tmp_path / "site", "hello")
    assert complete(lock, site, quiet) == lock
    data = json.loads(lock.to_json())
    data["packages"][1]["sha256"] = "0" * 64
    with pytest.raises(RequestError, match=r"libgreet=1\.5\+dfsg~1:all: not in the signed"):
        complete(Lock.from_json(json.dumps(data)), site, quiet)


def test_the_machines_apt_is_not_touched(toy: Repository, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in Path("/var/lib/apt").rglob("*")}
    lock_of(toy, tmp_path / "site", "hello")
    assert {path: path.stat().st_mtime_ns for path in Path("/var/lib/apt").rglob("*")} == before


def test_another_suite_than_the_sources_have_is_refused(toy: Repository, tmp_path: Path) -> None:
    with pytest.raises(VclustError, match="no package source for suite 'sid', only for: toy"):
        sources(toy.site(tmp_path / "site"), "sid")


def test_both_forms_of_sources_are_read(tmp_path: Path) -> None:
    one_line = tmp_path / "one.list"
    one_line.write_text(
        "# deb http://old.example x main\n"
        "deb [arch=amd64,arm64 signed-by=/k.gpg] http://a.example/debian x main contrib # why\n"
        "deb-src http://a.example/debian x main\n"
        "deb http://b.example/debian x-security main\n"
        "deb http://c.example/debian y main\n"
    )
    site = Site(root=tmp_path, sources=str(one_line))
    assert sources(site, "x").split("\n\n")[0].splitlines() == [
        "Types: deb",
        "URIs: http://a.example/debian",
        "Suites: x",
        "Components: main contrib",
        "Architectures: amd64 arm64",
        "Signed-By: /k.gpg",
    ]
    assert "x-security" in sources(site, "x")
    assert "c.example" not in sources(site, "x")
    deb822 = tmp_path / "two.sources"
    key = " -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----"
    deb822.write_text(
        f"Types: deb deb-src\nURIs: http://a.example\nSuites: x x-updates y\nComponents: main\nSigned-By:\n{key}\n\n"
        "Types: deb\nURIs: http://off.example\nSuites: x\nComponents: main\nEnabled: no\n"
    )
    text = sources(Site(root=tmp_path, sources=str(deb822)), "x")
    assert "Suites: x x-updates\n" in text
    assert key in text
    assert "off.example" not in text


def test_the_machines_debian_sources_serve_other_suites(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Site().default_suite
    (tmp_path / "sources.list").write_text(
        f"deb http://d.example/debian {own} main\ndeb http://d.example/debian {own}-updates main\n"
        "deb http://other.example nodistro main\n"
    )
    monkeypatch.setattr(apt, "MACHINE", tmp_path)
    text = sources(Site(root=tmp_path), "next")
    assert "Suites: next\n" in text
    assert "Suites: next-updates\n" in text
    assert "other.example" not in text


def test_resolving_with_a_fresh_index_asks_apt_little(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock_of(toy, tmp_path / "site", "hello")
    calls: list[tuple[object, ...]] = []
    run = apt.AptRoot.run

    def counted(self: apt.AptRoot, *words: Any, **options: Any) -> str:
        calls.append(words)
        return run(self, *words, **options)

    monkeypatch.setattr(apt.AptRoot, "run", counted)
    lock_of(toy, tmp_path / "site", "hello")
    assert not [words for words in calls if "update" in words]
    assert len(calls) <= 5, calls
