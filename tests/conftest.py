"""For all tests: the toy repository, the chain's hosts; and no property test fails because the machine is busy."""

from hops import hosts, trust
from hypothesis import settings
from repository import toy, toys

__all__ = ["hosts", "toy", "toys", "trust"]

settings.register_profile("vclust", deadline=None)
settings.load_profile("vclust")
