"""What the first create of a site needs, begun before its phase: base image and packages, side by side.

The process is `python -m vclust_py.image.ahead LOCK`, with the site's settings on standard input; LOCK is the lock's
digest.  Phase `image` finds what this process has made, or waits for its file locks.  What does not work is tried again
there, and the error is told there.
"""

import contextlib
import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from vclust_py.errors import VclustError
from vclust_py.image.base import ensure_base, find_base
from vclust_py.image.store import fetch
from vclust_py.lock import Lock
from vclust_py.run import start_module
from vclust_py.site import Site


def begin(site: Site, lock: Lock) -> None:
    """Start making the lock's base image and fetching its packages, where there is no such base image yet.

    In a process that goes on when this one has ended.  Where that cannot be started, who needs its work does it.
    """
    if find_base(site, lock) is not None:
        return
    with contextlib.suppress(OSError), tempfile.TemporaryFile("w+") as settings:
        # Not as arguments, which anybody may read: the proxy's address may hold a password.
        json.dump(site.to_mapping(), settings)
        settings.seek(0)
        start_module("vclust_py.image.ahead", lock.digest, stdin=settings)


def _silent(message: str, done: int, total: int) -> None:
    pass


def main() -> None:
    site = Site.from_mapping(json.load(sys.stdin))
    lock = Lock.load(site, sys.argv[1])
    with ThreadPoolExecutor(2) as pool:
        works = [pool.submit(work, site, lock, _silent) for work in (ensure_base, fetch)]
        for work in works:
            with contextlib.suppress(VclustError, OSError):
                work.result()


if __name__ == "__main__":
    main()
