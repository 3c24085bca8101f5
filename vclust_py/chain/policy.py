"""The head's decisions: who pulls from whom, who is slow, who is dropped.

`decide` is a pure function of the peers and the time; `apply` is what an action does to the peers.  The order of the
peers is the order of the chain: each pulls from the last peer before it that is no leaf, the first from the head.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from vclust_py.chain import peers as measure
from vclust_py.chain.peers import HEAD, Peer

TRIES, LAST_TRIES = 3, 2
"""Complaints without a byte in between after which a hop pulls from the head; and after which it is given up there."""
WRONG, NOTHING, LITTLE = "wrong data", "nothing", "too little"
SUSPECTS = {
    WRONG: "is the memory, disk or network card of one of them bad?",
    NOTHING: "can these two reach each other?",
    LITTLE: "is something wrong with the network between them?",
}
STUCK = 60.0
"""Seconds that a hop may stand still while its source has more for it, and it says that it lives."""
LAGGARD = 10.0
"""A hop that is slower than others by so much is not waited for, beyond `STUCK` seconds."""
MAX_DEMOTIONS = 3
"""How many sources a hop may have put to the end of the chain by its complaints."""


@dataclass(frozen=True)
class Limits:
    """What is fixed for a transfer.  Bytes, seconds."""

    total: int
    """Of all files together."""
    stall: float
    """Without a sign of life."""
    start: float
    """Until a hop is ready."""
    dry: bool = False
    """Hops only look at what they have: each asks the head."""


@dataclass(frozen=True)
class Pull:
    """Tell the hop to pull from that source: a hop's name, or HEAD."""

    hop: str
    source: str


@dataclass(frozen=True)
class Demote:
    """Put the hop to the end, because the complainer, another hop or itself, gets nothing.  It then needs a source."""

    hop: str
    complainer: str


@dataclass(frozen=True)
class DemoteSlow:
    """Put the hop to the end: it is slow, or the second that pulls from it is.  `source`: that of the slow one."""

    hop: str
    source: str


@dataclass(frozen=True)
class Separate:
    """One of the two is to blame: nobody pulls from either any more, and the hop pulls from the head."""

    hop: str
    source: str
    what: str
    """One of `SUSPECTS`."""
    why: str


@dataclass(frozen=True)
class Drop:
    """Go on without the hop."""

    hop: str
    why: str
    acquits: bool = False
    """It is to blame itself: whom it has blamed may be a source again."""


@dataclass(frozen=True)
class Remeasure:
    """Forget the rates: what they tell is of another chain."""


Action = Pull | Demote | DemoteSlow | Separate | Drop | Remeasure


def decide(peers: Iterable[Peer], now: float, limits: Limits) -> list[Action]:
    """What to do now, in this order; nothing where all is well."""
    draft = _Draft({peer.name: peer for peer in peers}, now, limits)
    draft.settle_complaints()
    draft.drop_silent()
    draft.demote_slow()
    draft.drop_laggard()
    draft.route()
    return draft.actions


def apply(peers: Mapping[str, Peer], action: Action, now: float) -> dict[str, Peer]:
    """The peers, by name and in the order of the chain, after the action."""
    after = dict(peers)
    match action:
        case Pull(hop, source):
            # How long it stood still behind its last source is nothing to hold against this one.
            after[hop] = replace(after[hop], source=source, moved=now)
        case Demote(hop, complainer):
            again = replace(after[complainer], source="", complaint=None)
            if hop != complainer:
                again = replace(again, demotions=again.demotions + 1)
            after[complainer] = again
            after[hop] = after.pop(hop)
        case DemoteSlow(hop, source):
            if source != HEAD:
                after[source] = replace(after[source], slow_pullers=after[source].slow_pullers + 1)
            slow = after.pop(hop)
            after[hop] = replace(slow, demoted=slow.demoted + 1)
        case Separate(hop, source, what, why):
            after[hop] = replace(
                after[hop],
                blames=source,
                why=(what, why),
                source="",
                complaint=None,
                faults=0,
                moved=now,
                past=(),
            )
            if source in after and not after[source].lost:
                after[source] = replace(after[source], blamed_by=after[source].blamed_by | {hop})
        case Drop(hop, _, acquits):
            gone = after.pop(hop)
            if gone.ended is not None:
                after[hop] = replace(gone, lost=True)
            for name, peer in after.items():
                if peer.source == hop:
                    after[name] = peer = peer.loses_source()
                if acquits and hop in peer.blamed_by:
                    after[name] = replace(peer, blamed_by=peer.blamed_by - {hop})
        case Remeasure():
            after = {name: replace(peer, past=()) for name, peer in after.items()}
    return after


def pairs(peers: Iterable[Peer], dry: bool = False) -> Iterator[tuple[Peer | None, Peer]]:
    """Each hop that takes part, with its source; None is the head."""
    before: Peer | None = None
    for peer in peers:
        if peer.lost:
            continue
        yield (None if peer.blames or dry else before), peer
        if not peer.leaf:
            before = peer


def warnings(peers: Iterable[Peer]) -> dict[str, list[str]]:
    """By host, on both sides: which hops have their files and could not go on with their first source."""
    found: dict[str, list[str]] = {}
    for peer in peers:
        if peer.blames:
            what, why = peer.why
            text = f"{peer.name} got {what} from {peer.blames}: {why}; {SUSPECTS[what]}"
            for name in (peer.name, peer.blames):
                found.setdefault(name, []).append(text)
    return found


class _Draft:
    """The peers as they are after the actions so far."""

    def __init__(self, peers: dict[str, Peer], now: float, limits: Limits) -> None:
        self.peers = peers
        self.now = now
        self.limits = limits
        self.actions: list[Action] = []

    def _do(self, action: Action) -> None:
        self.actions.append(action)
        self.peers = apply(self.peers, action, self.now)

    def _pairs(self) -> list[tuple[Peer | None, Peer]]:
        return list(pairs(self.peers.values(), self.limits.dry))

    def _separate(self, name: str, what: str, why: str) -> None:
        """Either this hop or its source is to blame, and only the head itself is above suspicion.

        So the hop pulls from the head from now on, and if it cannot do that either it is dropped.  Nobody is dropped
        for what another says.
        """
        peer = self.peers[name]
        if peer.blames:
            both = HEAD if peer.blames == HEAD else f"{peer.blames} and {HEAD}"
            self._do(Drop(name, f"gets {what} from {both}: {why}", acquits=True))
        else:
            self._do(Separate(name, peer.source or HEAD, what, why))

    def settle_complaints(self) -> None:
        """Hops' sources have failed them: find others."""
        for name in [peer.name for peer in self.peers.values() if peer.complaint is not None]:
            peer = self.peers[name]
            complaint, source = peer.complaint, self.peers.get(peer.source)
            if complaint is None:
                continue
            if complaint.wrong_data:
                self._separate(name, WRONG, complaint.text)
            elif peer.faults >= (LAST_TRIES if peer.blames else TRIES):
                self._separate(name, NOTHING, complaint.text)
            elif (
                peer.faults == 1 and source is not None and not source.lost and peer.demotions < MAX_DEMOTIONS
            ):
                self._do(Demote(source.name, name))
            else:
                self._do(Demote(name, name))

    def drop_silent(self) -> None:
        """Who says nothing, does not get ready or stands still."""
        for source, peer in self._pairs():
            has = self.limits.total if source is None else source.done
            still = self.now - peer.moved
            if self.now - peer.heard > self.limits.stall:
                self._do(Drop(peer.name, f"silent for {self.now - peer.heard:.0f} s"))
            elif not peer.ready and still > self.limits.start:
                self._do(Drop(peer.name, f"is not ready after {still:.0f} s"))
            elif peer.ready and peer.ended is None and has > peer.done and still > STUCK:
                self._separate(peer.name, NOTHING, f"no progress for {STUCK:.0f} s")

    def demote_slow(self) -> None:
        """Put a slow hop to the end, where nobody waits for it.

        It is slow when its source has more for it and those before it have received at twice its rate.  The second
        that is slow behind one source shows that it is the source's fault.  How fast the head could be is not known:
        if all takes long, the first hop is put to the end once, to see.
        """
        fastest = 0.0
        waited_for = [(source, peer) for source, peer in self._pairs() if not peer.leaf]
        for source, peer in waited_for[:-1]:  # nobody waits for the last
            has = self.limits.total if source is None else source.done
            rate = peer.receives
            waiting = peer.measured and peer.ended is None and has - peer.done > rate * measure.WINDOW / 2
            trial = source is None and self.limits.total - peer.done > 4 * measure.WINDOW * rate
            if waiting and peer.demoted < 2 and (trial or rate < fastest / 2):
                culprit = source if source is not None and source.slow_pullers else peer
                self._do(DemoteSlow(culprit.name, HEAD if source is None else source.name))
                self._do(Remeasure())
                return
            fastest = max(fastest, peer.best)

    def drop_laggard(self) -> None:
        """Wait no longer for a hop that is far slower than others, when these have had their files for a while.

        It keeps what it has, so the next transfer goes on there.  Those behind it may only have had a slow source.
        """
        late = [peer for peer in self.peers.values() if peer.ended is None]
        ended = [(peer.ended, peer.best) for peer in self.peers.values() if peer.ended is not None]
        if not late or not ended or self.now < max(at for at, _ in ended) + STUCK:
            return
        fastest = max(best for _, best in ended)
        share = max(1, sum(peer.source == HEAD for peer in late))

        def lags(peer: Peer) -> bool:
            rate, left = peer.rate, self.limits.total - peer.done
            return peer.measured and rate < fastest / (LAGGARD * share) and left > rate * STUCK

        if not all(map(lags, late)):
            return
        peer = late[0]
        speeds = f"{peer.rate / 1e6:.2f} MB/s, others had {fastest / 1e6:.2f} MB/s"
        self._do(Remeasure())
        if peer.source != HEAD:
            self._separate(peer.name, LITTLE, speeds)
            return
        kept = f"{peer.done * 100 // self.limits.total}% are here and are kept for the next time"
        self._do(Drop(peer.name, f"crawls: {speeds}; {kept}"))

    def route(self) -> None:
        """Tell whoever is to have another source, once all are ready."""
        if not all(peer.ready for _, peer in self._pairs()):
            return
        for source, peer in self._pairs():
            name = HEAD if source is None else source.name
            if peer.source != name and peer.ended is None:
                self._do(Pull(peer.name, name))
