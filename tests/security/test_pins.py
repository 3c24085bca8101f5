"""What pip installs as root is pinned: every distribution by version and by the digests of its files."""

import re
import tomllib

import pytest

from vclust_py.site import PROJECT

LISTS = PROJECT / "requirements"


def pins(name: str) -> dict[str, list[str]]:
    """Distribution and what is pinned of it: versions (one for each range of Pythons), each with its digests."""
    text = (LISTS / f"{name}.txt").read_text().replace("\\\n", "")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            found.setdefault(re.split(r"[=; ]", line, maxsplit=1)[0], []).append(line)
    return found


@pytest.mark.parametrize("name", ["base", "test"])
def test_every_distribution_has_one_version_and_digests(name: str) -> None:
    for lines in pins(name).values():
        for line in lines:
            assert re.match(r"[a-z0-9-]+==[0-9a-z.]+ ", line), line
            assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
    assert "--index-url" not in (LISTS / f"{name}.txt").read_text()


def test_the_lists_hold_all_that_the_project_names() -> None:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())
    base, test = pins("base"), pins("test")
    build = project["build-system"]["requires"]
    for requirement in [*project["project"]["dependencies"], *build]:
        assert re.split(r"[<>=]", requirement)[0].lower() in base
    for requirement in project["project"]["optional-dependencies"]["test"]:
        assert re.split(r"[<>=]", requirement)[0].lower() in test
    # What is tested is what users get.
    for name, lines in base.items():
        assert [line.split()[0] for line in test[name]] == [line.split()[0] for line in lines]
