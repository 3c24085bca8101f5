"""The resource monitor (paper, section 2.2): hosts asked what they have and what runs there, and that written down."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from vclust_py import leftovers
from vclust_py.errors import CapacityError, VclustError
from vclust_py.hypervisor import Capacity, Host
from vclust_py.site import clusters, volumes
from vclust_py.site.clusters import Node
from vclust_py.site.hosts import observe_hosts
from vclust_py.site.session import Session


@dataclass(frozen=True)
class Survey:
    """What a host says of itself now; no capacity when it does not answer, and then why."""

    host: Host
    capacity: Capacity | None = None
    images: Mapping[str, int] = field(default_factory=dict)
    """Image files of a host that is another machine: name → bytes."""
    written: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Bytes on disk of files of live clusters, by folder and name; {} where free disk is plenty without them."""
    foreign: frozenset[str] = frozenset()
    """UUIDs of running domains that were no nodes of the site when the host was asked."""
    error: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """What is written down of a host that answers, as in `site.hosts.KnownHost`."""
        if self.capacity is None:
            return {}
        facts = {
            one.name: getattr(self.capacity, one.name)
            for one in fields(self.capacity)
            if one.name not in ("resident", "sizes")
        }
        sizes = [self.capacity.sizes[uuid] for uuid in self.foreign]
        foreign = {"domains": len(sizes), "cpus": sum(cpus for cpus, _ in sizes)}
        return {**facts, "foreign": {**foreign, "memory": sum(memory for _, memory in sizes)}}


def survey(
    session: Session,
    hosts: Sequence[Host],
    disk_wanted: Callable[[Capacity], int] = lambda _: 0,
    *,
    write: bool = True,
) -> list[Survey]:
    """Ask all hosts, side by side, and with `write` write down what they say or why they do not answer.

    `disk_wanted` is how many bytes of disk may be wanted of a host.  Where these are not free beyond the whole disks of
    the nodes there, what of these disks is written already is looked up, cluster by cluster.  Raises CapacityError
    without hosts, VclustError when none answers.
    """
    if not hosts:
        raise CapacityError("the site has no hosts: its inventory group vm_hosts is empty")
    surveys = look(session, hosts, disk_wanted, write=write)
    if all(one.error for one in surveys):
        raise VclustError("\n".join(one.error for one in surveys))
    return surveys


def look(
    session: Session,
    hosts: Sequence[Host],
    disk_wanted: Callable[[Capacity], int] = lambda _: 0,
    *,
    write: bool = True,
) -> list[Survey]:
    """As `survey`; that no host answers, or that there is none, is no error."""
    placed, kept = clusters.placed(session.store), volumes.on_hosts(session.store)
    ours = frozenset(node.uuid for nodes in placed.values() for _, node in nodes)
    drivers, errors = session.drivers(hosts)
    if write:
        leftovers.clear(session, drivers)  # they take memory and disk

    def ask(host: Host) -> Survey:
        if host.name in errors:
            return Survey(host, error=str(errors[host.name]))
        driver, nodes = drivers[host.name], placed.get(host.name, [])
        try:
            images = driver.files("").images() if host.machine else {}
            capacity, written = driver.capacity(), dict[tuple[str, str], int]()
            own = kept.get(host.name, [])
            reserved = sum(node.disk for _, node in nodes) + sum(volume.size for volume in own)
            if capacity.disk_free < disk_wanted(capacity) + reserved:
                written = {
                    (folder, name): count
                    for folder in [*_folders(nodes), *(volume.folder for volume in own)]
                    for name, count in driver.files(folder).allocated().items()
                }
                # Once more, and after it: what nodes write between the two must not count as free.
                capacity = driver.capacity()
        except VclustError as error:
            return Survey(host, error=str(error))
        return Survey(host, capacity, images, written, frozenset(capacity.sizes) - ours)

    surveys = session.side_by_side(ask, hosts)
    if write:
        observe_hosts(
            session.store,
            {one.host.name: one.facts for one in surveys if not one.error},
            {one.host.name: one.error for one in surveys if one.error},
        )
    return surveys


def _folders(nodes: Sequence[tuple[str, Node]]) -> list[str]:
    return list(dict.fromkeys(folder for folder, _ in nodes))
