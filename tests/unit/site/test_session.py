"""Many hosts at once."""

import os
import signal
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from vclust_py.errors import VclustError
from vclust_py.site import Site, hosts
from vclust_py.site.session import Session, fan_out

SESSION = Session(Site())


def at_once(items: int, hosts: int | None = None) -> int:
    """How many of the items were worked on at the same moment."""
    mutex, now, most = threading.Lock(), 0, 0

    def work(_: int) -> None:
        nonlocal now, most
        with mutex:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with mutex:
            now -= 1

    SESSION.side_by_side(work, range(items), hosts=hosts)
    return most


def test_many_hosts_work_side_by_side_and_no_host_is_flooded() -> None:
    assert at_once(20) > fan_out(1)
    assert 1 < at_once(40, hosts=1) <= fan_out(1)
    assert fan_out(10_000) == fan_out(1000)


def test_results_come_in_order_and_the_first_error_is_raised() -> None:
    assert SESSION.side_by_side(lambda number: number * 2, range(50)) == list(range(0, 100, 2))

    def work(number: int) -> None:
        time.sleep(0.01 * (3 - number))
        raise VclustError(f"h{number}")

    with pytest.raises(VclustError, match=r"^h0$"):
        SESSION.side_by_side(work, range(3))


class Placed(NamedTuple):
    host: str


def test_a_host_that_emulates_has_as_many_nodes_at_work_as_processors(tmp_path: Path) -> None:
    mutex, now, most = threading.Lock(), Counter[str](), Counter[str]()

    def work(node: Placed) -> str:
        with mutex:
            now[node.host] += 1
            most[node.host] = max(most[node.host], now[node.host])
        time.sleep(0.02)
        with mutex:
            now[node.host] -= 1
        return f"{node.host} done"

    with Session(Site(root=tmp_path / "site")) as session:
        facts = {"slow": {"accelerator": "tcg", "cpus": 2}, "fast": {"accelerator": "kvm", "cpus": 2}}
        hosts.observe_hosts(session.store, facts, {})
        nodes = [Placed(host) for _ in range(12) for host in ("slow", "fast", "unknown")]
        assert session.at_work(work, nodes) == [f"{node.host} done" for node in nodes]
        assert session.at_work(work, []) == []
    assert most["slow"] == 2
    assert most["fast"] == most["unknown"] == fan_out(1)


def test_nothing_more_is_begun_after_an_error(tmp_path: Path) -> None:
    begun = []

    def work(node: Placed) -> None:
        begun.append(node)
        raise VclustError(node.host)

    with Session(Site(root=tmp_path / "site")) as session, pytest.raises(VclustError, match=r"^h$"):
        session.at_work(work, [Placed("h")] * 100)
    assert len(begun) <= fan_out(1)


def test_nothing_more_is_begun_after_an_interruption(tmp_path: Path) -> None:
    begun = []

    def work(node: Placed) -> None:
        begun.append(node)
        if len(begun) == fan_out(1):
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    # It is ignored where tests run in the background.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Session(Site(root=tmp_path / "site")) as session, pytest.raises(KeyboardInterrupt):
            session.at_work(work, [Placed("h")] * 200)
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(begun) <= 2 * fan_out(1)
