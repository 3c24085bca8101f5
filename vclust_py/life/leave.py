"""What runs on nodes is told, by the meta packages' `leave`, that some of them go."""

import shlex
from collections.abc import Sequence

from vclust_py import metapackages
from vclust_py.access import program_login
from vclust_py.site.clusters import Cluster, Node
from vclust_py.site.describe import way_in
from vclust_py.site.session import Session

_DRAIN = 900.0
"""Seconds that nodes may take to be free of what they are at."""


def announce(session: Session, cluster: Cluster, nodes: Sequence[Node], *, back: bool = False) -> None:
    """Let the first node know that these nodes go; wait until they may.

    With `back` they come back: then only meta packages with a `resume` are asked.  Raises VclustError where nodes are
    still in use when the time is over.
    """
    scripts = [
        bundle.leave
        for bundle in metapackages.expand(cluster.request, session.site)
        if bundle.leave is not None and (bundle.resume is not None or not back)
    ]
    if not scripts:
        return
    first, access = cluster.nodes[0], way_in(session.store, cluster)
    argv = program_login(access, first.name, first.address, "sh", "-s")
    names = ",".join(node.name for node in nodes)
    for script in scripts:
        text = f"set -eu\nexport VCLUST_LEAVING={shlex.quote(names)}\n{script}\n"
        session.run(argv, stdin=text, timeout=_DRAIN)
