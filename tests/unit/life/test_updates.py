"""Which updates clusters lack, by a real index of a toy archive."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import a_site, created
from repository import Repository, quiet

from vclust_py.apt import AptRoot
from vclust_py.cli.tables import show_cluster
from vclust_py.life import updates
from vclust_py.resolve import candidates
from vclust_py.site.describe import describe

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")
POLICY = """\
openssl:
  Installed: (none)
  Candidate: 3.0.2-1+deb12u2
  Version table:
     3.0.2-1+deb12u2 500
        500 http://deb.debian.org/debian-security bookworm-security/main amd64 Packages
     3.0.2-1 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
apt:
  Installed: 2.6.0
  Candidate: 2.6.1
  Version table:
     2.6.1 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
 *** 2.6.0 100
        100 /var/lib/dpkg/status
virtual:
  Installed: (none)
  Candidate: (none)
  Version table:
"""


def test_what_apt_would_install() -> None:
    assert candidates(POLICY) == {"openssl": ("3.0.2-1+deb12u2", True), "apt": ("2.6.1", False)}
    assert candidates("") == {}


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        yield session


def known(session: FakeSession) -> dict[str, list[str]]:
    found = describe(session.store)[0]["updates"]
    return {name: found[name] for name in ("updates", "security")} if found else {}


def test_newer_packages_are_told(
    session: FakeSession, toy: Repository, capsys: pytest.CaptureFixture[str]
) -> None:
    created(session)
    assert known(session) == {}
    assert updates.look(session, quiet) == []
    assert known(session) == {"updates": [], "security": []}
    show_cluster(describe(session.store)[0])
    assert "updates: none lacks (as of " in capsys.readouterr().out

    toy.add("core", "1.1", Essential="yes")
    toy.add("libgreet", "9")  # the cluster has none
    toy.publish()
    AptRoot(session.site, "toy", "amd64").expire()
    assert updates.look(session, quiet) == []
    assert known(session) == {"updates": ["core"], "security": []}
    show_cluster(describe(session.store)[0])
    assert "updates: 1 package older than in the archives, 0 of them for security" in capsys.readouterr().out


def test_what_cannot_be_found_out_is_told_and_the_rest_goes_on(session: FakeSession, toy: Repository) -> None:
    cluster = created(session)
    updates.look(session, quiet)
    before = describe(session.store)[0]["updates"]
    (session.site.locks / f"{cluster.lock}.json").unlink()
    (line,) = updates.look(session, quiet)
    assert line.startswith("not looked for updates of one: ")
    assert describe(session.store)[0]["updates"] == before
