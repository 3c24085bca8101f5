"""What a node's console says, for people who look."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import a_site, created
from repository import Repository

from vclust_py.errors import RequestError, VclustError
from vclust_py.life import terminal
from vclust_py.life.terminal import lines

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        created(session)
        yield session


class Console:
    """Says `text` from a position on, a few bytes at a time; what is `later` comes with a look that found nothing."""

    def __init__(self, text: bytes, *later: bytes) -> None:
        self.text, self.later = text, list(later)

    def __call__(self, folder: str, domain: str, position: int = 0) -> bytes:
        assert (folder, domain) == ("one.1", "one.one-01")
        found = self.text[position : position + 7]
        if not found and self.later and position == len(self.text):
            new = self.later.pop(0)
            self.text = new[1:] if new.startswith(b"!") else self.text + new  # !: started again
        return found


def says(session: FakeSession, monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    monkeypatch.setattr(terminal, "_POLL", 0.0)
    for host in session.hosts.values():
        monkeypatch.setattr(host, "console", console)


def test_all_that_was_said_until_now(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    says(session, monkeypatch, Console(b"kernel up\r\nold\rnew \x1b[2J\xff\n\nlogin: "))
    assert list(lines(session, "one", "one-01")) == ["kernel up", "new \\x1b[2J\ufffd", "", "login: "]


def test_while_it_says_more(session: FakeSession, monkeypatch: pytest.MonkeyPatch) -> None:
    says(session, monkeypatch, Console(b"one\ntw", b"o\nlogin: ", b"", b"", b"", b"bye\n", b"!again\n", b""))
    shown = lines(session, "one", "one-01", follow=True)
    assert list(itertools.islice(shown, 5)) == ["one", "two", "login: ", "bye", "again"]


def test_who_is_not_there(session: FakeSession) -> None:
    with pytest.raises(RequestError, match="x: no such node of one; there are: one-01, one-02"):
        list(lines(session, "one", "x"))
    with pytest.raises(RequestError, match="two: no such cluster"):
        list(lines(session, "two", "x"))
    session.close()
    session.gone = {"a", "b"}
    with pytest.raises(VclustError, match="no route"):
        list(lines(session, "one", "one-01"))
    with FakeSession(session.site) as other:
        other.store.who = "bob"
        with pytest.raises(RequestError, match="belongs to root"):
            list(lines(other, "one", "one-01"))
