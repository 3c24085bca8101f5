"""A transfer as the site shows it: who it is to its hosts, its progress, and what its outcomes mean for people."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vclust_py.chain import Keys, Outcome, Progress
from vclust_py.errors import VclustError
from vclust_py.hypervisor import HOST_ROOT, ROLL_OUT
from vclust_py.site import Site

_HINTS = {
    "No space left": f"free some space in {HOST_ROOT} there, or take it out of the site",
    "not reached": f"is that machine up?  Has it been rolled out?  {ROLL_OUT}",
    "certificate": ROLL_OUT,
    "authority": ROLL_OUT,
    "speaks version": ROLL_OUT,
    "crawls": "the next run goes on where it is; is something wrong with that host's network or disk?",
    "gets wrong data from": "is that host's memory, disk or network card bad?",
    "gets nothing from": "do hosts and site manager let each other in, and are their networks' MTUs the same?",
}
"""What to do about a host's failure, by a part of its words."""


def rows(progress: Progress) -> list[dict[str, Any]]:
    """Progress as displays take it: all in one line, then each host."""
    done, total = min(progress.done.values(), default=0) // 10**6, progress.total // 10**6
    slowest = f"slowest {progress.slowest}, {progress.rate / 1e6:.0f} MB/s"
    left = f", {progress.eta:.0f} s left" if math.isfinite(progress.eta) else ""
    return [
        {"node": "", "message": f"{slowest}{left}, MB", "done": done, "total": total},
        *(
            {"node": host, "message": "receive, MB", "done": count // 10**6, "total": total}
            for host, count in progress.done.items()
        ),
    ]


def warnings(outcomes: Sequence[Outcome]) -> list[str]:
    """Each once: both hosts that it names have it."""
    return list(dict.fromkeys(warning for outcome in outcomes for warning in outcome.warnings))


def explained(outcome: Outcome) -> str:
    """A host's failure, with what to do about it where that is known."""
    hint = next((hint for words, hint in _HINTS.items() if words in outcome.failed), None)
    return str(VclustError(f"{outcome.host}: {outcome.failed}", hint))


def keys(site: Site) -> Keys:
    """What the site manager shows to its hosts; made by the roll-out."""
    folder: Path = site.pki
    revoked = folder / "cacrl.pem"
    return Keys(
        folder / "cacert.pem",
        folder / "clientcert.pem",
        folder / "clientkey.pem",
        # Earlier releases made none; the next roll-out does.
        revoked if revoked.exists() else None,
    )
