"""Hosts, networks and logins that only keep books: everything of a phase but what machines do."""

import os
import socket
import time
from collections import Counter
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from vclust_py import gateway
from vclust_py.egress import Way
from vclust_py.errors import VclustError
from vclust_py.home_server import Share
from vclust_py.hypervisor import Capacity, Domain, Host, Segment, memory_bytes
from vclust_py.ingress import Door
from vclust_py.leftover_networks import Leftover
from vclust_py.router_socket import bound
from vclust_py.site import Site
from vclust_py.site.session import Session
from vclust_py.site.store import Store


class FakeFiles:
    def __init__(self, host: "FakeHost", folder: str) -> None:
        self._host, self._folder, self._files = host, folder, host.folders.setdefault(folder, {})
        self._sizes = host.virtual_sizes.setdefault(folder, {})

    def path(self, name: str) -> Path:
        return Path("/fake", self._folder, name)

    def image(self, name: str) -> Path:
        return Path("/fake", name)

    def images(self) -> dict[str, int]:
        return {}

    def make_raw(self, name: str, size: int, data: bytes = b"", owner: tuple[int, int] = (0, 0)) -> None:
        self._files[name] = size

    def stamp(self, name: str) -> str:
        return f"{self._files[name]} bytes" if name in self._files else ""

    def free(self) -> int:
        return self._host.disk_free

    def put(self, source: Path) -> None:
        self._files[source.name] = source.stat().st_size
        self._host.calls["put"] += 1

    def overlay(self, name: str, backing: str, size: int, backing_format: str = "qcow2") -> None:
        self.blank(name, size)

    def blank(self, name: str, size: int) -> None:
        if name not in self._files:
            self._files[name] = 1
            self._sizes[name] = size

    def virtual_size(self, name: str) -> int:
        return self._sizes[name]

    def grow(self, name: str, size: int) -> None:
        self._sizes[name] = max(self._sizes[name], size)

    def copy(self, source: str, target: str) -> None:
        if target in self._host.full:
            raise VclustError(f"{target}: no space left on its file system")
        self._files[target] = self._files[source]
        self._sizes[target] = self._sizes[source]

    def length(self, name: str) -> int:
        return self._files.get(name, 0)

    def allocated(self) -> dict[str, int]:
        return dict(self._files)

    def discard(self, *names: str) -> None:
        for name in names:
            self._files.pop(name, None)

    def remove(self) -> None:
        self._files.clear()


class FakeForking:
    """Keeps books of what was frozen and forked.

    A clone named in `failing` does not come up; one in `broken` says then that it has failed, one in `mute` nothing.
    """

    def __init__(self, host: "FakeHost", name: str = "a", uri: str = Host.uri) -> None:
        self._host, self.host = host, Host(name, uri)
        self.failing: set[str] = set()
        self.broken: set[str] = set()
        self.mute: set[str] = set()
        self.frozen: list[Domain] = []
        self.forked: dict[str, tuple[Path, Path]] = {}
        self.version = "one"
        self.cut: set[str] = set()
        self.error = ""

    def identity(self) -> str:
        return f"{self.version} {self.host.name}"

    def workplace(self, folder: str) -> FakeFiles | None:
        return None if self.host.machine is None else FakeFiles(self._host, folder)

    def workplaces(self) -> list[str]:
        return (
            [] if self.host.machine is None else [name for name, files in self._host.folders.items() if files]
        )

    def freeze(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        if work := self.workplace(domain.folder):
            work.make_raw("memory", memory_bytes(domain.memory))
        if self.error:
            raise VclustError(self.error)
        self.frozen.append(domain)
        state.write_bytes(os.urandom(16))
        if work is not None:
            return
        with open(folder / "memory", "wb") as memory:
            memory.truncate(memory_bytes(domain.memory))
        with open(domain.disks[0].path, "ab") as disk:
            disk.write(os.urandom(16))  # a real one has a machine-id of its own

    def fork(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        self._host.domains[domain.uuid] = domain
        if _node(domain) in self.failing:
            raise VclustError(f"{domain.name}: not ready after {timeout:g} s")
        self.forked[_node(domain)] = memory, state
        if _node(domain) in self.broken:
            self._host.failing.add(_node(domain))
        if _node(domain) in self.mute:
            self._host.mute.add(_node(domain))

    def suspend(self, domain: Domain, folder: Path, state: Path, timeout: float) -> None:
        self.freeze(domain, folder, state, timeout)

    def resume(self, domain: Domain, memory: Path, state: Path, timeout: float) -> None:
        self.fork(domain, memory, state, timeout)
        self._host.looks[domain.name] = 0  # it is yet to install

    def clear(self, uuids: Iterable[str]) -> list[str]:
        return [uuid for uuid in uuids if uuid in self.cut and self._host.domains.pop(uuid)]


class FakeHost:
    """Every node reports with the first look that it is installed, with the next that it is ready.

    But those named in `silent`, which stop, and in `failing`.  UUIDs in `stubborn` do not shut down, those named in
    `mute` run and say nothing.  Copies named in `full` do not fit on the disk.
    """

    accelerator = "kvm"
    forking: FakeForking | None = None
    cpus = 4096

    def __init__(self) -> None:
        self.domains: dict[str, Domain] = {}
        self.folders: dict[str, dict[str, int]] = {}
        self.virtual_sizes: dict[str, dict[str, int]] = {}
        self.segments: dict[str, Segment] = {}
        self.silent: set[str] = set()
        self.failing: set[str] = set()
        self.stubborn: set[str] = set()
        self.mute: set[str] = set()
        self.used: dict[str, float] = {}
        self.full: set[str] = set()
        self.disk_free = 1 << 50
        self.looks: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()

    def capacity(self) -> Capacity:
        return Capacity("amd64", self.cpus, 3 * 10**9, 1 << 44, 1 << 44, {}, self.disk_free, "kvm")

    def versions(self) -> dict[str, str]:
        return {"libvirt": "9.0.0", "hypervisor": "QEMU 7.2.0"}

    def running(self) -> set[str]:
        return {
            uuid for uuid, domain in self.domains.items() if domain.name.partition(".")[0] not in self.silent
        }

    def machine(self, uuid: str) -> tuple[int, int] | None:
        domain = self.domains.get(uuid)
        return None if domain is None else (domain.cpus, domain.memory)

    def processor_seconds(self) -> dict[str, float]:
        return {uuid: self.used.get(uuid, 0.0) for uuid in self.domains}

    def files(self, folder: str) -> FakeFiles:
        return FakeFiles(self, folder)

    def ensure_segment(self, segment: Segment) -> None:
        self.segments[segment.name] = segment

    def remove_segment(self, name: str) -> None:
        self.segments.pop(name, None)

    def start(self, domain: Domain) -> bool:
        self.calls["start"] += 1
        if self.forking is not None and _node(domain) in self.forking.broken | self.forking.mute:
            self.failing.discard(_node(domain))
            self.mute.discard(_node(domain))
        self.domains[domain.uuid] = domain
        return True

    def shutdown(self, uuid: str) -> bool:
        self.calls["shutdown"] += 1
        if uuid in self.stubborn:
            return True
        return self.domains.pop(uuid, None) is not None

    def remove(self, uuid: str) -> bool:
        return self.domains.pop(uuid, None) is not None

    def console(self, folder: str, domain: str, position: int = 0) -> bytes:
        node = domain.partition(".")[0]
        if node in self.silent or node in self.mute:
            text = b"kernel\n"
        elif node in self.failing:
            text = b"vclust: installer up=1\nvclust: failed disk: broken\n"
        else:
            text = b"vclust: installer up=1\nvclust: installed\n"
            if self.looks[domain]:
                text += b"vclust: ready up=2 packages=9\n"
            self.looks[domain] += 1
        return text[position:]

    def tell(self, uuid: str, script: str, timeout: float) -> str | None:
        return None

    def clear_consoles(self, folder: str, domains: Iterable[str]) -> None:
        self.calls["clear"] += len(list(domains))

    def close(self) -> None:
        self.calls["close"] += 1


class FakeNetworks:
    def __init__(self) -> None:
        self.segments: dict[str, int] = {}
        self.doors: dict[str, Door] = {}
        self.homes: dict[str, Share] = {}
        self.admitted: list[gateway.Admitted] = []
        self.left: list[Leftover] = []
        self.closed: tuple[str, ...] = ()
        """Why the gateway is not open."""

    def check_free(self, network: IPv4Network) -> None:
        pass

    def ensure(
        self,
        segment: str,
        number: int,
        network: IPv4Network,
        router: IPv4Address,
        tunnel: Segment | None = None,
    ) -> bool:
        new = segment not in self.segments
        self.segments[segment] = number
        return new

    def protect(self, segment: str, tunnel: Segment | None = None) -> None:
        assert segment in self.segments

    def let_out(self, segment: str, way: Way) -> tuple[str, ...]:
        assert segment in self.segments
        return ()

    def let_in(self, segment: str, door: Door) -> tuple[str, ...]:
        assert segment in self.segments
        self.doors[segment] = door
        return ()

    def serve_homes(self, segment: str, share: Share) -> bool:
        assert segment in self.segments
        new = segment not in self.homes
        self.homes[segment] = share
        return new

    def has_homes(self, segment: str) -> bool:
        return segment in self.homes

    def listen(self, segment: str, router: IPv4Address) -> socket.socket:
        assert segment in self.segments
        return bound("127.0.0.1", 0)

    def admit(self, store: Store) -> tuple[str, ...]:
        self.admitted = gateway.admitted(store)
        return self.closed

    def leftovers(self, store: Store) -> list[Leftover]:
        return self.left

    def is_whole(self, segment: str) -> bool:
        return segment in self.segments

    def remove(self, segment: str, number: int) -> bool:
        self.homes.pop(segment, None)
        return self.segments.pop(segment, None) == number


class FakeSession(Session):
    """A session with hosts `a` and `b`; `gone` names those that do not answer."""

    def __init__(self, site: Site) -> None:
        self.hosts = {"a": FakeHost(), "b": FakeHost()}
        self.fake_networks = FakeNetworks()
        self.gone: set[str] = set()
        self.begun: list[str] = []
        self.connects = self.logins = self.starts = self.stops = 0
        super().__init__(
            site,
            connect=self._fake_connect,
            networks=self.fake_networks,
            talk=self._log_in,
            start_daemons=self._start_daemons,
            make_ahead=lambda site, lock: self.begun.append(lock.digest),
            stop_daemons=self._stop_daemons,
        )

    def _fake_connect(self, site: Site, host: Any) -> Any:
        self.connects += 1
        if host.name in self.gone:
            raise VclustError(f"{host.name}: no route")
        return self.hosts[host.name]

    def _start_daemons(self) -> None:
        self.starts += 1

    def _stop_daemons(self) -> None:
        self.stops += 1

    def _log_in(self, argv: list[str], **options: object) -> "FakeLogin":
        self.logins += 1
        self.login = FakeLogin(self, argv[-3].rpartition("@")[2])
        return self.login

    @property
    def running(self) -> set[str]:
        """Names of the nodes with a domain."""
        return {_node(domain) for host in self.hosts.values() for domain in host.domains.values()}


class FakeLogin:
    """In place of the first node's shell: every login that it is asked for works, and there is no MPI."""

    def __init__(self, session: FakeSession, first: str) -> None:
        self._session, self._lines, self.output = session, list[str](), ""
        self.ended = first not in session.running  # another controller's destroy got so far
        self.tried, self._running, self.status = [first], set[str](), 255
        if self.ended:
            self.output = "ssh: no route to host\n"
        else:
            self._print(f"vclust: login {first} {first}")

    def there(self, name: str) -> str:
        """What logging in to that node comes to: its name."""
        return name if name in self._running else "ssh: No route to host"

    def _print(self, line: str) -> None:
        self._lines.append(line)
        self.output += f"{line}\n"

    def say(self, text: str) -> None:
        if text.startswith("try "):
            self._running = self._session.running
        for line in text.splitlines():
            word, _, rest = line.partition(" ")
            if word == "try":
                name = rest.split()[0]
                self.tried.append(name)
                self._print(f"vclust: login {name} {self.there(name)}")
            elif word == "mpi":
                number = rest.split()[0]
                self._print(f"vclust: mpi {number} none")
                self._print(f"vclust: done mpi {number}")

    def hear(self, timeout: float) -> list[str]:
        if not self._lines:
            time.sleep(timeout)
        lines, self._lines = self._lines, []
        return lines

    def close(self) -> None:
        self.ended = True


def _node(domain: Domain) -> str:
    return domain.name.partition(".")[0]
