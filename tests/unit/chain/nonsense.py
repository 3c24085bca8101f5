"""A hop that tells the head what no hop would; the environment variable WHAT says what."""

import os

from vclust_hop import service, wire
from vclust_hop.__main__ import main

WHAT = os.environ["WHAT"]


class Mad(wire.Lines):
    def send(self, message: wire.Message, timeout: float = 10.0) -> None:
        if WHAT == "arrived" and "arrived" in message:
            message = {"ok": 1}
        elif WHAT == "other" and "arrived" in message:
            message = {**message, "arrived": ["of-no-transfer"]}
        elif "done" in message and WHAT == "text":
            message = {"done": "x", "received": 0}
        elif "done" in message and WHAT == "huge":
            message = {"done": 10**400, "received": 10**400}
        elif "done" in message and WHAT == "deep":
            self.sock.sendall(b"[" * 200000 + b"\n")
            return
        super().send(message, timeout)


service.Lines = Mad
main()
