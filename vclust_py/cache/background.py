"""What a site does in the background, caches, time models, templates, base images: when that is started, and its
process.

The process is `python -m vclust_py.cache.background [CLUSTER]`, with the site's settings on standard input; with a
cluster's name it makes the template that its nodes could have started from.
"""

import json
import logging
import sys
import tempfile

from vclust_py.cache import package_space, renewal
from vclust_py.cache.status import due
from vclust_py.errors import VclustError
from vclust_py.estimate import is_refit_due
from vclust_py.run import keep_interruptions, start_module
from vclust_py.site import Site
from vclust_py.site.session import Session

_log = logging.getLogger(__name__)


def start_if_due(session: Session, template_of: str = "") -> bool:
    """Start what is due, in a process that goes on when this one has ended; whether one was started.

    `template_of`: a cluster whose template is to be made.
    """
    try:
        wanted = due(session) or is_refit_due(session.store) or renewal.is_due(session) or template_of
        return bool(wanted) and _start(session, template_of)
    except (OSError, VclustError) as error:  # whose cluster is ready shall not hear of it
        _log.warning("caches and estimates are not computed again: %s", error)
        return False


def _start(session: Session, template_of: str) -> bool:
    with open(session.site.root / "caches.log", "wb") as log, tempfile.TemporaryFile("w+") as settings:
        # Not as arguments, which anybody may read: the proxy's address may hold a password.
        json.dump(session.site.to_mapping(), settings)
        settings.seek(0)
        words = filter(None, [template_of])
        start_module("vclust_py.cache.background", *words, stdin=settings, output=log)
    return True


def _tell(message: str, done: int, total: int) -> None:
    print(message, flush=True)


def main() -> None:
    """What is due, in the background: the site's settings, JSON, come on standard input."""
    from vclust_py.cache.rebuild import rebuild
    from vclust_py.clones import make
    from vclust_py.fitting import refit

    site = Site.from_mapping(json.load(sys.stdin))
    keep_interruptions()
    try:
        with Session(site) as session:
            if is_refit_due(session.store):  # a second; the caches may take minutes
                refit(session)
            for name in sys.argv[1:]:
                make(session, name, _tell)
            for line in (*renewal.renew(session, _tell), *package_space.trim(session)):
                print(line, flush=True)
            if due(session) or renewal.left_behind(session):
                rebuild(session, _tell)
    except VclustError as error:
        sys.exit(f"vclust: {error}")


if __name__ == "__main__":
    main()
