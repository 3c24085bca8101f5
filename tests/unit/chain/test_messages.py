"""What a hop may say to the head."""

import pytest

from vclust_py.chain.messages import Expected, kind_of

SIZES = {"image": 90, "small": 10}
ALL = {"arrived": ["image"], "had": ["small"], "received": 90}


@pytest.mark.parametrize(
    ("kind", "message", "tagged", "allowed"),
    [
        ("done", {"done": 50, "received": 1 << 60}, 50, True),
        ("done", {"done": 51, "received": 0}, 50, False),
        ("done", {"done": -1, "received": 0}, 50, False),
        ("done", {"done": True, "received": 0}, 50, False),
        ("done", {"done": 50}, 50, False),
        ("ready", {"ready": True}, 0, True),
        ("fault", {"fault": "closed", "source": "a", "rubbish": False}, 0, True),
        ("fault", {"fault": "closed", "source": "a", "rubbish": 0}, 0, False),
        ("fault", {"fault": "closed", "rubbish": True}, 0, False),
        ("failed", {"failed": "No space left on device"}, 0, True),
        ("failed", {"failed": 3}, 0, False),
        ("result", ALL, 100, True),
        ("result", ALL, 99, False),  # the head has not given all out yet
        ("result", {**ALL, "had": []}, 100, False),
        ("result", {**ALL, "had": ["image"]}, 100, False),
        ("result", {**ALL, "had": ["image", "small"]}, 100, False),
        ("result", {**ALL, "had": "small"}, 100, False),
        ("result", {**ALL, "had": [["small"]]}, 100, False),
        ("result", {"lacks": ["image"], "received": 0}, 100, False),
        ("result", {}, 100, False),
    ],
)
def test_in_a_transfer(kind: str, message: dict[str, object], tagged: int, allowed: bool) -> None:
    assert kind_of(message) == kind
    assert Expected(SIZES, dry=False).allows(message, tagged) is allowed


@pytest.mark.parametrize(
    ("message", "allowed"),
    [
        ({"lacks": ["image"], "received": 0}, True),
        ({"lacks": [], "received": 0}, True),
        ({"lacks": ["image", "image"], "received": 0}, False),
        ({"lacks": ["other"], "received": 0}, False),
        ({"lacks": ["image"]}, False),
    ],
)
def test_of_who_only_looks(message: dict[str, object], allowed: bool) -> None:
    assert Expected(SIZES, dry=True).allows(message, 0) is allowed
