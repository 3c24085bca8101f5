"""What recurs on a site manager: VD caches chosen and time models fitted when that is due, images and packages without
a place gone, updates that clusters lack looked for, base images renewed.

The roll-out has systemd run `python -m vclust_py.cache.upkeep` each hour, and after it the same with the word `renew`,
`fetch` and `build`, each with the site's settings (JSON) on standard input.  None needs all rights: the first one and
`fetch` have the network; `renew` and `build` mount, and run what packages bring, without it.  Where there is
no systemd, creations do the same.
"""

import json
import sys

from vclust_py import fitting
from vclust_py.cache import package_space, rebuild, renewal, retention, status
from vclust_py.errors import VclustError
from vclust_py.estimate import is_refit_due
from vclust_py.image import Report
from vclust_py.life import updates
from vclust_py.run import keep_interruptions
from vclust_py.site import Site
from vclust_py.site.session import Session


def upkeep(session: Session, report: Report) -> list[str]:
    """Do what is due, and for caches that are due all but building them; what was done, a line for each.

    Raises VclustError when caches are due and cannot be chosen; when somebody is at it already that is none of ours.
    """
    if not session.store.exists:
        return []  # nothing was ever asked of the site
    done = [f"removed {line}" for line in (*retention.trim(session), *package_space.trim(session))]
    if is_refit_due(session.store):
        fitting.refit(session)
        done.append("fitted the time models")
    done += updates.look(session, report)
    done += renewal.fetch_packages(session, report)
    if _is_rebuild_due(session):
        done += _fetch(session, report)
    return done


def _fetch(session: Session, report: Report) -> list[str]:
    failed = rebuild.fetch_packages(session, report)
    return [f"not fetched: {label}: {why}" for label, why in failed.items()]


def build(session: Session, report: Report) -> list[str]:
    """Recompute the caches when that is due; what was done, a line for each.  Raises VclustError as `upkeep` does."""
    if not _is_rebuild_due(session):
        return []
    result = rebuild.rebuild(session, report)
    return [
        *(f"built {label}" for label in result.built),
        *(f"not built: {label}: {why}" for label, why in result.failed.items()),
        *(f"removed {line}" for line in result.removed),
    ]


def renew(session: Session, report: Report) -> list[str]:
    """Renew base images when that is due, of packages that `upkeep` has fetched; what was done, a line for each."""
    return renewal.renew(session, report) if renewal.is_due(session) else []


def fetch(session: Session, report: Report) -> list[str]:
    """Fetch what caches over renewed base images need; what could not be fetched, a line for each."""
    if not renewal.left_behind(session) or status.is_rebuilding(session):
        return []
    return _fetch(session, report)


def _is_rebuild_due(session: Session) -> bool:
    return (status.due(session) or renewal.left_behind(session)) and not status.is_rebuilding(session)


_WORK = {"": upkeep, "renew": renew, "fetch": fetch, "build": build}


def main() -> None:
    keep_interruptions()
    work = _WORK["".join(sys.argv[1:])]
    try:
        site = Site.from_mapping(json.load(sys.stdin))
        with Session(site) as session:
            for line in work(session, lambda message, done, total: None):
                print(line, flush=True)
    except (ValueError, VclustError) as error:
        sys.exit(f"vclust: {error}")


if __name__ == "__main__":
    main()
