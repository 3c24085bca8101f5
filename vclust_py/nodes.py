"""What phases know of a cluster's nodes: their hosts, the names of their files, and what their duration depends on."""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vclust_py.access import full_name
from vclust_py.errors import VclustError
from vclust_py.guest import cluster_disk
from vclust_py.hypervisor import Host, Hypervisor
from vclust_py.image import installer
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState

ACCELERATORS = ("tcg", "xen", "kvm")
"""Slowest first."""


def domain_name(cluster: Cluster, node: Node) -> str:
    return domain_of(cluster.name, node)


def domain_of(cluster: str, node: Node) -> str:
    """The name of the node's domain, which it keeps for its life; unique among clusters, whose names have no dots."""
    return node.domain or full_name(cluster, node.name)


# Names of a node's files.  libvirt's AppArmor helper lets QEMU read those that end in .qcow2, .img or .iso.


def overlay(node: str) -> str:
    return f"{node}.qcow2"


def snapshot_file(node: str, tag: str) -> str:
    """The copy of a node's overlay; no node's name has that sign."""
    return f"{node}@{tag}.qcow2"


def seed_disk(node: str) -> str:
    return f"{node}.img"


def identity_disks(folder: Path, node: str) -> list[str]:
    """Names of a node's seed and of its cluster's disk; a cluster of an earlier version has one ISO 9660 a node."""
    old = f"{node}.iso"
    return [old] if (folder / old).exists() else [seed_disk(node), cluster_disk.FILE_NAME]


def command_line(site: Site, architecture: str, accelerator: str) -> str:
    """Of a node's kernel."""
    # A host that is busy may take long to connect a disk; the node says so before its time is up.
    own = installer.command_line(architecture, accelerator, max(10, site.ready_timeout // 15))
    return " ".join([own, *site.kernel_options.split()])


def in_turns(nodes: Iterable[Node]) -> list[Node]:
    """The nodes, one of each host after the other: so all hosts are at work from the first call on."""
    turns, before = list[tuple[int, Node]](), Counter[str]()
    for node in nodes:
        turns.append((before[node.host], node))
        before[node.host] += 1
    return [node for _, node in sorted(turns, key=lambda turn: turn[0])]


def drivers_of(session: Session, cluster: Cluster) -> tuple[dict[str, Hypervisor], dict[str, VclustError]]:
    """The drivers of the cluster's hosts that answer, and why the others do not; by the hosts' names."""
    return drivers_for(session, cluster.nodes)


def drivers_for(
    session: Session, nodes: Iterable[Node]
) -> tuple[dict[str, Hypervisor], dict[str, VclustError]]:
    """`drivers_of` the hosts of these nodes."""
    return session.drivers(Host(node.host, node.uri, node.guest) for node in nodes)


def require_min_nodes(cluster: Cluster, errors: Mapping[str, VclustError]) -> None:
    """Raises VclustError when too few nodes are left (MinNodes) without those on hosts that do not answer."""
    left = sum(node.host not in errors for node in cluster.nodes)
    if errors and left < max(cluster.request.hardware.min_nodes, 1):
        raise VclustError("\n".join(map(str, errors.values())))


def require_started(cluster: Cluster) -> None:
    """Raises VclustError where no node is started: to wait for them would take them for failed."""
    if all(node.state in (NodeState.PLACED, NodeState.STOPPED) for node in cluster.nodes):
        raise VclustError(f"{cluster.name}: got no node that was started", "run the phase `create` first")


def facts(cluster: Cluster, drivers: Mapping[str, Hypervisor]) -> dict[str, Any]:
    """What a phase's duration depends on, of a cluster that is placed."""
    hosts = len({node.host for node in cluster.nodes})
    accelerators = [driver.accelerator for driver in drivers.values()]
    return facts_of(len(cluster.nodes), cluster.strategy, accelerators, hosts)


def facts_of(nodes: int, strategy: str, accelerators: Iterable[str], hosts: int) -> dict[str, Any]:
    """`facts` of a cluster to come: `vclust_py.estimate` goes by past runs with like ones.

    The slowest of the hosts' accelerators decides how long a cluster takes; empty where no host is known.
    """
    slowest = min(accelerators, key=ACCELERATORS.index, default="")
    return {"nodes": nodes, "hosts": hosts, "strategy": strategy, "accelerator": slowest}


@contextlib.contextmanager
def placed_cluster(session: Session, name: str) -> Iterator[Cluster]:
    """The cluster, locked.

    Raises VclustError when its nodes have no hosts yet, RequestError when it is somebody else's.
    """
    with clusters.locked(session.store, name) as cluster:
        clusters.require_access(session.store, cluster)
        if not cluster.nodes:
            raise VclustError(f"{name}: not placed", "run the phase `place` first")
        yield cluster
