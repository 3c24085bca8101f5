"""Nodes are told by their agents, and by a login where none answers; on hosts that only keep books."""

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakehost import FakeSession
from life.living import HOSTS, Told, a_request, a_site, created
from repository import Repository

from vclust_py.errors import VclustError
from vclust_py.life import apply, teach
from vclust_py.phases import Inputs
from vclust_py.site import clusters

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the site is root's")

INPUTS = Inputs("one", hosts=HOSTS)


class Agents:
    """In place of those in nodes: each does what it is told, or what `answers` has for its node's name."""

    def __init__(self, session: FakeSession) -> None:
        self.told: list[str] = []
        self.answers: dict[str, Callable[[], str | None]] = {}
        for host in session.hosts.values():
            host.tell = self  # type: ignore[method-assign]
        self.names = {node.uuid: node.name for node in clusters.get(session.store, "one").nodes}

    def __call__(self, uuid: str, script: str, timeout: float) -> str | None:
        name = self.names[uuid]
        if name in self.answers:
            return self.answers[name]()
        self.told.append(name)
        (generation,) = re.findall(r"^generation=(\d+)$", script, re.MULTILINE)
        return f"vclust: reached\nvclust: generation {generation}\n"


@pytest.fixture
def session(toy: Repository, tmp_path: Path) -> Iterator[FakeSession]:
    with a_site(toy, toy.site(tmp_path / "site", cache_every=0)) as session:
        created(session, a_request(nodes=3))
        yield session


@pytest.fixture
def logins(session: FakeSession) -> Told:
    return Told(session)


def changed(session: FakeSession) -> None:
    apply.run(session, Inputs("one", request=a_request(nodes=3, lease="2h"), hosts=HOSTS))


def refuse() -> str:
    raise VclustError("its agent is not done after 300 s")


def test_nobody_logs_in_to_nodes_with_agents(session: FakeSession, logins: Told) -> None:
    agents = Agents(session)
    changed(session)
    assert teach.run(session, INPUTS).facts["late"] == []
    assert (sorted(agents.told), logins.nodes) == (["one-01", "one-02", "one-03"], [])


def test_a_node_without_an_agent_is_told_by_a_login(session: FakeSession, logins: Told) -> None:
    agents = Agents(session)
    agents.answers["one-02"] = lambda: None
    changed(session)
    assert teach.run(session, INPUTS).facts["late"] == []
    assert (sorted(agents.told), logins.nodes) == (["one-01", "one-03"], [("one-02", 2)])


def test_so_are_those_on_a_host_that_does_not_answer(session: FakeSession, logins: Told) -> None:
    agents = Agents(session)
    changed(session)
    session.close()
    session.gone = {"a"}
    assert teach.run(session, INPUTS).facts["late"] == []
    on_a = {node.name for node in clusters.get(session.store, "one").nodes if node.host == "a"}
    assert {name for name, _ in logins.nodes} == on_a
    assert on_a.isdisjoint(agents.told)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda: "vclust: reached\nvclust: failed user x: no\n", "one-01: was not changed: user x: no"),
        (lambda: "vclust: reached\n", "one-01: was not changed: vclust: reached"),
        (refuse, "one-01: its agent is not done after 300 s"),
    ],
)
def test_no_other_node_after_one_that_has_begun(
    session: FakeSession, logins: Told, answer: Callable[[], str], why: str
) -> None:
    agents = Agents(session)
    agents.answers["one-01"] = answer
    changed(session)
    result = teach.run(session, INPUTS, in_turn=True)
    assert (result.facts["told"], agents.told, logins.nodes) == ([], [], [])
    assert result.warnings[0] == f"{why}; it is told when it can be"
    agents.answers.clear()
    assert teach.run(session, INPUTS, in_turn=True).facts["late"] == []
