"""What a site learns in the background, caches and time models: when that is started, and the process that it is.

The process is `python -m vclust_py.cache.background`, with the site's settings on standard input.
"""

import json
import logging
import os
import subprocess
import sys
import tempfile

from vclust_py.cache.status import due
from vclust_py.errors import VclustError
from vclust_py.estimate import is_refit_due
from vclust_py.run import keep_interruptions
from vclust_py.site import PROJECT, Site
from vclust_py.site.session import Session

_log = logging.getLogger(__name__)


def start_if_due(session: Session) -> bool:
    """Start what is due, in a process that goes on when this one has ended; whether one was started."""
    try:
        return (due(session) or is_refit_due(session.store)) and _start(session)
    except (OSError, VclustError) as error:  # whose cluster is ready shall not hear of it
        _log.warning("caches and estimates are not computed again: %s", error)
        return False


def _start(session: Session) -> bool:
    with open(session.site.root / "caches.log", "wb") as log, tempfile.TemporaryFile("w+") as settings:
        # Not as arguments, which anybody may read: the proxy's address may hold a password.
        json.dump(session.site.to_mapping(), settings)
        settings.seek(0)
        subprocess.Popen(
            [sys.executable, "-m", "vclust_py.cache.background"],
            cwd="/",
            env={**os.environ, "PYTHONPATH": str(PROJECT)},
            stdin=settings,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    return True


def main() -> None:
    """What is due, in the background: the site's settings, JSON, come on standard input."""
    from vclust_py.cache.rebuild import rebuild
    from vclust_py.fitting import refit

    site = Site.from_mapping(json.load(sys.stdin))
    keep_interruptions()
    try:
        with Session(site) as session:
            if is_refit_due(session.store):  # a second; the caches may take minutes
                refit(session)
            if due(session):
                rebuild(session, lambda message, done, total: print(message, flush=True))
    except VclustError as error:
        sys.exit(f"vclust: {error}")


if __name__ == "__main__":
    main()
