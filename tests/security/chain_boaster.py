"""A hop that says at once that it has all there is, as fast as nobody could have sent it; WHAT says how."""

import os

from vclust_hop import service, wire
from vclust_hop.__main__ import main

WHAT = os.environ["WHAT"]


class Boaster(wire.Lines):
    def send(self, message: wire.Message, timeout: float = 10.0) -> None:
        if WHAT == "done" and "done" in message:
            message = {"done": 64 << 20, "received": 1 << 59}
        elif WHAT == "arrived" and "done" in message:
            message = {"arrived": ["image"], "had": [], "received": 64 << 20}
        elif WHAT == "never ready" and "ready" in message:
            return
        elif WHAT == "long" and "done" in message:
            message = {"failed": "\x1b[31m" * (2 << 20)}
        super().send(message, timeout)


service.Lines = Boaster
main()
