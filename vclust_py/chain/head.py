"""The head of a chain: gives out the files, watches every hop, decides who pulls from whom."""

import json
import math
import reprlib
import secrets
import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vclust_py.chain import File, Hop, Keys, Options, Progress, Report
from vclust_py.chain import hop as wire
from vclust_py.chain.originals import Original, Sending, Source, together
from vclust_py.errors import VclustError

HEAD = "the site manager"
"""How the head is called as a source; no host has a space in its name."""
_TOGETHER = 32
"""Hosts that are called at once at the start."""
_CLOSED = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)
_DATES = (9, 10)
"""OpenSSL's words for a certificate that is not yet, or no longer, valid."""
_CLOCKS = "are the clocks right, its and the site manager's?"
_STRANGE = "does it know this site's authority, and is its clock right?"
_TICK = 0.25
"""Seconds after which silence, an interruption and a file's change are noticed."""
_TRIES, _LAST_TRIES = 3, 2
"""Complaints without a byte in between after which a hop pulls from the head; and after which it is given up there."""
_WRONG, _NOTHING, _LITTLE = "wrong data", "nothing", "too little"
_SUSPECTS = {
    _WRONG: "is the memory, disk or network card of one of them bad?",
    _NOTHING: "can these two reach each other?",
    _LITTLE: "is something wrong with the network between them?",
}
_STUCK = 60.0
"""Seconds that a hop may stand still while its source has more for it, and it says that it lives."""
_CRAWL = 10.0
"""A hop is slower than others by so much that it is not waited for, beyond `_STUCK` seconds."""
_DEMOTIONS = 3
"""How many sources a hop may have put to the end of the chain by its complaints."""
_MISMATCH = (62, 64)
"""OpenSSL's words for a certificate of another name or address."""
_LARGEST = 1 << 20
"""Bytes of a block, unless one is asked for; beyond it little CPU is saved."""
_WINDOW = 3.0
"""Seconds over which a rate is measured."""


@dataclass
class _Peer:
    """A hop as the head sees it."""

    hop: Hop
    lines: wire.Lines
    address: str
    heard: float
    ready: bool = False
    unpacks: bool = False
    source: str = ""
    """Whom it has been told to pull from; empty: that has to be said anew."""
    done: int = 0
    received: int = 0
    moved: float = 0.0
    """When `done` last grew."""
    faults: int = 0
    """Complaints about sources since `done` last grew."""
    demotions: int = 0
    """How often such a complaint has put a source to the end."""
    blames: str = ""
    """With which source it could not go on, for a reason that lies with either: it pulls from the head since."""
    why: tuple[str, str] = ("", "")
    """What it got from that source, one of `_SUSPECTS`, and more words about that."""
    blamed_by: set[str] = field(default_factory=set)
    """Names of hops that could not go on with it."""
    result: wire.Message | None = None
    seconds: float = 0.0
    past: deque[tuple[float, int, int]] = field(default_factory=deque)
    """(time, done, received) of the last seconds."""
    best: float = 0.0
    """Bytes a second that it has received at its best."""
    moves: int = 0
    """How often it was put to the end for being slow."""
    slow: int = 0
    """How many of those that pulled from it were."""

    @property
    def leaf(self) -> bool:
        """Nobody may pull from it."""
        return bool(self.blames or self.blamed_by)

    @property
    def watched(self) -> bool:
        """Its rate can be told."""
        return len(self.past) > 1 and self.past[-1][0] - self.past[0][0] >= _WINDOW

    def rate(self, what: int) -> float:
        """Bytes a second over the last seconds; done (1) or received (2)."""
        if not self.past:
            return 0.0
        first, last = self.past[0], self.past[-1]
        return (last[what] - first[what]) / (last[0] - first[0]) if last[0] > first[0] else 0.0


def block_for(total: int, hops: int) -> int:
    """A block's bytes: filling the pipeline, one block a hop, takes 2% of the time; larger ones cost less CPU."""
    wanted = max(1, total // (50 * max(1, hops)))
    return min(_LARGEST, max(wire.BLOCKS[0], 1 << (wanted.bit_length() - 1)))


_MOST = 1 << 60
"""More bytes than any hop has received."""


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
        self.dry = dry
        self.hops = _each_once(hops)
        self.sources = [Source.of(file, options.digest) for file in files]
        names = [source.member.name for source in self.sources]
        self.sizes = {source.member.name: source.member.size for source in self.sources}
        """By name, bytes."""
        if len(self.sizes) < len(names):
            raise VclustError(
                f"two files of one name: {next(name for name in names if names.count(name) > 1)}"
            )
        self.total = sum(self.sizes.values())
        block = options.block or block_for(self.total, len(self.hops))
        if not wire.BLOCKS[0] <= block <= wire.BLOCKS[1]:
            raise VclustError(f"block: got {block}, expected {wire.BLOCKS[0]} to {wire.BLOCKS[1]} bytes")
        key, identity = secrets.token_bytes(32), secrets.token_bytes(16)
        self.transfer = Sending(identity, key, block, options.encrypt)
        self.items = [
            Original(number, sources, self.transfer)
            for number, sources in enumerate(together(self.sources, block))
        ]
        self.transfer.items = self.items
        self.context = _context(keys)
        start = {
            "version": wire.VERSION,
            "transfer": identity.hex(),
            "key": key.hex(),
            "block": block,
            "stall": options.stall,
            "encrypt": options.encrypt,
            "dry": dry,
            "items": [item.members for item in self.items],
        }
        self._start = json.dumps(start).encode() + b"\n"
        self.begun = time.monotonic()
        self.order: list[_Peer] = []
        """Who still takes part; each one's source is the last before it that is no leaf."""
        self.gone: list[_Peer] = []
        """Who was lost after it had come to its end."""
        self.failed: dict[str, str] = {}
        self._beaten = 0.0
        self._selector = selectors.DefaultSelector()

    # ---- from start to end ----

    def run(self) -> tuple[dict[str, _Peer], dict[str, str]]:
        """The hops that came to their end, and why the others failed."""
        wire.more_files()
        listening = _listen()
        self._port = listening.getsockname()[1]
        listener = wire.Listener([listening], {self.transfer.identity: self.transfer}.get)
        threading.Thread(target=self._serve, args=(listener,), daemon=True).start()
        try:
            self._call()
            self._watch()
            for source in self.sources:
                source.check()
            return {peer.hop.name: peer for peer in self.order + self.gone}, self.failed
        finally:
            self.transfer.close()
            for peer in self.order:
                peer.lines.sock.close()
            self._selector.close()
            for item in self.items:
                item.close()

    def _serve(self, listener: wire.Listener) -> None:
        while not self.transfer.closed:
            listener.accept(_TICK)
        for sock in listener.sockets:
            sock.close()

    def _call(self) -> None:
        """Open every hop's control connection; who is there already hears meanwhile that we live."""
        with ThreadPoolExecutor(_TOGETHER) as pool:
            calls = {pool.submit(self._open, hop): hop for hop in self.hops}
            first: list[tuple[_Peer, list[wire.Message]]] = []
            waiting = set(calls)
            while waiting:
                answered, waiting = wait(waiting, 2 * wire.BEAT, FIRST_COMPLETED)
                for call in answered:
                    opened = call.result()
                    if isinstance(opened, str):
                        self.failed[calls[call].name] = opened
                        continue
                    peer, said = opened
                    self.order.append(peer)
                    self._selector.register(peer.lines.sock, selectors.EVENT_READ, peer)
                    first.append((peer, said))
                self._beat()
        places = {hop: place for place, hop in enumerate(self.hops)}
        self.order.sort(key=lambda peer: places[peer.hop])
        for peer, said in first:
            self._heed(peer, said)

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten >= 2 * wire.BEAT:
            self._beaten = now
            for peer in list(self.order):
                self._say(peer, {})

    def _open(self, hop: Hop) -> tuple[_Peer, list[wire.Message]] | str:
        """The hop with its first words, or why it is not reached."""
        end = time.monotonic() + 2 * wire.PATIENCE
        while True:
            try:
                sock = socket.create_connection((hop.address, hop.port), timeout=self.options.stall)
            except (OSError, ValueError) as error:  # a name that is none
                return f"not reached: {_words(error)}"
            try:
                return self._greet(sock, hop)
            except ssl.SSLCertVerificationError as error:
                if error.verify_code in _MISMATCH:
                    return f"shows a certificate that is not for its hop: {error.verify_message}"
                if error.verify_code in _DATES:
                    return f"shows a certificate that is not good now: {error.verify_message}; {_CLOCKS}"
                return f"shows a certificate that is not this site's: {error.verify_message}"
            except ValueError as error:
                return f"talks nonsense: {error}"
            except OSError as error:
                # Strangers that fill all its places may have had us sent away.
                if time.monotonic() > end or not isinstance(error, _CLOSED) or self.stop.is_set():
                    return f"hangs up: {_words(error)}; {_STRANGE}"
            finally:
                sock.close()  # of no effect on what is TLS's by now
            time.sleep(_TICK)

    def _greet(self, sock: socket.socket, hop: Hop) -> tuple[_Peer, list[wire.Message]]:
        """The hop, and its first words: not before these has it taken us in."""
        patience = max(self.options.start, self.options.stall)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(patience)
        tls = self.context.wrap_socket(sock, server_hostname=hop.identity)
        try:
            tls.sendall(self._start)
            lines = wire.Lines(tls)
            first = lines.receive(patience)
            return _Peer(hop, lines, tls.getpeername()[0], time.monotonic()), first
        except BaseException:
            tls.close()
            raise

    def _watch(self) -> None:
        """Until every hop has come to its end."""
        ticked = time.monotonic()
        for peer in self.order:
            peer.heard = peer.moved = ticked
        while any(peer.result is None for peer in self.order):
            for key, _ in self._selector.select(_TICK):
                self._listen_to(key.data)
            now = time.monotonic()
            if now - ticked < _TICK:
                continue
            if now - ticked > self.options.stall:  # it is us who were asleep
                for peer in self.order:
                    peer.heard = now
            ticked = now
            if self.stop.is_set():
                raise VclustError("interrupted")
            self._check()
            self._look(now)
            self._beat()

    def _check(self) -> None:
        for item in self.items:
            if item.problem is not None:
                raise item.problem

    # ---- what hops say ----

    def _listen_to(self, peer: _Peer) -> None:
        if peer not in self.order:
            return
        try:
            messages = peer.lines.receive()
        except (OSError, ValueError) as error:
            self._drop(peer, _lost(peer, error))
            return
        self._heed(peer, messages)

    def _heed(self, peer: _Peer, messages: Sequence[wire.Message]) -> None:
        now = peer.heard = time.monotonic()
        for message in messages:
            if peer not in self.order:  # dropped for what it said before
                return
            if not self._sound(message):
                self._drop(peer, f"talks nonsense: {reprlib.repr(message)}")
            elif "done" in message:
                self._progress(peer, message, now)
            elif "ready" in message:
                if peer.ready:
                    continue
                peer.ready = True
                peer.unpacks = bool(message.get("unpacks"))
                peer.moved = now
                peer.past.append((now, 0, 0))
                self._route()
            elif "fault" in message:
                self._fault(peer, message)
            elif "failed" in message:
                self._drop(peer, message["failed"][: wire.TEXT])
            elif peer.result is None:
                peer.result = message
                peer.received = int(message["received"])
                peer.seconds = now - self.begun

    def _sound(self, message: wire.Message) -> bool:
        """Whether a hop may say that: a host that has gone mad shall cost itself only."""

        def counts(name: str, most: int) -> bool:
            value = message.get(name)
            return type(value) is int and 0 <= value <= most

        def texts(*names: str) -> bool:
            return all(isinstance(message.get(name), str) for name in names)

        def files(*names: str) -> list[str] | None:
            """Each of them once, or nothing."""
            found: list[str] = []
            for name in names:
                value = message.get(name)
                if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
                    return None
                found += value
            return found if len(set(found)) == len(found) and self.sizes.keys() >= set(found) else None

        if "done" in message:
            # Whatever is done has gone out from here before, if only as tags.
            return counts("done", self.transfer.given) and counts("received", _MOST)
        if "ready" in message:
            return True
        if "fault" in message:
            return texts("fault", "source") and isinstance(message.get("rubbish"), bool)
        if "failed" in message:
            return texts("failed")
        if self.dry:
            return counts("received", _MOST) and files("lacks") is not None
        whole = self.transfer.given == self.total and len(files("arrived", "had") or ()) == len(self.sizes)
        return counts("received", _MOST) and whole

    def _progress(self, peer: _Peer, message: wire.Message, now: float) -> None:
        done = int(message["done"])
        if done > peer.done:
            peer.done, peer.moved, peer.faults = done, now, 0
        peer.received = int(message["received"])
        peer.past.append((now, peer.done, peer.received))
        while len(peer.past) > 2 and now - peer.past[1][0] >= _WINDOW:
            peer.past.popleft()
        if peer.watched or peer.done == self.total:
            peer.best = max(peer.best, peer.rate(2))

    def _fault(self, peer: _Peer, message: wire.Message) -> None:
        """A hop's source has failed it: find it another one."""
        if message["source"] != peer.source or peer.result is not None:
            return
        self._check()
        peer.faults += 1
        why = message["fault"][: wire.TEXT]
        source = self._named(peer.source)
        if message["rubbish"]:
            self._part(peer, _WRONG, why)
        elif peer.faults >= (_LAST_TRIES if peer.blames else _TRIES):
            self._part(peer, _NOTHING, why)
        else:
            peer.source = ""
            if peer.faults == 1 and source is not None and peer.demotions < _DEMOTIONS:
                peer.demotions += 1
                self._last(source)
            else:
                self._last(peer)
            self._route()

    def _part(self, peer: _Peer, what: str, why: str) -> None:
        """Either this hop or its source is to blame, and only the head itself is above suspicion.

        So it pulls from the head from now on, and if it cannot do that either it is dropped.  Nobody pulls from the two
        any more, and nobody is dropped for what another says.
        """
        name, source = peer.source or HEAD, self._named(peer.source)
        if peer.blames:
            both = HEAD if peer.blames == HEAD else f"{peer.blames} and {HEAD}"
            for other in self.order + self.gone:
                other.blamed_by.discard(peer.hop.name)
            self._drop(peer, f"gets {what} from {both}: {why}")
            return
        peer.blames, peer.why = name, (what, why)
        peer.source, peer.faults, peer.moved = "", 0, time.monotonic()
        peer.past.clear()
        if source is not None:
            source.blamed_by.add(peer.hop.name)
        self._route()

    def _named(self, name: str) -> _Peer | None:
        return next((peer for peer in self.order if peer.hop.name == name), None)

    def warnings(self) -> dict[str, list[str]]:
        """By host, on both sides: which hops have their files and could not go on with their first source."""
        told: dict[str, list[str]] = {}
        for peer in self.order + self.gone:
            if peer.blames:
                what, why = peer.why
                text = f"{peer.hop.name} got {what} from {peer.blames}: {why}; {_SUSPECTS[what]}"
                for name in (peer.hop.name, peer.blames):
                    told.setdefault(name, []).append(text)
        return told

    # ---- who pulls from whom ----

    def _pairs(self) -> Iterator[tuple[_Peer | None, _Peer]]:
        """Each hop with its source; None is the head."""
        before: _Peer | None = None
        for peer in list(self.order):
            yield (None if peer.blames or self.dry else before), peer
            if not peer.leaf:
                before = peer

    def _route(self) -> None:
        if not all(peer.ready for peer in self.order):
            return
        if not self.options.encrypt and all(peer.unpacks for peer in self.order):
            self.transfer.compress = self.options.compress
        for source, peer in self._pairs():
            name = HEAD if source is None else source.hop.name
            if peer.source != name and peer.result is None:
                peer.source = name
                if source is None:
                    self._say(peer, {"name": name, "address": "", "port": self._port})
                else:
                    self._say(peer, {"name": name, "address": source.address, "port": source.hop.port})

    def _last(self, peer: _Peer) -> None:
        self.order.remove(peer)
        self.order.append(peer)

    def _drop(self, peer: _Peer, why: str) -> None:
        if peer in self.order:
            self.order.remove(peer)
            if peer.result is None:
                self.failed[peer.hop.name] = why
            else:
                self.gone.append(peer)
            self._selector.unregister(peer.lines.sock)
            peer.lines.sock.close()
            self._route()

    def _say(self, peer: _Peer, message: wire.Message) -> None:
        try:
            peer.lines.send(message)
        except OSError as error:
            self._drop(peer, _lost(peer, error))

    # ---- what can be seen from here ----

    def _look(self, now: float) -> None:
        for source, peer in list(self._pairs()):
            if peer not in self.order:  # dropped with one before it
                continue
            has = self.total if source is None else source.done
            still = now - peer.moved
            if now - peer.heard > self.options.stall:
                self._drop(peer, f"silent for {now - peer.heard:.0f} s")
            elif not peer.ready and still > self.options.start:
                self._drop(peer, f"is not ready after {still:.0f} s")
            elif peer.ready and peer.result is None and has > peer.done and still > _STUCK:
                self._part(peer, _NOTHING, f"no progress for {_STUCK:.0f} s")
        self._crawl()
        self._leave(now)
        if self.order:
            self.report(self._progress_of_all())

    def _crawl(self) -> None:
        """Put a slow hop to the end, where nobody waits for it.

        It is slow when its source has more for it and those before it have received at twice its rate.  The second
        that is slow behind one source shows that it is the source's fault.  How fast the head could be is not known:
        if all takes long, the first hop is put to the end once, to see.
        """
        fastest = 0.0
        waited_for = [(source, peer) for source, peer in self._pairs() if not peer.leaf]
        for before, peer in waited_for[:-1]:  # nobody waits for the last
            has = self.total if before is None else before.done
            rate = peer.rate(2)
            waiting = peer.watched and peer.result is None and has - peer.done > rate * _WINDOW / 2
            trial = before is None and self.total - peer.done > 4 * _WINDOW * rate
            if waiting and peer.moves < 2 and (trial or rate < fastest / 2):
                culprit = before if before is not None and before.slow else peer
                culprit.moves += 1
                if before is not None:
                    before.slow += 1
                self._last(culprit)
                for other in self.order:
                    other.past.clear()
                self._route()
                return
            fastest = max(fastest, peer.best)

    def _leave(self, now: float) -> None:
        """Wait no longer for a hop that crawls, when all others have had their files for a while.

        It keeps what it has, so the next transfer goes on there.  Those behind it may only have had a slow source.
        """
        late = [peer for peer in self.order if peer.result is None]
        ended = [peer for peer in self.order + self.gone if peer.result is not None]
        fastest = max((peer.best for peer in ended), default=0.0)
        if not late or now - self.begun < max((peer.seconds for peer in ended), default=math.inf) + _STUCK:
            return

        share = max(1, sum(peer.source == HEAD for peer in late))

        def crawls(peer: _Peer) -> bool:
            rate = peer.rate(1)
            return (
                peer.watched and rate < fastest / (_CRAWL * share) and self.total - peer.done > rate * _STUCK
            )

        if not all(map(crawls, late)):
            return
        peer, rate = late[0], late[0].rate(1)
        for other in late:
            other.past.clear()
        speeds = f"{rate / 1e6:.2f} MB/s, others had {fastest / 1e6:.2f} MB/s"
        if peer.source != HEAD:
            self._part(peer, _LITTLE, speeds)
            return
        kept = f"{peer.done * 100 // self.total}% are here and are kept for the next time"
        self._drop(peer, f"crawls: {speeds}; {kept}")

    def _progress_of_all(self) -> Progress:
        slowest = min(self.order, key=lambda peer: peer.done)
        rate = slowest.rate(1)
        left = self.total - slowest.done
        eta = left / rate if rate else (math.inf if left else 0.0)
        done = {peer.hop.name: peer.done for peer in self.order}
        return Progress(done, self.total, slowest.hop.name, rate, eta)


def _lost(peer: _Peer, error: Exception) -> str:
    what = f"lost: {_words(error)}"
    return what if peer.ready else f"{what}; {_STRANGE}"


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)


def _each_once(hops: Sequence[Hop]) -> list[Hop]:
    """Rack by rack; raises VclustError when one name stands for two hops, or the other way round."""
    racks: dict[str, list[Hop]] = {}
    for hop in dict.fromkeys(hops):
        racks.setdefault(hop.rack, []).append(hop)
    ordered = [hop for rack in racks.values() for hop in rack]
    places: dict[Any, Hop] = {}
    for hop in ordered:
        for key in (hop.name, (hop.address, hop.port)):
            if places.setdefault(key, hop) is not hop:
                raise VclustError(f"{hop.name}: listed twice, as {places[key]} and as {hop}")
    return ordered


def _context(keys: Keys) -> ssl.SSLContext:
    try:
        files: Iterable[Path] = (keys.ca, keys.certificate, keys.key)
        return wire.tls_context(ssl.Purpose.SERVER_AUTH, *map(str, files))
    except OSError as error:
        raise VclustError(
            f"{keys.ca.parent}: no keys to send with: {error}", "roll the site out first"
        ) from error


def _listen() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
    return socket.create_server(("", 0), backlog=128)
