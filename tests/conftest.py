"""For all tests: no test fails because a machine is busy."""

from hypothesis import settings

settings.register_profile("vclust", deadline=None)
settings.load_profile("vclust")
