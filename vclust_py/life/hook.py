"""The site's own program (`vclust_site.hook`) that is told what happens to clusters by itself: to mail it, say."""

import json
import logging
import time
from collections.abc import Callable
from typing import Any

from vclust_py.errors import VclustError
from vclust_py.site import Site
from vclust_py.site.clusters import Cluster

_log = logging.getLogger(__name__)
_TIMEOUT = 30.0


def tell(run: Callable[..., str], site: Site, event: str, cluster: Cluster, **facts: Any) -> None:
    """Run the program with one JSON object on standard input; that it fails is logged, and changes nothing.

    Keys: `event` (lease-warning, lease-ended, lease-removed, idle-ended, node-failed, node-restarted, node-given-up,
    node-replaced, network-repaired, homes-served), `time` and `ends` (Unix times; null: no lease), `cluster`, `owner`,
    `project`, `users`, and the event's own `facts`.
    """
    if site.hook is None:
        return
    told = {
        "event": event,
        "time": time.time(),
        "cluster": cluster.name,
        "owner": cluster.owner,
        "project": cluster.project,
        "users": [user.name for user in cluster.request.software.users],
        "ends": cluster.ends,
        **facts,
    }
    try:
        run([str(site.hook)], stdin=json.dumps(told), timeout=_TIMEOUT)
    except (VclustError, OSError) as error:
        _log.warning("%s: %s", site.hook, error)
