"""One transfer on this host, as long as the head keeps its control connection open."""

from __future__ import annotations

import os
import queue
import time

from vclust_hop import wire
from vclust_hop.files import Copy
from vclust_hop.messages import source_of, terms_of
from vclust_hop.receiving import Puller
from vclust_hop.sending import Transfer
from vclust_hop.store import Store, sweep
from vclust_hop.wire import HEARTBEAT, VERSION, Lines, Message, failed, readable


class Session:
    """One transfer, as long as the head keeps its control connection open."""

    def __init__(self, lines: Lines, store: Store, transfers: dict[bytes, Transfer]) -> None:
        self.lines = lines
        self._store = store
        self._transfers = transfers
        self._outbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._woken, self._wake = os.pipe()

    def _say(self, message: Message) -> None:
        self._outbox.put(message)
        os.write(self._wake, b".")

    def run(self) -> None:
        """Raises OSError or ValueError when the head is gone or talks nonsense."""
        start = self._start()
        if start.get("version") != VERSION:
            self.lines.send(failed(f"speaks version {VERSION} of the chain, not {start.get('version')}"))
            return
        try:
            terms = terms_of(start)
            if terms.identity in self._transfers:
                raise ValueError("this transfer is under way")
        except (KeyError, TypeError, ValueError) as error:
            self.lines.send(failed(f"does not understand the head: {error}"))
            return
        identity, stall = terms.identity, terms.stall
        if not terms.dry:
            with self._store.claiming:
                sweep(self._store.drafts)
        items = [Copy(number, item, terms.block, self._store) for number, item in enumerate(terms.items)]
        transfer = Transfer(identity, terms.key, terms.block, terms.encrypt, items)
        puller = Puller(transfer, items, stall, terms.dry, self._say)
        self._transfers[identity] = transfer
        puller.thread.start()
        try:
            self._talk(puller, 3 * stall)
        finally:
            del self._transfers[identity]
            puller.turn_to(None)
            transfer.close()
            puller.thread.join()
            for copy in items:
                copy.close()

    def _start(self) -> Message:
        messages = self.lines.receive(wire.TIMEOUT)
        if len(messages) != 1:
            raise ValueError("one message was expected")
        return messages[0]

    def _talk(self, puller: Puller, timeout: float) -> None:
        heard = time.monotonic()
        reported = 0.0
        while True:
            ready = readable([self.lines.sock.fileno(), self._woken], HEARTBEAT)
            if self.lines.sock.fileno() in ready:
                heard = time.monotonic()
                for message in self.lines.receive():
                    if "address" in message:
                        puller.turn_to(source_of(message, self.lines.sock.getpeername()[0]))
            elif time.monotonic() - heard > timeout:
                raise TimeoutError("the head is silent")
            if self._woken in ready:
                os.read(self._woken, 1)
                self.lines.send(self._outbox.get())
            if time.monotonic() - reported >= HEARTBEAT:
                reported = time.monotonic()
                self.lines.send({"done": puller.done, "received": puller.received})

    def close(self) -> None:
        os.close(self._woken)
        os.close(self._wake)
