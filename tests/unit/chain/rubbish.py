"""A hop that sends its successors, in every block after the first twenty, another byte than it got."""

import socket

from vclust_py.chain import hop


class Liar(hop.Copy):
    def forward(self, block: int, seal: hop.Seal, sock: socket.socket) -> None:
        view = seal.view[: self.length(block)]
        self.load(block, view)
        view[-1] ^= block > 20
        sock.sendall(view)


hop.Copy = Liar
hop.main()
