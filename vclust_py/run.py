"""Processes: one function, argument lists only, never a shell; and interruptions that are not lost."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from vclust_py.errors import VclustError

DYING_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
"""Put before a command, the kernel kills it when the process that started it dies.

Not subprocess's `preexec_fn`: with that, Python runs its at-fork hooks, and a Ctrl-C that comes while they run is
lost together with the locks they hold.
"""


class CommandError(VclustError):
    """A command failed or ran out of time; `output` is what it printed."""

    def __init__(self, argv: Sequence[str], reason: str, output: str) -> None:
        self.output = output
        tail = "\n".join(output.strip().splitlines()[-15:])
        super().__init__(f"{argv[0]}: {reason}" + (f"\n{tail}" if tail else ""))


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run `argv` to its end and return its standard output.  It dies with its caller.

    Raises CommandError (exit status other than 0, time-out in seconds, command not there); the error ends with
    the last lines the command printed, standard error included.
    """
    words = [str(word) for word in argv]
    if shutil.which(words[0], path=(os.environ if env is None else env).get("PATH")) is None:
        raise CommandError(words, "not found", "")
    try:
        done = subprocess.run(
            [*DYING_WITH_PARENT, *words],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=env,
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        text = (error.stderr or b"").decode(errors="replace") if isinstance(error.stderr, bytes) else ""
        raise CommandError(words, f"not done after {timeout:g} s", text) from error
    if done.returncode != 0:
        reason = (
            f"exit status {done.returncode}"
            if done.returncode > 0
            else f"killed by signal {-done.returncode}"
        )
        raise CommandError(words, reason, done.stdout + done.stderr)
    return done.stdout


def keep_interruptions() -> None:
    """Python drops a KeyboardInterrupt that comes in a destructor or around a fork; let it come again then."""
    sys.unraisablehook = _once_more


def _once_more(lost: "sys.UnraisableHookArgs") -> None:
    if not issubclass(lost.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # A little later: an exception raised in here would be dropped as well.  To the process, not to the timer's thread,
    # or the main thread would sleep on.
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
