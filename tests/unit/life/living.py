"""Clusters that are ready, on hosts that only keep books."""

import hashlib
import io
import re
import socket
import tarfile

from cache.cachesite import make_base
from fakehost import FakeSession
from repository import KERNEL, Repository

from vclust_py import request as requests
from vclust_py.errors import VclustError
from vclust_py.hypervisor import Host
from vclust_py.phases import ORDER, Inputs, phase
from vclust_py.request import Request
from vclust_py.site import Site, clusters
from vclust_py.site.clusters import Cluster

HOSTS = (Host("a"), Host("b"))


def a_site(toy: Repository, site: Site) -> FakeSession:
    make_base(site)
    return FakeSession(site)


def a_request(name: str = "one", nodes: int = 2, hardware: object = None, **software: object) -> Request:
    asked = {"number_of_nodes": nodes, "ram": "512MB", "disk": "4GB", **(hardware or {})}  # type: ignore[dict-item]
    words = {"name": name, "suite": "toy", "kernel": KERNEL, "network": "10.20.0.0/24", **software}
    return requests.from_mapping({"hardware": asked, "software": words}, "test")


def created(session: FakeSession, request: Request | None = None, last: str = "ready") -> Cluster:
    """The request's cluster, which has come as far as the phase `last`; its nodes are on the hosts `a` and `b`."""
    asked, lock = request or a_request(), ""
    for word in ORDER[: ORDER.index(last) + 1]:
        result = phase(word)(session, Inputs(asked.name, request=asked, lock=lock, hosts=HOSTS))
        lock = result.facts["lock"] if word == "resolve" else lock
    return clusters.get(session.store, asked.name)


def states(session: FakeSession, name: str = "one") -> list[str]:
    return [str(node.state) for node in clusters.get(session.store, name).nodes]


def crash(session: FakeSession, cluster: Cluster, *positions: int) -> None:
    """These nodes end."""
    for node in cluster.nodes:
        if node.position in positions:
            session.hosts[node.host].remove(node.uuid)


def another(session: FakeSession) -> FakeSession:
    """A second session on the same site, hosts and networks: another process."""
    new = FakeSession(session.site)
    new.hosts, new.gone = session.hosts, session.gone
    new.networks = new.fake_networks = session.fake_networks
    return new


def fetched(script: str) -> bytes:
    """What a node would fetch that is given this script."""
    address, port, size = re.findall(r"/dev/tcp/(\S+)/(\d+).*?\bcount=(\d+)", script, re.DOTALL)[0]
    (token,) = re.findall("^[0-9a-f]{32}$", script, re.MULTILINE)
    with socket.create_connection((address, int(port)), 10) as connection:
        connection.sendall(f"{token}\n".encode())
        with connection.makefile("rb") as stream:
            data = stream.read()
    assert (len(data), hashlib.blake2b(data).hexdigest() in script) == (int(size), True)
    return data


class Told:
    """In place of logins: what nodes are told."""

    def __init__(self, session: FakeSession) -> None:
        self.session = session
        self.nodes: list[tuple[str, int]] = []
        self.away: set[str] = set()
        self.packages: list[list[str]] = []
        """Names in the archives that came with it."""
        session.run = self  # type: ignore[assignment]

    def __call__(self, argv: list[str], *, stdin: str, **options: object) -> str:
        if "VCLUST_PACKAGES=" in stdin:
            with tarfile.open(fileobj=io.BytesIO(fetched(stdin))) as archive:
                self.packages.append(archive.getnames())
        found = re.search(r"^generation=(\d+)$", stdin, re.MULTILINE)
        assert found is not None
        node = argv[-3].removeprefix("root@")
        if node in self.away:
            raise VclustError(f"ssh: {node}: no route")
        self.nodes.append((node, int(found[1])))
        return f"vclust: generation {found[1]}\n"
