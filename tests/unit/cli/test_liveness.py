"""Whether a node is up: a real ping in a network namespace, and what its hypervisor says where none is answered."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakehost import FakeSession
from repository import Repository
from test_all import a_request, found, up_to

from vclust_py.cli import liveness
from vclust_py.errors import VclustError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces and the site are root's")


@pytest.fixture
def netns() -> Iterator[str]:
    """Its own addresses are 127.0.0.1 and 192.0.2.1; behind it there is nobody."""
    name = f"vclive{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        for words in (
            "link set lo up",
            "link add there type veth peer name silent",
            "address add 192.0.2.1/24 dev there",
            "link set there up",
            "link set silent up",
        ):
            subprocess.run(["ip", "-netns", name, *words.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_pings(netns: str) -> None:
    before = os.readlink("/proc/self/ns/net")
    assert liveness.answers(netns, "127.0.0.1", 30)
    assert liveness.answers(netns, "192.0.2.1", 30)
    assert not liveness.answers(netns, "192.0.2.9", 0.1)
    assert not liveness.answers(netns, "198.51.100.1", 0.1), "no route"
    assert os.readlink("/proc/self/ns/net") == before


def test_where_no_ping_can_be_sent(tmp_path: Path) -> None:
    """ssh says what is wrong there."""
    assert liveness.answers("no-such-namespace", "127.0.0.1", 0.1)
    assert liveness.answers(str(tmp_path), "127.0.0.1", 0.1)


def test_what_the_hypervisor_says(toy: Repository, tmp_path: Path) -> None:
    from cache.cachesite import make_base

    site = toy.site(tmp_path / "site", cache_every=0)
    make_base(site)
    with FakeSession(site) as session:
        up_to(session, "ready", a_request(2))
        liveness._ask_hypervisor(session, "all", "n0001")
        (node,) = (node for node in found(session).nodes if node.name == "n0001")
        session.hosts[node.host].remove(node.uuid)
        with pytest.raises(VclustError, match=f"n0001 is down: it does not run on {node.host}\n  hint: "):
            liveness._ask_hypervisor(session, "all", "n0001")
        session.close()
        session.gone = {node.host}
        with pytest.raises(VclustError, match=r"n0001 does not answer, nor does its host: .*no route"):
            liveness._ask_hypervisor(session, "all", "n0001")
