"""Inputs that nobody would think of, for everything that reads what others write: no traceback, no effect, no flood.

What is tried stands in `CASES` of the fuzz_*.py files: strategies, and checks that raise on a real failure only.  By
default a few inputs for each; `--fuzz 100000` tries so many in all, `--hypothesis-seed N` others than the usual ones.
"""

import pytest
from fuzz_chain import CASES as CHAIN
from fuzz_input import CASES as INPUT
from fuzz_locks import CASES as LOCKS
from fuzz_network import CASES as NETWORK
from hypothesis import HealthCheck, given, settings

CASES = {**INPUT, **LOCKS, **CHAIN, **NETWORK}
USUAL = 100
"""Inputs of each case, unless asked for more."""


@pytest.mark.parametrize("case", CASES)
def test_no_input_does_harm(case: str, request: pytest.FixtureRequest) -> None:
    inputs, check = CASES[case]
    total = request.config.getoption("--fuzz")
    count = -(-total // len(CASES)) if total else USUAL
    usual = request.config.getoption("--hypothesis-seed") is None
    tried = 0

    # Everything is to be tried, however slow or large an input is.
    @settings(
        max_examples=count,
        derandomize=usual,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(inputs)
    def fuzz(value: object) -> None:
        nonlocal tried
        tried += 1
        check(value)  # type: ignore[arg-type]

    fuzz()
    print(f"{case}: {tried} inputs")
    assert tried >= count, "the strategy has no more to offer"


def test_every_strategy_is_tried() -> None:
    assert len(CASES) == len(INPUT) + len(LOCKS) + len(CHAIN) + len(NETWORK)
