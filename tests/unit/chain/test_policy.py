"""The head's decisions as tables, and on simulated hosts.  Time is a number here."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vclust_py.chain import policy
from vclust_py.chain.peers import HEAD, WINDOW, Complaint, Peer, Sample
from vclust_py.chain.policy import (
    LITTLE,
    NOTHING,
    STUCK,
    WRONG,
    Action,
    Demote,
    DemoteSlow,
    Drop,
    Limits,
    Pull,
    Remeasure,
    Separate,
    apply,
    decide,
    pairs,
)

TOTAL = 1000 * 10**6
LIMITS = Limits(TOTAL, stall=4.0, start=30.0)
NOW = 100.0


def chain(*changes: dict[str, object], **common: object) -> list[Peer]:
    """Ready hops a, b, c … that pull from each other, as each dictionary says otherwise."""
    peers = []
    for name, change in zip("abcdefgh", changes, strict=False):
        source = peers[-1].name if peers else HEAD
        usual = {"heard": NOW, "moved": NOW, "ready": True, "source": source, "done": 10**8}
        peers.append(Peer(name, **{**usual, **common, **change}))  # type: ignore[arg-type]
    return peers


def at_rate(rate: float, received: float | None = None) -> tuple[Sample, ...]:
    """The last seconds of a hop that gets on by so many bytes a second, and receives as many if not told."""
    size = WINDOW * (rate if received is None else received)
    return (Sample(NOW - WINDOW, 0, 0), Sample(NOW, int(WINDOW * rate), int(size)))


def complaining(text: str = "closed", wrong: bool = False, faults: int = 1) -> dict[str, object]:
    return {"complaint": Complaint(text, wrong), "faults": faults}


FAST = {"past": at_rate(50e6), "best": 50e6}
SLOW = {"past": at_rate(5e6), "best": 5e6}
ENDED = {"ended": NOW - STUCK, "best": 50e6, "done": TOTAL}

TABLE: dict[str, tuple[list[Peer], list[Action]]] = {
    "all is well": (chain({}, {}, {}), []),
    "at the start": (
        chain({}, {}, {}, source="", done=0),
        [Pull("a", HEAD), Pull("b", "a"), Pull("c", "b")],
    ),
    "not all are ready": (chain({}, {"ready": False}, {}, source="", done=0), []),
    "one is not ready for too long": (
        chain({}, {"ready": False, "moved": NOW - 31}, {}, source="", done=0),
        [Drop("b", "is not ready after 31 s"), Pull("a", HEAD), Pull("c", "a")],
    ),
    "one is silent": (chain({}, {"heard": NOW - 5}, {}), [Drop("b", "silent for 5 s"), Pull("c", "a")]),
    "the first is silent": (chain({"heard": NOW - 5}, {}), [Drop("a", "silent for 5 s"), Pull("b", HEAD)]),
    "one was silent for less than the limit": (chain({}, {"heard": NOW - 4}, {}), []),
    "one has ended and is lost": (chain({}, {"ended": 99.0, "lost": True}, {"source": "a"}), []),
    "its source is lost": (chain({}, {"ended": 99.0, "lost": True}, {}), [Pull("c", "a")]),
    "a source gives nothing": (
        chain({}, {}, complaining(), {}),
        [Demote("b", "c"), Pull("c", "a"), Pull("b", "d")],
    ),
    "the second source gives nothing either": (
        chain({}, {}, complaining(faults=2), {}),
        [Demote("c", "c"), Pull("d", "b"), Pull("c", "d")],
    ),
    "it has put three sources to the end before": (
        chain({}, {}, {**complaining(), "demotions": 3}, {}),
        [Demote("c", "c"), Pull("d", "b"), Pull("c", "d")],
    ),
    "the third source gives nothing either": (
        chain({}, {}, complaining(faults=3), {}),
        [Separate("c", "b", NOTHING, "closed"), Pull("c", HEAD), Pull("d", "a")],
    ),
    "the head gives nothing": (chain(complaining(), {}), [Demote("a", "a"), Pull("b", HEAD), Pull("a", "b")]),
    "the last resort gives nothing": (
        chain(
            {},
            {"blamed_by": frozenset("c")},
            {**complaining(faults=2), "blames": "b", "source": HEAD},
            {"source": "a"},
        ),
        [Drop("c", f"gets nothing from b and {HEAD}: closed", acquits=True), Pull("d", "b")],
    ),
    "the last resort gives nothing once": (
        chain({}, {}, {**complaining(), "blames": "b", "source": HEAD}, {"source": "b"}),
        [Demote("c", "c"), Pull("c", HEAD)],
    ),
    "a source sends wrong data": (
        chain({}, {}, complaining("a tag", True), {}),
        [Separate("c", "b", WRONG, "a tag"), Pull("c", HEAD), Pull("d", "a")],
    ),
    "a liar accuses the head": (
        chain(complaining("a tag", True), {}),
        [Separate("a", HEAD, WRONG, "a tag"), Pull("a", HEAD), Pull("b", HEAD)],
    ),
    "a liar accuses the head again": (
        chain({**complaining("a tag", True), "blames": HEAD}, {"source": HEAD}),
        [Drop("a", f"gets wrong data from {HEAD}: a tag", acquits=True)],
    ),
    "a liar accuses the head after another": (
        chain(
            {"blamed_by": frozenset("b")},
            {**complaining("a tag", True), "blames": "a", "source": HEAD},
            {"source": HEAD},
        ),
        [Drop("b", f"gets wrong data from a and {HEAD}: a tag", acquits=True), Pull("c", "a")],
    ),
    "the accused has finished": (
        chain({"ended": 99.0, "done": TOTAL}, complaining("a tag", True), {}),
        [Separate("b", "a", WRONG, "a tag"), Pull("b", HEAD), Pull("c", HEAD)],
    ),
    "two complain at once": (
        chain({}, complaining("a tag", True), {}, complaining()),
        [
            Separate("b", "a", WRONG, "a tag"),
            Demote("c", "d"),
            Pull("b", HEAD),
            Pull("d", HEAD),
            Pull("c", "d"),
        ],
    ),
    "one stands still": (
        chain({"done": 10**9}, {"moved": NOW - STUCK - 1}, {}),
        [Separate("b", "a", NOTHING, "no progress for 60 s"), Pull("b", HEAD), Pull("c", HEAD)],
    ),
    "one stands still as its source has no more": (chain({}, {"moved": NOW - STUCK - 1}, {}), []),
    "one stands still at the head": (
        chain({}, {"moved": NOW - STUCK - 1, "blames": "a", "source": HEAD, "done": 1}, {"source": "a"}),
        [Drop("b", f"gets nothing from a and {HEAD}: no progress for 60 s", acquits=True)],
    ),
    "a slow hop": (
        chain({**FAST, "done": 9 * 10**8}, {**SLOW, "done": 10**8}, {**SLOW, "done": 10**8}),
        [DemoteSlow("b", "a"), Remeasure(), Pull("c", "a"), Pull("b", "c")],
    ),
    "a slow hop that was put to the end twice": (
        chain(
            {**FAST, "done": 9 * 10**8}, {**SLOW, "done": 10**8, "demoted": 2}, {**SLOW, "done": 10**8}
        ),
        [],
    ),
    "the second slow hop behind one source": (
        chain(
            {**FAST, "done": 9 * 10**8},
            {**FAST, "done": 8 * 10**8, "slow_pullers": 1},
            {**SLOW, "done": 10**8},
            {**SLOW, "done": 10**8},
        ),
        [DemoteSlow("b", "b"), Remeasure(), Pull("c", "a"), Pull("b", "d")],
    ),
    "a slow hop at the end": (chain({**FAST, "done": 9 * 10**8}, {**SLOW, "done": 10**8}), []),
    "a slow hop whose source has no more": (
        chain({**FAST, "done": 990 * 10**6}, {**SLOW, "done": 985 * 10**6}, {**SLOW, "done": 10**8}), []
    ),
    "a slow hop that is not measured yet": (
        chain({**FAST, "done": 9 * 10**8}, {**SLOW, "past": SLOW["past"][:1]}, {}), []
    ),
    "the first is slow": (
        chain({**SLOW, "done": 10**8}, {**SLOW, "done": 10**8}),
        [DemoteSlow("a", HEAD), Remeasure(), Pull("b", HEAD), Pull("a", "b")],
    ),
    "a laggard": (
        chain(ENDED, ENDED, {"past": at_rate(1e5), "best": 1e5, "done": 10**8}),
        [
            Remeasure(),
            Separate("c", "b", LITTLE, "0.10 MB/s, others had 50.00 MB/s"),
            Pull("c", HEAD),
        ],
    ),
    "a laggard at the head": (
        chain(ENDED, ENDED, {"past": at_rate(1e5), "best": 1e5, "done": 10**8, "blames": "b", "source": HEAD}),
        [
            Remeasure(),
            Drop("c", "crawls: 0.10 MB/s, others had 50.00 MB/s; 10% are here and are kept for the next time"),
        ],
    ),
    "a laggard that is waited for yet": (
        chain({**ENDED, "ended": NOW - STUCK + 1}, {"past": at_rate(1e5), "best": 1e5, "done": 10**8}), []
    ),
    "a laggard that is nearly done": (
        chain(ENDED, {"past": at_rate(1e5), "best": 1e5, "done": TOTAL - 10**6}), []
    ),
    "a laggard, and one that is not": (
        chain(
            ENDED,
            {"past": at_rate(30e6), "best": 30e6, "done": 10**8},
            {"past": at_rate(1e5), "best": 1e5, "done": 10**8},
        ),
        [],
    ),
    "all are slow alike": (chain({"past": at_rate(1e5), "best": 1e5, "done": 10**8}), []),
    "all have ended": (chain(ENDED, ENDED, ENDED), []),
}  # fmt: skip


@pytest.mark.parametrize("case", TABLE)
def test_decisions(case: str) -> None:
    peers, actions = TABLE[case]
    before = list(peers)
    assert decide(peers, NOW, LIMITS) == actions
    assert peers == before
    # What was decided needs no second decision.
    after = {peer.name: peer for peer in peers}
    for action in actions:
        after = apply(after, action, NOW)
    assert decide(after.values(), NOW, LIMITS) == []


def test_who_only_looks_asks_the_head() -> None:
    peers = chain({}, {}, {}, source="")
    assert decide(peers, NOW, replace(LIMITS, dry=True)) == [Pull(name, HEAD) for name in "abc"]


def test_a_hop_that_changes_its_source_keeps_what_it_has() -> None:
    """Nothing is sent twice: the hop itself asks for the block after the last one."""
    peers = {peer.name: peer for peer in chain({}, {"heard": NOW - 5}, {"done": 123})}
    for action in decide(peers.values(), NOW, LIMITS):
        peers = apply(peers, action, NOW)
    assert (peers["c"].source, peers["c"].done) == ("a", 123)


def test_what_hops_say() -> None:
    peer = Peer("a", 0.0, 0.0).became_ready(1.0, True)
    for second in range(2, 8):
        peer = peer.progressed(float(second), second * 100, second * 50, 700)
    assert (peer.done, peer.moved, peer.received) == (700, 7.0, 350)
    assert (peer.rate, peer.receives, peer.best) == (100.0, 50.0, 200 / 3)
    assert [sample.time for sample in peer.past] == [4.0, 5.0, 6.0, 7.0]
    still = peer.progressed(8.0, 600, 350, 700)
    assert (still.done, still.moved) == (700, 7.0)
    # Of another source than its own, it may say what it likes.
    assert peer.complained("b", Complaint("x", True)) == peer == peer.complained("", Complaint("x", True))
    asked = replace(peer, source="b").complained("b", Complaint("x", True))
    assert (asked.complaint, asked.faults) == (Complaint("x", True), 1)
    assert asked.complained("b", Complaint("y", False)) == asked
    # Whatever it had before that is no answer to it; what it has from the next source is.
    assert asked.progressed(9.0, 800, 400, 800).faults == 1
    assert replace(asked, complaint=None).progressed(9.0, 800, 400, 800).faults == 0
    assert peer.finished(9.0, 350).complained("", Complaint("x", True)).complaint is None


@pytest.mark.parametrize("ended", [None, 99.0])
def test_who_complains_of_a_dead_hop_stays_in_its_place(ended: float | None) -> None:
    """The source's own connection ends at the same time, and is noticed first or later."""
    peers = {peer.name: peer for peer in chain({}, {"ended": ended}, {}, {})}
    complaint = Complaint("closed", False)
    early = apply({**peers, "c": peers["c"].complained("b", complaint)}, Drop("b", "lost"), NOW)
    late = apply(peers, Drop("b", "lost"), NOW)
    late = {**late, "c": late["c"].complained("b", complaint)}
    for after in (early, late):
        assert after["c"].faults == 0
        assert decide(after.values(), NOW, LIMITS) == [Pull("c", "a")]


def test_warnings_name_both() -> None:
    peers = chain({}, {"blames": "a", "why": (WRONG, "a tag")}, {})
    text = f"b got wrong data from a: a tag; {policy.SUSPECTS[WRONG]}"
    assert policy.warnings(peers) == {"a": [text], "b": [text]}


# ---- simulated hosts ----


@dataclass
class Host:
    """How a hop behaves."""

    kind: str
    """honest, dies, freezes, lies (accuses its sources), corrupts (sends wrong data), withholds, boasts of nothing."""
    at: float
    """From when on, where it is not honest; seconds."""
    speed: float
    """Bytes a second that its link takes."""
    waited: float = 0.0
    """Seconds without a byte from its source."""
    rejected: set[str] = field(default_factory=set)


KINDS = ("honest", "honest", "honest", "dies", "freezes", "lies", "corrupts", "withholds")
STEP = 0.5
SIZE = 400 * 10**6


class Simulation:
    """Hops that pull from each other, by what `decide` says; every invariant is checked at every step."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.limits = Limits(SIZE, stall=4.0, start=30.0)
        self.hosts = {f"h{number}": host for number, host in enumerate(hosts)}
        self.now = 0.0
        self.peers = {name: Peer(name, 0.0, 0.0).became_ready(0.0, True) for name in self.hosts}
        self.dropped: dict[str, str] = {}

    def acts(self, name: str) -> str:
        """How the host behaves now."""
        host = self.hosts[name]
        return host.kind if self.now >= host.at else "honest"

    def run(self) -> None:
        end = 3600.0
        while any(peer.ended is None for peer in self.peers.values()):
            assert self.now < end, "it has no end"
            self.decide()
            self.check()
            self.now += STEP
            for name in list(self.peers):
                if name in self.peers:
                    self.step(name)

    def decide(self) -> None:
        for action in decide(self.peers.values(), self.now, self.limits):
            if isinstance(action, Drop):
                self.drop(action.hop, action.why)
            self.peers = apply(self.peers, action, self.now)
        assert decide(self.peers.values(), self.now, self.limits) == []

    def drop(self, name: str, why: str) -> None:
        if self.peers[name].ended is None:
            self.dropped[name] = why

    def check(self) -> None:
        before: list[str] = []
        found = dict.fromkeys(name for name, peer in self.peers.items() if not peer.lost)
        for source, peer in pairs(self.peers.values()):
            del found[peer.name]  # each has one source
            if source is not None:
                assert source.name in before  # so there is no cycle
                assert not source.leaf
                assert not source.lost
            if peer.ended is None:
                assert peer.source == (HEAD if source is None else source.name)
            before.append(peer.name)
        assert not found

    def step(self, name: str) -> None:
        peer, host, acts = self.peers[name], self.hosts[name], self.acts(name)
        if peer.lost:
            return
        if acts == "dies":
            self.drop(name, "lost")
            self.peers = apply(self.peers, Drop(name, "lost"), self.now)
            return
        if acts == "freezes":
            return
        peer = replace(peer, heard=self.now)
        if peer.ended is None:
            peer = self.pull(peer, host, acts)
        self.peers[name] = peer

    def pull(self, peer: Peer, host: Host, acts: str) -> Peer:
        source = self.peers.get(peer.source)
        gives = "honest" if source is None else self.acts(source.name)
        if acts == "lies":
            return peer.complained(peer.source, Complaint("a block has a wrong tag", True))
        has = SIZE if source is None else source.done
        if gives == "corrupts" and has > peer.done:
            return peer.complained(peer.source, Complaint("a block has a wrong tag", True))
        if gives in ("dies", "freezes"):
            host.waited += STEP
            if host.waited >= self.limits.stall:
                host.waited = 0.0
                return peer.complained(peer.source, Complaint("timed out", False))
            return peer.progressed(self.now, peer.done, peer.received, SIZE)
        host.waited = 0.0
        gets = 0.0 if gives == "withholds" else min(host.speed * STEP, has - peer.done)
        done = int(peer.done + gets)
        peer = peer.progressed(self.now, done, done, SIZE)
        return peer.finished(self.now, done) if done == SIZE else peer


hosts = st.lists(
    st.builds(Host, st.sampled_from(KINDS), st.floats(0, 60), st.sampled_from([100e6, 100e6, 50e6, 10e6])),
    min_size=1,
    max_size=8,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([Host("withholds", 21.0, 10e6), Host("honest", 0.0, 10e6), Host("honest", 0.0, 10e6)])
@given(hosts)
def test_every_honest_host_is_served_whatever_the_others_do(hosts: list[Host]) -> None:
    """Each has one source or the head at any time, there is no cycle, and nobody is dropped on another's word."""
    simulation = Simulation(hosts)
    simulation.run()
    good = {
        name for name, host in simulation.hosts.items() if host.kind in ("honest", "corrupts", "withholds")
    }
    assert not good & simulation.dropped.keys(), simulation.dropped
    for name in good:
        assert simulation.peers[name].done == SIZE
    for name, why in simulation.dropped.items():
        kind = simulation.hosts[name].kind
        expected = {"dies": "lost", "freezes": "silent for ", "lies": "gets wrong data from "}
        assert why.startswith(expected[kind])


def test_a_large_chain_with_faults_ends() -> None:
    rng = random.Random(1)  # noqa: S311
    simulation = Simulation([Host(rng.choice(KINDS), rng.uniform(0, 20), 100e6) for _ in range(60)])
    simulation.run()
    assert simulation.dropped.keys() <= {
        name for name, host in simulation.hosts.items() if host.kind in ("dies", "freezes", "lies")
    }
