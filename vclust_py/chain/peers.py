"""A hop as the head sees it.  Frozen: whatever happens to a hop gives another `Peer`."""

from dataclasses import dataclass, replace
from typing import NamedTuple

HEAD = "the site manager"
"""How the head is called as a source; no host has a space in its name."""
WINDOW = 3.0
"""Seconds over which a rate is measured."""


class Sample(NamedTuple):
    """What a hop had at one moment.  Seconds, bytes."""

    time: float
    done: int
    received: int


@dataclass(frozen=True)
class Complaint:
    """What a hop says of its source."""

    text: str
    wrong_data: bool
    """It sent what it should not; else it sent nothing."""


@dataclass(frozen=True)
class Peer:
    """A hop.  Times are those of one clock, in seconds."""

    name: str
    heard: float
    """When it last said anything."""
    moved: float
    """When `done` last grew."""
    ready: bool = False
    unpacks: bool = False
    source: str = ""
    """Whom it has been told to pull from; empty: it has to be told again."""
    done: int = 0
    """Bytes that are there and checked."""
    received: int = 0
    """Bytes that came over the network."""
    ended: float | None = None
    """When it said how the transfer has ended for it."""
    lost: bool = False
    """Its connection ended after that: it is a source for nobody."""
    complaint: Complaint | None = None
    """Nothing has been decided about it yet."""
    faults: int = 0
    """Complaints since `done` last grew."""
    demotions: int = 0
    """How often its complaints have put a source to the end."""
    blames: str = ""
    """With which source it could not go on, for a reason that lies with either: it pulls from the head since."""
    why: tuple[str, str] = ("", "")
    """What it got from that source (`policy.SUSPECTS`), and more words about that."""
    blamed_by: frozenset[str] = frozenset()
    """Names of hops that could not go on with it."""
    past: tuple[Sample, ...] = ()
    """Of the last seconds."""
    best: float = 0.0
    """Bytes a second that it has received at its best."""
    demoted: int = 0
    """How often it was put to the end for being slow."""
    slow_pullers: int = 0
    """How many of those that pulled from it were slow."""

    @property
    def leaf(self) -> bool:
        """Nobody may pull from it."""
        return bool(self.blames or self.blamed_by)

    @property
    def measured(self) -> bool:
        """Its rates are known."""
        return len(self.past) > 1 and self.past[-1].time - self.past[0].time >= WINDOW

    @property
    def rate(self) -> float:
        """Bytes a second by which it got on over the last seconds."""
        return self._per_second(self.past[-1].done - self.past[0].done) if self.past else 0.0

    @property
    def receives(self) -> float:
        """Bytes a second that it received over the last seconds."""
        return self._per_second(self.past[-1].received - self.past[0].received) if self.past else 0.0

    def _per_second(self, size: int) -> float:
        seconds = self.past[-1].time - self.past[0].time
        return size / seconds if seconds > 0 else 0.0

    def became_ready(self, now: float, unpacks: bool) -> "Peer":
        first = (Sample(now, 0, 0),)
        return replace(self, ready=True, unpacks=unpacks, moved=now, past=first)

    def progressed(self, now: float, done: int, received: int, total: int) -> "Peer":
        """It says how far it is; `total`: bytes of all files."""
        past = (*self.past, Sample(now, max(done, self.done), received))
        while len(past) > 2 and now - past[1].time >= WINDOW:
            past = past[1:]
        peer = replace(self, received=received, past=past)
        if done > self.done:
            # A complaint that is not decided yet was made after these bytes.
            peer = replace(peer, done=done, moved=now, faults=int(self.complaint is not None))
        if peer.measured or peer.done == total:
            return replace(peer, best=max(peer.best, peer.receives))
        return peer

    def complained(self, source: str, complaint: Complaint) -> "Peer":
        """It cannot go on with that source; nothing new where that is not its source any more."""
        if not source or source != self.source or self.ended is not None or self.complaint is not None:
            return self
        return replace(self, complaint=complaint, faults=self.faults + 1)

    def loses_source(self) -> "Peer":
        """Its source is dropped: what it says of that is settled by it."""
        return replace(self, source="", complaint=None, faults=self.faults - int(self.complaint is not None))

    def finished(self, now: float, received: int) -> "Peer":
        return replace(self, ended=now, received=received, complaint=None)
