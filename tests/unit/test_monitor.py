"""What hosts say of themselves is asked once for all, and written down with what is not the site's own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_place import FixedHost
from test_placement import GB, a_capacity

from vclust_py.errors import CapacityError, VclustError
from vclust_py.hypervisor import Host
from vclust_py.monitor import survey
from vclust_py.site import Site
from vclust_py.site.hosts import known_hosts
from vclust_py.site.session import Session


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    def connect(site: Site, host: Host) -> Any:
        if host.name == "dead":
            raise VclustError("dead: no route")
        return FixedHost(a_capacity(sizes={"u1": (2, 3 * GB), "u2": (1, GB)}, resident={"u1": GB}))

    with Session(Site(root=tmp_path / "site"), connect=connect) as session:
        yield session


def test_hosts_that_answer_and_those_that_do_not(session: Session) -> None:
    first, second = survey(session, (Host("dead"), Host("a")))
    assert (first.error, first.capacity, first.facts) == ("dead: no route", None, {})
    assert second.facts["foreign"] == {"domains": 2, "cpus": 3, "memory": 4 * GB}
    assert (second.facts["accelerator"], second.facts["memory"]) == ("kvm", 16 * GB)
    a, dead = known_hosts(session.store)
    assert (a.name, a.state, a.facts) == ("a", "reachable", second.facts | {"guests": []})
    assert (dead.name, dead.state, dead.error, dead.answered) == (
        "dead",
        "unreachable",
        "dead: no route",
        None,
    )


def test_a_look_alone_writes_nothing(session: Session) -> None:
    survey(session, (Host("a"),), write=False)
    assert not session.store.exists


def test_no_host_to_ask(session: Session) -> None:
    with pytest.raises(CapacityError, match="vm_hosts is empty"):
        survey(session, ())
    with pytest.raises(VclustError, match=r"^dead: no route$"):
        survey(session, (Host("dead"),))
    assert [host.name for host in known_hosts(session.store)] == ["dead"]
