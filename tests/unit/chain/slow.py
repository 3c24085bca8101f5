"""A hop that takes 2 MB a second."""

import time

from vclust_hop import files, items, session
from vclust_hop.__main__ import main


class Slow(files.Copy):
    def put(self, record: items.Record, view: memoryview, new: bool) -> None:
        time.sleep(len(view) / 2e6)
        super().put(record, view, new)


session.Copy = Slow
main()
