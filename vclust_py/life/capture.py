"""What packages are in a running cluster beyond its lock: the request, or meta package, that would have them too."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from vclust_py import metapackages
from vclust_py import request as requests
from vclust_py.access import program_login
from vclust_py.change import Change
from vclust_py.errors import RequestError, VclustError
from vclust_py.lock import Lock
from vclust_py.phases import Inputs, Result
from vclust_py.request import values
from vclust_py.request.accounts import NO_PASSWORD
from vclust_py.resolve import unknown_names
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session
from vclust_py.site.states import NodeState

_TIMEOUT = 300.0
_MOST = 32 << 20
"""Bytes that a node may say; 10,000 packages are 3 million."""
_SCRIPT = r"""set -eu
export LC_ALL=C
dpkg-query -W -f='${db:Status-Status}\t${Package}\t${Provides}\t${Pre-Depends}, ${Depends}\n'
apt-mark showmanual | sed 's/^/manual\t/'
"""


@dataclass(frozen=True)
class Installed:
    """What a node has: by name of each package what it depends on, each as names of which one is enough."""

    depends: Mapping[str, tuple[frozenset[str], ...]]
    provides: Mapping[str, frozenset[str]]
    """By name of a virtual package those that provide it."""
    manual: frozenset[str]
    """Those that somebody has asked apt for."""


def run(session: Session, inputs: Inputs) -> Result:
    """The cluster's request with the packages that its first node has now, in `request`, which changes nothing.

    `added` are packages that its request does not name, `removed` those that are not there any more.  Packages that
    others need are left out: they come by themselves.  Password hashes are left out, too.  The result warns of packages
    that the site's archives do not have.  Raises RequestError when there is no such cluster, it is somebody else's, or
    no node of it is ready; VclustError when the node cannot be asked.
    """
    store = session.store
    cluster = clusters.get(store, inputs.name)
    clusters.require_access(store, cluster)
    node = next((one for one in cluster.nodes if one.state is NodeState.READY), None)
    if node is None:
        raise RequestError(
            [f"{cluster.name}: got no node that is ready, expected one whose packages can be read"]
        )
    installed = parse(node.name, _ask(session, cluster, node))
    named, lock = cluster.request.software.packages, Lock.load(session.site, cluster.lock)
    known = {*lock.installed(), *(name for one in _bundles(session, cluster) for name in one.packages)}
    added = sorted(asked_for(installed, known))
    removed = [name for name in named if name not in installed.depends]
    packages = (*(name for name in named if name not in removed), *added)
    users = tuple(replace(user, password_hash=NO_PASSWORD) for user in cluster.request.software.users)
    software = replace(cluster.request.software, packages=packages, users=users)
    facts = {
        "request": requests.to_mapping(replace(cluster.request, software=software)),
        "node": node.name,
        "added": added,
        "removed": removed,
        "without_hash": [
            user.name for user in cluster.request.software.users if user.password_hash != NO_PASSWORD
        ],
    }
    warnings = unknown_names(
        added, suite=lock.suite, architecture=lock.architecture, site=session.site, report=lambda *_: None
    )
    return Result(Change({}, {}), facts, tuple(warnings))


def _bundles(session: Session, cluster: Cluster) -> tuple[metapackages.MetaPackage, ...]:
    return metapackages.expand(cluster.request, session.site)


def _ask(session: Session, cluster: Cluster, node: Node) -> str:
    access = way_in(session.store, cluster)
    argv = program_login(access, node.name, node.address, "sh", "-s")
    return session.run(argv, stdin=_SCRIPT, timeout=_TIMEOUT, limit=_MOST)


def parse(node: str, output: str) -> Installed:
    """What the script printed in the node.  Raises VclustError for what no package can be called."""
    depends = dict[str, tuple[frozenset[str], ...]]()
    provides, manual = dict[str, set[str]](), set[str]()
    for line in output.splitlines():
        what, _, rest = line.partition("\t")
        if what == "manual":
            manual.add(rest.partition(":")[0])
        elif what == "installed" and rest.count("\t") == 2:
            name, virtual, needed = rest.split("\t")
            try:
                values.package(name)
            except values.Wrong as wrong:
                raise VclustError(
                    f"{node}: got {values.shown(name)} as a package, expected {wrong.expected}"
                ) from None
            depends[name] = tuple(_names(part, "|") for part in needed.split(",") if part.strip())
            for other in _names(virtual, ","):
                provides.setdefault(other, set()).add(name)
    if not depends:
        raise VclustError(f"{node}: got no packages from dpkg-query, expected some")
    return Installed(
        depends, {name: frozenset(providers) for name, providers in provides.items()}, frozenset(manual)
    )


def _names(text: str, between: str) -> frozenset[str]:
    """Names of packages in a field of dpkg's, without versions and architectures."""
    words = (re.split(r"[\s(:\[]", part.strip(), maxsplit=1)[0] for part in text.split(between))
    return frozenset(word for word in words if word)


def asked_for(installed: Installed, known: Iterable[str]) -> set[str]:
    """The fewest of the node's packages, beside those `known`, that bring all others with them.

    First those that somebody has asked for, then those that no other one needs, in the order of their names.
    """
    reached, more = _needed(installed, known), installed.depends.keys() - set(known)
    needed = {
        name
        for one in more
        for choice in installed.depends[one]
        for name in _given(installed, choice)
        if name != one
    }
    chosen = set[str]()
    for name in sorted(more, key=lambda name: (name not in installed.manual, name in needed, name)):
        if name not in reached:
            chosen.add(name)
            reached |= _needed(installed, [name])
    # What was asked for first may have come with what was asked for later.
    for name in sorted(chosen):
        if name in _needed(installed, chosen - {name}):
            chosen.remove(name)
    return chosen


def _needed(installed: Installed, names: Iterable[str]) -> set[str]:
    """These packages, and all that they depend on, as far as the node has them."""
    found, waiting = set[str](), [name for name in names if name in installed.depends]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [one for choice in installed.depends[name] for one in _given(installed, choice)]
    return found


def _given(installed: Installed, choice: frozenset[str]) -> set[str]:
    """What the node has of a choice, itself or by what provides it."""
    virtual = (one for name in choice for one in installed.provides.get(name, ()))
    return {*(name for name in choice if name in installed.depends), *virtual}
