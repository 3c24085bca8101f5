"""Progress of a tool that tells none: what it has made so far is looked at while it works."""

import contextlib
import threading
from collections.abc import Callable, Iterator

from vclust_py.image import Report

_EVERY = 1.0
"""Seconds between two looks."""


@contextlib.contextmanager
def watched(
    report: Report, message: str, look: Callable[[], int], total: int, *, every: float = _EVERY
) -> Iterator[None]:
    """Around the work: report at once, and then what `look` finds of `total`."""
    ended = threading.Event()
    report(message, 0, total)

    def follow() -> None:
        while not ended.wait(every):
            # What cannot be looked at or reported now is for the next time, or for the work itself to say.
            with contextlib.suppress(Exception):
                # Not all of it: that is told when the work has ended well.
                report(message, min(look(), max(total - 1, 0)), total)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
