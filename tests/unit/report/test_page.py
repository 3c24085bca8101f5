"""The pages: well-formed, by themselves, bounded, and text of others stays text."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.markup import Page
from report.told import a_cluster, an_overview

from vclust_py.phases import ORDER
from vclust_py.report import page

HOSTILE = "</pre></svg><script>alert(1)</script><img src=x onerror=alert(1)> & \" ' {{ 7 * 7 }} \x1b[31m\u202e\u2028"


def headings(markup: str) -> list[int]:
    return [int(level) for level in re.findall(r"<h([1-6])[ >]", markup)]


def test_a_cluster() -> None:
    made = page.cluster(a_cluster(), "lab")
    found = Page(made)
    assert found.count("svg") == 5
    assert "◆ n0000" in found.text
    assert "n00003 on h1 ✗" in found.text
    assert "image: 20.2 s, expected 18.0 ± 2.0 s" in found.text
    assert "h1: 120 MB in 4.5 s, 27 MB/s" in found.text
    assert "saved installing\n410 MB of 620 MB, some 31 s." in found.text
    assert "pause of 60 min" in found.text
    assert "[ 1.0] Linux\nkernel panic" in found.text
    assert headings(made)[:2] == [1, 2]


def test_every_phase_has_a_colour_by_day_and_by_night() -> None:
    style = page.cluster(a_cluster(), "lab").partition("</style>")[0]
    for phase in (*ORDER, "destroy"):
        assert len(re.findall(rf" --{phase}: #[0-9a-f]{{6}};", style)) == 2, phase
        assert f".p-{phase} {{ fill: var(--{phase});" in style


def test_a_site() -> None:
    found = Page(page.site(an_overview(), "lab"))
    assert found.count("svg") == 7  # two of them are parts of others
    assert "h0: 24 of 64 virtual CPUs, 2 h ago" in found.text
    assert "alice" in found.text
    assert "h2: no route to host" in found.text
    assert "40 requests" in found.text


def a_new_cluster() -> dict[str, Any]:
    nothing = {"phases": [], "node_phases": [], "nodes": [], "cache": {}, "estimate": {}, "consoles": {}}
    return a_cluster() | nothing | {"strategy": "", "detail": "", "state": "requested"}


def test_too_little_to_draw_is_said_in_words() -> None:
    found = Page(page.cluster(a_new_cluster(), "lab"))
    assert found.count("svg") == 0
    for words in ("No phase has run yet", "Nothing\nwas expected", "Nothing was sent", "Not chosen yet"):
        assert words in found.text
    told = an_overview(0, 0)
    told |= {"clusters": [], "space": told["space"] | {"free": None}}
    told["caches"]["caches"] = []
    found = Page(page.site(told, "lab"))
    assert found.count("svg") == 0
    for words in (
        "No host has been asked",
        "There are none",
        "Nothing was created",
        "no request was recorded",
    ):
        assert words in found.text


@pytest.mark.parametrize(
    ("closures", "why"),
    [
        ([[0]], "all requests so far are the same one"),
        ([[0], [0]], "all requests so far are the same one"),
        ([[0], [1]], "no two of 2 requests have anything in common"),
    ],
)
def test_a_history_without_a_tree_is_no_empty_frame(closures: list[list[int]], why: str) -> None:
    told = an_overview()
    told["caches"]["history"]["requests"] = [{"closure": closure} for closure in closures]
    found = Page(page.site(told, "lab"))
    assert why in found.text
    assert "history" not in found.ids


def test_a_site_whose_past_requests_cannot_be_had_says_why() -> None:
    told = an_overview()
    del told["caches"]["history"]
    assert "the index is gone" in Page(page.site(told | {"history_error": "the index is gone"}, "lab")).text


def test_one_creation_is_no_course_of_time() -> None:
    told = an_overview(requests=1)
    found = Page(page.site(told, "lab"))
    assert "With one creation" in found.text
    assert "usage" not in found.ids


def test_of_many_hosts_the_fullest_are_drawn() -> None:
    told = an_overview(2000)
    told["hosts"][1500]["cpus"] = 60
    made = page.site(told, "lab")
    assert len(made.encode()) < 2_000_000
    found = Page(made)
    assert "Drawn are the 60 with most CPUs promised." in found.text
    assert "h1500: 64 of 64 virtual CPUs" in found.text


def test_what_others_wrote_stays_text() -> None:
    for made in (
        page.cluster(a_cluster(text=HOSTILE), HOSTILE),
        page.site(an_overview(text=HOSTILE), HOSTILE),
    ):
        found = Page(made)
        assert "<script>alert(1)</script>" in found.text
        assert "{{ 7 * 7 }}" in found.text
        assert not set(made) & set("\x1b\u202e\u2028")


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=300))
def test_any_text_leaves_a_page_well_formed(text: str) -> None:
    Page(page.cluster(a_cluster(2, text=text) | {"name": text}, text))
    told = an_overview(requests=2, text=text)
    told["caches"]["history"]["packages"][0]["name"] = text
    Page(page.site(told, text))


def test_a_console_is_bounded() -> None:
    told = a_cluster()
    told["consoles"] = {"n00003": "x" * 10**6}
    assert len(page.cluster(told, "lab")) < 50_000


@pytest.mark.parametrize(("nodes", "hosts", "failed"), [(1000, 2, 5), (1000, 300, 1000), (3000, 40, 1500)])
def test_a_large_cluster_has_few_rows_and_few_bytes(nodes: int, hosts: int, failed: int) -> None:
    made = page.cluster(a_cluster(nodes, hosts, failed=failed), "lab")
    assert len(made.encode()) < 2_000_000
    found = Page(made)
    assert found.count("rect") < 1000
    assert found.count("svg") < 12
    assert found.count("tr") < 1500
    if nodes > page.MOST_ROWS:
        assert f"the first {page.MOST_ROWS}" in found.text
    assert found.count("pre") == 2 * min(failed, 20)


def test_what_has_not_ended_is_drawn_until_now() -> None:
    told = a_cluster()
    told["phases"][-1] |= {"end": None, "outcome": "running"}
    assert "running" in Page(page.cluster(told, "lab")).text
