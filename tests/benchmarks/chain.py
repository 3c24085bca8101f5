#!/usr/bin/env python3
"""One file to many hosts: the chain beside what else an administrator could take.

    .venv/bin/python tests/benchmarks/chain.py [--hosts N,…] [--rate 1gbit|none,…] [--size 512MiB,…]
        [--methods vclust,udpcast,…] [--fault none|kill|stop|linkdown|slow@0.5,…] [--files 1] [--content random|system]
        [--block SIZE] [--runs 3] [--limit SECONDS] [--json]
    .venv/bin/python tests/benchmarks/chain.py --fit ROWS

Without --hosts, --rate and --size: the whole table of docs/chain.md.  Hosts are network namespaces of the testbed
(tests/testbed/chain), their files on a tmpfs.  For each combination of hosts, rate, size and fault the methods take
turns, `--runs` times round; a row has the medians.

seconds        from the word to send until the last host has the file: interpreters and services run already, for
               every method.  With a fault: until every host but the faulty one has it; null where it never comes
ideal_seconds  size / what TCP can carry on such a link: 1,448 of each packet's 1,514 bytes (IPv4, MTU 1,500);
               null on links without a rate
cpu_s_per_gb   CPU seconds of all processes in that time for each 10⁹ bytes and host
memory_mib     the most that a receiving process held (the largest of all hosts); null where they end by themselves
head_cpu_s     CPU seconds of the sending process; vclust only
verified       hosts that have the whole content under its name, by SHA-256 afterwards
failed_hosts   the others, with what the method said of them

--fit reads rows (--json) and fits  seconds = start + (1 + more) x size/bandwidth + hosts x (block/bandwidth + host)
to those of vclust on links with a rate and without fault, and says what that comes to for 1,000 and 10,000 hosts.

Methods: vclust; vclust-encrypted; vclust-nodigest (blocks are checked by every hop, the whole file's digest by the head
alone); vclust-unchecked (nobody checks anything, for the sake of that figure only); vclust-plain (no compression, which
only tells with --content system);
udpcast; nginx (one server, every host fetches with curl); aria2 (a BitTorrent swarm, with a tracker of its own);
nc (a shell chain, `nc | tee | nc`).  Root.  Debian: udpcast, nginx-light, aria2, netcat-openbsd, curl.
"""

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

# This file has the name of the testbed's package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "testbed"))

from chain import keys, tracker
from chain.bed import Bed
from chain.head import Head
from chain.hops import Hops
from chain.host import Host, cpu_seconds, end, peak_memory, wait_for_port

from vclust_py.chain import File
from vclust_py.chain.head import block_for
from vclust_py.errors import VclustError

PORT = 9000
PAYLOAD = 1448 / 1514
BURST = 256 << 10
"""Of the testbed's links (bed.py): it hides the filling of the pipeline by blocks that are no larger."""
BED = "vcc-bench"
UNCHECKED = Path(tracker.__file__).with_name("unchecked.py")


@dataclass(frozen=True)
class Case:
    hosts: int
    rate: str
    size: int
    fault: str = "none"
    files: int = 1
    content: str = "random"
    block: int | None = None

    @property
    def ideal(self) -> float | None:
        return None if self.rate == "none" else self.size * 8 / (_bits(self.rate) * PAYLOAD)

    def fill(self, burst: int = 0) -> float:
        """Seconds until the last host has its first block: vclust forwards whole blocks.

        What is within an idle link's `burst` comes at once.
        """
        block = self.block or block_for(self.size, self.hosts)
        return self.hosts * max(0, block - burst) * 8 / (_bits(self.rate) * PAYLOAD)

    @property
    def patience(self) -> float:
        """Seconds: what one server needs to feed each host in turn, and more; less where a method may hang for good.

        On links without a rate, those at which all hosts together get 25 MB a second.
        """
        if self.ideal is None:
            return 30 + self.size * self.hosts / 25e6
        if self.fault == "none":
            return 60 + 1.5 * self.ideal * self.hosts
        return 15 + 3 * self.ideal + 120 * self.fault.startswith("slow")  # that is left after a minute


MIB = 1 << 20
ALL = ("vclust", "nginx", "nc", "aria2", "udpcast")
AT_FAULT = ("vclust", "nc", "aria2", "udpcast")
"""One server's hosts know nothing of each other."""
OURS = ("vclust", "vclust-encrypted", "vclust-nodigest", "vclust-unchecked")

TABLE: tuple[tuple[Case, tuple[str, ...]], ...] = (
    *((Case(hosts, "none", 512 * MIB), (*ALL, *OURS[1:])) for hosts in (1, 4)),
    (Case(16, "none", 256 * MIB), (*ALL, *OURS[1:])),
    (Case(64, "none", 64 * MIB), ALL),
    (Case(190, "none", 32 * MIB), ("vclust", "nginx", "nc")),
    (Case(1, "1gbit", 512 * MIB), ALL),
    (Case(4, "1gbit", 512 * MIB), ALL),
    (Case(16, "200mbit", 128 * MIB), ALL),
    *((Case(hosts, "25mbit", 64 * MIB), ("vclust",)) for hosts in (1, 4, 16)),
    (Case(64, "25mbit", 64 * MIB), ("vclust", "nc", "aria2")),
    (Case(190, "10mbit", 32 * MIB), ("vclust", "nc")),
    *(
        (Case(4, rate, 256 * MIB, files=files), ("vclust",))
        for rate in ("none", "200mbit")
        for files in (1, 10000)
    ),
    (Case(4, "200mbit", 128 * MIB, content="system"), ("vclust", "vclust-plain")),
    *((Case(16, "200mbit", 128 * MIB, fault), AT_FAULT) for fault in ("kill", "stop", "linkdown")),
    (Case(16, "200mbit", 128 * MIB, "slow"), ("vclust",)),
)
"""The whole table.  The more hosts, the slower the links, so that they and not this machine's cores are the limit."""


class Method:
    """One run of one method: `prepare`, `go`, `finished` until it is, `result`, `end`."""

    many_files: ClassVar[bool] = False

    def __init__(self, hosts: Sequence[Host], head: Host, source: Sequence[Path], pki: Path) -> None:
        self.hosts, self.head, self.source, self.pki = hosts, head, source, pki
        self.processes: list[subprocess.Popen[bytes]] = []
        """All there are; each leads a session of its own."""
        self.receivers: dict[int, subprocess.Popen[bytes]] = {}
        self.victim: Host | None = None

    def prepare(self) -> None:
        """Start what waits for work."""

    def go(self) -> None:
        raise NotImplementedError

    def finished(self) -> bool:
        """All receivers have ended, but the faulty one, of which nobody knows."""
        victim = self.victim.number if self.victim else None
        return all(_ended(process) for number, process in self.receivers.items() if number != victim)

    def said(self) -> dict[str, str]:
        """Hosts that the method names as failed, and why."""
        return {
            host.name: f"exit status {process.wait()}"
            for host in self.hosts
            if (process := self.receivers.get(host.number)) and _ended(process) and process.wait()
        }

    def head_cpu(self) -> float | None:
        return None

    def end(self) -> None:
        for process in self.processes:
            end(process)

    def run(self, host: Host, argv: Sequence[str | Path], **options: Any) -> "subprocess.Popen[bytes]":
        process = host.start(argv, **options)
        self.processes.append(process)
        if host.number:
            self.receivers[host.number] = process
        return process

    def into(self, host: Host) -> Path:
        return host.store / self.source[0].name


class Vclust(Method):
    many_files = True
    block: int | None = None
    options: ClassVar[dict[str, Any]] = {}
    checked = True

    def prepare(self) -> None:
        self._hops = Hops(self.hosts, program=None if self.checked else UNCHECKED)
        self.receivers = self._hops.processes
        files = [File(path, path.name, _digest(path) if self.checked else None) for path in self.source]
        options = {**self.options, **({"block": self.block} if self.block else {})}
        module = "chain.head" if self.checked else "chain.unchecked"
        self._head = Head(self.head, self.hosts, files, self.pki, options, module)
        self.processes = [*self.receivers.values(), self._head.process]
        self._sent = None

    def go(self) -> None:
        self._head.go()
        self._thread = threading.Thread(target=self._wait)
        self._thread.start()

    def _wait(self) -> None:
        with contextlib.suppress(VclustError):
            self._sent = self._head.wait(3600)

    def finished(self) -> bool:
        return not self._thread.is_alive()

    def said(self) -> dict[str, str]:
        if self._sent is None:
            return {"head": f"ended without a result: {self.head.log()[-500:]}"}
        return self._sent.failed() or ({"head": self._sent.error} if self._sent.error else {})

    def head_cpu(self) -> float | None:
        return self._sent.cpu if self._sent else None

    def end(self) -> None:
        super().end()
        if hasattr(self, "_thread"):
            self._thread.join()


class VclustEncrypted(Vclust):
    options: ClassVar[dict[str, Any]] = {"encrypt": True}


class VclustNoDigest(Vclust):
    options: ClassVar[dict[str, Any]] = {"digest": False}


class VclustUnchecked(VclustNoDigest):
    checked = False


class VclustPlain(Vclust):
    options: ClassVar[dict[str, Any]] = {"compress": "off"}


class Udpcast(Method):
    _WORDS = ("--interface", "eth0", "--nokbd", "--portbase", str(PORT))

    def prepare(self) -> None:
        for host in self.hosts:
            self.run(host, ["udp-receiver", "--file", self.into(host), *self._WORDS])
        for host in self.hosts:
            wait_for_port(host, self.receivers[host.number], PORT, udp=True)

    def go(self) -> None:
        count = ["--min-receivers", str(len(self.hosts))]
        self.run(self.head, ["udp-sender", "--file", self.source[0], "--full-duplex", *count, *self._WORDS])


class Nginx(Method):
    def prepare(self) -> None:
        place = self.head.folder / "nginx"
        place.mkdir(exist_ok=True)
        (place / "nginx.conf").write_text(
            f"daemon off; worker_processes 2; pid {place}/pid; error_log {place}/error.log; user root;\n"
            "events { worker_connections 1024; }\n"
            f"http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {place};"
            f" proxy_temp_path {place}; fastcgi_temp_path {place}; uwsgi_temp_path {place}; scgi_temp_path {place};\n"
            f"server {{ listen {PORT} backlog=1024; root {self.source[0].parent}; }} }}\n"
        )
        server = self.run(self.head, ["nginx", "-c", place / "nginx.conf", "-e", place / "error.log"])
        wait_for_port(self.head, server, PORT)

    def go(self) -> None:
        url = f"http://{self.head.address}:{PORT}/{self.source[0].name}"
        for host in self.hosts:
            self.run(host, ["curl", "-sS", "--fail", "-o", self.into(host), url])


class Aria2(Method):
    _WORDS = (
        *("--no-conf", "--quiet", "--enable-dht=false", "--bt-enable-lpd=false", "--file-allocation=none"),
        *(f"--listen-port={PORT}", "--seed-ratio=0", "--bt-tracker-interval=1", "--bt-max-peers=0"),
        *("--disable-ipv6", "--allow-overwrite"),
    )

    def prepare(self) -> None:
        self._torrent = self.head.folder / "torrent"
        self._whole = self.head.folder / "whole"
        self._whole.write_text('#!/bin/sh\n: > "$3.whole"\n')
        self._whole.chmod(0o755)
        url = f"http://{self.head.address}:{PORT + 1}/announce"
        self._torrent.write_bytes(tracker.torrent(self.source[0], url))
        program = [sys.executable, tracker.__file__, self.head.address, str(PORT + 1)]
        wait_for_port(self.head, self.run(self.head, program), PORT + 1)
        folder = f"--dir={self.source[0].parent}"
        seed = self.run(self.head, ["aria2c", *self._WORDS, folder, "--check-integrity", self._torrent])
        wait_for_port(self.head, seed, PORT)
        time.sleep(1 + _size(self.source) / 500e6)  # it checks the file before it gives any of it

    def go(self) -> None:
        hook = f"--on-bt-download-complete={self._whole}"
        for host in self.hosts:
            self.run(host, ["aria2c", *self._WORDS, hook, f"--dir={host.store}", self._torrent])

    def finished(self) -> bool:
        """They go on giving."""
        return all(
            self.into(host).with_suffix(".whole").exists() for host in self.hosts if host is not self.victim
        )

    def said(self) -> dict[str, str]:
        return {}


class Nc(Method):
    def prepare(self) -> None:
        after: Host | None = None
        for host in reversed(self.hosts):
            onward = f" > '{self.into(host)}'"
            if after:
                onward = f" | tee '{self.into(host)}' | nc -N {after.address} {PORT}"
            self.run(host, ["bash", "-o", "pipefail", "-c", f"nc -l {PORT}{onward}"])
            wait_for_port(host, self.receivers[host.number], PORT)
            after = host

    def go(self) -> None:
        self.run(self.head, ["sh", "-c", f"exec nc -N {self.hosts[0].address} {PORT} < '{self.source[0]}'"])


METHODS: dict[str, type[Method]] = {
    "vclust": Vclust,
    "vclust-encrypted": VclustEncrypted,
    "vclust-nodigest": VclustNoDigest,
    "vclust-unchecked": VclustUnchecked,
    "vclust-plain": VclustPlain,
    "udpcast": Udpcast,
    "nginx": Nginx,
    "aria2": Aria2,
    "nc": Nc,
}


@dataclass
class Run:
    """What one run gave."""

    seconds: float | None
    cpu: float
    memory: int
    verified: int
    failed: dict[str, str]
    head_cpu: float | None


@dataclass
class Row:
    method: str
    case: Case
    runs: list[Run] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        seconds = [run.seconds for run in self.runs]
        middle = statistics.median([second for second in seconds if second is not None] or [0])
        missed = seconds.count(None) * 2 > len(seconds) or not seconds
        delivered = self.case.size * self.case.hosts / 1e9
        worst = min(self.runs, key=lambda run: run.verified)
        return {
            "method": self.method,
            "hosts": self.case.hosts,
            "rate": self.case.rate,
            "size": self.case.size,
            "files": self.case.files,
            "content": self.case.content,
            "block": self.case.block,
            "fault": self.case.fault,
            "seconds": None if missed else round(middle, 3),
            "ideal_seconds": None if self.case.ideal is None else round(self.case.ideal, 3),
            "cpu_s_per_gb": round(statistics.median(run.cpu for run in self.runs) / delivered, 3),
            "memory_mib": round(max(run.memory for run in self.runs) / MIB, 1) or None,
            "head_cpu_s": worst.head_cpu and round(worst.head_cpu, 3),
            "verified": worst.verified,
            "failed_hosts": worst.failed,
            "runs": [None if second is None else round(second, 3) for second in seconds],
        }


def measure(method: Method, case: Case, limit: float) -> Run:
    kind, _, share = case.fault.partition("@")
    if kind != "none":
        method.victim = method.hosts[len(method.hosts) // 2]
    over = threading.Event()
    try:
        if isinstance(method, Vclust):
            method.block = case.block
        method.prepare()
        before = {process.pid: _session_cpu({process.pid}) for process in method.processes}
        started = time.monotonic()
        method.go()
        fault = threading.Thread(target=_harm, args=(method, kind, float(share or 0.5) * case.size, over))
        fault.start()
        while not (finished := method.finished()) and time.monotonic() - started < limit:
            time.sleep(0.002)
        seconds = time.monotonic() - started
        over.set()
        fault.join()
        cpu = _session_cpu({process.pid for process in method.processes}) - sum(before.values())
        memory = max((peak_memory(process.pid) for process in method.receivers.values()), default=0)
        if not finished:
            method.end()
        failed = method.said()
    finally:
        over.set()
        method.end()
        if method.victim is not None:
            method.victim.plug()
            method.victim.slow(case.rate)
    right = [
        host for host in method.hosts if all(_same(path, host.store / path.name) for path in method.source)
    ]
    for host in method.hosts:
        if host not in right:
            failed.setdefault(host.name, f"said nothing; {_left(host, method.source)}")
        else:
            failed.pop(host.name, None)
        host.empty()
    return Run(seconds if finished else None, cpu, memory, len(right), failed, method.head_cpu())


def _harm(method: Method, kind: str, at: float, over: threading.Event) -> None:
    """Do it when the victim has got so many bytes."""
    victim = method.victim
    if victim is None:
        return
    while victim.stored() < at:
        if over.wait(0.002):
            return
    process = method.receivers[victim.number]
    match kind:
        case "kill":
            os.killpg(process.pid, signal.SIGKILL)
        case "stop":
            os.killpg(process.pid, signal.SIGSTOP)
        case "linkdown":
            victim.unplug()
        case "slow":
            victim.slow("5mbit")


def _session_cpu(leaders: set[int]) -> float:
    """CPU seconds of the sessions' processes, ended and reaped children included."""
    total = 0.0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[3]) in leaders:
                total += cpu_seconds(int(path.parent.name))
    return total


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    """Without reaping it: its CPU time is still to be read."""
    if process.returncode is not None:
        return True
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


_digests: dict[Path, str] = {}


def _digest(path: Path) -> str:
    """Of a source, which does not change."""
    if path not in _digests:
        with open(path, "rb") as file:
            _digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return _digests[path]


def _same(source: Path, path: Path) -> bool:
    if not path.is_file() or path.stat().st_size != source.stat().st_size:
        return False
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == _digest(source)


def _left(host: Host, source: Sequence[Path]) -> str:
    named = [path for path in source if (host.store / path.name).exists()]
    if not named:
        return "no file"
    return f"{sum((host.store / path.name).stat().st_size for path in named)} of {_size(source)} bytes under its name"


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths)


def sources(folder: Path, case: Case) -> list[Path]:
    """The files to send, made once: random bytes, or what is under /usr as a tar."""
    place = folder / f"{case.content}-{case.size}-{case.files}"
    if not place.exists():
        place.mkdir(parents=True)
        if case.content == "system":
            tar = subprocess.Popen(
                ["tar", "-C", "/usr", "-cf", "-", "bin", "lib", "share"],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            assert tar.stdout is not None
            read: Callable[[int], bytes] = tar.stdout.read
        else:
            read = os.urandom
        for number in range(case.files):
            left = case.size * (number + 1) // case.files - case.size * number // case.files
            with open(place / f"file{number:05}", "wb") as file:
                while left:
                    left -= file.write(read(min(left, MIB)))
        if case.content == "system":
            tar.kill()
            tar.wait()
    return sorted(place.iterdir())


def rows(cases: Sequence[tuple[Case, tuple[str, ...]]], runs: int, limit: float | None) -> Iterator[Row]:
    bed = Bed(max(case.hosts for case, _ in cases), BED)
    bed.down()
    bed.up()
    try:
        head, *hosts = (Host(bed, number) for number in range(bed.count + 1))
        pki = keys.make(bed.folder / "site", hosts)
        rate = "none"
        for case, methods in cases:
            source = sources(bed.folder / "source", case)
            if case.rate != rate:
                bed.shape(case.rate)
                rate = case.rate
            table = {name: Row(name, case) for name in methods}
            for number, name in itertools.product(range(runs), methods):
                method = METHODS[name](hosts[: case.hosts], head, source, pki)
                table[name].runs.append(measure(method, case, limit or case.patience))
                bed.calm()
                got = table[name].runs[-1]
                print(
                    f"{name}, {case}, run {number + 1}: {got.seconds} s, {got.verified} whole, {_brief(got.failed)}",
                    file=sys.stderr,
                    flush=True,
                )
            yield from table.values()
    finally:
        bed.down()


def fit(rows: Sequence[dict[str, Any]]) -> str:
    """The growth formula's `start`, `more` and `host` by least squares, and what it says."""
    import numpy as np

    cases = []
    for row in rows:
        plain = row["fault"] == "none" and row["files"] == 1 and row["content"] == "random"
        if row["method"] == "vclust" and row["rate"] != "none" and plain and row["seconds"]:
            case = Case(row["hosts"], row["rate"], row["size"], block=row["block"])
            cases.append((case, row["seconds"]))
    shape = np.array([[1.0, case.ideal, case.hosts] for case, _ in cases])
    rest = np.array([seconds - case.ideal - case.fill(BURST) for case, seconds in cases])
    (start, more, host), *_ = np.linalg.lstsq(shape, rest, rcond=None)

    def say(case: Case, burst: int) -> float:
        return start + case.ideal * (1 + more) + case.fill(burst) + host * case.hosts

    lines = [f"start {start:.3f} s, more {more:.2%}, host {host * 1e3:.2f} ms, from {len(cases)} rows"]
    for case, seconds in cases:
        lines.append(
            f"{case.hosts:6} hosts {case.rate:>8} {case.size / MIB:6.0f} MiB: {seconds:8.2f} s measured,"
            f" {say(case, BURST):8.2f} s by the formula"
        )
    for hosts, size in itertools.product((16, 1000, 10000), (512 * MIB, 8192 * MIB)):
        case = Case(hosts, "1gbit", size)
        lines.append(
            f"{hosts:6} hosts    1gbit {size / MIB:6.0f} MiB: size {case.ideal:.1f} s, blocks {case.fill():.1f} s,"
            f" hosts {host * hosts:.1f} s; in all {say(case, 0):.1f} s"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--hosts", type=lambda text: [int(word) for word in text.split(",")], metavar="N,…")
    parser.add_argument(
        "--rate", type=lambda text: text.split(","), default=["none"], help="as tc writes it, or none"
    )
    parser.add_argument(
        "--size", type=lambda text: [_bytes(word) for word in text.split(",")], default=[512 * MIB]
    )
    parser.add_argument(
        "--methods", type=lambda text: text.split(","), default=list(ALL), help=", ".join(METHODS)
    )
    parser.add_argument(
        "--fault", type=lambda text: text.split(","), default=["none"], metavar="KIND[@SHARE],…"
    )
    parser.add_argument("--files", type=int, default=1, help="the size in so many files (vclust only)")
    parser.add_argument(
        "--content", choices=("random", "system"), default="random", help="system: a tar of /usr"
    )
    parser.add_argument("--block", type=_bytes, help="of vclust (default: it chooses)")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--limit", type=float, help="seconds after which a run is given up")
    parser.add_argument("--fit", type=Path, metavar="ROWS", help="fit the growth formula to rows of --json")
    parser.add_argument("--json", action="store_true", help="a row of JSON for each method and combination")
    arguments = parser.parse_args()
    if arguments.fit:
        print(fit([json.loads(line) for line in arguments.fit.read_text().splitlines()]))
        return 0
    if unknown := [name for name in arguments.methods if name not in METHODS]:
        parser.error(f"--methods: got {', '.join(unknown)}, expected some of {', '.join(METHODS)}")
    for fault in arguments.fault:
        if not re.fullmatch(r"none|(kill|stop|linkdown|slow)(@0?\.\d+)?", fault):
            parser.error(
                f"--fault: got {fault}, expected none, kill, stop, linkdown or slow, such as kill@0.5"
            )
    if arguments.files > 1 and not all(METHODS[name].many_files for name in arguments.methods):
        parser.error("--files: only vclust sends many files")
    cases = list(TABLE)
    if arguments.hosts:
        combined = itertools.product(arguments.hosts, arguments.rate, arguments.size, arguments.fault)
        cases = [
            (Case(*values, arguments.files, arguments.content, arguments.block), tuple(arguments.methods))
            for values in combined
        ]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    for row in rows(cases, arguments.runs, arguments.limit):
        told = row.told()
        if arguments.json:
            print(json.dumps(told), flush=True)
        else:
            ratio = (
                told["seconds"] / told["ideal_seconds"] if told["seconds"] and told["ideal_seconds"] else None
            )
            print(
                f"{told['method']:16}{told['hosts']:4} hosts {told['rate']:>8} {told['size'] / MIB:6.0f} MiB"
                f" {told['fault']:13} {told['seconds'] or 'never':>8} s"
                f" {f'{ratio:.3f} x ideal' if ratio else '':14} {told['cpu_s_per_gb']:7.2f} CPU-s/GB"
                f" {told['memory_mib'] or 0:6.1f} MiB {told['verified']} whole {_brief(told['failed_hosts'])}",
                flush=True,
            )
    return 0


def _brief(failed: dict[str, str]) -> str:
    """Reasons, with the hosts that share them."""
    reasons: dict[str, list[str]] = {}
    for host, reason in failed.items():
        reasons.setdefault(reason, []).append(host)
    return "; ".join(
        f"{hosts[0] if len(hosts) == 1 else f'{len(hosts)} hosts'}: {why}" for why, hosts in reasons.items()
    )


def _bits(rate: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)bit", rate)
    if not found:
        raise SystemExit(f"rate: got {rate!r}, expected none or one such as 200mbit")
    return float(found[1]) * {"": 1, "k": 1e3, "m": 1e6, "g": 1e9}[found[2]]


def _bytes(size: str) -> int:
    found = re.fullmatch(r"(\d+)(B|KiB|MiB|GiB|KB|MB|GB)", size)
    if not found:
        raise argparse.ArgumentTypeError(f"got {size!r}, expected a size such as 512MiB")
    units = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "KB": 10**3, "MB": 10**6, "GB": 10**9}
    return int(found[1]) * units[found[2]]


if __name__ == "__main__":
    sys.exit(main())
