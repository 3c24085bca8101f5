"""The states of clusters, nodes and hosts, and the one table of which may follow which."""

from enum import StrEnum
from typing import TypeVar

from vclust_py.errors import VclustError


class ClusterState(StrEnum):
    """How far a cluster has come towards its spec."""

    REQUESTED = "requested"
    PLACED = "placed"
    IMAGES = "images"
    CREATED = "created"
    READY = "ready"
    STOPPED = "stopped"
    DESTROYED = "destroyed"


class NodeState(StrEnum):
    """What a node was last seen to be, in the order of its life; `failed` may come at any time."""

    PLACED = "placed"
    STOPPED = "stopped"
    STARTED = "started"
    INSTALLER = "installer"
    INSTALLED = "installed"
    READY = "ready"
    FAILED = "failed"


SHOULD_RUN = (NodeState.STARTED, NodeState.INSTALLER, NodeState.INSTALLED, NodeState.READY)
"""States of nodes whose domain runs."""


class HostState(StrEnum):
    """What a host was last seen to be."""

    REACHABLE = "reachable"
    UNREACHABLE = "unreachable"


_C, _N, _H = ClusterState, NodeState, HostState

TRANSITIONS: dict[type[StrEnum], dict[str, frozenset[str]]] = {
    ClusterState: {
        _C.REQUESTED: frozenset({_C.PLACED, _C.DESTROYED}),
        _C.PLACED: frozenset({_C.IMAGES, _C.DESTROYED}),
        _C.IMAGES: frozenset({_C.CREATED, _C.DESTROYED}),
        _C.CREATED: frozenset({_C.READY, _C.STOPPED, _C.DESTROYED}),
        _C.READY: frozenset({_C.CREATED, _C.STOPPED, _C.DESTROYED}),  # its nodes are started again
        _C.STOPPED: frozenset({_C.CREATED, _C.DESTROYED}),
        _C.DESTROYED: frozenset(),
    },
    NodeState: {
        _N.PLACED: frozenset({_N.STARTED, _N.FAILED}),
        _N.STARTED: frozenset({_N.INSTALLER, _N.INSTALLED, _N.READY, _N.STOPPED, _N.FAILED}),
        _N.INSTALLER: frozenset({_N.STARTED, _N.INSTALLED, _N.READY, _N.STOPPED, _N.FAILED}),
        _N.INSTALLED: frozenset({_N.STARTED, _N.READY, _N.STOPPED, _N.FAILED}),
        _N.READY: frozenset({_N.STARTED, _N.STOPPED, _N.FAILED}),
        _N.STOPPED: frozenset({_N.STARTED, _N.FAILED}),
        _N.FAILED: frozenset({_N.STARTED, _N.STOPPED}),
    },
    HostState: {
        _H.REACHABLE: frozenset({_H.UNREACHABLE}),
        _H.UNREACHABLE: frozenset({_H.REACHABLE}),
    },
}
"""For each kind, from each state those that may follow it; a state may always be written again."""

S = TypeVar("S", ClusterState, NodeState, HostState)


def follow(name: str, before: S, after: S) -> S:
    """`after`, if it may follow `before`.  Raises VclustError naming the object when it may not."""
    allowed = TRANSITIONS[type(before)][before]
    if after != before and after not in allowed:
        expected = ", ".join(sorted(allowed)) or "nothing"
        raise VclustError(f"{name}: got {after} after {before}, expected {expected}")
    return after
