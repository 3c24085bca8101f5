"""What is typed, by its type: names of people and times; the others are tested where they are used."""

import time

import pytest

from vclust_py.arguments import checked
from vclust_py.errors import RequestError


def test_times() -> None:
    assert checked("since", "moment", "1700000000.25") == 1700000000.25
    assert checked("since", "moment", 1700000000.25) == 1700000000.25
    assert checked("since", "moment", 1700000000) == 1700000000
    assert checked("since", "moment", "2026-01-31T12:00+00:00") == 1769860800
    day = time.localtime(checked("since", "moment", "2026-01-31"))
    assert (day.tm_year, day.tm_mon, day.tm_mday, day.tm_hour) == (2026, 1, 31, 0)
    before = time.time()
    assert before - 7200 <= checked("since", "moment", "2h") <= time.time() - 7200


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-13-01", "0h", "400d", "-1", "1e9", "9" * 20, "2h\n", None, -0.5, float("nan")],
)
def test_what_is_no_time(text: object) -> None:
    with pytest.raises(RequestError, match="since: got"):
        checked("since", "moment", text)


def test_people() -> None:
    for name in ("alice", "a.b+c@example.org", "_x", "Zoë"):
        assert checked("user", "person", name) == name
    for name in ("", "a b", "{{ a }}", "a/b", "a\n", "-x", "x" * 151, ["a"]):
        with pytest.raises(RequestError, match="user: got"):
            checked("user", "person", name)
