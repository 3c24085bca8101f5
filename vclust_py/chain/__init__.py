"""The chain: files to many hosts in nearly the time of one (paper 3.3, 4.4; docs/chain.md).

peers        a hop as the head sees it
policy       who pulls from whom, who is slow, who is dropped: a pure function of the peers and the time
messages     what a hop may say
sender       what the site manager gives out: files as they were at the start
connections  calls to hops
head         one transfer: it hears every hop and does what the policy decides
report       a transfer as the site shows it: its progress, and what its outcomes mean for people
push         files to a site's hosts as state, for module and command
program      what runs on every host (package `vclust_hop`), as one file for the roll-out

Every hop pulls the files from a source (at first the hop before it), block by block, and serves the blocks that it
has to whoever is told to pull from it.  So a slow or dead hop holds up nobody before it, and a hop whose source
fails goes on at another from the block it has reached.
"""

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

PORT = 7365
"""Where a hop listens."""


DOMAIN = ".hop.vclust.invalid"
"""Of the names in hops' certificates.  No other certificate of a site has such a name."""


def identity(host: str) -> str:
    """The only name in the certificate of a host's hop, by the host's name in the inventory.

    It is not the name that libvirt there is called by, so that neither certificate can stand in for the other.
    """
    # With the domain it may have 64 characters, as common names may.
    if len(host) > 45 or not re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)*", host):
        host = hashlib.sha256(host.encode(errors="surrogatepass")).hexdigest()[:40]
    return host + DOMAIN


@dataclass(frozen=True)
class Hop:
    """A host of the chain: its name in the inventory, and where its service listens."""

    name: str
    address: str
    port: int = PORT
    rack: str = ""
    """Hosts of one rack follow each other, so that each link between racks is crossed once."""

    @property
    def identity(self) -> str:
        """The name that its certificate bears."""
        return identity(self.name)


@dataclass(frozen=True)
class File:
    """A file to send, and the name it gets in the hosts' folder (by default its own)."""

    path: Path
    name: str = ""
    digest: str | None = None
    """sha256, hexadecimal, when it is known."""


@dataclass(frozen=True)
class Keys:
    """PEM files of the head: the site's authority, and the site manager's certificate and key."""

    ca: Path
    certificate: Path
    key: Path
    revoked: Path | None = None
    """Lists of certificates that count no more, one of each authority; a host that was taken out has such."""


@dataclass(frozen=True)
class Options:
    """How to send."""

    block: int | None = None
    """Bytes that are checked and forwarded as one; by default what suits size and number of hosts."""
    stall: float = 4.0
    """Seconds without a sign of life after which a hop is bypassed."""
    start: float = 30.0
    """Seconds that a hop whose machine answers may take to greet: its service may have to be started first."""
    encrypt: bool = False
    compress: str = "auto"
    """`on`, `off`, or `auto`: when it is faster on the network at hand.  Encrypted files are not compressed."""
    digest: bool = True
    """Hops, too, check a file's digest, where it is known, before they give it its name: no host of the site can
    then bring another's files.  It costs every hop half a CPU second a GB."""


@dataclass(frozen=True)
class Outcome:
    """What became of the transfer to one host."""

    host: str
    arrived: tuple[str, ...]
    """Names of the files that were sent to it and are there now."""
    had: tuple[str, ...]
    """Names of the files that were there before."""
    failed: str = ""
    """Why not all of them are there; empty when they are."""
    bytes: int = 0
    """Of the files that arrived: the payload."""
    received: int = 0
    """Bytes that came over the network for them: less where they were compressed, full of zeros, or partly there."""
    seconds: float = 0.0
    """From the start until its last file was whole."""
    warnings: tuple[str, ...] = ()
    """Other hosts that it had trouble with, or that had with it, in words: one of each two is to be looked at."""


@dataclass(frozen=True)
class Progress:
    """All hosts at one moment.  Bytes, seconds."""

    done: dict[str, int]
    """By host, in the present order of the chain; hosts that failed are not in it."""
    total: int
    """Of each host."""
    slowest: str
    rate: float
    """Bytes a second of the slowest."""
    eta: float
    """Until the slowest has all, at that rate; infinite while there is none."""


Report = Callable[[Progress], None]


def _quiet(progress: Progress) -> None:
    pass


def send(
    files: Sequence[File],
    hops: Sequence[Hop],
    keys: Keys,
    options: Options = Options(),
    report: Report = _quiet,
    stop: threading.Event | None = None,
) -> tuple[Outcome, ...]:
    """Send the files to all hops; outcomes in the order of `hops`.

    A host's fault is in its outcome.  Raises VclustError for what is the head's own: a file that is not there or
    changes while it is sent, names that clash, `stop` set.
    """
    from vclust_py.chain import policy
    from vclust_py.chain.head import Chain

    chain = Chain(files, hops, keys, options, report, stop or threading.Event(), False)
    chain.run()
    warnings = policy.warnings(chain.peers.values())
    outcomes = []
    for hop in dict.fromkeys(hops):
        if hop.name in chain.failed:
            outcomes.append(Outcome(hop.name, (), (), chain.failed[hop.name]))
            continue
        peer, result = chain.peers[hop.name], chain.results[hop.name]
        arrived, had = tuple(result["arrived"]), tuple(result["had"])
        size = sum(chain.sizes[name] for name in arrived)
        seconds = (peer.ended or chain.begun) - chain.begun
        warned = tuple(warnings.get(hop.name, ()))
        outcomes.append(Outcome(hop.name, arrived, had, "", size, peer.received, seconds, warned))
    return tuple(outcomes)


def lacking(
    files: Sequence[File],
    hops: Sequence[Hop],
    keys: Keys,
    options: Options = Options(),
) -> tuple[dict[str, tuple[str, ...]], dict[str, str]]:
    """Which hosts lack which of the files (by host; empty when it has them all), and why others do not answer.

    Nothing is changed anywhere.  Raises VclustError as `send` does.
    """
    from vclust_py.chain.head import Chain

    chain = Chain(files, hops, keys, options, _quiet, threading.Event(), True)
    chain.run()
    return {name: tuple(result["lacks"]) for name, result in chain.results.items()}, chain.failed
