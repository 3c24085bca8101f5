"""A hop that takes 2 MB a second."""

import time

from vclust_py.chain import hop


class Slow(hop.Copy):
    def take(self, record: hop.Record, view: memoryview, new: bool) -> None:
        time.sleep(len(view) / 2e6)
        super().take(record, view, new)


hop.Copy = Slow
hop.main()
