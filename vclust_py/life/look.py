"""What runs on the hosts now, asked within a bounded time: for people who look, and whoever must not wait."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from vclust_py.errors import VclustError
from vclust_py.site import hosts
from vclust_py.site.condition import Sighting
from vclust_py.site.hosts import HostOfNodes
from vclust_py.site.states import SHOULD_RUN
from vclust_py.site.store import Store

if TYPE_CHECKING:
    from vclust_py.hypervisor import Host

BRIEF = 0.15
"""Seconds that a command which only shows something waits for hosts."""
FRESH = 15.0
"""Seconds for which what a host has told holds: the keeper looks more often."""
STALE = 120.0
"""Seconds after which what a host has told, and does not tell again, is no knowledge of what is now."""

Ask = Callable[["Host"], set[str]]
"""UUIDs of the domains that run on a host.  Raises VclustError when it does not answer."""


def ask(host: "Host") -> set[str]:
    """By a connection of its own that may only read: no daemon is started, no emulator tried, nothing tried again."""
    import libvirt

    libvirt.registerErrorHandler(lambda *_: None, None)  # errors are raised as well
    try:
        connection = libvirt.openReadOnly(host.uri)
        try:
            found = connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
            return {domain.UUIDString() for domain in found}
        finally:
            connection.close()
    except libvirt.libvirtError as error:
        raise VclustError(f"{host.name}: libvirt: {error}") from error


class Questions:
    """Hosts that are asked what runs there, each in a thread of its own and no host twice at a time."""

    def __init__(self, ask: Ask = ask) -> None:
        self._ask = ask
        self._told: queue.SimpleQueue[tuple[str, Sighting]] = queue.SimpleQueue()
        self.waiting: dict[str, float] = {}
        """Hosts that have not answered yet, and since when (monotonic)."""

    def put(self, hosts: Iterable[HostOfNodes]) -> None:
        """Ask those that are not being asked already."""
        for host in hosts:
            if host.name not in self.waiting:
                self.waiting[host.name] = time.monotonic()
                # A thread that hangs ends with the process.
                threading.Thread(target=self._put, args=(host,), daemon=True).start()

    def _put(self, host: HostOfNodes) -> None:
        from vclust_py.hypervisor import Host

        begun = time.time()  # what was started since may be missing from the answer
        try:
            sighting = Sighting(begun, frozenset(self._ask(Host(host.name, host.uri, host.guest))))
        except Exception as error:  # whatever it is, somebody waits for a word
            sighting = Sighting(0.0, error=str(error))
        self._told.put((host.name, sighting))

    def answers(self, within: float) -> dict[str, Sighting]:
        """What the hosts have told, or why they do not: all, or those that have in so many seconds."""
        found: dict[str, Sighting] = {}
        deadline = time.monotonic() + within
        while self.waiting:
            try:
                host, sighting = self._told.get(timeout=max(deadline - time.monotonic(), 0))
            except queue.Empty:
                break
            found[host] = sighting
            del self.waiting[host]
        return found


def look(
    store: Store, name: str | None = None, *, within: float = BRIEF, ask: Ask = ask
) -> dict[str, Sighting]:
    """What is known of each host, those with nodes that should run asked where that is not `FRESH`.

    Of all live clusters, or the one called `name`.  Nothing is written.  A host that has not answered after `within`
    seconds (0: none is asked) is as it was seen last, unless that is `STALE`.
    """
    known, now = hosts.sightings(store), time.time()
    if within <= 0:
        return known
    questions = Questions(ask)
    questions.put(
        one
        for one in hosts.with_nodes(store, SHOULD_RUN, name)
        if not now - FRESH <= known.get(one.name, NEVER).time <= now
    )
    for host, sighting in questions.answers(within).items():
        known[host] = told(known, host, sighting)
    for host in questions.waiting:
        seen = known.get(host, NEVER)
        if not seen.error and now - seen.time > STALE:
            known[host] = Sighting(seen.time, error=f"{host}: no answer within {within:g} s")
    return known


def told(known: Mapping[str, Sighting], host: str, sighting: Sighting) -> Sighting:
    """The sighting; one of a host that does not answer with the time at which it did last."""
    return replace(sighting, time=known.get(host, NEVER).time) if sighting.error else sighting


NEVER = Sighting(0.0)
