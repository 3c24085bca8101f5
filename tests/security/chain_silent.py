"""A hop that takes all it gets, says so, and has nothing for those who pull from it."""

import socket
import time
from collections.abc import Sequence

from vclust_hop import sending, session, wire
from vclust_hop.__main__ import main


class Silent(sending.Transfer):
    def serve(self, sock: socket.socket, wants: Sequence[tuple[int, int, int]]) -> None:
        with self.registered(sock):
            while True:
                sock.sendall(wire.NOTHING_YET)
                time.sleep(wire.HEARTBEAT)


session.Transfer = Silent
main()
