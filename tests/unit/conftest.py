"""The toy repository, for all tests of this folder."""

from repository import toy, toys

__all__ = ["toy", "toys"]
