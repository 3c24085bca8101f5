"""What a node's console has said, from its start on and while it says more."""

import time
from collections.abc import Iterator

from vclust_py.errors import RequestError, VclustError
from vclust_py.hypervisor import Host
from vclust_py.nodes import domain_name
from vclust_py.site import clusters
from vclust_py.site.clusters import Node
from vclust_py.site.session import Session
from vclust_py.text import DETAIL, plain

_POLL = 0.5
_QUIET = 2
"""Looks without anything new after which a line without an end, such as a prompt, is shown."""


def lines(session: Session, name: str, node: str, *, follow: bool = False) -> Iterator[str]:
    """The console of the cluster's node of that name, by lines fit for a terminal; with `follow` without end.

    A console that grew too long begins anew where it was cut.  Raises RequestError when there is no such node, or the
    cluster is somebody else's, VclustError when its host does not answer.
    """
    cluster = clusters.get(session.store, name)
    clusters.require_access(session.store, cluster)
    found = next((one for one in cluster.nodes if one.name == node), None)
    if found is None:
        known = ", ".join(one.name for one in cluster.nodes) or "none"
        raise RequestError([f"{node}: no such node of {name}; there are: {known}"])
    drivers, errors = session.drivers([_host(found)])
    if errors:
        raise VclustError(str(errors[found.host]))
    driver, folder = drivers[found.host], clusters.folder(session.store, cluster).name
    domain, position, rest, quiet = domain_name(cluster, found), 0, b"", 0
    while True:
        new = driver.console(folder, domain, position)
        position += len(new)
        *whole, rest = (rest + new).split(b"\n")
        yield from map(_shown, whole)
        quiet = 0 if new else quiet + 1
        if rest and (quiet == _QUIET or (not new and not follow)):
            yield _shown(rest)
            rest = b""
        if not new:
            if not follow:
                return
            if position and not driver.console(folder, domain, position - 1):
                position = 0  # started again
            time.sleep(_POLL)


def _host(node: Node) -> Host:
    return Host(node.host, node.uri, node.guest)


def _shown(line: bytes) -> str:
    """What a carriage return has overwritten nobody would see either."""
    text = line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")
    return plain(text, DETAIL)
