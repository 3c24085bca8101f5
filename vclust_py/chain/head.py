"""The head of a chain: gives out the files, hears every hop, and does what the policy decides."""

import math
import reprlib
import secrets
import selectors
import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace

from vclust_hop.service import Listener, raise_file_limit
from vclust_hop.wire import BLOCKS, HEARTBEAT, MAX_TEXT, VERSION, Message
from vclust_py.chain import File, Hop, Keys, Options, Progress, Report, connections, policy
from vclust_py.chain.connections import Caller, Connection
from vclust_py.chain.messages import Expected, kind_of
from vclust_py.chain.peers import HEAD, Complaint, Peer
from vclust_py.chain.policy import Action, Drop, Limits, Pull
from vclust_py.chain.sender import Sending, Source, SourceItem, together
from vclust_py.errors import VclustError

_TOGETHER = 32
"""Hosts that are called at once at the start."""
_TICK = 0.25
"""Seconds after which silence, an interruption and a file's change are noticed."""
_LARGEST = 1 << 20
"""Bytes of a block, unless one is asked for; beyond it little CPU is saved."""


def block_for(total: int, hops: int) -> int:
    """A block's bytes: filling the pipeline, one block a hop, takes 2% of the time; larger ones cost less CPU."""
    wanted = max(1, total // (50 * max(1, hops)))
    return min(_LARGEST, max(BLOCKS[0], 1 << (wanted.bit_length() - 1)))


class Chain:
    """One transfer to many hops; `run` it once."""

    def __init__(
        self,
        files: Sequence[File],
        hops: Sequence[Hop],
        keys: Keys,
        options: Options,
        report: Report,
        stop: threading.Event,
        dry: bool,
    ) -> None:
        self.options = options
        self.report = report
        self.stop = stop
        self.hops = connections.rack_by_rack(hops)
        self.sources = [Source.of(file, options.digest) for file in files]
        self.sizes = _sizes(self.sources)
        """By name, bytes."""
        total = sum(self.sizes.values())
        self.limits = Limits(total, options.stall, options.start, dry)
        self._expected = Expected(self.sizes, dry)
        block = options.block or block_for(total, len(self.hops))
        if not BLOCKS[0] <= block <= BLOCKS[1]:
            raise VclustError(f"block: got {block}, expected {BLOCKS[0]} to {BLOCKS[1]} bytes")
        key, identity = secrets.token_bytes(32), secrets.token_bytes(16)
        self.transfer = Sending(identity, key, block, options.encrypt)
        self.items = [
            SourceItem(number, sources, self.transfer)
            for number, sources in enumerate(together(self.sources, block))
        ]
        self.transfer.items = self.items
        start = {
            "version": VERSION,
            "transfer": identity.hex(),
            "key": key.hex(),
            "block": block,
            "stall": options.stall,
            "encrypt": options.encrypt,
            "dry": dry,
            "items": [item.members for item in self.items],
        }
        self._caller = Caller(keys, start, options, stop)
        self.begun = time.monotonic()
        self.peers: dict[str, Peer] = {}
        """By name, in the order of the chain."""
        self.connections: dict[str, Connection] = {}
        """Of those who take part."""
        self.results: dict[str, Message] = {}
        """What hops said in the end."""
        self.failed: dict[str, str] = {}
        """Why the others did not come to their end."""
        self._port = 0
        self._beaten = 0.0
        self._changed = False
        """There is something to decide before the next tick."""
        self._selector = selectors.DefaultSelector()

    # ---- from start to end ----

    def run(self) -> None:
        """Until every hop has a result or has failed.  Raises VclustError for what is the head's own fault."""
        raise_file_limit()
        listening = connections.listen()
        self._port = listening.getsockname()[1]
        listener = Listener([listening], {self.transfer.identity: self.transfer}.get)
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        try:
            self._call()
            self._watch()
            for source in self.sources:
                source.check()
        finally:
            self.transfer.close()
            for connection in self.connections.values():
                connection.lines.sock.close()
            self._selector.close()
            for item in self.items:
                item.close()

    def _serve(self, listener: Listener) -> None:
        while not self.transfer.closed:
            listener.accept(_TICK)
        for sock in listener.sockets:
            sock.close()

    def _call(self) -> None:
        """Open every hop's control connection; who is there already hears meanwhile that we live."""
        with ThreadPoolExecutor(_TOGETHER) as pool:
            calls = {pool.submit(self._caller.call, hop): hop for hop in self.hops}
            first: list[tuple[str, list[Message]]] = []
            waiting = set(calls)
            while waiting:
                answered, waiting = wait(waiting, 2 * HEARTBEAT, FIRST_COMPLETED)
                for call in answered:
                    opened = call.result()
                    if isinstance(opened, str):
                        self.failed[calls[call].name] = opened
                        continue
                    connection, messages = opened
                    self._admit(connection)
                    first.append((connection.hop.name, messages))
                self._beat()
        self.peers = {hop.name: self.peers[hop.name] for hop in self.hops if hop.name in self.peers}
        for name, messages in first:
            self._heed(name, messages)

    def _admit(self, connection: Connection) -> None:
        name, now = connection.hop.name, time.monotonic()
        self.peers[name] = Peer(name, heard=now, moved=now)
        self.connections[name] = connection
        self._selector.register(connection.lines.sock, selectors.EVENT_READ, name)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten >= 2 * HEARTBEAT:
            self._beaten = now
            for name in list(self.connections):
                self._say(name, {})

    def _watch(self) -> None:
        """Until every hop has come to its end."""
        ticked = time.monotonic()
        self._heard_all(ticked)
        self.peers = {name: replace(peer, moved=ticked) for name, peer in self.peers.items()}
        self._decide()
        while any(peer.ended is None for peer in self.peers.values()):
            for key, _ in self._selector.select(_TICK):
                self._receive(key.data)
            now = time.monotonic()
            if now - ticked > self.options.stall:  # it is us who were asleep
                self._heard_all(now)
            ticks = now - ticked >= _TICK
            if not ticks and not self._changed:
                continue
            if ticks:
                ticked = now
                if self.stop.is_set():
                    raise VclustError("interrupted")
            self._decide()
            if ticks:
                if self.connections:
                    self.report(self._progress_of_all())
                self._beat()

    def _heard_all(self, now: float) -> None:
        self.peers = {name: replace(peer, heard=now) for name, peer in self.peers.items()}

    # ---- what hops say ----

    def _receive(self, name: str) -> None:
        if name not in self.connections:
            return
        try:
            messages = self.connections[name].lines.receive()
        except (OSError, ValueError) as error:
            self._drop(name, connections.lost(error, self.peers[name].ready))
            return
        self._heed(name, messages)

    def _heed(self, name: str, messages: Sequence[Message]) -> None:
        now = time.monotonic()
        if name in self.connections:
            self.peers[name] = replace(self.peers[name], heard=now)
        for message in messages:
            if name not in self.connections:  # dropped for what it said before
                return
            kind = kind_of(message)
            if not self._expected.allows(message, self.transfer.tagged):
                self._drop(name, f"talks nonsense: {reprlib.repr(message)}")
            elif kind == "failed":
                self._drop(name, message["failed"][:MAX_TEXT])
            else:
                self._note(self.peers[name], kind, message, now)

    def _note(self, peer: Peer, kind: str, message: Message, now: float) -> None:
        """What the hop says of itself or of its source."""
        if kind == "done":
            peer = peer.progressed(now, message["done"], message["received"], self.limits.total)
        elif kind == "ready" and not peer.ready:
            peer = peer.became_ready(now, bool(message.get("unpacks")))
        elif kind == "fault":
            complaint = Complaint(message["fault"][:MAX_TEXT], message["rubbish"])
            peer = peer.complained(message["source"], complaint)
        elif kind == "result" and peer.ended is None:
            self.results[peer.name] = message
            peer = peer.finished(now, message["received"])
        self.peers[peer.name] = peer
        if kind == "fault" or (kind == "ready" and all(peer.ready for peer in self.peers.values())):
            self._changed = True

    # ---- what is decided ----

    def _decide(self) -> None:
        """Do what the policy wants, until it wants nothing more."""
        for item in self.items:
            if item.problem is not None:
                raise item.problem
        again = True
        while again:
            self._changed = False
            if not self.options.encrypt and all(
                peer.ready and peer.unpacks for peer in self.peers.values() if not peer.lost
            ):
                self.transfer.compress = self.options.compress
            now = time.monotonic()
            for action in policy.decide(self.peers.values(), now, self.limits):
                self._do(action, now)
                if self._changed:  # by what happened meanwhile: the rest is out of date
                    break
            again = self._changed

    def _do(self, action: Action, now: float) -> None:
        if isinstance(action, Drop):
            self._hang_up(action.hop, action.why)
        self.peers = policy.apply(self.peers, action, now)
        if isinstance(action, Pull):
            self._tell_source(action.hop, action.source)

    def _tell_source(self, name: str, source: str) -> None:
        if source == HEAD:
            self._say(name, {"name": source, "address": "", "port": self._port})
        else:
            connection = self.connections[source]
            self._say(name, {"name": source, "address": connection.address, "port": connection.hop.port})

    def _drop(self, name: str, why: str) -> None:
        """For what can be seen here only: its connection, or its words."""
        self._do(Drop(name, why), time.monotonic())
        self._changed = True

    def _hang_up(self, name: str, why: str) -> None:
        if self.peers[name].ended is None:
            self.failed[name] = why
        sock = self.connections.pop(name).lines.sock
        self._selector.unregister(sock)
        sock.close()

    def _say(self, name: str, message: Message) -> None:
        try:
            self.connections[name].lines.send(message)
        except OSError as error:
            self._drop(name, connections.lost(error, self.peers[name].ready))

    # ---- what is told ----

    def _progress_of_all(self) -> Progress:
        present = [peer for peer in self.peers.values() if not peer.lost]
        slowest = min(present, key=lambda peer: peer.done)
        left = self.limits.total - slowest.done
        eta = left / slowest.rate if slowest.rate else (math.inf if left else 0.0)
        done = {peer.name: peer.done for peer in present}
        return Progress(done, self.limits.total, slowest.name, slowest.rate, eta)


def _sizes(sources: Sequence[Source]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for source in sources:
        if source.member.name in sizes:
            raise VclustError(f"two files of one name: {source.member.name}")
        sizes[source.member.name] = source.member.size
    return sizes
