"""For all tests: the toy repository, the chain's hosts; and no property test fails because the machine is busy."""

import pytest
from hops import hosts, trust
from hypothesis import settings
from repository import toy, toys

from vclust_py.cli import messages

__all__ = ["hosts", "toy", "toys", "trust"]

settings.register_profile("vclust", deadline=None)
settings.load_profile("vclust")


@pytest.fixture(autouse=True)
def _commands_as_the_library_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a test that runs the command in this process nothing is left for the next one."""
    monkeypatch.setattr(messages, "_called", "vclust")
