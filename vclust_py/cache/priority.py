"""The least priority there is, for work that no one waits for."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def lowest() -> Iterator[None]:
    """Users' requests come first, on CPUs and disks alike: SCHED_IDLE is both (ioprio_set(2)); children inherit it.

    Each session is a group of its own to the scheduler, whatever the priorities inside (sched(7), autogroup).
    """
    alone = os.getsid(0) == os.getpid()

    def be(policy: int, group: str) -> None:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, policy, os.sched_param(0))
            if alone:
                Path("/proc/self/autogroup").write_text(group, encoding="ascii")

    be(os.SCHED_IDLE, "19")
    try:
        yield
    finally:
        be(os.SCHED_OTHER, "0")
