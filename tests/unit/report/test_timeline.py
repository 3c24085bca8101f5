"""Runs, what they waited for, the clock without pauses, and rows."""

from hypothesis import given
from hypothesis import strategies as st
from report.told import BEGUN, a_cluster, part, phase

from vclust_py.report import timeline


def test_parts_belong_to_the_run_that_they_began_in() -> None:
    phases = [phase("create", 0, 5, "failed: full"), phase("ready", 5, 1), phase("create", 100, 5)]
    parts = [part("create", "a", 1, 1), part("create", "a", 101, 1), part("create", "b", 102, 3)]
    first, between, second = timeline.runs(phases, [*parts, part("ready", "a", 5, 1)])
    assert [one.start - BEGUN for one in first.parts] == [1]
    assert [one.name for one in between.parts] == ["a"]
    assert [one.start - BEGUN for one in second.parts] == [101, 102]


def test_a_run_waits_for_what_ends_last() -> None:
    parts = [part("create", "quick", 3, 1), part("create", "early", 0, 2), part("create", "last", 1, 4)]
    (run,) = timeline.runs([phase("create", 0, 6)], parts)
    assert run.critical is not None
    assert run.critical.name == "last"
    (run,) = timeline.runs([phase("resolve", 0, 6)], parts)
    assert run.critical is None


spans = st.lists(st.tuples(st.floats(0, 1000), st.floats(0.1, 100)), min_size=1, max_size=8)


@given(spans, st.floats(-10, 1200))
def test_the_clock_counts_what_some_run_or_short_pause_covers(
    runs: list[tuple[float, float]], time: float
) -> None:
    done = timeline.runs([phase("create", start, seconds) for start, seconds in sorted(runs)], [])
    clock = timeline.clock(done)
    assert 0 <= clock.at(BEGUN + time) <= clock.seconds + 1e-6
    assert clock.at(BEGUN + time) <= clock.at(BEGUN + time + 5) + 1e-9
    pauses = sum(seconds for _, seconds in clock.pauses)
    begun, ended = min(run.start for run in done), max(run.end for run in done)
    assert abs(clock.seconds + pauses - (ended - begun)) < 1e-3
    for run in done:
        # A run itself is never cut.
        assert abs(clock.at(run.end) - clock.at(run.start) - run.seconds) < 1e-3
    assert all(seconds >= 5 for _, seconds in clock.pauses)


def rows(nodes: int, hosts: int, failed: int) -> list[timeline.Row]:
    told = a_cluster(nodes, hosts, failed=failed)
    runs = timeline.runs(told["phases"], told["node_phases"])
    return timeline.rows(runs, {node["name"]: node["host"] for node in told["nodes"]})


def test_each_has_a_row_where_there_are_few() -> None:
    found = rows(4, 2, 0)
    assert [row.label for row in found] == ["host h0", "host h1"] + [
        f"n0000{n} on h{n % 2}" for n in range(4)
    ]
    assert all(len(row.bars) == 3 for row in found[2:])


def test_of_many_those_have_rows_that_say_something() -> None:
    found = rows(1000, 3, 2)
    assert len(found) < timeline.ROWS
    labels = [row.label for row in found]
    assert any(label.startswith("n00998") for label in labels)
    assert sum(any(bar.critical for bar in row.bars) for row in found) >= 3
    together = [row for row in found if "other nodes on" in row.label]
    assert len(together) == 3
    shown = sum(label.startswith("n0") for label in labels)
    assert sum(int(row.label.split()[0]) for row in together) + shown == 1000
    for row in together:
        for bar in row.bars:
            assert bar.middle is not None
            assert bar.start <= bar.middle <= bar.end


def test_on_many_hosts_the_others_share_two_rows() -> None:
    found = rows(1000, 100, 0)
    assert [row.label.split(" ", 1)[1] for row in found[-2:]] == ["other hosts", "other nodes on 100 hosts"]
