"""What a cluster is now, in a word: from what its nodes were last seen to be, and how old that is."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.states import SHOULD_RUN, ClusterState, NodeState

UNKNOWN = "unknown"
DEGRADED = "degraded"


@dataclass(frozen=True)
class Sighting:
    """What is known of what runs on one host."""

    time: float
    """Unix time at which it told last; 0: never."""
    running: frozenset[str] | None = None
    """UUIDs of the domains that ran then; None: it was not asked just now, states of nodes are as written down."""
    error: str = ""
    """Why it does not tell now; empty where it does."""


@dataclass(frozen=True)
class NodeCondition:
    """`state` is one of `NodeState`, or `unknown`; `seen` the Unix time at which that was so."""

    state: str
    seen: float


@dataclass(frozen=True)
class Condition:
    """A cluster's: while it is made as `ClusterState` has it, later `ready`, `degraded`, `stopped` or `unknown`."""

    state: str
    ready: int
    """Nodes that are known to be ready."""
    seen: float
    """Unix time of the oldest knowledge in it; of `unknown`, since when."""
    nodes: tuple[NodeCondition, ...]


def condition(cluster: Cluster, sightings: Mapping[str, Sighting], now: float = math.inf) -> Condition:
    """The cluster's condition by what its hosts have told, by their names; `now` is a Unix time."""
    nodes = tuple(_node(node, sightings.get(node.host), now) for node in cluster.nodes)
    states = [node.state for node in nodes]
    ready = states.count(NodeState.READY)
    seen = min((node.seen for node in nodes), default=cluster.created)
    state: str = cluster.state
    # A stop, or a destroy, that has not come to its end leaves nodes that may run.
    half = cluster.state is ClusterState.STOPPED and any(node.state in SHOULD_RUN for node in cluster.nodes)
    if half or (cluster.state is ClusterState.READY and ready < len(nodes)):
        if set(states) == {UNKNOWN}:
            state = UNKNOWN
        else:
            state = ClusterState.STOPPED if set(states) == {NodeState.FAILED} else DEGRADED
    return Condition(state, ready, seen, nodes)


def _node(node: Node, sighting: Sighting | None, now: float) -> NodeCondition:
    # What was seen of the node itself may be newer than the look at its host; not where the clock was set back since.
    if node.state not in SHOULD_RUN or sighting is None:
        return NodeCondition(node.state, node.seen)
    seen = node.seen if node.seen <= now else 0.0
    if sighting.error:
        return NodeCondition(UNKNOWN, max(sighting.time, seen))
    if sighting.running is None or sighting.time < seen or node.uuid in sighting.running:
        return NodeCondition(node.state, max(sighting.time, seen))
    return NodeCondition(NodeState.FAILED, sighting.time)
