"""A hop that says of each of its sources that it sends wrong data.

Environment variables: HONEST, for how many blocks of a file it does not; ONCE, of its first source only.
"""

import os
import socket

from vclust_py.chain import hop

HONEST = int(os.environ.get("HONEST", "8"))


class Liar(hop.Puller):
    said = False

    def _block(self, sock: socket.socket, seal: hop.Seal, item: hop.Copy, block: int) -> None:
        if block >= HONEST and not (self.said and "ONCE" in os.environ):
            self.said = True
            raise hop.Rubbish("a block has a wrong tag")
        super()._block(sock, seal, item, block)


hop.Puller = Liar
hop.main()
