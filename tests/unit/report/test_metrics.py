"""Metrics: what Prometheus' own parsers read of them, in both forms."""

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import parser as prometheus
from prometheus_client.openmetrics import parser as openmetrics
from report.told import an_overview

from vclust_py import request, timing
from vclust_py.errors import VclustError
from vclust_py.report import metrics
from vclust_py.site import PROJECT, Site, clusters
from vclust_py.site.session import Session

DASHBOARD = PROJECT / "docs/grafana-dashboard.json"


def figures(text: str = "") -> dict[str, Any]:
    told = an_overview(text=text)
    return {
        **{key: told[key] for key in ("time", "hosts", "clusters", "space", "cpu_overcommit")},
        "caches": told["caches"]["caches"],
        "creations": {"count": 40, "hits": 20, "installed": 10**9, "saved": 4 * 10**8},
        "phases": {"create": {"counts": [0, 2, 1] + [0] * 8 + [1], "seconds": 1234.5}},
        "failures": [{"of": "part", "phase": "ready", "reason": "timeout", "count": 3}],
        "chain": {"bytes": 5 * 10**8, "seconds": 12.5},
    }


Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(families: Any) -> Values:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def read(text: str) -> Values:
    return values(openmetrics.text_string_to_metric_families(text))


def value(found: Values, name: str, **labels: str) -> float:
    return found[name, frozenset({"site": "lab", **labels}.items())]


def test_openmetrics() -> None:
    text = metrics.text({"lab": figures()})
    assert text.endswith("# EOF\n")
    found = read(text)
    assert value(found, "vclust_clusters", state="ready") == 1
    assert value(found, "vclust_clusters", state="created") == 0
    assert value(found, "vclust_nodes", state="failed") == 1
    assert value(found, "vclust_phase_duration_seconds_bucket", phase="create", le="2.5") == 2
    assert value(found, "vclust_phase_duration_seconds_bucket", phase="create", le="1800.0") == 3
    assert value(found, "vclust_phase_duration_seconds_bucket", phase="create", le="+Inf") == 4
    assert value(found, "vclust_phase_duration_seconds_sum", phase="create") == 1234.5
    assert value(found, "vclust_node_failures_total", phase="ready", reason="timeout") == 3
    assert value(found, "vclust_cache_hits_total") == 20
    assert value(found, "vclust_chain_received_bytes_total") == 5e8
    assert [value(found, "vclust_host_up", host=host) for host in ("h0", "h1", "h2")] == [0, 1, 0]
    assert value(found, "vclust_host_reserved_cpus", host="h0") == 20
    # Of a host that never answered nothing more is known.
    assert ("vclust_host_cpus", frozenset({("site", "lab"), ("host", "h2")})) not in found


def test_both_forms_say_the_same() -> None:
    told = {"lab": figures(), "other": figures()}
    classic = values(prometheus.text_string_to_metric_families(metrics.text(told, "prometheus")))
    assert classic == read(metrics.text(told))


@pytest.mark.parametrize("form", metrics.FORMS)
def test_every_family_says_its_type_and_what_it_is(form: str) -> None:
    text = metrics.text({"lab": figures()}, form)
    for kind in ("TYPE", "HELP"):
        named = re.findall(rf"^# {kind} (\S+)", text, re.MULTILINE)
        assert len(named) == len(set(named)) == len(metrics.NAMES)
    for name in metrics.NAMES:
        assert re.fullmatch(r"vclust_[a-z_]+", name)
        assert not name.endswith(("_total", "_count", "_sum", "_bucket"))


def test_names_of_hosts_stay_labels() -> None:
    hostile = 'a"} 1\nvclust_evil 7\\'
    found = read(metrics.text({hostile: figures(hostile)}))
    assert not any(name == "vclust_evil" for name, _ in found)
    hosts = {dict(labels)["host"] for name, labels in found if name == "vclust_host_up"}
    assert hosts == {f'h{number}a"}} 1\\nvclust_evil 7\\' for number in range(3)}


@pytest.fixture
def session(tmp_path: Path) -> Any:
    with Session(Site(root=tmp_path)) as session:
        yield session


def test_a_site_that_was_never_used(session: Session) -> None:
    found = read(metrics.text({"lab": metrics.measure(session)}))
    assert value(found, "vclust_clusters", state="ready") == 0
    assert value(found, "vclust_creations_total") == 0
    assert not any(name.startswith("vclust_phase") for name, _ in found)


def test_runs_and_failures_are_counted(session: Session) -> None:
    asked = request.from_mapping({"hardware": {"number_of_nodes": 1}, "software": {"name": "one"}}, "test")
    clusters.register(session.store, asked)
    cluster = clusters.get(session.store, "one")
    for _ in range(2):
        with timing.phase(session.store, cluster, "image"):
            pass
    with timing.phase(session.store, cluster, "ready") as record:
        record.node("n1", 0, 900, "no report after 900 s; its console said nothing")
        record.node("n2", 0, 1, "done; with a warning")
    with pytest.raises(VclustError), timing.phase(session.store, cluster, "image"):
        raise VclustError("/x: not enough space on the file system /")
    with timing.phase(session.store, cluster, "distribute") as record:
        record.node("h1", 10, 14, count=4000)
        record.node("h2", 10, 12, count=4000)
    found = read(metrics.text({"lab": metrics.measure(session)}))
    assert value(found, "vclust_phase_duration_seconds_count", phase="image") == 2
    assert value(found, "vclust_phase_duration_seconds_bucket", phase="image", le="1.0") == 2
    assert value(found, "vclust_phase_failures_total", phase="image", reason="disk_full") == 1
    assert value(found, "vclust_node_failures_total", phase="ready", reason="timeout") == 1
    assert sum(number for (name, _), number in found.items() if name == "vclust_node_failures_total") == 1
    assert value(found, "vclust_chain_received_bytes_total") == 8000
    assert value(found, "vclust_chain_receive_seconds_total") == 6
    assert value(found, "vclust_clusters", state="requested") == 1


def test_a_reason_is_one_of_few() -> None:
    assert metrics.reason("failed: anything <b> a user \n wrote") == "other"
    assert metrics.reason("interrupted") == "interrupted"


def test_buckets_rise() -> None:
    assert list(metrics.BUCKETS) == sorted(set(metrics.BUCKETS))
    assert all(math.isfinite(end) for end in metrics.BUCKETS)


def expressions(node: Any) -> list[str]:
    if isinstance(node, dict):
        return [
            value for key, value in node.items() if key in ("expr", "query") and isinstance(value, str)
        ] + [one for value in node.values() for one in expressions(value)]
    return [one for value in node for one in expressions(value)] if isinstance(node, list) else []


def test_the_dashboard_asks_for_metrics_that_are_there() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    there = {name for name, _ in read(metrics.text({"lab": figures()}))} | {"vclust_phase_failures_total"}
    asked = set(re.findall(r"vclust_[a-z_]+", " ".join(expressions(dashboard))))
    assert asked
    assert asked <= there
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    assert all(panel["title"] for panel in dashboard["panels"])
