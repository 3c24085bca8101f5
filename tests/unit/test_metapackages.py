"""Meta packages: files, errors, and that the ones we ship are well formed."""

import subprocess
from pathlib import Path

import pytest

from vclust_py import metapackages
from vclust_py import request as requests
from vclust_py.errors import RequestError, VclustError
from vclust_py.metapackages import MetaPackage, Secret, Step
from vclust_py.site import Site
from vclust_py.site.settings import HomesSetting

SHIPPED = [
    "ansible",
    "bio",
    "dask",
    "home",
    "home-site",
    "jupyter",
    "monitoring",
    "mpi",
    "numeric",
    "openmpi",
    "slurm",
]

WHOLE = """\
description: one of everything
packages: [munge, ncbi-blast+]
debconf: ["munge munge/question boolean true"]
secrets: [{name: a.key, bytes: 32}]
steps:
  - {nodes: all, run: "echo all"}
  - {nodes: first, run: "echo first"}
check: "true"
"""


def request(*names: str) -> requests.Request:
    text = f"[Hardware]\nNumberOfNodes: 2\n[Software]\nMetaPackages: {' '.join(names)}\n"
    return requests.load(text, "x.ini")


def site(tmp_path: Path) -> Site:
    return Site(root=tmp_path / "root", metapackages=(tmp_path,))


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "demo.yml").write_text(WHOLE)
    assert metapackages.expand(request("demo"), site(tmp_path)) == (
        MetaPackage(
            name="demo",
            description="one of everything",
            packages=("munge", "ncbi-blast+"),
            debconf=("munge munge/question boolean true",),
            steps=(Step("all", "echo all"), Step("first", "echo first")),
            secrets=(Secret("a.key", 32),),
            check="true",
        ),
    )


def test_what_becomes_of_nodes_that_change(tmp_path: Path) -> None:
    scripts = "change: again\nleave: |\n  drain\n  wait\nresume: undrain\n"
    (tmp_path / "demo.yml").write_text(f"{WHOLE}{scripts}")
    (found,) = metapackages.expand(request("demo"), site(tmp_path))
    assert (found.change, found.leave, found.resume) == ("again", "drain\nwait", "undrain")
    (tmp_path / "demo.yml").write_text(f"{WHOLE}resume: []\n")
    with pytest.raises(RequestError, match=r"resume: got '\[\]', expected lines of shell"):
        metapackages.expand(request("demo"), site(tmp_path))


def test_who_sends_work_away_before_a_restart_says_how_it_comes_back() -> None:
    """Else nodes would be restarted under what runs there."""
    for name in SHIPPED:
        found = metapackages.load(name, [metapackages.SHIPPED])
        assert (found.leave is None) == (found.resume is None)


def test_the_sites_own_come_first(tmp_path: Path) -> None:
    (tmp_path / "mpi.yml").write_text("description: ours\npackages: [openmpi-bin]\n")
    (own, shipped) = metapackages.expand(request("mpi", "slurm"), site(tmp_path))
    assert own.packages == ("openmpi-bin",)
    assert "slurm-wlm" in shipped.packages


def test_a_shared_home_is_a_meta_package() -> None:
    """Asked for once, whichever way."""
    for text, names in (
        ("Home: shared\nMetaPackages: mpi", ["mpi", "home"]),
        ("Home: shared\nMetaPackages: home mpi", ["home", "mpi"]),
        ("Home: local\nMetaPackages: mpi", ["mpi"]),
        ("", []),
    ):
        asked = requests.load(f"[Hardware]\nNumberOfNodes: 2\n[Software]\n{text}\n", "x.ini")
        assert [meta.name for meta in metapackages.expand(asked, Site())] == names


def test_unknown_names_are_all_told_with_the_nearest() -> None:
    with pytest.raises(RequestError) as caught:
        metapackages.expand(request("slrum", "mpi", "zzz"), Site())
    assert caught.value.problems == [
        "MetaPackages: got 'slrum', which this site does not know, expected slurm (the nearest known one)",
        "MetaPackages: got 'zzz', which this site does not know, expected one of ansible, bio, dask, home, "
        "home-site, jupyter, monitoring, mpi, numeric, openmpi, slurm",
    ]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("munge, ", "munge=1, ", "packages: got 'munge=1', expected the name of a Debian package"),
        ("[munge, ncbi-blast+]", "munge", "packages: got 'munge', expected a list"),
        ("nodes: all", "nodes: some", "steps: got 'some', expected nodes: all or nodes: first"),
        ("nodes: all", "on: all", "steps: got '{True: "),
        ("echo all", "", "steps: got '', expected a shell script"),
        ("a.key", "../a", "secrets: got '../a', expected a file name"),
        ("bytes: 32", "bytes: 1", "secrets: got '1', expected bytes: from 16 to 4096"),
        (
            "munge munge/question boolean true",
            "x",
            "debconf: got 'x', expected 'package question type value'",
        ),
        ("description: one of everything", "", "description: got 'None', expected one line"),
        ('check: "true"', "check: 'a\n\n  b'", "check: got"),
        ('check: "true"', "chek: x", "key: got 'chek', expected one of change, check, debconf"),
    ],
)
def test_malformed_files(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in WHOLE
    path = tmp_path / "demo.yml"
    path.write_text(WHOLE.replace(old, new))
    with pytest.raises(RequestError) as caught:
        metapackages.expand(request("demo"), site(tmp_path))
    assert caught.value.problems[0].startswith(f"{path}: {expected}")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff", b"a: !!python/object:x.y {}"])
def test_files_that_are_no_mapping(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "demo.yml").write_bytes(content)
    with pytest.raises(RequestError, match=r"demo\.yml: got"):
        metapackages.expand(request("demo"), site(tmp_path))


def test_errors_of_yaml_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "demo.yml").write_text("a: b: c\n")
    with pytest.raises(RequestError, match=r"mapping values are not allowed here") as caught:
        metapackages.expand(request("demo"), site(tmp_path))
    assert "\\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    """A mistake in the site's settings, whatever is asked for."""
    with pytest.raises(VclustError, match=r"vclust_site: metapackages: got .*/gone, which is not there"):
        metapackages.expand(request("mpi"), Site(metapackages=(tmp_path / "gone",)))


def test_shipped_ones_are_these() -> None:
    assert sorted(path.stem for path in metapackages.SHIPPED.glob("*.yml")) == SHIPPED


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_ones_load_and_their_shell_parses(name: str) -> None:
    (meta,) = metapackages.expand(request(name), Site(homes=HomesSetting(Path("/srv/homes"))))
    assert meta.packages
    for script in [*(step.run for step in meta.steps), meta.check or "true"]:
        subprocess.run(["sh", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("lines", "names", "has"),
    [
        ("", [], False),
        ("Home: local", [], False),
        ("Home: shared", ["home"], False),
        ("Home: site", ["home-site"], True),
        ("MetaPackages: home-site", ["home-site"], True),
        ("MetaPackages: home-site\nHome: site", ["home-site"], True),
    ],
)
def test_where_homes_are_is_a_meta_package(lines: str, names: list[str], has: bool) -> None:
    asked = requests.load(f"[Hardware]\nNumberOfNodes: 2\n[Software]\n{lines}\n", "x.ini")
    found = metapackages.expand(asked, Site(homes=HomesSetting(Path("/srv/homes"))))
    assert ([meta.name for meta in found], asked.has_site_homes) == (names, has)


def test_homes_of_a_site_that_keeps_none_or_in_two_places() -> None:
    asked = requests.load("[Hardware]\nNumberOfNodes: 2\n[Software]\nHome: site\n", "x.ini")
    with pytest.raises(
        RequestError, match=r"Home: got 'site', but this site keeps no homes .*vclust_site\.homes"
    ):
        metapackages.expand(asked, Site())
    with pytest.raises(RequestError, match="got home and home-site, expected one of them"):
        metapackages.expand(request("home", "home-site"), Site(homes=HomesSetting(Path("/srv/homes"))))
