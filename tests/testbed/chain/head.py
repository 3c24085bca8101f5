"""The process that sends, in the head's namespace: `Head` starts it, `main` is what it runs.

It loads what it needs, says so, and begins when it is told to, so that the start of an interpreter is no part of what
is measured.  A line of JSON each way; progress comes as lines too.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from chain.host import Host, end
from vclust_py import chain
from vclust_py.chain import PORT, File, Hop, Keys, Options
from vclust_py.errors import VclustError
from vclust_py.site import PROJECT


@dataclass(frozen=True)
class Sent:
    seconds: float
    outcomes: dict[str, dict[str, Any]]
    """What `send` said of each host; empty when it raised."""
    error: str
    cpu: float
    """CPU seconds of the sending process, from the beginning of `send`."""
    progress: tuple[dict[str, Any], ...]

    def failed(self) -> dict[str, str]:
        return {name: outcome["failed"] for name, outcome in self.outcomes.items() if outcome["failed"]}


class Head:
    """A context manager; the process is killed when it still runs at its end."""

    def __init__(
        self,
        head: Host,
        hosts: Sequence[Host],
        files: Sequence[File],
        pki: Path,
        options: dict[str, Any] | None = None,
        module: str = "chain.head",
    ) -> None:
        """`module` is run: this one, or one that calls `main` of this one."""
        told = {
            "files": [{"path": str(file.path), "name": file.name, "digest": file.digest} for file in files],
            "hops": [{"name": host.name, "address": host.address, "port": PORT} for host in hosts],
            "keys": {
                "ca": str(pki / "cacert.pem"),
                "certificate": str(pki / "clientcert.pem"),
                "key": str(pki / "clientkey.pem"),
            },
            "options": options or {},
        }
        self.process = head.start(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": f"{PROJECT}/tests/testbed:{PROJECT}", "PATH": "/usr/sbin:/usr/bin"},
        )
        assert self.process.stdout is not None
        self._say(told)
        self._host = head
        self.progress: list[dict[str, Any]] = []
        if not self.process.stdout.readline():
            raise VclustError(f"the head did not start\n{head.log()[-2000:]}")

    def __enter__(self) -> "Head":
        return self

    def __exit__(self, *error: object) -> None:
        end(self.process)

    def go(self) -> None:
        self._say({})

    def wait(self, seconds: float) -> Sent:
        """Raises VclustError, with what the head printed, when it takes longer or ends without a result."""
        timer = threading.Timer(seconds, self.process.kill)
        timer.start()
        assert self.process.stdout is not None
        try:
            for line in self.process.stdout:
                told = json.loads(line)
                if "progress" in told:
                    self.progress.append(told["progress"])
                else:
                    return Sent(**told, progress=tuple(self.progress))
        finally:
            timer.cancel()
        raise VclustError(f"no result from the head within {seconds:g} s\n{self._host.log()[-2000:]}")

    def _say(self, told: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(told).encode() + b"\n")
        self.process.stdin.flush()


def main() -> None:
    told = json.loads(sys.stdin.readline())
    files = [File(Path(file["path"]), file["name"], file["digest"]) for file in told["files"]]
    hops = [Hop(**hop) for hop in told["hops"]]
    keys = Keys(**{name: Path(path) for name, path in told["keys"].items()})
    options = Options(**told["options"])
    print("ready", flush=True)
    sys.stdin.readline()

    def report(progress: chain.Progress) -> None:
        print(json.dumps({"progress": asdict(progress)}), flush=True)

    outcomes: dict[str, dict[str, Any]] = {}
    error = ""
    started, used = time.monotonic(), time.process_time()
    try:
        outcomes = {
            outcome.host: asdict(outcome) for outcome in chain.send(files, hops, keys, options, report)
        }
    except VclustError as raised:
        error = str(raised)
    seconds, cpu = time.monotonic() - started, time.process_time() - used
    print(json.dumps({"seconds": seconds, "outcomes": outcomes, "error": error, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main()
