"""A hop that takes all it gets, says so, and has nothing for those who pull from it."""

import socket
import time
from collections.abc import Sequence

from vclust_py.chain import hop


class Silent(hop.Transfer):
    def serve(self, sock: socket.socket, wants: Sequence[tuple[int, int, int]]) -> None:
        with self.holding(sock):
            while True:
                sock.sendall(hop.NOTHING_YET)
                time.sleep(hop.BEAT)


hop.Transfer = Silent
hop.main()
