"""Hosts of a site for people: what each has and runs, what is wrong with it and what to do; taking one out."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from vclust_hop.wire import VERSION
from vclust_py import frozen, monitor, pki
from vclust_py.chain import Hop, Outcome, lacking
from vclust_py.chain.report import explained, keys
from vclust_py.change import Change
from vclust_py.errors import VclustError
from vclust_py.hypervisor import ROLL_OUT, Host
from vclust_py.site import clusters, volumes
from vclust_py.site.clusters import Node
from vclust_py.site.hosts import forget_host, known_hosts, knows_host
from vclust_py.site.session import Session
from vclust_py.site.store import audit
from vclust_py.x509 import RENEW

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Status:
    """A host as it is, or was when it answered last.  Bytes, Hz, Unix times; what is not known is empty or None."""

    name: str
    state: str
    """`active` or `drain`, as the inventory wants it; `absent`: not in the inventory, but nodes of ours are there."""
    driver: str
    """qemu or xen."""
    rack: str
    reachable: bool
    facts: dict[str, Any]
    """As in `site.hosts.KnownHost`."""
    seen: float | None
    """When these were so."""
    nodes: dict[str, tuple[str, ...]]
    """By live cluster, the names of its nodes there."""
    used: dict[str, int]
    """What these nodes were given: cpus, memory, disk."""
    versions: dict[str, str]
    """libvirt, hypervisor, and of the hop the chain's protocol."""
    certificates: dict[str, float]
    """Ends of those of libvirt and hop, as they were issued last."""
    problems: tuple[str, ...]
    """What is wrong, each with the next step."""


def status(session: Session, hosts: Sequence[Host], *, check: bool = False) -> list[Status]:
    """Ask all hosts, side by side, by libvirt and by the chain; what they say is written down, unless `check`."""
    session.site.make_directories()
    surveys = {one.host: one for one in monitor.look(session, hosts, write=not check)}
    placed = clusters.placed(session.store)
    known = {one.name: one for one in known_hosts(session.store)}
    answering = [host for host, survey in surveys.items() if not survey.error]
    drivers, _ = session.drivers(answering)

    def versions(host: Host) -> tuple[dict[str, str], str]:
        try:
            return drivers[host.name].versions(), ""
        except VclustError as error:  # it has gone since
            return {}, str(error)

    told = dict(zip(answering, session.side_by_side(versions, answering), strict=True))
    silent = _silent_hops(session, answering)
    ends, now = pki.ends(session.site), time.time()
    found = []
    for host, survey in surveys.items():
        earlier = known.get(host.name) if survey.error else None
        facts = earlier.facts if earlier else survey.facts
        seen = earlier.answered if earlier else None if survey.error else now
        numbers, error = told.get(host, ({}, ""))
        hop = silent.get(host.name, "")
        if host.machine is not None and not (survey.error or hop):
            numbers = {**numbers, "hop": str(VERSION)}
        certificates = ends.get(host.name, {}) if host.machine is not None else {}
        nodes = placed.get(host.name, [])
        problems = (survey.error or error, hop, *_ending(host.name, certificates, now))
        found.append(
            Status(
                name=host.name,
                state=host.state,
                driver=urlsplit(host.uri).scheme.partition("+")[0],
                rack=host.rack,
                reachable=not survey.error,
                facts=facts,
                seen=seen,
                nodes=_by_cluster(nodes),
                used=_used(nodes),
                versions=numbers,
                certificates=certificates,
                problems=tuple(text for text in problems if text),
            )
        )
    listed = {host.name for host in hosts}
    return found + [_stray(name, nodes) for name, nodes in placed.items() if name not in listed]


def _silent_hops(session: Session, hosts: Sequence[Host]) -> dict[str, str]:
    """Why the hops of those of the hosts that are other machines do not answer, by host."""
    hops = [Hop(host.name, host.machine, rack=host.rack) for host in hosts if host.machine is not None]
    if not hops:
        return {}
    try:
        _, failures = lacking([], hops, keys(session.site))
    except VclustError as error:  # the site manager's own fault, such as a missing key
        return {hop.name: str(error) for hop in hops}
    return {name: explained(Outcome(name, (), (), why)) for name, why in failures.items()}


def _ending(name: str, certificates: Mapping[str, float], now: float) -> list[str]:
    return [
        str(
            VclustError(
                f"{name}: the certificate of its {purpose} ends on"
                f" {time.strftime('%Y-%m-%d', time.localtime(end))}",
                ROLL_OUT,
            )
        )
        for purpose, end in certificates.items()
        if end - now < RENEW.total_seconds()
    ]


def _stray(name: str, nodes: Sequence[tuple[str, Node]]) -> Status:
    there = _by_cluster(nodes)
    problem = VclustError(
        f"{name}: not in the inventory, and nodes of {listed(there)} are there",
        "put it back into the inventory, or destroy these clusters",
    )
    return Status(
        name, "absent", "", "", False, {}, None, there, _used(nodes), {}, {}, (str(problem),)
    )  # fmt: skip


def _by_cluster(placed: Sequence[tuple[str, Node]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for folder, node in placed:
        cluster = folder.rpartition(".")[0]  # a folder's name is the cluster's and its number
        found[cluster] = (*found.get(cluster, ()), node.name)
    return found


def _used(placed: Sequence[tuple[str, Node]]) -> dict[str, int]:
    nodes = [node for _, node in placed]
    return {
        "cpus": sum(node.cpus for node in nodes),
        "memory": sum(node.memory for node in nodes),
        "disk": sum(node.disk for node in nodes),
    }


def listed(nodes: Mapping[str, Sequence[str]]) -> str:
    """Nodes by cluster, in words."""
    return ", ".join(f"{cluster} ({', '.join(names)})" for cluster, names in nodes.items())


def remove(session: Session, machine: pki.Machine, *, check: bool = False) -> Change:
    """Take the host out of the site, whether or not the machine is there: revoke its certificates, forget its facts.

    Raises VclustError while nodes of live clusters are there.
    """
    store, name = session.store, machine.name
    if there := _by_cluster(clusters.placed(store).get(name, ())):
        raise VclustError(
            f"{name}: vclust_host_state: got absent, and nodes of live clusters are there: {listed(there)}",
            f"vclust destroy {next(iter(there))} removes them, with --forget-host {name} where the machine is gone for"
            " good; with vclust_host_state: drain it gets no new ones",
        )
    if kept := [f"{one.name} of {one.owner}" for one in volumes.on_hosts(store).get(name, ())]:
        raise VclustError(
            f"{name}: vclust_host_state: got absent, and volumes are there: {', '.join(kept)}",
            "vclust volume remove, with --forget where the machine is gone for good",
        )
    change, listed_anywhere = pki.withdraw(session.site, machine, check=check)
    before, after = dict(change.before), dict(change.after)
    if knows_host(store, name):
        before[name], after[name] = "known to the site", ""
        if not listed_anywhere:
            _log.warning(
                "%s: its certificates are not revoked: an earlier release issued them and kept no list; if its keys"
                " may be in wrong hands, replace all: vclust site rotate-keys",
                name,
            )
        if not check:
            with store.transaction():
                forget_host(store, name)
                audit(store, "remove host", "", name)
    used = {digest for digests in clusters.images_in_use(store).values() for digest in digests}
    for image in frozen.on_host(session, name):
        before[f"{image.path.name} on {name}"], after[f"{image.path.name} on {name}"] = "frozen", ""
        if check:
            continue
        if image.manifest.digest in used:  # by a cluster whose nodes have left that host
            session.images.retire(image)
        else:
            session.images.remove(image)
    for left in clusters.leftovers(store):
        if left.host == name:
            before[f"{left.name} on {name}"], after[f"{left.name} on {name}"] = "to be cleared", ""
            if not check:
                clusters.forget_leftover(store, left)
    return Change(before, after)
