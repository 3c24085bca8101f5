"""Which updates the site's archives have for what clusters were made of."""

import time

from vclust_py.errors import VclustError
from vclust_py.lock import Lock
from vclust_py.resolve import newer
from vclust_py.site import clusters
from vclust_py.site.session import Session
from vclust_py.timing import Report


def look(session: Session, report: Report) -> list[str]:
    """Write down for each live cluster which packages of its lock are older than those of the index, by name.

    `updates` and, among these, `security`; `time` is when.  Where it cannot be found out a line says why, and what was
    known stays, with its time.
    """
    problems = []
    for cluster in clusters.live(session.store):
        if not cluster.lock:
            continue
        try:
            lock = Lock.load(session.site, cluster.lock)
            found = newer(
                lock.installed(),
                suite=lock.suite,
                architecture=lock.architecture,
                site=session.site,
                report=report,
            )
        except VclustError as error:
            problems.append(f"not looked for updates of {cluster.name}: {error}")
            continue
        security = sorted(name for name, for_security in found.items() if for_security)
        known = {"updates": sorted(found), "security": security, "time": time.time()}
        clusters.update(session.store, cluster, updates=known)
    return problems
