"""Processes: one function, argument lists only, never a shell; and interruptions that are not lost."""

import os
import selectors
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from vclust_py.errors import VclustError
from vclust_py.text import plain

_LINE = 240  # bytes of a line that a command printed, in an error: fifteen must go into it

DYING_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
"""Put before a command, the kernel kills it when the process that started it dies.

Not subprocess's `preexec_fn`: with that, Python runs its at-fork hooks, and a Ctrl-C that comes while they run is
lost together with the locks they hold.
"""


_PROJECT = Path(__file__).resolve().parents[1]

MOST_OUTPUT = 1 << 28
"""Bytes that a command may print: the index of a whole archive has a fifth of that."""


class CommandError(VclustError):
    """A command failed or ran out of time; `output` is what it printed."""

    def __init__(self, argv: Sequence[str], reason: str, output: str) -> None:
        self.output = output
        tail = "\n".join(plain(line, _LINE) for line in output.strip().splitlines()[-15:])
        super().__init__(f"{argv[0]}: {reason}" + (f"\n{tail}" if tail else ""))


def run(
    argv: Sequence[str | Path],
    *,
    stdin: str | None = None,
    timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    limit: int = MOST_OUTPUT,
) -> str:
    """Run `argv` to its end and return its standard output.  It dies with its caller.

    Raises CommandError (exit status other than 0, time-out in seconds, command not there, more than `limit` bytes of
    output); the error ends with the last lines the command printed, standard error included.
    """
    words = [str(word) for word in argv]
    if shutil.which(words[0], path=(os.environ if env is None else env).get("PATH")) is None:
        raise CommandError(words, "not found", "")
    output, errors = bytearray(), bytearray()
    # Kept in memory, so that a command that prints before it reads cannot block.
    with open(os.memfd_create("stdin"), "wb+", buffering=0) as given:
        given.write((stdin or "").encode())
        given.seek(0)
        process = subprocess.Popen(
            [*DYING_WITH_PARENT, *words],
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
        )
    with process:
        try:
            reason = _read(process, output, errors, timeout, limit)
        except BaseException:
            process.kill()
            raise
        if reason:
            process.kill()
        elif process.wait() > 0:
            reason = f"exit status {process.returncode}"
        elif process.returncode < 0:
            reason = f"killed by signal {-process.returncode}"
    if reason:
        raise CommandError(words, reason, _text(output) + _text(errors))
    return _text(output)


def _read(
    process: "subprocess.Popen[bytes]",
    output: bytearray,
    errors: bytearray,
    timeout: float | None,
    limit: int,
) -> str:
    """Read until the command has closed both; else why no further."""
    deadline = None if timeout is None else time.monotonic() + timeout
    with selectors.DefaultSelector() as streams:
        for stream, kept in ((process.stdout, output), (process.stderr, errors)):
            assert stream is not None  # noqa: S101 - for mypy
            streams.register(stream, selectors.EVENT_READ, kept)
        while streams.get_map():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return f"not done after {timeout:g} s"
            for key, _ in streams.select(left):
                piece = os.read(key.fd, 1 << 16)
                if not piece:
                    streams.unregister(key.fileobj)
                key.data.extend(piece)
                if len(output) + len(errors) > limit:
                    return f"stopped, as it printed more than {limit} bytes"
    return ""


def _text(data: bytearray) -> str:
    """As text, line ends as Python has them."""
    return data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")


def start_module(
    module: str,
    *words: str,
    stdin: IO[str] | int = subprocess.DEVNULL,
    output: IO[bytes] | int = subprocess.DEVNULL,
) -> None:
    """Run `python -m module` in a process that goes on when this one has ended; nobody waits for it."""
    subprocess.Popen(
        [sys.executable, "-m", module, *words],
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(_PROJECT)},
        stdin=stdin,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )


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
