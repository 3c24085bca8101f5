"""What a site and its clusters did, as one page each that needs nothing else, and as figures for Prometheus.

overview   what a site has and did, as plain data
timeline   the runs of a cluster's phases, what each waited for, and a clock without the pauses between them
charts     pictures, SVG with text
page       the pages: cluster.html.j2, site.html.j2, and page.html.j2 around both
metrics    figures in the text form of OpenMetrics
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

# The rest is imported where it is used: who reads figures need not wait for pages.

if TYPE_CHECKING:
    from vclust_py.site.clusters import Cluster
    from vclust_py.site.session import Session
    from vclust_py.site.store import Store

_FILE = "report.html"


def read(session: "Session", *, metrics: bool = False) -> dict[str, Any]:
    """What a site's report (`overview`), or with `metrics` its metrics (`figures`), are made of, as plain data."""
    if metrics:
        from vclust_py.report.metrics import measure

        return {"figures": measure(session)}
    from vclust_py.report.overview import overview

    return {"overview": overview(session, history=True)}


def path(store: "Store", cluster: "Cluster") -> Path:
    """Where the site keeps the page that is written when a cluster is ready."""
    from vclust_py.site import clusters

    return clusters.folder(store, cluster) / _FILE


def write(store: "Store", cluster: "Cluster") -> None:
    """Write the cluster's page there, for root only.  Raises OSError, mostly on a full disk."""
    from vclust_py.report import page
    from vclust_py.site.describe import describe

    file = path(store, cluster)
    draft = file.with_name(f"{file.name}.tmp")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    (told,) = describe(store, cluster.name)
    draft.write_text(page.cluster(told), encoding="utf-8")
    draft.replace(file)
