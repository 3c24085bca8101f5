"""What a cluster is now, by what its hosts have told."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
from anode import NODE
from hypothesis import given
from hypothesis import strategies as st

from vclust_py.site.condition import Condition, NodeCondition, Sighting, condition
from vclust_py.site.states import SHOULD_RUN, ClusterState, NodeState

RUNS = frozenset({"u0", "u1", "u2"})


def seen(
    *states: str,
    sightings: dict[str, Sighting],
    cluster: str = "ready",
    hosts: str = "aab",
    now: float = math.inf,
) -> Condition:
    """Of a cluster with nodes in these states, last seen at 10, on one host each."""
    nodes = tuple(
        replace(
            NODE, position=at, name=f"n{at}", uuid=f"u{at}", host=hosts[at], state=NodeState(state), seen=10.0
        )
        for at, state in enumerate(states)
    )
    one = SimpleNamespace(nodes=nodes, state=ClusterState(cluster), created=1.0)
    return condition(one, sightings, now)  # type: ignore[arg-type]


def test_all_run() -> None:
    told = {"a": Sighting(50.0, RUNS), "b": Sighting(40.0, RUNS)}
    found = seen("ready", "ready", "ready", sightings=told)
    assert (found.state, found.ready, found.seen) == ("ready", 3, 40.0)
    # Nobody has asked just now: what is written down, of the time of the last look.
    written = seen("ready", "ready", "ready", sightings={"a": Sighting(50.0), "b": Sighting(5.0)})
    assert (written.state, written.seen) == ("ready", 10.0)
    assert seen("ready", "ready", "ready", sightings={}).state == "ready"


def test_a_clock_that_was_set_back() -> None:
    """What was seen of a node is of the future: the look of now counts."""
    told = {"a": Sighting(5.0, frozenset({"u0"})), "b": Sighting(5.0, RUNS)}
    assert seen("ready", "ready", "ready", sightings=told).state == "ready"
    found = seen("ready", "ready", "ready", sightings=told, now=6.0)
    assert (found.state, found.seen, found.nodes[1].state) == ("degraded", 5.0, "failed")


def test_some_do_not_run() -> None:
    told = {"a": Sighting(50.0, frozenset({"u0"})), "b": Sighting(50.0, RUNS)}
    found = seen("ready", "ready", "ready", sightings=told)
    assert (found.state, found.ready) == ("degraded", 2)
    assert found.nodes[1] == NodeCondition("failed", 50.0)
    # A node that was started after the look, and one that failed before it.
    assert seen("ready", "started", "ready", sightings=told | {"a": Sighting(9.0, frozenset())}).nodes[
        1
    ] == NodeCondition("started", 10.0)
    assert seen("ready", "failed", "ready", sightings={"b": Sighting(50.0, RUNS)}).state == "degraded"


def test_none_runs() -> None:
    told = {"a": Sighting(50.0, frozenset()), "b": Sighting(50.0, frozenset())}
    assert seen("ready", "ready", "ready", sightings=told).state == "stopped"
    found = seen("stopped", "stopped", "stopped", sightings=told, cluster="stopped")
    assert (found.state, found.nodes[0]) == ("stopped", NodeCondition("stopped", 10.0))


def test_a_stop_that_has_not_come_to_its_end() -> None:
    told = {"a": Sighting(50.0, frozenset()), "b": Sighting(30.0, error="no route")}
    found = seen("stopped", "stopped", "ready", sightings=told, cluster="stopped")
    assert (found.state, found.nodes[2]) == ("degraded", NodeCondition("unknown", 30.0))
    back = {**told, "b": Sighting(50.0, RUNS)}
    assert seen("stopped", "stopped", "ready", sightings=back, cluster="stopped").state == "degraded"


def test_hosts_that_do_not_answer() -> None:
    away = Sighting(30.0, error="no route")
    found = seen("ready", "ready", "ready", sightings={"a": away, "b": away})
    assert (found.state, found.ready, found.seen) == ("unknown", 0, 30.0)
    found = seen("ready", "ready", "ready", sightings={"a": away, "b": Sighting(50.0, RUNS)})
    assert (found.state, found.ready, found.seen) == ("degraded", 1, 30.0)


@pytest.mark.parametrize("state", ["requested", "placed", "images", "created"])
def test_while_it_is_made_it_is_what_it_has_come_to(state: str) -> None:
    assert seen("started", sightings={"a": Sighting(50.0, frozenset())}, cluster=state).state == state
    assert seen(sightings={}, cluster=state) == Condition(state, 0, 1.0, ())


@given(
    st.lists(
        st.tuples(st.sampled_from(list(NodeState)), st.booleans(), st.booleans()), min_size=1, max_size=3
    )
)
def test_ready_is_never_said_of_what_is_not(nodes: list[tuple[NodeState, bool, bool]]) -> None:
    """Each node: its state as written down, whether its host answers, whether it runs; on a host of its own."""
    told = {
        "abc"[at]: Sighting(20.0, frozenset({f"u{at}"} if runs else ()), "" if answers else "no route")
        for at, (_, answers, runs) in enumerate(nodes)
    }
    found = seen(*(state for state, _, _ in nodes), sightings=told, hosts="abc")
    good = [state is NodeState.READY and answers and runs for state, answers, runs in nodes]
    assert found.ready == sum(good)
    assert (found.state == "ready") == all(good)
    unknown = [state in SHOULD_RUN and not answers for state, answers, _ in nodes]
    assert (found.state == "unknown") == all(unknown)
