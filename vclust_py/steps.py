"""The progress of a phase where the controller is another machine: told line by line, as Ansible has no way for it.

On the site manager, `python -m vclust_py.steps ROOT CLUSTER PHASE KNOWN` waits for a step that is not KNOWN, prints it
in two lines (its key, and a line for people) and ends; without one it ends soon.  A step is another message, or another
tenth of the work or of the nodes.  On the controller, `followed` calls that again and again while a module works.
"""

import contextlib
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path

from vclust_py.text import LINE, plain

MARK = "progress"
"""What a line begins with in Ansible's output; the site manager's name follows in brackets."""

Shell = Callable[[str], str | None]
"""Runs a command on the site manager: what it printed, None when it failed."""

_QUICK = 1.0
"""Seconds: a phase that ends within these is not followed."""
_WAIT = 10.0
"""Seconds that a call waits for a step: as long it may outlive its controller."""
_LOOK = 0.5
"""Seconds between two looks at the store."""
_RECENT = 5.0
"""Seconds for which a phase that has ended still has a last step."""


def step(root: Path, cluster: str, phase: str) -> tuple[str, str]:
    """Key and line of the phase's step; blank when there is none."""
    from vclust_py.site import Site, records
    from vclust_py.site.store import Store

    store = Store(Site(root=root))
    try:
        found = records.step(store, cluster, phase, _RECENT) if store.exists else None
    finally:
        store.close()
    if found is None:
        return "", ""
    message, done, total, parts = (found[name] for name in ("message", "done", "total", "parts"))
    several = f"{parts} of {found['nodes']} nodes"
    if phase == "distribute":  # its parts are hosts
        several = f"{parts} hosts"
    count = f" {done}/{total}" if total and not parts else ""
    said = ", ".join(filter(None, (f"{message}{count}", several if parts else "")))
    # The same tenth is the same step.
    tenths = (done * 10 // total if total else 0, parts * 10 // max(found["nodes"], 1))
    return f"{tenths} {message}".strip(), f"{phase}: {said}" if said else ""


def main(argv: list[str]) -> int:
    root, cluster, phase, known = argv
    end = time.monotonic() + _WAIT
    while True:
        key, line = step(Path(root), cluster, phase)
        if line and key != known:
            print(f"{plain(key, LINE)}\n{plain(line, LINE)}")
            return 0
        if time.monotonic() >= end:
            return 0
        time.sleep(_LOOK)


@contextlib.contextmanager
def followed(shell: Shell, command: str, show: Callable[[str], None]) -> Iterator[None]:
    """Show the steps of a phase while the body works.

    `command` is what `command_line` gives.  A command that fails ends it: an earlier vclust there has none.
    """
    ended = threading.Event()

    def follow() -> None:
        known = ""
        ended.wait(_QUICK)
        while not ended.is_set():
            printed = shell(f"{command} {shlex.quote(known)}")
            if printed is None or ended.is_set():
                return
            lines = printed.splitlines()
            if len(lines) == 2:
                known = lines[0]
                show(plain(lines[1], LINE))

    # Ansible's own state goes with the context.  Nobody waits for a call that waits for a step.
    threading.Thread(target=copy_context().run, args=(follow,), daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def command_line(python: str, root: str, cluster: str, phase: str) -> str:
    """The shell's command for a step; what is known goes behind it."""
    # -I: nothing from the folder where it happens to run.
    return shlex.join([python, "-I", "-m", "vclust_py.steps", root, cluster, phase])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
