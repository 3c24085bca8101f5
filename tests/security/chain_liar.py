"""A hop that says of each of its sources that it sends wrong data.

Environment variables: HONEST, for how many blocks of a file it does not; ONCE, of its first source only.
"""

import os
import socket

from vclust_hop import files, receiving, session, tags, wire
from vclust_hop.__main__ import main

HONEST = int(os.environ.get("HONEST", "8"))


class Liar(receiving.Puller):
    said = False

    def _block(self, sock: socket.socket, seal: tags.Seal, item: files.Copy, block: int) -> None:
        if block >= HONEST and not (self.said and "ONCE" in os.environ):
            self.said = True
            raise wire.ProtocolViolation("a block has a wrong tag")
        super()._block(sock, seal, item, block)


session.Puller = Liar
main()
