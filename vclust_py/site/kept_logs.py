"""Logs of what has failed, kept on the site manager: what they tell of is in a node that cannot be reached, or gone.

They are in `logs/` of the cluster's folder and go with it: one file for each node that failed, with the end of its
console, and one for each phase whose command failed.  The newest of a name replaces the one before.
"""

import contextlib
import os
import pwd
from pathlib import Path
from typing import Any

from vclust_py.errors import VclustError
from vclust_py.run import CommandError
from vclust_py.site import clusters
from vclust_py.site.clusters import Cluster
from vclust_py.site.store import Store
from vclust_py.text import plain

MOST_BYTES = 1 << 16
"""Characters of one log: its end."""
MOST_LOGS = 20
"""Of one cluster: the newest."""
_SUFFIX = ".log"


def keep(store: Store, cluster: Cluster, name: str, text: str) -> Path | None:
    """Keep the end of `text` as the log `name` (a node, or a phase) of the cluster; None where that cannot be written.

    Its owner may read it, if that is an account of this machine.
    """
    folder = _folder(store, cluster)
    path = folder / f"{name}{_SUFFIX}"
    try:
        folder.parent.mkdir(mode=0o711, exist_ok=True)
        folder.mkdir(mode=0o711, exist_ok=True)
        folder.chmod(0o711)  # whatever the umask
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o400)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_end(text) + "\n")
            with contextlib.suppress(KeyError):  # of AWX, or of another machine
                os.fchown(descriptor, pwd.getpwnam(cluster.owner).pw_uid, -1)
        for old in _newest_first(folder)[MOST_LOGS:]:
            old.unlink()
    except OSError:  # what has failed is told all the same
        return None
    return path


def failure(store: Store, cluster: Cluster, name: str, error: VclustError, printed: str = "") -> VclustError:
    """The error again, which says where all that was printed is kept; of a command's that is its own output."""
    if isinstance(error, CommandError):
        printed = error.output
    path = keep(store, cluster, name, f"{error}\n\n{printed}") if printed else None
    return VclustError(str(error), f"the whole log: {path}") if path else error


def kept(store: Store, cluster: Cluster, *, texts: bool) -> list[dict[str, Any]]:
    """`name`, `path`, Unix `time` and, where asked for, `text` of each log, newest first."""
    found = list[dict[str, Any]]()
    for path in _newest_first(_folder(store, cluster)):
        with contextlib.suppress(OSError):
            text = {"text": _read(path)} if texts else {}
            found.append({"name": path.stem, "path": str(path), "time": path.lstat().st_mtime, **text})
    return found


def _folder(store: Store, cluster: Cluster) -> Path:
    return clusters.folder(store, cluster) / "logs"


def _newest_first(folder: Path) -> list[Path]:
    try:
        found = [(entry.stat(follow_symlinks=False).st_mtime_ns, entry.name) for entry in os.scandir(folder)]
    except OSError:  # none was kept
        return []
    return [folder / name for _, name in sorted(found, reverse=True) if name.endswith(_SUFFIX)]


def _end(text: str) -> str:
    # Escapes make it longer, and what is cut off is to be the beginning.
    return plain(text[-MOST_BYTES:], 16 * MOST_BYTES, lines=True)[-MOST_BYTES:]


def _read(path: Path) -> str:
    """What is there, as bounded as it was written: the owner may have changed the file since."""
    with path.open("rb") as file:
        return plain(file.read(4 * MOST_BYTES).decode(errors="replace"), 4 * MOST_BYTES, lines=True)
