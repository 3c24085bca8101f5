"""For all tests: the toy repository; and no property test fails because the machine is busy."""

from hypothesis import settings
from repository import toy, toys

__all__ = ["toy", "toys"]

settings.register_profile("vclust", deadline=None)
settings.load_profile("vclust")
