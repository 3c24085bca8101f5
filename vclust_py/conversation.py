"""A command that is spoken to while it runs: what it is told comes bit by bit, as what it says does."""

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from vclust_py.run import DYING_WITH_PARENT, MOST_OUTPUT


class Talk(Protocol):
    """What `Conversation` does, as others see it."""

    @property
    def ended(self) -> bool:
        """The command has closed its output: it says nothing more."""

    @property
    def output(self) -> str:
        """All that it has said, standard error last."""

    @property
    def status(self) -> int:
        """The exit status of the command, which has ended; that of ssh is 255 where the connection has failed."""

    def say(self, text: str) -> None: ...
    def hear(self, timeout: float) -> list[str]: ...
    def close(self) -> None: ...


class Conversation:
    """`argv`, run until `close`; it dies with the thread that has started it.  For one thread.

    It is closed by itself when it prints more than `limit` bytes.  Raises OSError where it cannot be started.
    """

    def __init__(self, argv: Sequence[str | Path], *, limit: int = MOST_OUTPUT) -> None:
        self._limit = limit
        self._process = subprocess.Popen(
            [*DYING_WITH_PARENT, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        self._unsaid, self._said, self._errors = bytearray(), bytearray(), bytearray()
        self._heard = 0
        self._selector = selectors.DefaultSelector()
        for stream, kept in ((self._process.stdout, self._said), (self._process.stderr, self._errors)):
            assert stream is not None  # noqa: S101 - for mypy
            self._selector.register(stream, selectors.EVENT_READ, kept)
        assert self._process.stdin is not None  # noqa: S101
        self._input = self._process.stdin
        os.set_blocking(self._input.fileno(), False)
        self._open = 2
        """Of its outputs."""

    @property
    def ended(self) -> bool:
        return self._open == 0

    @property
    def output(self) -> str:
        return (self._said + self._errors).decode(errors="replace")

    @property
    def status(self) -> int:
        return self._process.wait()

    def say(self, text: str) -> None:
        """Give it `text`, as fast as it takes it: what it does not take now goes with the next `hear`."""
        self._unsaid += text.encode()
        self._write()

    def hear(self, timeout: float) -> list[str]:
        """The next whole lines of its standard output, waited for so many seconds; [] when it has said none."""
        deadline = time.monotonic() + timeout
        while not (lines := self._lines()) and not self.ended:
            left = deadline - time.monotonic()
            if left < 0:
                break
            for key, _ in self._selector.select(left):
                if self.ended:  # it has just been closed
                    break
                if key.fileobj is self._input:
                    self._write()
                else:
                    self._read(key)
        return lines

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._selector.close()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert stream is not None  # noqa: S101
            stream.close()
        self._open = 0

    def _read(self, key: selectors.SelectorKey) -> None:
        piece = os.read(key.fd, 1 << 16)
        key.data.extend(piece)
        if not piece:
            self._selector.unregister(key.fileobj)
            self._open -= 1
        elif len(self._said) + len(self._errors) > self._limit:
            self._errors += f"stopped, as it printed more than {self._limit} bytes\n".encode()
            self.close()

    def _write(self) -> None:
        waited_for = self._input in self._selector.get_map() if not self.ended else False
        try:
            while self._unsaid and not self.ended:
                del self._unsaid[: os.write(self._input.fileno(), self._unsaid)]
        except BlockingIOError:
            if not waited_for:
                self._selector.register(self._input, selectors.EVENT_WRITE)
            return
        except BrokenPipeError:  # it has ended, as its output will tell
            self._unsaid.clear()
        if waited_for:
            self._selector.unregister(self._input)

    def _lines(self) -> list[str]:
        end = self._said.rfind(b"\n") + 1
        if end <= self._heard:
            return []
        new = self._said[self._heard : end]
        self._heard = end
        return [line.removesuffix("\r") for line in new.decode(errors="replace").split("\n")[:-1]]
