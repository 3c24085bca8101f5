"""Many hosts at once."""

import threading
import time

import pytest

from vclust_py.errors import VclustError
from vclust_py.site import Site
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
