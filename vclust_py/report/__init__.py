"""What a site and its clusters did, as one page each that needs nothing else, and as figures for Prometheus.

overview   what a site has and did, as plain data
timeline   the runs of a cluster's phases, what each waited for, and a clock without the pauses between them
charts     pictures, SVG with text
page       the pages: cluster.html.j2, site.html.j2, and page.html.j2 around both
metrics    figures in the text form of OpenMetrics
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vclust_py.site.session import Session


def read(session: "Session", *, metrics: bool = False) -> dict[str, Any]:
    """What a site's report (`overview`), or with `metrics` its metrics (`figures`), are made of, as plain data."""
    if metrics:
        from vclust_py.report.metrics import measure

        return {"figures": measure(session)}
    from vclust_py.report.overview import overview

    return {"overview": overview(session, history=True)}
