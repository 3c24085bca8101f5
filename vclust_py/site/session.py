"""What a process works with: one connection to the store, one look at the images, one connection to each host."""

import contextlib
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeVar

from vclust_py import hypervisor
from vclust_py.conversation import Conversation, Talk
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host, Hypervisor, Segment, daemon
from vclust_py.image import Catalogue
from vclust_py.run import run
from vclust_py.site.hosts import known_hosts
from vclust_py.site.settings import Site
from vclust_py.site.store import Store

if TYPE_CHECKING:
    from vclust_py.egress import Way
    from vclust_py.home_server import Share
    from vclust_py.ingress import Door
    from vclust_py.leftover_networks import Leftover
    from vclust_py.lock import Lock

_FAN_OUT = 128
_FAN_OUT_A_HOST = 8
"""It takes four calls at once (`hypervisor.connection`); a call that waits for its turn too long counts as hung."""


def fan_out(hosts: int) -> int:
    """Calls under way at once to so many hosts of a site; they mostly wait for hosts that work side by side."""
    return min(_FAN_OUT, _FAN_OUT_A_HOST * hosts)


Connect = Callable[[Site, Host], Hypervisor]
T = TypeVar("T")
R = TypeVar("R")


class _Placed(Protocol):
    """A node, as far as it matters here."""

    @property
    def host(self) -> str: ...


N = TypeVar("N", bound=_Placed)


class Networks(Protocol):
    """The part of `vclust_py.network` that changes this machine."""

    def check_free(self, network: IPv4Network) -> None: ...
    def ensure(
        self,
        segment: str,
        number: int,
        network: IPv4Network,
        router: IPv4Address,
        tunnel: Segment | None = None,
    ) -> bool: ...
    def protect(self, segment: str, tunnel: Segment | None = None) -> None: ...
    def let_out(self, segment: str, way: "Way") -> tuple[str, ...]: ...
    def let_in(self, segment: str, door: "Door") -> tuple[str, ...]: ...
    def serve_homes(self, segment: str, share: "Share") -> bool: ...
    def has_homes(self, segment: str) -> bool: ...
    def listen(self, segment: str, router: IPv4Address) -> socket.socket: ...
    def admit(self, store: Store) -> tuple[str, ...]: ...
    def leftovers(self, store: Store) -> "list[Leftover]": ...
    def is_whole(self, segment: str) -> bool: ...
    def remove(self, segment: str, number: int) -> bool: ...


def _make_ahead(site: Site, lock: "Lock") -> None:
    from vclust_py.image import ahead

    ahead.begin(site, lock)


class Session:
    """A context manager: its end closes what was opened, in one place.  Threads may share it, processes may not.

    What changes or asks machines comes in from outside: `connect` to a host, this machine's `networks`, `run`, by which
    nodes are logged in to, `talk`, by which the proof does that, `start_daemons` for when hosts will soon be needed,
    `make_ahead`, which begins a first base image, and `stop_daemons` for when nothing of the site runs any more.
    """

    def __init__(
        self,
        site: Site,
        *,
        connect: Connect = hypervisor.connect,
        networks: Networks | None = None,
        run: Callable[..., str] = run,
        talk: Callable[..., Talk] = Conversation,
        start_daemons: Callable[[], None] = daemon.begin,
        make_ahead: Callable[[Site, "Lock"], None] = _make_ahead,
        stop_daemons: Callable[[], None] = daemon.stop,
        who: str = "",
    ) -> None:
        self.site, self.run, self.talk = site, run, talk
        self.start_daemons, self.stop_daemons, self.make_ahead = start_daemons, stop_daemons, make_ahead
        self.store = Store(site, who)
        self._connect, self._networks = connect, networks
        self._drivers: dict[Host, Hypervisor] = {}
        self._mutex = threading.Lock()

    def __enter__(self) -> "Session":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        with self._mutex:
            drivers, self._drivers = list(self._drivers.values()), {}
        for driver in drivers:
            with contextlib.suppress(VclustError):  # a host that has gone closes by itself
                driver.close()
        self.store.close()

    @cached_property
    def networks(self) -> Networks:
        if self._networks is not None:
            return self._networks
        # With what it stands on, a third of all that a command that only reads would wait for.
        from vclust_py import network

        return network

    @cached_property
    def images(self) -> Catalogue:
        return Catalogue(self.site)

    def drivers(self, hosts: Iterable[Host]) -> tuple[dict[str, Hypervisor], dict[str, VclustError]]:
        """The drivers of those of the hosts that answer, and why the others do not, by name; each connected once."""
        wanted = list(dict.fromkeys(hosts))
        drivers, errors = dict[str, Hypervisor](), dict[str, VclustError]()
        for host, found in zip(wanted, self.side_by_side(self._driver, wanted), strict=True):
            if isinstance(found, VclustError):
                errors[host.name] = found
            else:
                drivers[host.name] = found
        return drivers, errors

    def _driver(self, host: Host) -> Hypervisor | VclustError:
        with self._mutex:
            known = self._drivers.get(host)
        if known is not None:
            return known
        try:
            driver = self._connect(self.site, host)
        except VclustError as error:
            return error
        with self._mutex:
            self._drivers[host] = driver
        return driver

    def side_by_side(
        self, work: Callable[[T], R], items: Sequence[T], *, hosts: int | None = None
    ) -> list[R]:
        """`work` on each item, many at a time; in the items' order.  The first error, in that order, is raised.

        `hosts`: how many hosts the items are on, where there are several on one.
        """
        if len(items) < 2:
            return [work(item) for item in items]
        with ThreadPoolExecutor(min(fan_out(hosts or len(items)), len(items))) as pool:
            return list(pool.map(work, items))

    def at_work(self, work: Callable[[N], R], nodes: Sequence[N]) -> list[R]:
        """As `side_by_side`, for what makes nodes work: of a host that emulates, as many at once as it has processors.

        More would take their turns on these, each time with caches that are another's: eight on two processors take a
        third more of them.
        """
        emulating = (host for host in known_hosts(self.store) if host.facts.get("accelerator") == "tcg")
        processors = {host.name: host.facts["cpus"] for host in emulating}
        waiting = dict[str, deque[int]]()
        for number, node in enumerate(nodes):
            waiting.setdefault(node.host, deque()).append(number)
        done = dict[int, R]()

        def take(numbers: deque[int]) -> None:
            while True:
                try:
                    number = numbers.popleft()
                except IndexError:
                    return
                done[number] = work(nodes[number])

        # A lane after the other, so that the first ones are of all hosts.
        lanes = [
            numbers
            for lane in range(_FAN_OUT_A_HOST)
            for host, numbers in waiting.items()
            if lane < min(len(numbers), processors.get(host, _FAN_OUT_A_HOST))
        ]
        if len(lanes) < 2:
            for numbers in lanes:
                take(numbers)
        else:
            with ThreadPoolExecutor(min(fan_out(len(waiting)), len(lanes))) as pool:
                try:
                    list(pool.map(take, lanes))
                finally:
                    # Who is interrupted waits for nodes that are at work, and begins no others.
                    for numbers in waiting.values():
                        numbers.clear()
        return [done[number] for number in range(len(nodes))]
