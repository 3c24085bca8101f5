"""A hop that sends its successors, in every block after the first twenty, another byte than it got."""

from vclust_hop import files, session
from vclust_hop.__main__ import main


class Liar(files.Copy):
    def load(self, block: int, view: memoryview) -> None:
        super().load(block, view)
        view[-1] ^= block > 20


session.Copy = Liar
main()
