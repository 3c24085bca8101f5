"""The toy repository, for all tests of this folder."""

import pytest
from repository import toy, toys

__all__ = ["toy", "toys"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=0, metavar="N", help="try N inputs in all (test_fuzz.py)")
