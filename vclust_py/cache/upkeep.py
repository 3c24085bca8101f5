"""What recurs on a site manager: VD caches chosen and time models fitted when that is due, images without a place gone.

The roll-out has systemd run `python -m vclust_py.cache.upkeep` each hour, with the site's settings (JSON) on standard
input.  Where there is no systemd, creations do the same.
"""

import json
import sys

from vclust_py import fitting
from vclust_py.cache import rebuild, retention, status
from vclust_py.errors import VclustError
from vclust_py.estimate import is_refit_due
from vclust_py.image import Report
from vclust_py.run import keep_interruptions
from vclust_py.site import Site
from vclust_py.site.session import Session


def upkeep(session: Session, report: Report) -> list[str]:
    """Do what is due; what was done, a line for each.

    Raises VclustError when a recomputation is due and cannot be made; one that is at work already is none of ours.
    """
    if not session.store.exists:
        return []  # nothing was ever asked of the site
    done = [f"removed {line}" for line in retention.trim(session)]
    if is_refit_due(session.store):
        fitting.refit(session)
        done.append("fitted the time models")
    if status.due(session) and not status.is_rebuilding(session):
        result = rebuild.rebuild(session, report)
        done += [f"built {label}" for label in result.built]
        done += [f"not built: {label}: {why}" for label, why in result.failed.items()]
        done += [f"removed {line}" for line in result.removed]
    return done


def main() -> None:
    keep_interruptions()
    try:
        site = Site.from_mapping(json.load(sys.stdin))
        with Session(site) as session:
            for line in upkeep(session, lambda message, done, total: None):
                print(line, flush=True)
    except (ValueError, VclustError) as error:
        sys.exit(f"vclust: {error}")


if __name__ == "__main__":
    main()
