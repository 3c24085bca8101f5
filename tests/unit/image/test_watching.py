"""Looking at what a silent tool has made."""

import time

import pytest

from vclust_py.image.watching import watched


def test_what_is_there_is_told_while_it_works() -> None:
    said: list[tuple[str, int, int]] = []
    found = [0]
    with watched(lambda *words: said.append(words), "packages", lambda: found[-1], 9, every=0.001):
        for count in (3, 50):
            found.append(count)
            before = len(said)
            while len(said) < before + 2:
                time.sleep(0.001)
    assert said[0] == ("packages", 0, 9)
    assert ("packages", 3, 9) in said
    assert said[-1] == ("packages", 8, 9), "never more than there are, nor that all is done"
    ended = len(said)
    time.sleep(0.01)
    assert len(said) == ended


def test_a_look_that_fails_is_not_the_works_failure() -> None:
    def gone() -> int:
        raise FileNotFoundError

    with watched(lambda *words: None, "packages", gone, 9, every=0.001):
        time.sleep(0.01)
    with (
        pytest.raises(ValueError, match="of the work"),
        watched(lambda *words: None, "x", gone, 0, every=0.001),
    ):
        raise ValueError("of the work")
