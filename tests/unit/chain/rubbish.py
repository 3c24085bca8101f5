"""A hop that sends its successors, in every block after the first twenty, another byte than it got."""

from vclust_py.chain import hop


class Liar(hop.Copy):
    def load(self, block: int, view: memoryview) -> None:
        super().load(block, view)
        view[-1] ^= block > 20


hop.Copy = Liar
hop.main()
