"""What is missing, said so that a reader knows what to do; amounts against a brute-force twin."""

import itertools
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_placement import GB, NODE, a_request, free

from vclust_py.errors import CapacityError
from vclust_py.free_capacity import FreeCapacity
from vclust_py.hypervisor import Host
from vclust_py.placement import assign


def said(request: object, *hosts: FreeCapacity, errors: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(CapacityError) as caught:
        assign(request, hosts, errors)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("hardware", "left", "expected"),
    [
        ({"ram": "20GB"}, {}, "alpha: has 16000 MB of memory left, a node takes 20067"),
        ({"disk": "200GB"}, {}, "alpha: has 100000 MB of disk left, a node takes 200000"),
        ({"cpus": 5}, {}, "alpha: 4 CPUs, asked for 5 in one node"),
        ({"cpus": 4}, {"cpus": 3}, "alpha: has 3 virtual CPUs left, a node takes 4"),
        ({"cpu_speed": "4GHz"}, {}, "alpha: 3.00 GHz, asked for 4.00 GHz"),
        ({"cpu_arch": "arm64"}, {}, "alpha: amd64, asked for arm64"),
    ],
)
def test_what_a_host_lacks_is_named(hardware: dict[str, object], left: dict[str, int], expected: str) -> None:
    assert said(a_request(1, **hardware), free("alpha", **left))[1].strip().startswith(expected)  # type: ignore[arg-type]


def test_a_kind_of_guest_that_the_host_cannot_run() -> None:
    host = replace(free("a", accelerator="xen", guests=("pv",)), host=Host("a", "xen:///system", "pvh"))
    assert "  a: pv guests, vclust_xen_guest says pvh" in said(a_request(1), host)


def test_one_sentence_says_what_is_missing_and_which_host_is_nearest() -> None:
    hosts = [free(f"n{i}", (8 * i + 2) * GB) for i in range(3)] + [free("slow", cpu_speed=2 * GB)]
    lines = said(a_request(6, ram="8GB", cpu_speed="3GHz"), *hosts)
    # Two nodes fit on n2, one on n1; the last three are 6.07 + 6.14 + 6.21 GB short.
    assert lines == [
        "test: only 3 of 6 nodes fit: needs 18.5 GB of memory more on hosts with >= 3 GHz;"
        " the nearest: n0 lacks 6.1 GB of memory for one",
        "  n0, n1, n2: have 1865 to 2000 MB of memory left, a node takes 8067 (8000 of its own, 67 for the hypervisor)",
        "  slow: 2.00 GHz, asked for 3.00 GHz",
        "  hint: ask for less, or add a host to the inventory: nothing runs on these that could go",
    ]


def test_hosts_are_grouped_by_reason() -> None:
    drained = [replace(free(f"d{i}"), host=Host(f"d{i}", state="drain")) for i in range(3)]
    full = [free(f"f{i:02}", i * 10**7) for i in range(60)]
    lines = said(a_request(1), *full, *drained, errors={f"x{i}": f"x{i}: no route" for i in range(5)})
    assert lines[1:-1] == [
        "  f00, f01, f02 and 57 more: have 0 to 590 MB of memory left, a node takes 1067"
        " (1000 of its own, 67 for the hypervisor)",
        "  d0, d1, d2: drained, takes no new nodes (vclust_host_state)",
        "  x0, x1, x2 and 2 more: do not answer, the first says: x0: no route",
    ]


def test_no_host_qualifies() -> None:
    lines = said(a_request(1, cpu_speed="4GHz"), free("a"), errors={"x": "x: no route"})
    assert lines[:3] == [
        "test: only 0 of 1 nodes fit: no host qualifies",
        "  a: 3.00 GHz, asked for 4.00 GHz",
        "  x: does not answer: x: no route",
    ]


def test_the_hint_is_one_that_helps() -> None:
    assert said(a_request(1, cpus=5), free("a"))[-1] == (
        "  hint: ask for hardware that a host has, or add one that has it to the inventory"
    )
    empty, busy = free("a", GB // 2), replace(free("a", GB // 2), busy=1)
    assert "nothing runs on these that could go" in said(a_request(1), empty)[-1]
    assert said(a_request(1), busy)[-1] == "  hint: ask for less, or destroy a cluster (`vclust list`)"


def test_at_most_one_node_a_host_may_want_more_hosts() -> None:
    lines = said(a_request(4, spread="hosts"), free("a"), free("b", GB // 2))
    assert lines[0] == (
        "test: only 1 of 4 nodes fit: needs 568 MB of memory more and 2 more hosts (Spread: hosts);"
        " the nearest: b lacks 568 MB of memory for one"
    )
    assert said(a_request(2, spread="hosts"), free("a"))[0].endswith("needs 1 more host (Spread: hosts)")


@given(
    st.lists(st.integers(-2, 6), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(1, 6),
    st.sampled_from(["any", "hosts"]),
)
def test_what_is_missing_is_the_least_that_would_do(
    left: list[int], cpus: int, number: int, spread: str
) -> None:
    hosts = [free(f"h{i}", 100 * NODE, count) for i, count in enumerate(left)]
    request = a_request(number, cpus=cpus, spread=spread)
    try:
        assign(request, hosts)
    except CapacityError as error:
        most = 1 if spread == "hosts" else number
        placements = [
            counts
            for counts in itertools.product(range(most + 1), repeat=len(left))
            if sum(counts) == min(number, most * len(left))
            # What fits now stays where it fits.
            and all(n >= min(max(have // cpus, 0), most) for n, have in zip(counts, left, strict=True))
        ]
        least = min(
            sum(max(n * cpus - have if n else 0, 0) for n, have in zip(counts, left, strict=True))
            for counts in placements
        )
        found = re.search(r"needs (\d+) virtual CPUs? more", str(error))
        assert int(found[1] if found else 0) == least
        more = re.search(r"(\d+) more hosts?", str(error))
        assert int(more[1] if more else 0) == max(number - most * len(left), 0)
